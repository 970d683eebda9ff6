"""The experiment as a Prefect flow.

The flow's parameters are JSON: Prefect stores them. A deployment's say everything (`tune_core.engine.form.form`).
Those of an experiment that `Tuner.fit` runs say where it is kept; what is alive (the trainable, storage
credentials, callbacks) travels beside them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from contextvars import ContextVar
from dataclasses import replace
from typing import Annotated, Any, Self

import httpx
import ray
from prefect import Flow, tags
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelled, Completed, Failed
from pydantic import Field

from tune_core.control.experiment import Continuation, Experiment, Identity
from tune_core.control.messages import EndExperiment
from tune_core.engine import cluster
from tune_core.engine.cancellation import StopSignals, cancellation_watched
from tune_core.engine.composition import LiveExperiment, set_up
from tune_core.engine.driver.history import save_counts
from tune_core.engine.forks import end_forks_well
from tune_core.engine.form.fields import FormModel
from tune_core.engine.form.form import (
    IMPORT_STRING,
    ExperimentForm,
    ParamSpace,
    ResourcesForm,
    RunForm,
    TuneForm,
)
from tune_core.engine.heartbeat import heartbeats, without_heartbeats
from tune_core.engine.ownership import (
    deployed_identity,
    identity,
)
from tune_core.engine.run_context import client_for, own_flow_log, quiet_console, settings_for
from tune_core.engine.server.contact import require_answer
from tune_core.engine.server.server import prefect_server, unlogged_requests
from tune_core.engine.settings import storage_of
from tune_core.engine.task_runner import ExperimentTaskRunner
from tune_core.errors import (
    ConfigError,
    TrialError,
    TuneError,
)
from tune_core.logger.failures import failure_lines, failures_of
from tune_core.registry import import_string
from tune_core.results.result_grid import ResultGrid
from tune_core.states import StopCause
from tune_core.trial import Status, Trial
from tune_core.tuner import Tuner, dated

_HOW_TO_GO_ON = "Tuner.restore or prefect-tune resume continues it"

logger = logging.getLogger("prefect.tune")


#: The experiment that `Tuner.fit` runs; None in a run that Prefect has started, or starts again elsewhere.
_live: ContextVar[LiveExperiment | None] = ContextVar("_live", default=None)


def run_experiment(live_experiment: Experiment, flow: ExperimentFlow) -> ResultGrid:
    """Run an experiment as a run of `flow`, against a server and a cluster that are there or are started."""
    run = live_experiment.run_config
    with quiet_console(run.verbose), unlogged_requests(PREFECT_API_URL.value()):
        _try_first(live_experiment)
    with ThreadPoolExecutor(1, "tune-start") as starter, quiet_console(run.verbose):
        # Both take seconds: the server, a process of its own, starts while Ray does.
        starting = None if _has_server() else starter.submit(prefect_server)
        cluster.connect(run)
        server = starting.result() if starting is not None else prefect_server()
        if server.is_ours and cluster.has_other_hosts():
            raise ConfigError(
                "Ray has nodes on other machines, which cannot reach a Prefect server that is started here: "
                "set PREFECT_API_URL to a server that every node can reach"
            )
        live = LiveExperiment(live_experiment, server)
        token = _live.set(live)
        try:
            with (
                settings_for(server),
                unlogged_requests(server.api_url),
                client_for(live.contact),
                _own_log(live),
                tags(*(run.tags or ())),
                without_heartbeats() as live.settings,
            ):
                Flow.__call__(
                    flow,
                    **flow.parameters_of(live_experiment),
                    return_state=True,
                )
        except httpx.TransportError as error:
            if not live.is_over:
                raise
            live.contact.lost(error)  # what came of the experiment does not depend on what Prefect is told
        finally:
            _live.reset(token)
        live.signals.pass_on()
        if live.error is not None:
            raise live.error
        if live.results is None:
            raise TuneError(
                f"the flow run of experiment {live_experiment.name} ended before the experiment began"
            )
        return live.results


def own_identity(name: str | None) -> Identity | None:
    """See `tune_core.runtime.Runtime.identity`."""
    return identity(name, ExperimentFlow)


class ExperimentFlow(Flow[..., Any]):
    """The experiment flow: called like a `Tuner`, or by Prefect with JSON parameters.

    Attributes:
        tunes_one: Whether it is a flow of one trainable, and has a name of its own.
    """

    tunes_one = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run an experiment; return its `ResultGrid`.

        Args:
            *args: The trainable: a function, an import string `"package.module:name"`, or a registered name.
            **kwargs: `param_space`, `tune_config` and `run_config` as for `tune_core.Tuner`; or these and
                `resources` as a deployment has them, see `tune_core.engine.form.form.ExperimentForm`.

        Raises:
            ConfigError: A value is missing or wrong.

        Example:
            >>> from tune_core.engine.experiment import experiment
            >>> results = experiment(train, param_space={"x": 1})  # doctest: +SKIP
        """
        trainable = args[0] if args else kwargs.get("trainable")
        if not (callable(trainable) or isinstance(trainable, str)):
            return super().__call__(*args, **kwargs)
        tuner = _tuner(*args, **kwargs)
        return run_experiment(tuner.experiment(own_identity), self)

    def parameters_of(self, live_experiment: Experiment) -> dict[str, Any]:
        """Return what Prefect shows and keeps as the parameters of a run from Python."""
        parent, _, name = live_experiment.storage.url.rpartition("/")
        return {
            "trainable": import_string(live_experiment.trainable) or live_experiment.trainable_name,
            "run_config": {"name": name, "storage_path": parent},
        }

    def with_options(self, *args: Any, **kwargs: Any) -> Self:
        """Return a copy with other options, for example another task runner; see `prefect.Flow`."""
        changed = super().with_options(*args, **kwargs)
        changed.__class__ = type(self)  # Prefect's own makes a plain Flow
        assert isinstance(changed, type(self))
        return changed


def _flow_run_name() -> str:
    """Return the experiment's name, by which one finds its run."""
    live, context = _live.get(), FlowRunContext.get()
    if live is not None:
        return live.experiment.name
    assert context is not None  # Prefect asks within the run
    assert context.flow_run is not None
    parameters = context.parameters or {}
    run_config: RunForm = parameters.get("run_config") or RunForm()
    if context.flow_run.deployment_id is not None:
        assert isinstance(context.flow, ExperimentFlow)
        return _deployed_name(run_config, _label(context.flow, parameters.get("trainable")), context.flow_run)
    return run_config.name or context.flow_run.name


def flow_options() -> dict[str, Any]:
    """Return the options that every flow of experiments has."""
    return {
        "flow_run_name": _flow_run_name,
        "task_runner": ExperimentTaskRunner(),
        "persist_result": False,
        "log_prints": False,
    }


def _as_flow(function: Callable[..., State[Any]]) -> ExperimentFlow:
    return ExperimentFlow(fn=function, name="experiment", **flow_options())


@_as_flow
def experiment(
    trainable: Annotated[str, Field(json_schema_extra={"pattern": IMPORT_STRING})],
    param_space: ParamSpace = [],  # noqa: B006 - Prefect shows these defaults in its form; nobody changes them
    tune_config: TuneForm = TuneForm(),  # noqa: B008
    run_config: RunForm = RunForm(),  # noqa: B008
    resources: ResourcesForm = ResourcesForm(),  # noqa: B008
) -> State[Any]:
    """Tune a trainable: each trial is a task run, its reports are artifacts.

    Args:
        trainable: What is tuned: the import string of a function or class, such as package.module:train. The
            worker imports it.
        param_space: The search space: each parameter that the trainable reads, and where its values come from.
        tune_config: How to search: what to optimise, how often, and with what.
        run_config: How to run: where results are kept, when to stop, what to try again.
        resources: What each trial gets. Without a bundle: what the trainable asks for itself, else 1 CPU.
    """
    # Workers get this function by value, since its name in the module is the flow's: so it says only this.
    return run_form(
        ExperimentForm(
            trainable=trainable,
            param_space=param_space,
            tune_config=tune_config,
            run_config=run_config,
            resources=resources,
        )
    )


def run_form(form: ExperimentForm) -> State[Any]:
    """Run the live experiment of this process, or the one that the parameters say."""
    end_forks_well()  # of a trainable that is tried out here, of a callback, and those after `fit()`
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        raise TuneError("the experiment flow was called without a flow run")
    live = _live.get()
    if live is None and context.flow_run.deployment_id is not None:
        live = _deployed(form, _label(context.flow, form.trainable), context.flow_run)
    elif live is None:
        live = _revived(form.run_config, form.trainable)
    # Prefect may try a run again, with this.
    live.error, live.results, live.signals = None, None, StopSignals()
    live.flow_run_id = context.flow_run.id
    live.contact.begin()
    try:
        # Trials get the context, and need not know our models of the parameters.
        plain = context.model_copy(update={"parameters": context.flow_run.parameters})
        with plain, tags(*(live.experiment.run_config.tags or ())), heartbeats(live.settings, context):
            ended, trials, live.results = _drive(live, context)
        if ended.error is not None:
            raise TrialError(ended.error, next((t.traceback for t in trials if t.status is Status.ERROR), ""))
    except KeyboardInterrupt as error:
        live.error = error  # it leaves `fit` when Prefect has been told
        return Cancelled(message=f"stopped at once; {_HOW_TO_GO_ON}")
    except BaseException as error:
        live.error = error
        raise
    finally:
        live.contact.end()
    return _final_state(ended, trials, live)


def _deployed(form: ExperimentForm, label: str, run: FlowRun) -> LiveExperiment:
    """Return the experiment of a deployment's run: a new one for each run, the same one when a run is tried again.

    Raises:
        ConfigError: The trainable cannot be imported here, or the form cannot work; nothing has been started.
    """
    tuner = form.tuner(_deployed_name(form.run_config, label, run))
    current = tuner.experiment(lambda _: deployed_identity(run))
    wanted = {*run.tags, *(current.run_config.tags or ())}
    if wanted != set(run.tags):
        with get_client(sync_client=True) as client:
            client.update_flow_run(run.id, tags=sorted(wanted))
    _try_first(current)
    cluster.connect(current.run_config)
    return LiveExperiment(current, prefect_server())


def _label(flow: Flow[..., Any] | None, trainable: str | None) -> str:
    """Return what an experiment without a name is called after: its trainable, or a flow that tunes just one."""
    assert isinstance(flow, ExperimentFlow)
    return flow.name if flow.tunes_one or trainable is None else trainable.rpartition(":")[2]


def _deployed_name(run_config: RunForm, label: str, run: FlowRun) -> str:
    digits, date = dated(deployed_identity(run))
    return f"{run_config.name or label}_{date}_{digits}"


def _revived(run_config: RunForm, trainable: str) -> LiveExperiment:
    """Return the experiment of a run that is tried again in a process that knows nothing of it.

    Raises:
        TuneError: What it needs cannot be had here: the message says how to go on from Python.
    """
    path = f"{run_config.storage_path}/{run_config.name}"
    try:
        place = storage_of(path)
        tuner = Tuner.restore(place.url, trainable, storage_options=place.options)
    except TuneError as error:
        raise TuneError(
            f"flow run of experiment {run_config.name!r}: the process that held its trainable {trainable!r} is gone, "
            f"and this one cannot go on with it ({error}). Resume it from Python: "
            f"Tuner.restore({path!r}, trainable).fit()"
        ) from error
    again = replace(tuner.experiment(), continuation=Continuation(is_retry=True))
    cluster.connect(again.run_config)
    return LiveExperiment(again, prefect_server())


def _tuner(
    trainable: Callable[..., Any] | str,
    param_space: Any = None,
    tune_config: Any = None,
    run_config: Any = None,
    resources: Any = None,
) -> Tuner:
    services = {"tune_config": tune_config, "run_config": run_config, "resources": resources}
    if isinstance(param_space, list) or any(
        isinstance(part, (Mapping, FormModel)) for part in services.values()
    ):
        given = {"trainable": trainable, "param_space": param_space, **services}
        return ExperimentForm.read({name: part for name, part in given.items() if part is not None}).tuner()
    return Tuner(trainable, param_space=param_space, tune_config=tune_config, run_config=run_config)


def _drive(live: LiveExperiment, context: FlowRunContext) -> tuple[EndExperiment, list[Trial], ResultGrid]:
    """Set everything up, run the loop, and take everything down again, whatever happens."""
    current = live.experiment
    tune = current.tune_config
    with live.signals.caught(), ExitStack() as stack:
        driver, services = set_up(live, context, stack)

        def stop(reason: str, patience_s: float | None) -> None:
            driver.request_stop(StopCause.INTERRUPT, f"{reason}; {_HOW_TO_GO_ON}", patience_s=patience_s)

        try:
            with live.signals.stopping(stop), cancellation_watched(context.flow_run.id, stop):  # type: ignore[union-attr]
                ended = driver.run()
        except BaseException:
            driver.abandon()
            services.pool.clear()
            save_counts(services, has_failed=True)
            raise
        controller = services.controller
        trials = list(controller.trials.values())
        live.was_interrupted = controller.is_interrupted
        if live.was_interrupted:
            services.pool.clear()
        else:
            services.inbox.refusal = f"the experiment has ended: {ended.reason}"
        services.user_callbacks.on_experiment_end(trials)
        save_counts(services, has_failed=False)
        get_run_logger().info(services.policy.scheduler.debug_string())
        services.progress.finish(trials, ended.reason)
    results = ResultGrid.from_trials(
        trials,
        current.storage,
        tune.objective,
        num_to_keep=controller.rules.num_to_keep,
        rank=controller.rank_checkpoint,
    )
    return ended, trials, results


def _final_state(ended: EndExperiment, trials: list[Trial], live: LiveExperiment) -> State[Any]:
    failed = [trial for trial in trials if trial.status is Status.ERROR]
    paused = [trial for trial in trials if trial.status is Status.PAUSED]
    counts = f"{len(trials)} trials, {len(failed)} failed"
    why = "".join(f"\n{line}" for line in failure_lines(failures_of(trials), live.experiment.storage.url, 3))
    if paused or live.was_interrupted:
        return Cancelled(message=f"{counts}, {len(paused)} can go on: {ended.reason}{why}")
    if trials and len(failed) == len(trials):
        return Failed(message=f"All {counts}: {ended.reason}{why}")
    return Completed(message=f"{counts}: {ended.reason}{why}", data=live.results)


def _try_first(current: Experiment) -> None:
    """Find out within seconds what would come to nothing after Ray and perhaps a server have been started.

    Raises:
        StorageError: The storage cannot be used.
        TuneError: The Prefect server that is configured does not answer.
    """
    if (url := PREFECT_API_URL.value()) and FlowRunContext.get() is None:
        require_answer(url)
    if not (ray.is_initialized() or current.storage.is_local):
        current.storage.probe()


def _own_log(live: LiveExperiment) -> AbstractContextManager[None]:
    return own_flow_log(live.contact, lambda: live.flow_run_id)


def _has_server() -> bool:
    return bool(PREFECT_API_URL.value()) or FlowRunContext.get() is not None

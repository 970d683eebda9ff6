"""An experiment on its way through Prefect's engine, and what its driver is made of."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID

from prefect.context import FlowRunContext
from prefect.settings import Settings

from tune_core.callback import CallbackList
from tune_core.config.failure_config import FailureConfig
from tune_core.control.controller import Controller
from tune_core.control.experiment import SPEC_FILE, Experiment
from tune_core.control.file_completion import put_back
from tune_core.control.journal import Journal
from tune_core.control.policy import Policy
from tune_core.control.resources_after import enlarged
from tune_core.encoding import dumps
from tune_core.engine import cluster
from tune_core.engine.artifacts.artifacts import ArtifactWriter
from tune_core.engine.artifacts.experiment_pages import Pages
from tune_core.engine.cancellation import StopSignals
from tune_core.engine.channel.channel import Channel
from tune_core.engine.deaths import Recovery, rows_left_behind
from tune_core.engine.driver.deletions import Deletions
from tune_core.engine.driver.driver import Driver
from tune_core.engine.driver.inbox_watcher import InboxWatch
from tune_core.engine.driver.services import DriverFailed, Journaled, Services
from tune_core.engine.events import Events
from tune_core.engine.ownership import (
    continued,
    driving,
    take_journal,
    this_process,
)
from tune_core.engine.server.contact import Contact
from tune_core.engine.server.server import PrefectServer
from tune_core.engine.slots.fit import copies_that_fit, shortfall
from tune_core.engine.slots.nested_groups import shortfall_inside
from tune_core.engine.slots.pool import SlotPool
from tune_core.engine.slots.recorders import opened_pool
from tune_core.engine.staging import keep, staging_directory
from tune_core.engine.task_runner import TuneTaskRunner
from tune_core.engine.worker.shared_parameters import SharedParameters
from tune_core.engine.worker.trial_task import trial as trial_task
from tune_core.errors import (
    ConfigError,
    ExperimentConflict,
    PlacementError,
    StorageError,
)
from tune_core.logger.callbacks import TrialFiles, default_loggers
from tune_core.progress_reporter.display import ProgressDisplay
from tune_core.resources import ONE_CPU, PlacementGroupFactory
from tune_core.results.result_grid import ResultGrid
from tune_core.training.resource_requests import is_fixed, resources_of
from tune_core.training.trainable import hint_on_resources
from tune_core.views.notifications import Notifier
from tune_core.views.overview import Overview


@dataclass(slots=True)
class LiveExperiment:
    """An experiment on its way through Prefect's engine, and what came of it."""

    experiment: Experiment
    server: PrefectServer
    signals: StopSignals = field(default_factory=StopSignals)
    results: ResultGrid | None = None
    error: BaseException | None = None
    was_interrupted: bool = False
    #: With several metrics, what its last state says of them; else "".
    front: str = ""
    contact: Contact = field(init=False)
    flow_run_id: UUID | None = None
    #: Prefect's settings, if its engine sends no heartbeats, and we do.
    settings: Settings | None = None

    def __post_init__(self) -> None:
        self.contact = Contact(self.server.api_url)

    @property
    def is_over(self) -> bool:
        """Whether it is known what came of it."""
        return self.results is not None or self.error is not None


def set_up(live: LiveExperiment, context: FlowRunContext, stack: ExitStack) -> tuple[Driver, Services]:
    """Start what a driver works with; the stack takes it down in the reverse order.

    Slots come first, since they take longest: they start while the storage is tried.
    """
    current = continued(live.experiment)
    run = current.run_config
    flow_run_id: UUID = context.flow_run.id  # type: ignore[union-attr] # checked by the caller
    policy = current.policy()
    has_recorders = isinstance(context.task_runner, TuneTaskRunner)
    pool = stack.enter_context(_opened_pool(current, policy, with_processes=has_recorders))
    capacity = _start_slots(current, policy, pool)
    cluster.refuse_unshared(current.storage, run)
    current.storage.probe()
    owner = this_process(flow_run_id, current.identity)
    parameters = SharedParameters(current.parameters)
    stack.callback(parameters.release)
    number = take_journal(current, owner)
    stack.enter_context(driving(current.storage.url))
    current.storage.write(SPEC_FILE, dumps(current.spec()))
    deletions = Deletions(current.storage)
    # Last but for the channel: the closed journal lets the last ones begin, and files and artifacts do not wait.
    stack.callback(deletions.close)
    channel = Channel(cluster.channel_host())
    stack.callback(channel.close)
    controller = Controller(current.rules(policy), current.storage)
    run_tags = {*context.flow_run.tags, *(run.tags or ())}  # type: ignore[union-attr]
    artifacts, overview, events = _dashboard(live, current, run_tags, controller, stack)
    # Ray's own workers may end before Prefect has sent what they have told it.
    artifacts.may_lose_states = not has_recorders
    files = stack.enter_context(_trial_files(current))
    inbox = InboxWatch(current.storage, current.experiment_id, channel.post)
    stack.callback(inbox.close)  # after the journal: what it has is answered
    users = CallbackList(run.callbacks or [])
    watchers = current.watchers(policy, users)
    journal = Journal(
        current.storage,
        current.experiment_id,
        owner,
        number,
        is_sealed=watchers.have_state,
        on_flushed=lambda iterations: channel.post(Journaled(iterations, time.monotonic())),
        on_failure=lambda error: channel.post(DriverFailed(error)),
    )
    stack.callback(journal.close)
    rows_left = partial(rows_left_behind, channel.address.spool, run.runtime_env)
    recovery = Recovery(
        current.storage, channel.post, lambda error: channel.post(DriverFailed(error)), rows_left=rows_left
    )
    stack.callback(recovery.close)
    loggers = default_loggers(files, users.callbacks)
    services = Services(
        experiment=current,
        controller=controller,
        policy=policy,
        channel=channel,
        parameters=parameters,
        pool=pool,
        journal=journal,
        inbox=inbox,
        artifacts=artifacts,
        recovery=recovery,
        files=files,
        default_loggers=loggers,
        loggers=CallbackList(loggers),
        user_callbacks=users,
        watchers=watchers,
        progress=stack.enter_context(ProgressDisplay(overview.standings, run.verbose, run.progress_reporter)),
        capacity=capacity,
        deletions=deletions,
        overview=overview,
        events=events,
        pages=Pages(artifacts, overview, current.name, current.storage.url),
    )
    watch_url = live.server.flow_run_url(flow_run_id)
    services.progress.start(current.name, current.storage.url, watch_url, policy.total_trials)
    return Driver(services), services


@contextmanager
def _opened_pool(current: Experiment, policy: Policy, *, with_processes: bool) -> Iterator[SlotPool]:
    run, tune = current.run_config, current.tune_config
    with opened_pool(
        with_processes=with_processes,
        fresh_process=False if tune.fresh_process is None and tune.reuse_actors else tune.fresh_process,
        runtime_env=run.runtime_env,
        max_slots=policy.max_concurrent,
    ) as pool:
        pool.cleanup_timeout_s = run.stop_timeout_s
        yield pool


def _dashboard(
    live: LiveExperiment, current: Experiment, run_tags: set[str], controller: Controller, stack: ExitStack
) -> tuple[ArtifactWriter, Overview, Events]:
    """Start what shows the experiment in Prefect."""
    flow_run_id = live.flow_run_id
    assert flow_run_id is not None  # it runs
    overview = Overview(controller, current.tune_config.objective)
    artifacts = ArtifactWriter(
        current.name,
        current.experiment_id,
        flow_run_id,
        run_tags,
        trial_task,
        standings=overview.standings,
        every_report=current.run_config.every_report,
        contact=live.contact,
    )
    stack.callback(artifacts.close)
    notifier = Notifier(controller, current.name, current.storage.url, overview.standings)
    events = Events(notifier, current.experiment_id, current.name, live.contact)
    stack.callback(events.close)
    stack.callback(live.contact.end)
    return artifacts, overview, events


@contextmanager
def _trial_files(current: Experiment) -> Iterator[TrialFiles]:
    with staging_directory() as staging:
        files = TrialFiles(current.storage, staging)
        try:
            yield files
        except ExperimentConflict:
            files.discard()  # they are another driver's now
            raise
        finally:
            try:
                files.close()
                if files.lost:  # the journal, which is closed by now, has what they held
                    put_back(current.storage, files.lost, staging, current.run_config.callbacks or ())
            except StorageError:  # it names the copies
                keep(staging)
                raise


def _start_slots(current: Experiment, policy: Policy, pool: SlotPool) -> int:
    """Start the first slots; return how many trials fit at once.

    Raises:
        PlacementError: The cluster can never give a trial its bundles.
    """
    if not is_fixed(current.trainable):
        return max(1, copies_that_fit(ONE_CPU, cluster.total_resources()))
    shape = resources_of(current.trainable, {})
    reason = shortfall(shape, cluster.nodes())
    reason = reason or shortfall_inside(shape, cluster.total_resources())
    if reason is not None and current.run_config.placement_timeout_s is None:
        raise PlacementError(
            f"the cluster can never give a trial its bundles: {reason}. Ask for less with tune.with_resources, "
            f"or, if nodes will join, set RunConfig(placement_timeout_s=…){hint_on_resources(current.trainable, {})}"
        )
    if current.run_config.placement_timeout_s is None:
        _refuse_never_after(current.run_config.failure_config, shape)
    capacity = max(1, copies_that_fit(shape, cluster.total_resources()))
    limits = (capacity, policy.total_trials, policy.max_concurrent)
    pool.start_ahead(shape, min(limit for limit in limits if limit is not None))
    return capacity


def _refuse_never_after(failures: FailureConfig, shape: PlacementGroupFactory) -> None:
    """Refuse what `resources_after` makes of the bundles of each trial, if the cluster can never give it even once.

    Raises:
        PlacementError: The cluster has not so much, or the bundles have nothing of what is to be multiplied.
    """
    for cause, factors in (failures.resources_after or {}).items():
        place = f"FailureConfig(resources_after={{{cause!r}: {dict(factors)}}})"
        try:
            reason = shortfall(enlarged(shape, factors), cluster.nodes())
        except ConfigError as error:
            raise PlacementError(f"{place}: {error}") from None
        if reason is not None:
            raise PlacementError(
                f"{place}: the cluster can never give a trial that after the first death: {reason}"
            )

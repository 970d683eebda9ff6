"""Flows of a user's own: one for each thing that is tuned, with a name and a form of its own in Prefect's UI."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect.client.schemas.objects import State

from tune_core.control.experiment import Experiment
from tune_core.engine.experiment import ExperimentFlow, flow_options, own_identity, run_experiment, run_form
from tune_core.engine.form.form import ExperimentForm, ParamSpace, ResourcesForm, RunForm, TuneForm
from tune_core.engine.form.values import form_values
from tune_core.registry import import_string, register_trainable

_PARTS = ("param_space", "tune_config", "run_config", "resources")


class NamedExperimentFlow(ExperimentFlow):
    """A flow that tunes one trainable: its parameters are the form of an experiment, with defaults.

    Attributes:
        form: The experiment that a run without parameters is.
    """

    form: ExperimentForm
    tunes_one = True

    def __call__(self, *args: Any, **changes: Any) -> Any:
        """Run the experiment; return its `ResultGrid`.

        Args:
            *args: None.
            **changes: `param_space`, `tune_config`, `run_config` or `resources`, each in place of the default: as
                for `tune_core.Tuner`, or as a deployment has them.

        Raises:
            ConfigError: A value is wrong, or no plain value.

        Example:
            >>> digits = experiment_flow("digits", "examples.digits:train_digits", param_space={"epochs": 2})
            >>> results = digits(tune_config={"num_samples": 4})  # doctest: +SKIP
        """
        if args or changes.keys() - set(_PARTS):
            given = ", ".join([*map(repr, args), *(name for name in changes if name not in _PARTS)])
            raise TypeError(f"{self.name}() got {given}: it takes {', '.join(_PARTS)}, each by name")
        changed = form_values(*(changes.get(name) for name in _PARTS))
        form = ExperimentForm.read(self.form.model_dump(mode="json", exclude_unset=True) | changed)
        return run_experiment(form.tuner().experiment(own_identity), self)

    def parameters_of(self, live_experiment: Experiment) -> dict[str, Any]:
        """Return what Prefect shows and keeps as the parameters of a run from Python."""
        parameters = super().parameters_of(live_experiment)
        del parameters["trainable"]
        return parameters

    def with_options(self, *args: Any, **kwargs: Any) -> NamedExperimentFlow:
        """Return a copy with other options; see `prefect.Flow`."""
        changed = super().with_options(*args, **kwargs)
        changed.form = self.form
        return changed


def experiment_flow(
    name: str,
    trainable: Callable[..., Any] | str,
    *,
    param_space: Any = None,
    tune_config: Any = None,
    run_config: Any = None,
    resources: Any = None,
) -> NamedExperimentFlow:
    """See `tune_core.experiment_flow`."""
    if callable(trainable):
        found = import_string(trainable)
        if found is None or found.startswith(
            "__"
        ):  # of a file that Prefect has loaded, under a name of its own
            register_trainable(name, trainable)
            found = name
        trainable = found
    form = ExperimentForm.read(
        {"trainable": trainable, **form_values(param_space, tune_config, run_config, resources)}
    )

    def run(
        param_space: ParamSpace = form.param_space,
        tune_config: TuneForm = form.tune_config,
        run_config: RunForm = form.run_config,
        resources: ResourcesForm = form.resources,
    ) -> State[Any]:
        return run_form(
            ExperimentForm(
                trainable=form.trainable,
                param_space=param_space,
                tune_config=tune_config,
                run_config=run_config,
                resources=resources,
            )
        )

    run.__doc__ = f"""Tune {form.trainable}: each trial is a task run, its reports are artifacts.

    Args:
        param_space: The search space: each parameter that the trainable reads, and where its values come from.
        tune_config: How to search: what to optimise, how often, and with what.
        run_config: How to run: where results are kept, when to stop, what to try again.
        resources: What each trial gets. Without a bundle: what the trainable asks for itself, else 1 CPU.
    """
    flow = NamedExperimentFlow(fn=run, name=name, **flow_options())
    flow.form = form
    return flow

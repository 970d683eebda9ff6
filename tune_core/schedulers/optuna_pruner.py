"""Optuna's pruners as a scheduler: a study in memory is told what trials report, and asked who is pruned.

Owns what a trial is in that study, and how a pruner is written down and made again. Never suggests anything.
"""

from __future__ import annotations

import copy
import inspect
import logging
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tune_core.errors import ConfigError
from tune_core.init_args import note_arguments
from tune_core.schedulers.comparing import ComparingScheduler
from tune_core.trial import Trial
from tune_core.validation import Validator, safe_str, suggestion

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import Trial as OptunaTrial

logger = logging.getLogger(__name__)

#: Where a pruner has a pruner: the argument's name.
_WRAPPED = "wrapped_pruner"


class OptunaPruner(ComparingScheduler):
    """Stops the trials that a pruner of Optuna would prune.

    The pruner sees a study of its own, in memory: each trial as it was added, its metric at each time, and how it
    ended. Times are Optuna's steps, rounded down to whole numbers of at least 0; of several reports at one step the
    first counts. Reports without the metric or such a time are not decided on.

    With the Wilcoxon pruner, report one fold, or one seed, at a time, in the same order in each trial, its value as the
    metric and its number as `time_attr`. A trial's final value is its last one; with the Wilcoxon pruner it is the
    mean of all, since that pruner compares with the best trial by its mean.

    Args:
        pruner: "wilcoxon", "patient", "percentile", "threshold", "hyperband", "successive_halving", "median" or "nop";
            or a pruner of Optuna's, or of your own that is derived from its `BasePruner`. A copy of it is used.
        options: Arguments of a pruner that is given by name; `wrapped_pruner` of "patient" is a name, too, or
            `{"pruner": name, "options": …}`.
        time_attr: The reported number that is the step; it grows from report to report.
        metric: What the pruner sees; give it here or in `TuneConfig`.
        mode: "min" or "max"; goes with `metric`.

    Raises:
        ConfigError: An argument cannot work; all faults are named together.
        ImportError: Optuna, or what the pruner needs, is not installed; the message says how to.

    Example:
        >>> scheduler = OptunaPruner("threshold", {"upper": 1.0}, metric="loss", mode="min")
        >>> trial = Trial("t0", 0, {})
        >>> str(scheduler.on_trial_result([], trial, {"training_iteration": 1, "loss": 0.5}))
        'CONTINUE'
        >>> str(scheduler.on_trial_result([], trial, {"training_iteration": 2, "loss": 1.5}))
        'STOP'
        >>> scheduler.decision_reason(trial)
        {'pruner': 'ThresholdPruner', 'step': 2, 'value': 1.5}

    Source: beyond Ray Tune 2.60; the pruners of Optuna 5 (https://optuna.readthedocs.io/en/stable/reference/pruners.html).
    """

    def __init__(
        self,
        pruner: str | Any = "median",
        options: dict[str, Any] | None = None,
        time_attr: str = "training_iteration",
        metric: str | None = None,
        mode: str | None = None,
    ) -> None:
        validator = Validator(type(self).__name__)
        made = _made(validator, pruner, options)
        super().__init__(validator, time_attr, metric, mode)
        if not isinstance(pruner, str) and (written := _written(made)) is not None:
            note_arguments(self, **written)  # so that a journal has it, and not an object
        self._pruner, self._takes_mean = made, _compares_means(made)
        self._study: Study | None = None
        #: Of each trial of the experiment: the study's, and its values by step.
        self._trials: dict[str, OptunaTrial] = {}
        self._values: dict[str, dict[int, float]] = {}
        self._over: set[str] = set()
        self._pruned: dict[str, dict[str, Any]] = {}
        self._said: set[str] = set()

    def on_trial_add(self, trials: Sequence[Trial], trial: Trial) -> None:
        """Add the trial to the study; one that was over and goes on is another one there, with the same values."""
        with self._quietly():
            added = self._trials[trial.trial_id] = self._the_study().ask()
            self._pruned.pop(trial.trial_id, None)
            self._over.discard(trial.trial_id)
            for step, value in self._values.setdefault(trial.trial_id, {}).items():
                added.report(value, step)

    def on_trial_result(self, trials: Sequence[Trial], trial: Trial, result: dict[str, Any]) -> str:
        """Return STOP if the pruner prunes the trial, else CONTINUE."""
        if trial.trial_id not in self._trials:
            self.on_trial_add(trials, trial)
        step = self._report(trial, result)
        if step is None:
            return self.CONTINUE
        seen = self._trials[trial.trial_id]
        with self._quietly():
            is_pruned = seen.should_prune()
        if not is_pruned:
            return self.CONTINUE
        value = self._values[trial.trial_id][step]
        self._pruned[trial.trial_id] = {"pruner": type(self._pruner).__name__, "step": step, "value": value}
        return self.STOP

    def decision_reason(self, trial: Trial) -> dict[str, Any]:
        """Return which pruner has pruned the trial, at which step and value."""
        return self._pruned.get(trial.trial_id, {})

    def on_trial_complete(self, trials: Sequence[Trial], trial: Trial, result: dict[str, Any]) -> None:
        """Tell the study that the trial is over: pruned, or complete with its final value."""
        if trial.trial_id not in self._trials:
            return
        if trial.trial_id in self._pruned:
            self._end(trial, "PRUNED")
            return
        self._report(trial, result)
        values = list(self._values[trial.trial_id].values())
        final = (sum(values) / len(values) if self._takes_mean else values[-1]) if values else math.nan
        if math.isfinite(final):
            self._end(trial, "COMPLETE", final)
        else:
            self._end(trial, "FAIL")

    def on_trial_error(self, trials: Sequence[Trial], trial: Trial) -> None:
        """Tell the study that the trial has failed."""
        self._end(trial, "FAIL")

    def on_trial_remove(self, trials: Sequence[Trial], trial: Trial) -> None:
        """Tell the study that the trial does not go on."""
        self._end(trial, "PRUNED")

    def debug_string(self) -> str:
        """Return which pruner it is, and how many trials it has pruned."""
        return f"Using Optuna's {type(self._pruner).__name__}: num_stopped={len(self._pruned)}."

    def _the_study(self) -> Study:
        """The study, which is made once metric and mode are known."""
        if self._study is None:
            optuna = _import_optuna()
            with self._quietly():  # of this name, since the Hyperband pruner puts trials into brackets by it
                self._study = optuna.create_study(
                    study_name="prefect-tune",
                    sampler=optuna.samplers.RandomSampler(seed=0),
                    pruner=self._pruner,
                    direction="maximize" if self.mode == "max" else "minimize",
                )
        return self._study

    def _report(self, trial: Trial, result: dict[str, Any]) -> int | None:
        """Let the study know of a report; return its step, or None if it is not to be decided on."""
        moment = self._moment(result)
        if moment is None or not math.isfinite(moment[0]) or moment[0] < 0:
            return None
        step, known = math.floor(moment[0]), self._values[trial.trial_id]
        if step not in known:
            known[step] = -moment[1] if self.mode == "min" else moment[1]
            with self._quietly():
                self._trials[trial.trial_id].report(known[step], step)
        elif step < max(known):
            return None  # on its way again to where it was
        return step

    def _end(self, trial: Trial, state: str, value: float | None = None) -> None:
        seen = self._trials.get(trial.trial_id)
        if seen is None:
            return
        if trial.trial_id not in self._over:
            self._over.add(trial.trial_id)
            with self._quietly():
                states = _import_optuna().trial.TrialState
                self._the_study().tell(seen, value, state=getattr(states, state))

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """Keep Optuna's lines on each trial off the terminal, and say once in the log what it warns of."""
        chatter = logging.getLogger("optuna")
        before = chatter.level
        chatter.setLevel(logging.WARNING)
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                yield
        finally:
            chatter.setLevel(before)
        for each in caught:
            said = re.sub(r"\d+", "…", str(each.message))
            if said not in self._said:
                self._said.add(said)
                logger.warning("%s: %s (said once)", type(self._pruner).__name__, each.message)


def _import_optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ImportError("OptunaPruner needs Optuna: run pip install 'prefect-tune[optuna]'") from error
    return optuna


def _classes() -> dict[str, Any]:
    """Optuna's pruners by the names that they have here: `successive_halving`."""
    pruners = _import_optuna().pruners
    classes = [getattr(pruners, name) for name in pruners.__all__ if name.endswith("Pruner")]
    return {_name_of(cls): cls for cls in classes if cls is not pruners.BasePruner}


def _name_of(cls: type) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__.removesuffix("Pruner")).lower()


def _made(validator: Validator, pruner: Any, options: Any) -> Any:
    """Return a new pruner, or a copy of the one that was given; None if what is wrong was found."""
    base = _import_optuna().pruners.BasePruner
    if options is not None and not (
        isinstance(options, Mapping) and all(isinstance(k, str) for k in options)
    ):
        validator.add("options", options, "expected a dict of the pruner's arguments by their names")
        return None
    if isinstance(pruner, str):
        return _by_name(validator, pruner, options or {})
    if not validator.check_instance("pruner", pruner, base):
        return None
    if options is not None:
        validator.add("options", options, "goes with the name of a pruner: give yours its arguments itself")
    _require_packages(pruner)
    return copy.deepcopy(pruner)


def _by_name(validator: Validator, name: str, options: Mapping[str, Any]) -> Any:
    known = _classes()
    cls = known.get(name.lower(), known.get(_name_of(type(name, (), {})) if name.isidentifier() else ""))
    if cls is None:
        names = ", ".join(map(repr, known))
        validator.add(
            "pruner", name, f"expected one of {names}, or a pruner of Optuna's{suggestion(name, known)}"
        )
        return None
    arguments = dict(options)
    unknown = sorted(arguments.keys() - inspect.signature(cls).parameters.keys())
    if unknown:
        has = ", ".join(inspect.signature(cls).parameters)
        validator.add(
            "options", options, f"{cls.__name__} has no {', '.join(unknown)}; it has {has or 'none'}"
        )
        return None
    if arguments.get(_WRAPPED) is not None:
        inner = arguments[_WRAPPED]
        given = inner if isinstance(inner, Mapping) else {"pruner": inner}
        if not given.keys() <= {"pruner", "options"} or "pruner" not in given:
            validator.add(
                "options", options, f"expected a name or {{'pruner': name, 'options': …}} as {_WRAPPED}"
            )
            return None
        arguments[_WRAPPED] = _made(validator, given["pruner"], given.get("options"))
        if arguments[_WRAPPED] is None:
            return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that some of them are experimental
            made = cls(**arguments)
    except (TypeError, ValueError) as error:
        validator.add("options", options, f"{cls.__name__} refuses them: {safe_str(error)}")
        return None
    _require_packages(made)
    return made


def _written(pruner: Any) -> dict[str, Any] | None:
    """Return name and options of a pruner, as `OptunaPruner` takes them; None if it is not Optuna's own.

    Optuna has no way to write a pruner down: each keeps its arguments in attributes of their names.
    """
    kind: Any = type(pruner)
    known_as = _name_of(kind)
    of_optuna: Any = _classes().get(known_as)
    if of_optuna is not kind:
        return None
    options: dict[str, Any] = {}
    for name, parameter in inspect.signature(kind).parameters.items():
        value = getattr(pruner, f"_{name}", parameter.default)
        if value is parameter.empty:
            return None
        if name == _WRAPPED and value is not None:
            value = _written(value)
            if value is None:
                return None
        if isinstance(value, float) and math.isinf(value):
            continue  # what a bound is kept as that was not given
        if value != parameter.default:
            options[name] = value
    try:
        again = _made(Validator("OptunaPruner"), known_as, options)
    except ConfigError:
        return None
    return None if again is None else {"pruner": known_as, "options": options}


def _compares_means(pruner: Any) -> bool:
    """Whether it is, or wraps, the pruner that compares trials fold by fold."""
    while pruner is not None:
        if isinstance(pruner, _import_optuna().pruners.WilcoxonPruner):
            return True
        pruner = getattr(pruner, f"_{_WRAPPED}", None)
    return False


def _require_packages(pruner: Any) -> None:
    if not _compares_means(pruner):
        return
    try:
        import scipy.stats  # noqa: F401 - Optuna imports it when it prunes
    except ImportError as error:
        raise ImportError("Optuna's WilcoxonPruner needs SciPy: run pip install scipy") from error

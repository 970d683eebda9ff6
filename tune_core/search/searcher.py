"""The contract between an experiment and whatever chooses its configurations.

Owns the `Searcher` base class and `Suggestion`. Never chooses anything itself. Invariant: a
suggestion is journaled before its trial starts, and a replay never asks again; so a searcher
cannot change the past, and is told of it instead.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from tune_core.constraints import Constraint
from tune_core.encoding import dumps
from tune_core.errors import ConfigError
from tune_core.init_args import RecordsArguments
from tune_core.metrics import lookup
from tune_core.validation import Validator, shorten

_ASKED = "_asked_in_this_process"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Suggestion:
    """A configuration, and which of its parameters the searcher chose.

    Attributes:
        config: What the trainable gets.
        varied: The chosen values by path (`net/width`); they name the trial.
    """

    config: dict[str, Any]
    varied: dict[str, Any] = field(default_factory=dict)


class Searcher(RecordsArguments, ABC):
    """Chooses configurations; subclass it and write `suggest` and, to learn, `on_trial_complete`.

    Suggestions are journaled: an experiment that is resumed applies those of its journal, whatever
    is suggested now. The new searcher object is told of them, in their order, by
    `on_suggestion_replayed`, and of all results. So what a searcher suggests must follow from its
    arguments and from what it was told, not from the clock or from when it is asked. All methods
    are called from one thread, and must not block.

    Args:
        metric: The metric to optimise, or several; None if the experiment's is used.
        mode: "min" or "max"; a list of "min", "max" or "obs" for several metrics.

    Raises:
        ConfigError: The mode is none of these, or does not go with the metric.

    Example:
        >>> class Halving(Searcher):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.lr = 1.0
        ...
        ...     def suggest(self, trial_id):
        ...         self.lr /= 2
        ...         return {"lr": self.lr} if self.lr > 0.1 else Searcher.FINISHED
        >>> searcher = Halving()
        >>> [searcher.suggest(f"t{number}") for number in range(4)]
        [{'lr': 0.5}, {'lr': 0.25}, {'lr': 0.125}, 'FINISHED']

    Source: method names as Ray Tune 2.60; differs: `on_suggestion_replayed` instead of pickled
        state, `on_trial_stopped_early`, a suggestion may say what varied, and only `suggest` has to be written.
    """

    #: What `suggest` returns when there will be no more configurations.
    FINISHED: ClassVar[Literal["FINISHED"]] = "FINISHED"

    #: Whether it makes of `num_samples` what it will, and ends by itself. If not, the experiment
    #: asks it for so many configurations.
    counts_samples: bool = False

    #: Whether `TuneConfig` may give it a list of metrics, and a list of modes. If not, that is refused.
    supports_several_objectives: bool = False
    #: Whether it learns from trials of earlier experiments: see `on_earlier_trial`.
    learns_from_earlier: bool = False

    #: How many trials may run at once, 0 for no limit. The experiment keeps it.
    max_concurrent: int = 0

    #: What a trial has to keep to be best, beside the metric.
    constraints: tuple[Constraint, ...] = ()

    # On the class, so that a subclass without super().__init__() works.
    _metric: str | list[str] | None = None
    _mode: str | list[str] | None = None
    _has_warned = False

    def __init__(self, metric: str | list[str] | None = None, mode: str | list[str] | None = None) -> None:
        validator = Validator(type(self).__name__)
        _check_objective(validator, metric, mode)
        validator.raise_any()
        self._metric, self._mode = metric, mode

    @property
    def metric(self) -> str | list[str] | None:
        """The metric, or metrics, to optimise; None if there is none."""
        return self._metric

    @property
    def mode(self) -> str | list[str] | None:
        """Whether less or more of the metric is better."""
        return self._mode

    def set_search_properties(
        self,
        metric: str | list[str] | None,
        mode: str | list[str] | None,
        config: dict[str, Any],
        **spec: Any,
    ) -> bool:
        """Take the experiment's objective and search space; called once, before `suggest`.

        The default takes metric and mode where the searcher has none of its own.

        Args:
            metric: `TuneConfig.metric`; a list only if it `supports_several_objectives`.
            mode: `TuneConfig.mode`; likewise.
            config: The search space.
            **spec: More about the experiment: `num_samples`, -1 for no limit. New keys may come.

        Returns:
            Whether the searcher draws from `config`. If not, `config` has to be fixed values only.
        """
        if self._metric is None:
            self._metric = metric
        if self._mode is None:
            self._mode = mode
        return False

    def check_search_properties(
        self, metric: str | list[str] | None, mode: str | list[str] | None, config: dict[str, Any]
    ) -> None:
        """Refuse what `set_search_properties` would refuse, and change nothing; called when a `Tuner` is made.

        The default refuses nothing.

        Args:
            metric: `TuneConfig.metric`.
            mode: `TuneConfig.mode`.
            config: The search space.

        Raises:
            ConfigError: The searcher cannot search that.
        """

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """Take note of how many trials may run at once; called before `set_search_properties`.

        Args:
            max_concurrent: `TuneConfig.max_concurrent_trials`, or the limit of a `ConcurrencyLimiter`
                around this searcher.

        Returns:
            Whether the searcher keeps to it by itself. The default returns False: who calls keeps it.
        """
        return False

    @abstractmethod
    def suggest(self, trial_id: str) -> dict[str, Any] | Suggestion | str | None:
        """Return the configuration of a new trial.

        Args:
            trial_id: By this name the results of the trial will be told.

        Returns:
            The configuration; None if results have to come in first; `Searcher.FINISHED` if there
            will be no more. In a plain dict every parameter counts as chosen, and the fixed values
            of the search space are added to it; a `Suggestion` is taken as it is.
        """

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Learn from a report of a trial that goes on. The default does nothing.

        Args:
            trial_id: The trial's name; may be of a replayed suggestion.
            result: The report with its auto-filled keys; a metric may be missing or NaN.
        """

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Learn that a trial is over; called once for each. The default does nothing.

        Args:
            trial_id: The trial's name; may be of a replayed suggestion.
            result: Its last report; None if there is none, if it lacks the metric, or if the trial has failed.
            error: Whether the trial failed for good.
        """

    def on_trial_stopped_early(self, trial_id: str, result: dict[str, Any] | None = None) -> None:
        """Learn that a trial was ended before its time; called instead of `on_trial_complete`.

        That is by a scheduler, below its full budget, or by somebody who asked for it. The default calls
        `on_trial_complete`. Write it if a value after little training must not be taken for a final one.

        Args:
            trial_id: The trial's name; may be of a replayed suggestion.
            result: Its last report, of which `on_trial_result` was not told; None as in `on_trial_complete`.
        """
        self.on_trial_complete(trial_id, result)

    def on_suggestion_replayed(self, trial_id: str, config: dict[str, Any]) -> None:
        """Take note of a suggestion of an earlier session, as the journal has it.

        Called before the first `suggest`, once for each suggestion, in their order. The default asks
        `suggest` again and drops the answer, so that what follows is what would have followed; if the answer
        is not the suggestion, the log says so once. Write this method if to suggest takes long, or if it does
        not follow from what the searcher was told.
        """
        if trial_id in vars(self).get(
            _ASKED, ()
        ):  # this very object has suggested it: its run is tried again
            return
        answer = self.suggest(trial_id)
        given = answer.config if isinstance(answer, Suggestion) else answer
        is_same = isinstance(given, Mapping) and all(
            name in config and dumps(config[name]) == dumps(value) for name, value in given.items()
        )
        if not is_same and not self._has_warned:
            self._has_warned = True
            _logger.warning(
                "%s, asked again for trial %s after a resume, answers %s, but it had suggested %s: write its "
                "on_suggestion_replayed, or get_state and set_state (said once)",
                type(self).__name__,
                trial_id,
                shorten(given),
                shorten(config),
            )

    def on_configuration_added(self, trial_id: str, config: dict[str, Any]) -> bool:
        """Take note of a trial that somebody has added to the experiment; the default does not.

        It counts as none of the searcher's own. Called again after a resume, in the order of all suggestions.

        Args:
            trial_id: The trial's name.
            config: Its configuration.

        Returns:
            Whether the searcher wants to learn from the trial: only then its results are told.

        Raises:
            ConfigError: It cannot be one of the searcher's search space: no trial is made.
        """
        return False

    def on_space_changed(self, config: dict[str, Any]) -> bool:
        """Go on in another search space; called while the experiment runs, and after a resume at the same place.

        Parameters are new, or draw from other values; none is of another kind, and there is no grid. The default
        does nothing. After a resume, `set_search_properties` was given the latest space already.

        Args:
            config: The search space from now on.

        Returns:
            Whether it does. If not, a running experiment keeps its space.

        Raises:
            ConfigError: It cannot; the text says why.
        """
        return False

    def on_earlier_trial(self, config: dict[str, Any], values: list[float]) -> None:
        """Learn from a trial of an earlier experiment, which counts as none of this one; the default does not.

        Called if the searcher `learns_from_earlier`, before the first `suggest`, and again after a resume.

        Args:
            config: Its configuration.
            values: Its last value of each metric, in the order of `metric`.

        Raises:
            ConfigError: It is none of the searcher's search space: it is left out.
        """

    def on_points_to_try(self, points: list[dict[str, Any]]) -> bool:
        """Suggest these configurations first, as `points_to_evaluate` are; the default does not.

        Called before the first `suggest`, and again after a resume.

        Args:
            points: Values of the search space, nested like it; what is fixed there is not in them.

        Returns:
            Whether it will.
        """
        return False

    def add_evaluated_point(
        self,
        parameters: Mapping[str, Any],
        value: Any,
        error: bool = False,
        pruned: bool = False,
        intermediate_values: Sequence[float] | None = None,
    ) -> None:
        """Learn of a configuration that was tried elsewhere; a searcher that can, writes it.

        Args:
            parameters: The configuration.
            value: The metric's value; None if it failed.
            error: Whether it failed.
            pruned: Whether it was stopped early.
            intermediate_values: The metric's values at steps 0, 1, 2, …

        Raises:
            NotImplementedError: The searcher cannot; so does the default.
        """
        raise NotImplementedError(f"{type(self).__name__} does not learn from trials of elsewhere")

    def add_evaluated_trials(self, trials_or_analysis: Any, metric: str) -> None:
        """Learn of trials of another experiment, by `add_evaluated_point`.

        Trials that are not over or have not reported the metric are left out. To be called before the experiment; a
        resume does not repeat it.

        Args:
            trials_or_analysis: An `ExperimentAnalysis`, a trial of one, a `Trial`, or a list of trials.
            metric: What they reported that the searcher optimises here.

        Raises:
            ConfigError: That is no trial, or none of them has reported the metric.
            NotImplementedError: The searcher cannot learn from them.

        Source: as Ray Tune 2.60; differs: a metric that no trial has reported is an error.
        """
        given = getattr(trials_or_analysis, "trials", trials_or_analysis)
        trials = list(given) if isinstance(given, list | tuple) else [given]
        found = 0
        for trial in trials:
            config, last = getattr(trial, "config", None), getattr(trial, "last_result", None)
            status = str(getattr(trial, "status", ""))
            if not isinstance(config, Mapping) or not isinstance(last, Mapping):
                raise ConfigError(
                    f"add_evaluated_trials: {shorten(trial)} is no trial: expected an ExperimentAnalysis, or trials"
                )
            value, has_failed = lookup(last, metric), status == "ERROR"
            if status not in ("TERMINATED", "ERROR") or (value is None and not has_failed):
                continue
            found += value is not None
            is_pruned = not has_failed and getattr(trial, "is_cut_short", False)
            self.add_evaluated_point(config, value, error=has_failed, pruned=is_pruned)
        if not found:
            raise ConfigError(
                f"add_evaluated_trials: none of {len(trials)} trials has ended and reported {metric!r}"
            )

    def on_num_samples_raised(self, num_samples: int) -> None:
        """Go on up to this `num_samples`; called while the experiment runs. The default does nothing.

        Only a searcher that `counts_samples` has anything to do: `suggest` may say FINISHED later now.
        """

    def get_state(self) -> dict[str, Any]:
        """Return what `set_state` needs to go on from here, as JSON can hold it. The default is {}."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from where `get_state` was called. The default does nothing.

        Args:
            state: What `get_state` returned. The searcher knows the search space already.
        """


def note_asked(searcher: Searcher, trial_id: str) -> None:
    """Remember that this object, and what it may wrap, was asked for this trial in this process."""
    owner: Any = searcher
    while isinstance(owner, Searcher):
        vars(owner).setdefault(_ASKED, set()).add(trial_id)
        owner = getattr(owner, "searcher", None)


def _check_objective(validator: Validator, metric: Any, mode: Any) -> None:
    if isinstance(mode, list) or isinstance(metric, list):
        if metric is None or mode is None:
            return
        if not isinstance(metric, list) or not isinstance(mode, list) or len(metric) != len(mode):
            validator.note(
                f"metric={shorten(metric)} and mode={shorten(mode)}: expected two lists of one length"
            )
        for item in mode if isinstance(mode, list) else [mode]:
            validator.check_choice("mode", item, ("min", "max", "obs"))
        return
    if metric is not None and (not isinstance(metric, str) or not metric):
        validator.add("metric", metric, "expected the name of a metric, or None")
    if mode is not None:
        validator.check_choice("mode", mode, ("min", "max"))

"""A searcher that tries each configuration several times, and learns from the mean."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any

from tune_core.errors import ConfigError
from tune_core.metrics import comparable, lookup
from tune_core.search.searcher import Searcher, Suggestion
from tune_core.search.wrapping import WrappingSearcher
from tune_core.validation import Validator

#: The key of the configuration that says which repetition a trial is, as in Ray Tune.
TRIAL_INDEX = "__trial_index__"


@dataclass(slots=True)
class _Group:
    """One configuration of the searcher, and the trials that try it."""

    trial_id: str
    suggestion: Suggestion
    size: int = 1
    is_over: list[bool] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    #: Whether one of them was stopped early.
    is_early: bool = False


class Repeater(WrappingSearcher):
    """Has each configuration of a searcher tried several times; the searcher is told of the mean.

    `num_samples` counts trials: with 15 of them and `repeat=5` the searcher suggests three times. Only
    if it counts its samples itself, as `BasicVariantGenerator` does, are they multiplied.

    Args:
        searcher: Chooses the configurations; for one metric.
        repeat: How often each is tried, at least 1.
        set_index: Whether the configuration says which repetition a trial is, from 0, under the
            key `__trial_index__`: such as a seed.

    Raises:
        ConfigError: The searcher is none, or `repeat` is below 1.

    Example:
        >>> from tune_core.search import BasicVariantGenerator, grid_search
        >>> searcher = Repeater(BasicVariantGenerator(), repeat=2)
        >>> searcher.set_search_properties("loss", "min", {"x": grid_search([1, 2])}, num_samples=1)
        True
        >>> [searcher.suggest(f"t{number}").config for number in range(3)]
        [{'x': 1, '__trial_index__': 0}, {'x': 1, '__trial_index__': 1}, {'x': 2, '__trial_index__': 0}]

    Source: as Ray Tune 2.60.
    """

    def __init__(self, searcher: Searcher, repeat: int = 1, set_index: bool = True) -> None:
        validator = Validator(type(self).__name__)
        validator.check_instance("searcher", searcher, Searcher)
        validator.check_integer("repeat", repeat, minimum=1)
        validator.check_bool("set_index", set_index)
        validator.raise_any()
        self.searcher = searcher
        self.repeat = repeat
        self.set_index = set_index
        self._groups: dict[str, _Group] = {}
        self._open: _Group | None = None

    supports_several_objectives = False

    @property
    def total_trials(self) -> int | None:
        """How many suggestions there are in all; None if the searcher does not know."""
        total = super().total_trials
        return None if total is None else total * self.repeat

    def check_search_properties(
        self, metric: str | list[str] | None, mode: str | list[str] | None, config: dict[str, Any]
    ) -> None:
        """Refuse several metrics, whose mean has no meaning; the rest is the searcher's."""
        if isinstance(self.metric, list):
            raise ConfigError(f"Repeater: the searcher has the metrics {self.metric}; expected one")
        super().check_search_properties(metric, mode, config)

    def set_search_properties(
        self,
        metric: str | list[str] | None,
        mode: str | list[str] | None,
        config: dict[str, Any],
        **spec: Any,
    ) -> bool:
        """Pass it on; see `Searcher.set_search_properties`.

        Raises:
            ConfigError: There are several metrics, whose mean has no meaning.
        """
        draws = super().set_search_properties(metric, mode, config, **spec)
        if isinstance(self.metric, list):
            raise ConfigError(f"Repeater: the searcher has the metrics {self.metric}; expected one")
        return draws

    def suggest(self, trial_id: str) -> Suggestion | str | None:
        """Return the configuration under way once more, or the searcher's next one."""
        group = self._open
        if group is None or group.size == self.repeat:
            answer = self.searcher.suggest(trial_id)
            if answer is None or isinstance(answer, str):
                return answer
            if not isinstance(answer, Suggestion):
                answer = Suggestion(answer, dict(answer))
            group = self._open = _Group(trial_id, answer)
        else:
            group.size += 1
        self._groups[trial_id] = group
        return self._indexed(group)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the searcher of the mean once every repetition is over; of a failure if all have failed."""
        group = self._groups.pop(trial_id, None)
        if group is None:
            return
        group.is_over.append(error)
        value = comparable(lookup(result or {}, str(self.metric)))
        if value is not None and not math.isnan(value) and not error:
            group.scores.append(value)
        if len(group.is_over) < self.repeat:
            return
        if not group.scores:
            self.searcher.on_trial_complete(group.trial_id, None, error=all(group.is_over))
            return
        mean = {**(result or {}), str(self.metric): sum(group.scores) / len(group.scores)}
        if group.is_early:
            self.searcher.on_trial_stopped_early(group.trial_id, mean)
        else:
            self.searcher.on_trial_complete(group.trial_id, mean)

    def on_trial_stopped_early(self, trial_id: str, result: dict[str, Any] | None = None) -> None:
        """Count it as over; the searcher is told that the configuration was stopped early."""
        if trial_id in self._groups:
            self._groups[trial_id].is_early = True
        self.on_trial_complete(trial_id, result)

    def on_suggestion_replayed(self, trial_id: str, config: dict[str, Any]) -> None:
        """Count it as a repetition, or pass it on as a new configuration."""
        group = self._open
        if group is None or group.size == self.repeat:
            plain = {key: value for key, value in config.items() if key != TRIAL_INDEX}
            self.searcher.on_suggestion_replayed(trial_id, plain)
            group = self._open = _Group(trial_id, Suggestion(plain, plain))
        else:
            group.size += 1
        self._groups[trial_id] = group

    def on_configuration_added(self, trial_id: str, config: dict[str, Any]) -> bool:
        """Return False: it is tried once, so there is no mean to learn from."""
        return False

    def get_state(self) -> dict[str, Any]:
        """Return the searcher's state; what is under way is replayed."""
        return {"searcher": self.searcher.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.searcher.set_state(state["searcher"])

    def _indexed(self, group: _Group) -> Suggestion:
        """The group's configuration in containers of its own."""
        config, varied = copy.deepcopy(group.suggestion.config), dict(group.suggestion.varied)
        if self.set_index:
            config[TRIAL_INDEX] = varied[TRIAL_INDEX] = group.size - 1
        return Suggestion(config, varied)

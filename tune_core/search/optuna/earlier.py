"""What `OptunaSearch` does with trials of earlier experiments: it tells its study, or suggests them first."""

from __future__ import annotations

from typing import Any

from tune_core.search.optuna.conversion import MISSING, Parameter, part
from tune_core.search.searcher import Searcher


class LearnsFromEarlier(Searcher):
    """The part of `OptunaSearch` that knows of earlier experiments.

    Attributes:
        first: What is suggested first.
        first_from: From this number of suggestions on.
    """

    learns_from_earlier = True

    first: tuple[dict[str, Any], ...] = ()
    first_from = 0

    _parameters: list[Parameter]
    _storage: Any
    _num_asked: int
    _num_added: int

    def on_earlier_trial(self, config: dict[str, Any], values: list[float]) -> None:
        """Add it to the study, unless the storage has kept it.

        Raises:
            ConfigError: As `add_evaluated_point`.
        """
        chosen = {each.name: (each, part(config, each)) for each in self._parameters}
        point = {name: value for name, (_, value) in chosen.items() if value is not MISSING}
        if self._storage is None or not self._is_kept(point, values):
            search: Any = self  # an OptunaSearch
            search.add_evaluated_point(point, values if len(values) > 1 else values[0])

    def on_points_to_try(self, points: list[dict[str, Any]]) -> bool:
        """Suggest them from now on, one after the other."""
        self.first, self.first_from = tuple(points), self._num_asked - self._num_added
        return True

    def is_first(self, number: int) -> bool:
        """Return whether the suggestion of this number is one of those."""
        return 0 <= number - self.first_from < len(self.first)

    def _is_kept(self, point: dict[str, Any], values: list[float]) -> bool:
        """Whether a study that outlives its experiments has the point from a time before."""
        search: Any = self
        return any(
            each.values == values
            and all(each.params.get(name, MISSING) == value for name, value in point.items())
            for each in search.study.get_trials(deepcopy=False)
            if "trial_id" not in each.user_attrs
        )

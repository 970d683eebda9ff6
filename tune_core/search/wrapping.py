"""What searchers around another searcher have in common: they answer as the one inside does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tune_core.constraints import Constraint
from tune_core.search.searcher import Searcher


class WrappingSearcher(Searcher):
    """A searcher around another one; what a subclass does not change is the inner one's.

    Attributes:
        searcher: The one inside; set by the subclass.
    """

    searcher: Searcher

    @property
    def metric(self) -> str | list[str] | None:
        """The searcher's."""
        return self.searcher.metric

    @property
    def mode(self) -> str | list[str] | None:
        """The searcher's."""
        return self.searcher.mode

    @property
    def supports_several_objectives(self) -> bool:  # type: ignore[override] # follows the searcher's
        """The searcher's."""
        return self.searcher.supports_several_objectives

    @property
    def counts_samples(self) -> bool:  # type: ignore[override] # follows the searcher's
        """The searcher's."""
        return self.searcher.counts_samples

    @property
    def constraints(self) -> tuple[Constraint, ...]:  # type: ignore[override] # follows the searcher's
        """The searcher's."""
        return self.searcher.constraints

    @property
    def total_trials(self) -> int | None:
        """How many suggestions there are in all; None if the searcher does not know."""
        total: int | None = getattr(self.searcher, "total_trials", None)
        return total

    def check_search_properties(
        self, metric: str | list[str] | None, mode: str | list[str] | None, config: dict[str, Any]
    ) -> None:
        """Pass it on; see `Searcher.check_search_properties`."""
        self.searcher.check_search_properties(metric, mode, config)

    def set_search_properties(
        self,
        metric: str | list[str] | None,
        mode: str | list[str] | None,
        config: dict[str, Any],
        **spec: Any,
    ) -> bool:
        """Pass it on; see `Searcher.set_search_properties`."""
        return self.searcher.set_search_properties(metric, mode, config, **spec)

    def on_configuration_added(self, trial_id: str, config: dict[str, Any]) -> bool:
        """Pass it on."""
        return self.searcher.on_configuration_added(trial_id, config)

    @property
    def learns_from_earlier(self) -> bool:  # type: ignore[override] # follows the searcher's
        """The searcher's."""
        return self.searcher.learns_from_earlier

    def on_space_changed(self, config: dict[str, Any]) -> bool:
        """Pass it on."""
        return self.searcher.on_space_changed(config)

    def on_earlier_trial(self, config: dict[str, Any], values: list[float]) -> None:
        """Pass it on."""
        self.searcher.on_earlier_trial(config, values)

    def on_points_to_try(self, points: list[dict[str, Any]]) -> bool:
        """Pass it on."""
        return self.searcher.on_points_to_try(points)

    def add_evaluated_point(
        self,
        parameters: Mapping[str, Any],
        value: Any,
        error: bool = False,
        pruned: bool = False,
        intermediate_values: Sequence[float] | None = None,
    ) -> None:
        """Pass it on."""
        self.searcher.add_evaluated_point(parameters, value, error, pruned, intermediate_values)

    def on_num_samples_raised(self, num_samples: int) -> None:
        """Pass it on."""
        self.searcher.on_num_samples_raised(num_samples)

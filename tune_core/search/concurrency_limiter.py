"""A searcher that is asked for no more than so many configurations at once."""

from __future__ import annotations

from typing import Any

from tune_core.search.searcher import Searcher, Suggestion
from tune_core.search.wrapping import WrappingSearcher
from tune_core.validation import Validator


class ConcurrencyLimiter(WrappingSearcher):
    """Lets only so many trials of a searcher run at once, so that it learns before it goes on.

    Args:
        searcher: Chooses the configurations.
        max_concurrent: How many of its trials may run at once, at least 1. The searcher's own
            limit no longer counts.
        batch: Whether the searcher is told of trials only when all that run are over, and asked for
            the next ones only then.

    Raises:
        ConfigError: The searcher is none, or the limit is below 1.

    Example:
        >>> from tune_core.search import BasicVariantGenerator, uniform
        >>> searcher = ConcurrencyLimiter(BasicVariantGenerator(random_state=1), max_concurrent=1)
        >>> searcher.set_search_properties(None, None, {"x": uniform(0, 1)}, num_samples=2)
        True
        >>> searcher.suggest("t0") is None, searcher.suggest("t1") is None
        (False, True)
        >>> searcher.on_trial_complete("t0", {"loss": 1.0})
        >>> searcher.suggest("t1") is None
        False

    Source: as Ray Tune 2.60.
    """

    def __init__(self, searcher: Searcher, max_concurrent: int, batch: bool = False) -> None:
        validator = Validator(type(self).__name__)
        validator.check_instance("searcher", searcher, Searcher)
        validator.check_integer("max_concurrent", max_concurrent, minimum=1)
        validator.check_bool("batch", batch)
        validator.raise_any()
        self.searcher = searcher
        #: The experiment keeps this limit as well.
        self.max_concurrent = max_concurrent
        self.batch = batch
        #: Whether the searcher does not keep to the limit by itself.
        self._limits = True
        #: Trials that have not been told of; with `batch`, some of them are over.
        self._live: dict[str, None] = {}
        #: The last report of each, and how it ended: False, True for an error, or "early".
        self._over: dict[str, tuple[dict[str, Any] | None, bool | str]] = {}

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """Keep to the tighter of both limits; return True."""
        self.max_concurrent = min(self.max_concurrent, max_concurrent)
        return True

    def set_search_properties(
        self,
        metric: str | list[str] | None,
        mode: str | list[str] | None,
        config: dict[str, Any],
        **spec: Any,
    ) -> bool:
        """Tell the searcher of the limit, which it may keep to by itself; pass the rest on."""
        self._limits = not self.searcher.set_max_concurrency(self.max_concurrent)
        return super().set_search_properties(metric, mode, config, **spec)

    def suggest(self, trial_id: str) -> dict[str, Any] | Suggestion | str | None:
        """Return the searcher's next configuration; None while as many trials run as may."""
        if self._limits and len(self._live) >= self.max_concurrent:
            return None
        answer = self.searcher.suggest(trial_id)
        if answer is not None and answer != Searcher.FINISHED:
            self._live[trial_id] = None
        return answer

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass it on."""
        self.searcher.on_trial_result(trial_id, result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Pass it on; with `batch`, once all trials that run are over."""
        self._end(trial_id, result, error)

    def on_trial_stopped_early(self, trial_id: str, result: dict[str, Any] | None = None) -> None:
        """Pass it on, as `on_trial_complete`."""
        self._end(trial_id, result, "early")

    def _end(self, trial_id: str, result: dict[str, Any] | None, ending: bool | str) -> None:
        if not self.batch or trial_id not in self._live:
            self._live.pop(trial_id, None)
            self._pass_on(trial_id, result, ending)
            return
        self._over[trial_id] = (result, ending)
        if len(self._over) == len(self._live):
            over, self._over, self._live = self._over, {}, {}
            for each, (last, how) in over.items():
                self._pass_on(each, last, how)

    def _pass_on(self, trial_id: str, result: dict[str, Any] | None, ending: bool | str) -> None:
        if ending == "early":
            self.searcher.on_trial_stopped_early(trial_id, result)
        else:
            self.searcher.on_trial_complete(trial_id, result, bool(ending))

    def on_suggestion_replayed(self, trial_id: str, config: dict[str, Any]) -> None:
        """Pass it on; the trial runs."""
        self._live[trial_id] = None
        self.searcher.on_suggestion_replayed(trial_id, config)

    def get_state(self) -> dict[str, Any]:
        """Return the searcher's state, and which trials run."""
        return {"searcher": self.searcher.get_state(), "live": list(self._live), "over": dict(self._over)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.searcher.set_state(state["searcher"])
        self._live = dict.fromkeys(state["live"])
        self._over = {trial_id: (result, ending) for trial_id, (result, ending) in state["over"].items()}

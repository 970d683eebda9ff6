"""What of a `TuneConfig` has to go together: metric and mode, searcher and scheduler."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tune_core.constraints import Constraint
from tune_core.errors import ConfigError
from tune_core.objective import MODES, Objective
from tune_core.schedulers import TrialScheduler
from tune_core.schedulers.scheduler import RETURNED_METRIC
from tune_core.search.searcher import Searcher
from tune_core.validation import Validator, shorten

#: What to use instead of a part that knows one metric only.
_INSTEAD = {
    "search_alg": "OptunaSearch, which searches by several, or none for grid and random search",
    "scheduler": "MultiObjectiveASHAScheduler, which compares by several, or FIFOScheduler, which ends no trial",
}


def check_parts(validator: Validator, config: Any) -> None:
    """Find what is wrong with a searcher and a scheduler, by themselves, together, and for the metric.

    Args:
        validator: Takes the faults.
        config: A `TuneConfig` whose metric and mode have been checked.
    """
    for name, cls in (("search_alg", Searcher), ("scheduler", TrialScheduler)):
        part = getattr(config, name)
        if part is None or not validator.check_instance(name, part, cls):
            continue
        _refuse_several(validator, name, part, config.metric)
        for what in ("metric", "mode"):
            own, ours = getattr(part, what, None), getattr(config, what)
            is_own = getattr(part, "has_own_objective", False)
            if own is not None and ours is not None and (is_own or own != ours):
                expected = f"the {name} was given {what}={own!r}: give it in one place"
                validator.add(what, ours, expected)
    scheduler = config.scheduler
    if isinstance(scheduler, TrialScheduler):
        try:
            scheduler.check_searcher(config.search_alg)
        except ConfigError as error:
            validator.note(str(error))
    if config.best_scope == "all" and not validator.found and config.objective.is_several:
        expected = (
            "compares the best values of several metrics, which no report has together: use another scope"
        )
        validator.add("best_scope", config.best_scope, expected)
    needs_metric = isinstance(scheduler, TrialScheduler) and scheduler.needs_metric
    if needs_metric and (config.metric, getattr(scheduler, "mode", None)) == (None, None):
        kind = type(scheduler).__name__
        validator.add("metric", None, f"{kind} compares trials by a metric: add metric=... and mode=...")


def _refuse_several(
    validator: Validator, name: str, part: Searcher | TrialScheduler, metric: str | list[str] | None
) -> None:
    """Find a fault if there are several metrics, and this searcher or scheduler knows one only."""
    if not isinstance(metric, list) or part.supports_several_objectives:
        return
    kind = type(part).__name__
    validator.note(
        f"metric={shorten(metric)}: {kind} works with one metric. Use {_INSTEAD[name]}; or name one metric. "
        f"If {kind} is your own and takes a list, set supports_several_objectives = True in it"
    )


def objective_of(parts: Iterable[Any], scope: str, constraints: tuple[Constraint, ...] = ()) -> Objective:
    """Return what trials are compared by: the metrics and modes of the first of the parts that has them.

    Args:
        parts: A `TuneConfig`, a scheduler, a searcher; None for one that is not there.
        scope: `TuneConfig.best_scope`.
        constraints: The searcher's: what a trial has to keep to be best.
    """
    for part in parts:
        metric, mode = getattr(part, "metric", None), getattr(part, "mode", None)
        if isinstance(part, TrialScheduler) and mode is not None:
            metric = metric or RETURNED_METRIC
        if isinstance(metric, str) and mode in MODES:
            return Objective(metric, mode, scope, constraints)
        if isinstance(metric, (list, tuple)) and isinstance(mode, (list, tuple)):
            compared = [pair for pair in zip(metric, mode, strict=False) if pair[1] in MODES]
            if compared:  # others are observed
                names, modes = zip(*compared, strict=True)
                return Objective(names, modes, scope, constraints)
    return Objective(scope=scope)


def plain(given: Any) -> Any:
    """Return several names as a list, and a list of one as the name in it.

    Example:
        >>> plain(["loss"]), plain(("loss", "time")), plain(None)
        ('loss', ['loss', 'time'], None)
    """
    if not isinstance(given, (list, tuple)):
        return given
    return list(given) if len(given) > 1 else given[0]

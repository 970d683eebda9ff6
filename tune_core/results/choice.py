"""By what the best results are chosen, and what each of them is compared by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tune_core.errors import ConfigError
from tune_core.metrics import comparable
from tune_core.objective import MODES, SCOPES, Objective, check_objective, whole
from tune_core.ranking import Tally
from tune_core.validation import Validator, shorten


def one_objective(own: Objective, metric: object, mode: object, scope: str | None) -> Objective:
    """Return the one metric that `get_best_result` goes by.

    Args:
        own: What the experiment was tuned for.
        metric: What the caller names; None: the experiment's.
        mode: "min" or "max"; None: the experiment's for that metric.
        scope: What of a trial's reports counts; None: as in the experiment.

    Raises:
        ConfigError: That is no metric with a mode, or the experiment has several, and none is named.
    """
    scope = scope or own.scope
    several = ", ".join(f"{name} ({each})" for name, each in zip(own.names, own.modes, strict=True))
    if isinstance(metric, (list, tuple)) or (metric is None and own.is_several):
        given = f"for {several}" if metric is None else f"for metric={shorten(metric)}"
        first = (
            metric[0]
            if isinstance(metric, (list, tuple)) and metric
            else own.names[0]
            if own.names
            else "loss"
        )
        raise ConfigError(
            f"get_best_result {given}: by several metrics no trial is the best. pareto_front() returns those that no "
            f"other dominates; get_best_result(metric={first!r}) the best one by one metric"
        )
    metric = metric or own.metric
    if mode is None:
        mode = dict(zip(own.names, own.modes, strict=True)).get(str(metric)) if own.is_several else own.mode
    faults = []
    if not metric:
        faults.append("No metric is provided: pass metric= to get_best_result, or give TuneConfig one")
    if not mode:
        faults.append("No mode is provided: pass mode= to get_best_result, or give TuneConfig one")
    elif mode not in MODES:
        faults.append(f"get_best_result(mode={mode!r}): expected 'min' or 'max'")
    if scope not in SCOPES:
        faults.append(f"get_best_result(scope={scope!r}): expected one of {', '.join(SCOPES)}")
    if faults:
        raise ConfigError(faults)
    return Objective(str(metric), str(mode), scope, own.constraints)


def front_objective(
    own: Objective, metric: Sequence[str] | None, mode: Sequence[str] | None, scope: str | None
) -> Objective:
    """Return the metrics that `pareto_front` goes by; arguments as of `one_objective`, but for lists.

    Raises:
        ConfigError: They are no metrics with modes, or their scope is "all".
    """
    scope = scope or own.scope
    validator = Validator("pareto_front")
    if mode is None and metric is not None:
        known = dict(zip(own.names, own.modes, strict=True))
        names = [metric] if isinstance(metric, str) else list(metric)
        if all(known.get(name) for name in names):
            mode = [str(known[name]) for name in names]
            metric = names
    wanted_metric, wanted_mode = (own.metric, own.mode) if metric is None and mode is None else (metric, mode)
    if wanted_metric is None:
        validator.add("metric", None, "no metric is known: name the metrics, or give TuneConfig a list")
    elif wanted_mode is None:
        validator.add("mode", None, "expected 'min' or 'max' for each metric")
    else:
        check_objective(validator, wanted_metric, wanted_mode)
    if scope not in SCOPES:
        validator.add("scope", scope, f"expected one of {', '.join(SCOPES)}")
    validator.raise_any()
    wanted = Objective(wanted_metric, wanted_mode, scope, own.constraints)
    if scope == "all" and wanted.is_several:
        validator.add(
            "scope", scope, "the best values of several metrics are not of one report: use another scope"
        )
        validator.raise_any()
    return wanted


def keeps(result: Any, objective: Objective) -> bool:
    """Return whether a trial's last report keeps all constraints, from its `Result`."""
    return not objective.violated(result.metrics or {})


def score_of(result: Any, objective: Objective) -> float | None:
    """Return what a trial is compared by, from its `Result`; None if it never reported a number."""
    return scores_of(result, objective)[0]


def scores_of(result: Any, objective: Objective) -> Sequence[float | None]:
    """Return the same by each metric, of the reports that have a number for each."""
    parts, is_last = objective.parts, objective.scope == "last"
    values = [part.value(result.metrics or {}) for part in parts]
    if is_last and None not in values:
        return values
    tallies = [Tally(part) for part in parts]
    for place, row in enumerate(result.rows if is_last else sorted(result.rows, key=_iteration)):
        for tally, value in zip(tallies, whole([part.value(row) for part in parts]), strict=True):
            tally.add(place, value)
    return [tally.score for tally in tallies]


def _iteration(row: Mapping[str, Any]) -> float:
    number = comparable(row.get("training_iteration"))
    return math.inf if number is None or math.isnan(number) else number

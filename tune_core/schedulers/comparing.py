"""What schedulers that compare trials share: by which metric, at which time.

Owns the checks of those arguments and how both are read from a report. Never decides. Invariant:
a score is better if it is higher, whatever the mode; who compares need not ask.
"""

from __future__ import annotations

import math
from typing import Any

from tune_core.metrics import comparable, lookup
from tune_core.schedulers.scheduler import TrialScheduler
from tune_core.trial import Trial
from tune_core.validation import Validator


class ComparingScheduler(TrialScheduler):
    """A scheduler that compares trials by a metric at equal times; subclass it.

    Args:
        validator: What the subclass has found wrong with its own arguments; raised here, with the rest.
        time_attr: The reported number that time is measured by; it grows from report to report.
        metric: What to compare by; None: what `TuneConfig` says.
        mode: "min" or "max"; None: what `TuneConfig` says.

    Raises:
        ConfigError: An argument cannot work; all faults are named together.
    """

    needs_metric = True
    metric: str | None = None
    mode: str | None = None

    #: The time after which no trial goes on: a subclass that has one sets it. None: there is none.
    _max_t: float | None = None

    def __init__(self, validator: Validator, time_attr: str, metric: str | None, mode: str | None) -> None:
        validator.check_name("time_attr", time_attr, ": the name of a reported number")
        given: object = metric
        if isinstance(given, (list, tuple)):
            instead = "compares by one metric: name one, or use MultiObjectiveASHAScheduler for several"
            validator.add("metric", given, instead)
        elif metric is not None:
            validator.check_name("metric", metric, ": the name of a reported metric")
        if mode is not None:
            validator.check_choice("mode", mode, ("min", "max"))
        elif metric is not None:
            validator.add("metric", metric, "mode is missing: add mode='min' or mode='max'")
        validator.raise_any()
        self.metric, self.mode = metric, mode
        self.has_own_objective = mode is not None
        self._time_attr = time_attr

    def is_full_budget(self, trial: Trial, result: dict[str, Any]) -> bool:
        """Return whether the report is of `max_t` or later."""
        time = comparable(lookup(result, self._time_attr))
        return self._max_t is not None and time is not None and time >= self._max_t

    def _moment(self, result: dict[str, Any]) -> tuple[float, float] | None:
        """Return time and score of a report; None if one of them is not there or no number, or the time is NaN."""
        time = comparable(lookup(result, self._time_attr))
        value = comparable(lookup(result, self.metric or ""))
        if time is None or value is None or math.isnan(time):
            return None
        return time, -value if self.mode == "min" else value

"""What trials are compared by: one metric, or several at once.

Owns the one order of scores: which is better, which none dominates, and what counts as missing. Knows no trials.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

from tune_core.constraints import Constraint
from tune_core.metrics import comparable, lookup
from tune_core.pareto import non_dominated_ranks
from tune_core.validation import Validator, shorten

#: What of a trial's reports counts, by Ray Tune's names, in words.
SCOPES: Final = {
    "last": "last report",
    "all": "best report",
    "avg": "mean of all reports",
    "last-5-avg": "mean of the last 5 reports",
    "last-10-avg": "mean of the last 10 reports",
}
MODES: Final = ("min", "max")

Item = TypeVar("Item")
#: Scores by each metric, so that less is better; infinite where one is missing.
Losses: TypeAlias = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Objective:
    """What trials are compared by: one metric, or several at once.

    By several metrics, a trial is better than another if it dominates it: it is at least as good by each of
    them, and better by one. Then there is no best trial, but a front: the trials that no other dominates.

    Args:
        metric: A reported metric, nested with "/"; several of them; None: nothing is compared.
        mode: "min" or "max": which values are better; one for each metric; None only without a metric.
        scope: What of a trial's reports counts: one of `SCOPES`.
        constraints: What a trial has to keep in its last report: who does not is never best, is on no front, and
            comes after those that do.

    Attributes:
        metric: As given; several as a tuple, a list of one as the metric in it.
        mode: Likewise.
        scope: As given.
        constraints: As given.

    Example:
        >>> accuracy = Objective("accuracy", "max")
        >>> accuracy.best_of({"a": 0.5, "b": 0.9, "c": None, "d": float("nan")}.items())
        'b'
        >>> accuracy.label
        'accuracy (last report)'
        >>> both = Objective(["accuracy", "latency_ms"], ["max", "min"])
        >>> both.front([(0.9, 20.0), (0.8, 5.0), (0.8, 6.0), (0.95, None)])
        [0, 1]
        >>> both.front([(0.9, 20.0), (0.8, 5.0), (0.8, 6.0)], beyond=[False, True, False])
        [0, 2]
        >>> [part.label for part in both.parts]
        ['accuracy (last report)', 'latency_ms (last report)']
    """

    metric: str | Sequence[str] | None = None
    mode: str | Sequence[str] | None = None
    scope: str = "last"
    constraints: tuple[Constraint, ...] = ()

    def __post_init__(self) -> None:
        for name in ("metric", "mode"):
            given = getattr(self, name)
            if given is not None and not isinstance(given, str):
                object.__setattr__(self, name, tuple(given) if len(given) != 1 else given[0])

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics; () if nothing is compared."""
        if self.metric is None:
            return ()
        return (self.metric,) if isinstance(self.metric, str) else tuple(self.metric)

    @property
    def modes(self) -> tuple[str | None, ...]:
        """The mode of each metric."""
        return (
            (self.mode,) * len(self.names)
            if self.mode is None or isinstance(self.mode, str)
            else (*self.mode,)
        )

    @property
    def plain_metric(self) -> str | list[str] | None:
        """The metric as `TuneConfig` and JSON have it: of several, a list."""
        return list(self.names) if self.is_several else self.names[0] if self.names else None

    @property
    def plain_mode(self) -> str | list[str] | None:
        """The mode as `TuneConfig` and JSON have it: of several metrics, a list."""
        if self.is_several:
            return [str(mode) for mode in self.modes]
        return self.mode if self.mode is None or isinstance(self.mode, str) else self.mode[0]

    @property
    def is_several(self) -> bool:
        """Whether trials are compared by several metrics at once."""
        return len(self.names) > 1

    @property
    def parts(self) -> tuple[Objective, ...]:
        """An objective of each metric alone; of one metric, or none, only this one."""
        if not self.is_several:
            return (self,)
        pairs = zip(self.names, self.modes, strict=True)
        return tuple(Objective(*each, self.scope, self.constraints) for each in pairs)

    @property
    def said(self) -> str:
        """The scope in words: `last report`."""
        return SCOPES[self.scope]

    @property
    def label(self) -> str:
        """The metric and what of it counts, for a reader: `accuracy (last report)`."""
        return f"{', '.join(self.names)} ({self.said})" if self.names else ""

    @property
    def columns(self) -> tuple[str, ...]:
        """What columns of scores are called: each metric, and what of it counts unless that is the last report."""
        return self.names if self.scope == "last" else tuple(part.label for part in self.parts if part.names)

    def value(self, row: Mapping[str, Any]) -> float | None:
        """Return what a report says of the metric; None if that is no number, or there are several metrics."""
        return comparable(lookup(row, self.metric)) if isinstance(self.metric, str) else None

    def violated(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the constraints that a report does not keep: `latency_ms <= 20`; also those it says nothing of."""
        return tuple(str(each) for each in self.constraints if not each.is_kept(row))

    def loss(self, score: float | None, *, finite: bool = True) -> float:
        """Return a score so that less is better; infinite if it is missing or NaN.

        Args:
            score: What a trial is compared by.
            finite: Whether infinite scores count as missing, too.
        """
        if score is None or math.isnan(score) or (finite and math.isinf(score)):
            return math.inf
        return -score if self.mode == "max" else score

    def best_of(self, scores: Iterable[tuple[Item, float | None]]) -> Item | None:
        """Return what comes with the best finite score, of equal ones the first; None if none is finite."""
        best, least = None, math.inf
        for item, score in scores:
            loss = self.loss(score)
            if loss < least:
                best, least = item, loss
        return best

    def losses(self, scores: Sequence[float | None]) -> Losses:
        """Return the scores by each metric so that less is better."""
        return tuple(part.loss(score) for part, score in zip(self.parts, scores, strict=True))

    def fronts(
        self, scores: Sequence[Sequence[float | None]], beyond: Sequence[bool] = ()
    ) -> list[int | None]:
        """Return the front of each: 0 for those that none dominates, 1 for those that only these dominate, and so on.

        Args:
            scores: Of each trial, its scores by each metric.
            beyond: Of each trial, whether it does not keep the constraints; (): all do.

        Returns:
            None for those that lack a finite score by one of the metrics, or do not keep the constraints: they are
            on no front.
        """
        losses = [self.losses(each) for each in scores]
        excluded = beyond or [False] * len(losses)
        whole = [place for place, each in enumerate(losses) if math.inf not in each and not excluded[place]]
        ranks = non_dominated_ranks([[-loss for loss in losses[place]] for place in whole])
        found = dict(zip(whole, ranks, strict=True))
        return [found.get(place) for place in range(len(losses))]

    def keys(
        self, scores: Sequence[Sequence[float | None]], beyond: Sequence[bool] = ()
    ) -> list[tuple[bool, float, float]]:
        """Return what each is sorted by, the best first: its front, in that its loss by the first metric.

        Those that are on no front come after them, and last those that do not keep the constraints. With one metric
        that is the order of the scores. Arguments as of `fronts`.
        """
        excluded = beyond or [False] * len(scores)
        if not self.is_several:
            return [(each, self.loss(own[0]), 0.0) for each, own in zip(excluded, scores, strict=True)]
        return [
            (is_beyond, math.inf, math.inf)
            if front is None
            else (False, float(front), self.parts[0].loss(each[0]))
            for is_beyond, front, each in zip(excluded, self.fronts(scores, beyond), scores, strict=True)
        ]

    def front(self, scores: Sequence[Sequence[float | None]], beyond: Sequence[bool] = ()) -> list[int]:
        """Return the places of those that none dominates, the best by the first metric first; as `fronts`."""
        keys = self.keys(scores, beyond)
        best = [place for place, front in enumerate(self.fronts(scores, beyond)) if front == 0]
        return sorted(best, key=lambda place: (keys[place], place))


def whole(values: Sequence[float | None]) -> Sequence[float | None]:
    """Return the values of a report by each metric, if it has them all; else None for each: it does not count.

    Example:
        >>> whole([0.5, 2.0]), whole([0.5, None])
        ([0.5, 2.0], [None, None])
    """
    return [None] * len(values) if None in values else values


def check_objective(validator: Validator, metric: object, mode: object) -> None:
    """Find what is wrong with a metric and its mode, or with a list of metrics and one of their modes."""
    if not isinstance(metric, (list, tuple)) and not isinstance(mode, (list, tuple)):
        if mode is not None:
            validator.check_choice("mode", mode, MODES)
        if metric is not None:
            validator.check_name("metric", metric, ": the name of a reported metric, or a list of names")
        return
    if (
        not isinstance(metric, (list, tuple))
        or not isinstance(mode, (list, tuple))
        or len(metric) != len(mode)
    ):
        validator.note(
            f"metric={shorten(metric)} and mode={shorten(mode)}: expected two lists of one length, a mode for each "
            "metric, such as metric=['accuracy', 'latency_ms'], mode=['max', 'min']"
        )
    elif not metric:
        validator.add("metric", metric, "expected at least one metric, or None")
    names = metric if isinstance(metric, (list, tuple)) else [metric]
    for name in names:
        validator.check_name("metric", name, ": the name of a reported metric")
    known = [name for name in names if isinstance(name, str)]
    for name in sorted({name for name in known if known.count(name) > 1}):
        validator.add("metric", metric, f"names {name!r} twice: expected each metric once")
    for each in mode if isinstance(mode, (list, tuple)) else [mode]:
        validator.check_choice("mode", each, MODES, " for each metric")

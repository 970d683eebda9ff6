"""Bounds on what trials report beside the metric: what may not be best, however good it is.

Owns how a constraint is written, checked, and how far a report is from keeping it. Never ranks anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tune_core.metrics import comparable, lookup
from tune_core.validation import Validator, is_number

#: By which a constraint may compare.
OPERATORS = ("<=", ">=")


@dataclass(frozen=True, slots=True)
class Constraint:
    """A bound on a reported metric.

    Attributes:
        metric: What is reported, nested with "/".
        operator: "<=" or ">=".
        bound: A finite number.

    Example:
        >>> fast = Constraint("latency_ms", "<=", 20)
        >>> fast.violation({"latency_ms": 25}), fast.violation({"latency_ms": 15}), fast.violation({})
        (5.0, -5.0, None)
        >>> str(fast)
        'latency_ms <= 20'
    """

    metric: str
    operator: str
    bound: float

    def __str__(self) -> str:
        return f"{self.metric} {self.operator} {self.bound}"

    def violation(self, row: Mapping[str, Any]) -> float | None:
        """Return by how much a report is beyond the bound, at most 0 if it is not; None if it says no number."""
        value = comparable(lookup(row, self.metric))
        if value is None or math.isnan(value):
            return None
        return float(value - self.bound if self.operator == "<=" else self.bound - value)

    def is_kept(self, row: Mapping[str, Any]) -> bool:
        """Return whether a report is known to keep it."""
        violation = self.violation(row)
        return violation is not None and violation <= 0


def read_constraints(validator: Validator, constraints: Any) -> tuple[Constraint, ...]:
    """Return constraints as a user writes them: `{"latency_ms": ("<=", 20)}`; what is wrong with them is noted."""
    if constraints is None:
        return ()
    expected = 'expected a dict such as {"latency_ms": ("<=", 20)}'
    if not isinstance(constraints, Mapping):
        validator.add("constraints", constraints, expected)
        return ()
    found = []
    for metric, bound in constraints.items():
        is_pair = isinstance(bound, list | tuple) and len(bound) == 2
        if not (
            isinstance(metric, str) and metric and is_pair and bound[0] in OPERATORS and is_number(bound[1])
        ):
            validator.add(
                f"constraints[{metric!r}]", bound, 'expected ("<=", number) or (">=", number), for a metric'
            )
            continue
        found.append(Constraint(metric, bound[0], bound[1]))
    return tuple(found)


def known_violations(constraints: Iterable[Constraint], row: Mapping[str, Any]) -> dict[str, float]:
    """Return by how much a report is beyond each bound, by metric; what it does not say is left out."""
    known = ((each.metric, each.violation(row)) for each in constraints)
    return {name: violation for name, violation in known if violation is not None}

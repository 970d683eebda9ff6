"""Which parameters matter: what sets the best trials apart from all of them.

The measure is PED-ANOVA (Watanabe, Bansal and Hutter: "PED-ANOVA: Efficiently Quantifying
Hyperparameter Importance in Arbitrary Subspaces", IJCAI 2023): per parameter, how far the density of
its values among the top trials is from that among all. It is computed here, in milliseconds and
without a dependency: `optuna.importance` takes seconds to import, since scipy comes with it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tune_core.metrics import flatten
from tune_core.text import printable
from tune_core.validation import is_number, shorten
from tune_core.views.overview import ExperimentSnapshot, TrialRecord
from tune_core.views.svg import Axis

#: Fewer trials with a value say nothing.
LEAST_TRIALS: Final = 10
#: The part of the trials that counts as the best ones, and how many of them at least.
_TOP, _LEAST_TOP = 0.1, 5
#: Cells that a range of numbers is divided into, as in the paper's experiments.
_CELLS: Final = 50
#: A parameter of more different values that are no numbers is no choice.
_CHOICES: Final = 20


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a search, with its values.

    Attributes:
        name: Nested ones as "a/b".
        values: By trial id: numbers, or texts that stand for one of `choices`.
        axis: The range of numbers; None: they are choices.
        choices: What was chosen from, in the order of appearance.
    """

    name: str
    values: Mapping[str, float | str]
    axis: Axis | None
    choices: Sequence[str]

    def place(self, trial_id: str) -> float | None:
        """Return where a trial's value is on `axis`, or from 0 to 1 among the choices; None: it has none."""
        value = self.values.get(trial_id)
        if value is None or isinstance(value, float):
            return value
        return (self.choices.index(value) + 0.5) / len(self.choices)


def parameters_of(trials: Sequence[TrialRecord]) -> list[Parameter]:
    """Return the parameters of which these trials have different values, in the order of appearance.

    Numbers that are positive and a thousandfold apart count by their logarithm.
    """
    found: dict[str, dict[str, Any]] = {}
    for trial in trials:
        for name, value in flatten(trial.config).items():
            found.setdefault(printable(name), {})[trial.trial_id] = value
    parameters = []
    for name, values in found.items():
        if all(is_number(value) for value in values.values()):
            numbers = {trial_id: float(value) for trial_id, value in values.items()}
            if len(set(numbers.values())) > 1:
                axis = Axis.over(numbers.values(), name, may_be_log=True)
                parameters.append(Parameter(name, numbers, axis, ()))
            continue
        texts = {
            trial_id: printable(value if isinstance(value, str) else shorten(value))
            for trial_id, value in values.items()
        }
        choices = list(dict.fromkeys(texts.values()))
        if 1 < len(choices) <= _CHOICES:
            parameters.append(Parameter(name, texts, None, choices))
    return parameters


def importance(snapshot: ExperimentSnapshot) -> list[tuple[str, float]]:
    """Return the parameters with their parts of what sets the best trials apart, the most important first.

    The parts add up to 1. [] if fewer than `LEAST_TRIALS` trials have a value, or no parameter differs.
    Interactions of parameters are not seen.
    """
    ranked = [trial for trial, _ in snapshot.with_value]
    if len(ranked) < LEAST_TRIALS:
        return []
    top = {trial.trial_id for trial in ranked[: max(_LEAST_TOP, math.ceil(_TOP * len(ranked)))]}
    divergences = {
        parameter.name: _divergence(parameter, [each for each in parameter.values if each in top])
        for parameter in parameters_of(ranked)
    }
    total = sum(divergences.values())
    if total <= 0:
        return []
    return sorted(((name, part / total) for name, part in divergences.items()), key=lambda item: -item[1])


def _divergence(parameter: Parameter, top: Sequence[str]) -> float:
    """Pearson's, of the density among the top trials from that among all."""
    if not top:
        return 0.0
    cells = _CELLS if parameter.axis is not None else len(parameter.choices)
    density = _smooth if parameter.axis is not None else _counted
    axis = parameter.axis or Axis.unit()
    cell_of = {
        trial_id: min(cells - 1, int(cells * axis.part(parameter.place(trial_id) or 0.0)))
        for trial_id in parameter.values
    }
    of_top, of_all = (density(Counter(cell_of[each] for each in some), cells) for some in (top, cell_of))
    return sum(all_ * (top_ / all_ - 1.0) ** 2 for top_, all_ in zip(of_top, of_all, strict=True))


def _counted(counts: Counter[int], cells: int) -> list[float]:
    """Frequencies, with one even observation beside those that were made."""
    total = counts.total() + 1.0
    return [(counts[cell] + 1.0 / cells) / total for cell in range(cells)]


def _smooth(counts: Counter[int], cells: int) -> list[float]:
    """A sum of bells, one per observation, as wide as Scott's rule says; and an even one beside them."""
    number = counts.total()
    ordered = sorted(counts.elements())
    mean = sum(ordered) / number
    deviation = math.sqrt(sum((cell - mean) ** 2 for cell in ordered) / max(1, number - 1))
    quartiles = ordered[min(number - 1, number * 3 // 4)] - ordered[number // 4]
    width = max(1.059 * min(quartiles / 1.34, deviation) * number**-0.2, 0.5 / 1.64)
    bell = [math.exp(-0.5 * (distance / width) ** 2) for distance in range(cells)]
    density = [1.0 / cells] * cells
    for centre, count in counts.items():
        heights = [bell[abs(cell - centre)] for cell in range(cells)]
        weight = count / sum(heights)
        for cell, height in enumerate(heights):
            density[cell] += weight * height
    return [value / (number + 1) for value in density]

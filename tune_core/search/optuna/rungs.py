"""What a sampler learns from while a scheduler stops trials early: all of them at one step.

Owns a second study, in memory, in which trials are compared at the highest step that enough of them have reached:
whoever has reached it is complete there with its value at that step, also one that still runs; who was stopped before
is pruned. In the study that users see, every trial is what it came to. Without this, the few trials that ran to their
end, among them the first ones that nobody could be compared with, would count for more than all others. Invariant:
what it suggests follows from what it was told, in order.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from tune_core.search.optuna.conversion import Parameter, suggest

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.samplers import BaseSampler

#: How many trials, and which share of all, have to have reached a step before they are compared there.
_LEAST, _SHARE = 8, 0.1

Ending = Literal["complete", "early", "failed"]


class RungModel:
    """Trials of one metric as a sampler shall see them.

    Args:
        parameters: What is decided.
        direction: "minimize" or "maximize".

    Source: the rule of which budget to learn from is that of Falkner et al., "BOHB", 2018
        (https://arxiv.org/abs/1807.01774), Algorithm 2: the highest one with enough observations. Differs: the
        sampler is Optuna's.
    """

    def __init__(self, parameters: Sequence[Parameter], direction: str) -> None:
        self._parameters, self._direction = parameters, direction
        self._params: dict[str, dict[str, Any]] = {}
        self._curves: dict[str, dict[int, float]] = {}
        self._violations: dict[str, dict[str, float]] = {}
        self._endings: dict[str, tuple[Ending, float | None]] = {}
        #: The last steps of all trials that have reported, and the steps at which trials ended; both ascending.
        self._furthest: list[int] = []
        self._ends: list[int] = []
        self._study: Study | None = None
        self._step: int | None = None
        self._open: dict[str, Trial] = {}
        #: Trials that were stopped early.
        self._early: set[str] = set()

    @property
    def is_on(self) -> bool:
        """Whether a trial has been stopped early: before that, the sampler may as well see the study itself."""
        return bool(self._early)

    def take_over(self, other: RungModel, kept: Mapping[str, tuple[str, dict[str, Any]]]) -> None:
        """Go on with trials of another search space, as if they had been of this one; to be called first of all.

        Args:
            other: Where they are known.
            kept: By what they are called there: what they are called here, and their configurations here.
        """
        for was, (now, params) in kept.items():
            if was not in other._params:
                continue
            self._params[now] = params
            if was in other._curves:
                self._curves[now] = other._curves[was]
            if was in other._violations:
                self._violations[now] = other._violations[was]
            if was in other._endings:
                self._endings[now] = other._endings[was]
            if was in other._early:
                self._early.add(now)
            curve = self._curves.get(now)
            if curve:
                insort(self._furthest, next(reversed(curve)))
                if self._endings.get(now, (None, None))[1] is not None:
                    self._note_end(now)

    def _note_end(self, trial_id: str) -> None:
        last = next(reversed(self._curves[trial_id]))
        place = bisect_left(self._ends, last)
        if self._ends[place : place + 1] != [last]:
            self._ends.insert(place, last)

    def note(self, trial_id: str, params: Mapping[str, Any]) -> None:
        """Take note of a configuration that was decided elsewhere."""
        self._params[trial_id] = dict(params)

    def ask(self, trial_id: str, sampler: BaseSampler, fixed: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a sampler decides for a new trial, by name.

        Args:
            trial_id: The trial's.
            sampler: Decides.
            fixed: What is decided already.
        """
        step = self._best_step()
        if self._study is None or step != self._step:
            self._build(step)
        assert self._study is not None
        self._study.sampler = sampler
        params = self._begin(trial_id, fixed)
        self._params[trial_id] = params
        return params

    def report(self, trial_id: str, step: int, value: float, violations: Mapping[str, float]) -> None:
        """Take a report; steps of a trial only grow."""
        if trial_id not in self._params:
            return
        curve = self._curves.setdefault(trial_id, {})
        if curve:
            del self._furthest[bisect_left(self._furthest, next(reversed(curve)))]
        curve[step] = value
        insort(self._furthest, step)
        self._violations[trial_id] = dict(violations)
        if trial_id in self._open and self._step is not None and step >= self._step:
            self._settle(trial_id)

    def end(
        self, trial_id: str, ending: Ending, value: float | None, violations: Mapping[str, float]
    ) -> None:
        """Take note that a trial is over.

        Args:
            trial_id: The trial's.
            ending: How.
            value: Its last value; None if it has none.
            violations: How far it is beyond each constraint.
        """
        if trial_id not in self._params:
            return
        self._endings[trial_id] = ("failed" if value is None else ending, value)
        self._violations[trial_id] = dict(violations)
        curve = self._curves.get(trial_id)
        if curve and value is not None:
            self._note_end(trial_id)
        if ending == "early":
            self._early.add(trial_id)
        if trial_id in self._open:
            self._settle(trial_id)

    def drop(self, trial_id: str) -> None:
        """Forget a trial that is not run."""
        from optuna.trial import TrialState

        self._params.pop(trial_id, None)
        trial = self._open.pop(trial_id, None)
        if trial is not None and self._study is not None:
            self._study.tell(trial, state=TrialState.FAIL)

    def _best_step(self) -> int | None:
        """The highest step at which trials ended that enough of them have reached; None: there is none yet."""
        enough = max(_LEAST, math.ceil(_SHARE * len(self._furthest)))
        if len(self._furthest) < enough:
            return None
        place = bisect_right(self._ends, self._furthest[-enough])
        return self._ends[place - 1] if place else None

    def _standing(self, trial_id: str) -> tuple[Ending | None, float | None, int]:
        """What a trial is at the step in force, its value there, and the step of that; None: it has not come to it."""
        curve = self._curves.get(trial_id, {})
        last = next(reversed(curve), 0)
        if self._step is not None and last >= self._step:
            before = max((step for step in curve if step <= self._step), default=None)
            if before is not None:
                return "complete", curve[before], before
        ending, value = self._endings.get(trial_id, (None, None))
        return ending, value, last

    def _build(self, step: int | None) -> None:
        """Begin a study in which all trials are compared at another step."""
        import optuna
        from optuna.samplers import RandomSampler
        from optuna.trial import TrialState, create_trial

        before = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        direction: Any = self._direction
        self._study = optuna.create_study(direction=direction, sampler=RandomSampler(seed=0))
        optuna.logging.set_verbosity(before)
        self._step, self._open = step, {}
        running = []
        for trial_id, params in self._params.items():
            ending, value, last = self._standing(trial_id)
            if ending is None:
                running.append(trial_id)
            elif ending != "failed":
                is_pruned = ending == "early"
                frozen = create_trial(
                    state=TrialState.PRUNED if is_pruned else TrialState.COMPLETE,
                    value=value,
                    params=params,
                    distributions={e.name: e.distribution for e in self._parameters if e.name in params},
                    intermediate_values={last: value} if is_pruned and value is not None else {},
                    constraints=self._violations.get(trial_id) or None,
                )
                self._study.add_trial(frozen)
        for trial_id in running:
            self._begin(trial_id, self._params[trial_id])

    def _begin(self, trial_id: str, fixed: Mapping[str, Any]) -> dict[str, Any]:
        assert self._study is not None
        if fixed:
            self._study.enqueue_trial(dict(fixed))
        trial = self._study.ask()
        params: dict[str, Any] = {}
        for each in self._parameters:
            if each.is_active(params):
                params[each.name] = suggest(trial, each)
        self._open[trial_id] = trial
        return params

    def _settle(self, trial_id: str) -> None:
        """Tell the study what a trial has come to."""
        from optuna.trial import TrialState

        assert self._study is not None
        ending, value, last = self._standing(trial_id)
        if ending is None:
            return
        trial = self._open.pop(trial_id)
        if ending == "failed" or value is None:
            self._study.tell(trial, state=TrialState.FAIL)
            return
        for name, violation in self._violations.get(trial_id, {}).items():
            trial.set_constraint(name, violation)
        if ending == "early":
            trial.report(value, last)
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, value)

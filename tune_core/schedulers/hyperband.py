"""HyperBand: trials wait for each other at milestones, and the best of them go on.

Trials are put into brackets. All trials of a bracket train up to its milestone and are paused there; the
best 1/reduction_factor of them go on to the next milestone, the others end. Brackets differ in how many trials
they begin with, and in how long these train before they are compared for the first time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tune_core.metrics import comparable, lookup
from tune_core.schedulers.comparing import ComparingScheduler
from tune_core.trial import Status, Trial
from tune_core.validation import Validator, is_number

#: More brackets than anybody has a use for.
MAX_BRACKETS = 1000
#: Quotients that rounding has moved off a whole number by less than this share are that number.
_TOLERANCE = 1e-9


class Round(NamedTuple):
    """One round of a bracket.

    Attributes:
        size: How many trials take part.
        milestone: Up to which time they train.
    """

    size: int
    milestone: int


def rounds_of(number: int, max_t: float, reduction_factor: float) -> list[Round]:
    """Return the rounds of the bracket that compares its trials so many times; [] if they would not train at all.

    Args:
        number: How often trials are compared, at least 0: `s` in the paper.
        max_t: No milestone is later; at least 1.
        reduction_factor: 1 of so many goes on; above 1.

    Example:
        >>> [(size, milestone) for size, milestone in rounds_of(4, 81, 3)]
        [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)]
        >>> [(size, milestone) for size, milestone in rounds_of(3, 81, 3)]
        [(34, 3), (12, 9), (4, 27), (2, 81)]

    Source: Li et al., "Hyperband", algorithm 1 and table 1 (https://arxiv.org/abs/1603.06560), as Ray Tune 2.60,
        which rounds sizes up. Differs: rounding errors lose no bracket (with max_t=729); each milestone is
        later than the one before while it is below max_t.
    """
    try:
        first = max_t / reduction_factor**number
    except OverflowError:
        return []
    milestone, last = math.floor(first * (1 + _TOLERANCE)), math.floor(max_t)
    if milestone < 1:
        return []
    share = (highest_number(max_t, reduction_factor) + 1) / (number + 1)
    size = math.ceil(share * reduction_factor**number * (1 - _TOLERANCE))
    rounds = [Round(size, milestone)]
    for _ in range(number):
        size = math.ceil(size / reduction_factor)
        milestone = min(max(math.floor(min(milestone * reduction_factor, last)), milestone + 1), last)
        rounds.append(Round(size, milestone))
    return rounds


def highest_number(max_t: float, reduction_factor: float) -> int:
    """Return how often the trials of the largest bracket are compared.

    Example:
        >>> highest_number(81, 3)
        4
    """
    return round(math.log(max_t) / math.log(reduction_factor))


class HyperBandScheduler(ComparingScheduler):
    """Stops trials early by HyperBand: successive halving in brackets whose trials wait for each other.

    New trials fill one bracket after the other, the one with the fewest trials first; when all kinds of
    brackets have been filled, it begins again. A trial that comes to the milestone of its bracket is paused. When
    all of the bracket are there, the best of them go on, and the others end. A bracket that is not full yet
    waits for more trials, until the searcher has none. Nobody waits for trials that have failed or ended early, nor
    for one that somebody has paused: it catches up when it goes on. Reports without the metric or the time are
    not decided on. Of equal trials, the newer one goes on.

    Trials should save checkpoints: one that never does starts over after each pause. One that does not save at a
    milestone goes on to its next checkpoint before it is paused.

    Args:
        time_attr: The reported number that time is measured by; it grows from report to report.
        metric: What to compare by; give it here or in `TuneConfig`.
        mode: "min" or "max"; goes with `metric`.
        max_t: No trial trains longer; at least 1. The last milestone of a bracket may be before it: 9, of 10.
        reduction_factor: 1 of so many goes on, rounded up; above 1. `eta` in the paper.
        stop_last_trials: Whether trials that reach the last milestone of their bracket are stopped.

    Raises:
        ConfigError: An argument cannot work; all faults are named together.

    Example:
        >>> import tune_core as tune
        >>> from tune_core.testing.simulator import simulate
        >>> run = simulate(
        ...     lambda config, iteration: ({"loss": config["x"] / iteration}, 1.0),
        ...     param_space={"x": tune.uniform(0, 1)},
        ...     tune_config=tune.TuneConfig(
        ...         metric="loss", mode="min", scheduler=HyperBandScheduler(max_t=9), num_samples=17
        ...     ),
        ... )
        >>> lengths = [trial.iteration for trial in run.trials]
        >>> lengths[:3], lengths[3:8], lengths[8:]  # one bracket; one that compares at 3; one at 1 and 3
        ([9, 9, 9], [3, 9, 9, 3, 3], [3, 1, 1, 1, 1, 1, 1, 3, 9])

    Source: as Ray Tune 2.60; Li et al., "Hyperband: A Novel Bandit-Based Approach to Hyperparameter
        Optimization", algorithm 1 (https://arxiv.org/abs/1603.06560). Differs: what `rounds_of` says; a bracket
        that is not full waits while the searcher has more trials, and one that was full lets no more in; trials
        that have come to the last milestone do not wait there for others; a trial that somebody has paused is not
        waited for; nested metrics; NaN counts as worst.
    """

    needs_checkpoints = True
    #: Whether the bracket with the most trials is filled first.
    largest_first = False

    def __init__(
        self,
        time_attr: str = "training_iteration",
        metric: str | None = None,
        mode: str | None = None,
        max_t: float = 81,
        reduction_factor: float = 3,
        stop_last_trials: bool = True,
    ) -> None:
        validator = Validator(type(self).__name__)
        if not is_number(max_t) or max_t < 1:
            validator.add("max_t", max_t, "expected a finite number of at least 1, in units of time_attr")
        if not is_number(reduction_factor) or reduction_factor <= 1:
            validator.add("reduction_factor", reduction_factor, "expected a finite number above 1")
        validator.check_bool("stop_last_trials", stop_last_trials)
        if not validator.found and highest_number(max_t, reduction_factor) >= MAX_BRACKETS:
            expected = f"makes more than {MAX_BRACKETS} kinds of brackets up to max_t; expected fewer: a larger factor"
            validator.add("reduction_factor", reduction_factor, expected)
        super().__init__(validator, time_attr, metric, mode)
        self._stop_last_trials = stop_last_trials
        #: The rounds of each kind of bracket, in the order in which they are filled.
        every = (
            rounds_of(number, max_t, reduction_factor)
            for number in range(highest_number(max_t, reduction_factor) + 1)
        )
        self._kinds = [rounds for rounds in every if rounds]
        #: From here on a trial has had all that its bracket gives.
        self._max_t = min(rounds[-1].milestone for rounds in self._kinds)
        if self.largest_first:
            self._kinds.reverse()
        self._brackets: list[_Bracket] = []
        self._bracket_of: dict[str, _Bracket] = {}
        #: Where each trial is among all of them.
        self._numbers: dict[str, int] = {}
        #: Trials that are to end, as soon as they report or are paused.
        self._condemned: dict[str, None] = {}
        self._reasons: dict[str, dict[str, Any]] = {}
        self._num_stopped = 0
        #: Whether the searcher had no more trials when it was asked last.
        self._search_rests = False

    def on_trial_add(self, trials: Sequence[Trial], trial: Trial) -> None:
        """Put the trial into the newest bracket, or into a new one if that is full."""
        self._search_rests = False
        if not self._brackets or self._brackets[-1].is_filled:
            count = len(self._brackets)
            self._brackets.append(_Bracket(count, self._kinds[count % len(self._kinds)]))
        bracket = self._brackets[-1]
        bracket.add(trial.trial_id)
        self._bracket_of[trial.trial_id] = bracket
        self._numbers[trial.trial_id] = trial.number

    def on_trial_result(self, trials: Sequence[Trial], trial: Trial, result: dict[str, Any]) -> str:
        """Return PAUSE at a milestone, STOP for a trial that is to end, else CONTINUE.

        The last trial of a bracket to come to a milestone is not paused: all are compared at once.
        """
        name = trial.trial_id
        if name not in self._bracket_of:
            self.on_trial_add(trials, trial)
        bracket, moment = self._bracket_of[name], self._moment(result)
        if name in self._condemned:
            return self.STOP
        if moment is None:
            return self.CONTINUE
        bracket.note(name, *moment)
        if moment[0] < bracket.milestone or (bracket.is_in_last_round and not self._stop_last_trials):
            return self.CONTINUE
        if bracket.is_in_last_round:
            self._condemn(bracket, name)
            self._reasons[name] = self._reason(bracket, moment[1])
            return self.STOP
        self._compare(bracket, trials)
        if name in self._condemned:
            return self.STOP
        if name in bracket.ready:
            del bracket.ready[name]
            return self.CONTINUE
        self._reasons[name] = self._reason(bracket, moment[1])
        return self.PAUSE

    def is_full_budget(self, trial: Trial, result: dict[str, Any]) -> bool:
        """Return whether the report is of the last milestone of the trial's bracket, or later."""
        bracket, time = self._bracket_of.get(trial.trial_id), comparable(lookup(result, self._time_attr))
        if bracket is None:
            return super().is_full_budget(trial, result)
        return time is not None and time >= bracket.rounds[-1].milestone

    def on_trial_complete(self, trials: Sequence[Trial], trial: Trial, result: dict[str, Any]) -> None:
        """Take the trial out of its bracket, which may be what the others have waited for."""
        self._forget(trials, trial)

    def on_trial_error(self, trials: Sequence[Trial], trial: Trial) -> None:
        """Take the trial out of its bracket, which may be what the others have waited for; its place may be taken."""
        bracket = self._bracket_of.get(trial.trial_id)
        if bracket is not None and not bracket.is_filled:
            bracket.num_joined -= 1
        self._forget(trials, trial)

    def on_trial_remove(self, trials: Sequence[Trial], trial: Trial) -> None:
        """Take the trial out of its bracket, which may be what the others have waited for."""
        self._forget(trials, trial)

    def trials_to_stop(self, trials: Sequence[Trial]) -> Sequence[Trial]:
        """Return the paused trials that were not good enough; brackets that are not full are compared now."""
        self._search_rests = True  # else it would have been asked for a trial instead
        for bracket in self._brackets:
            if bracket.live and not bracket.is_in_last_round:
                self._compare(bracket, trials)
        found = (self._find(trials, name) for name in self._condemned)
        return [trial for trial in found if trial is not None and _is_left_paused(trial)]

    def choose_trial_to_run(self, trials: Sequence[Trial]) -> Trial | None:
        """Return a trial that goes on to its next milestone; of several brackets of a round, the least complete one."""
        bracket_count = len(self._kinds)
        waiting = [bracket for bracket in self._brackets if bracket.ready]
        for bracket in sorted(waiting, key=lambda each: (each.number // bracket_count, each.share_done)):
            trial = self._ready(bracket, trials)
            if trial is not None:
                return trial
        return None

    def decision_reason(self, trial: Trial) -> dict[str, Any]:
        """Return milestone (`rung`), value and bracket; where it was compared also `cutoff`, `rank` and `of`."""
        return self._reasons.get(trial.trial_id, {})

    def debug_string(self) -> str:
        """Return how many were stopped, and where each bracket stands."""
        lines = [f"Using HyperBand: num_stopped={self._num_stopped} total_brackets={len(self._brackets)}"]
        for bracket in self._brackets:
            if bracket.number % len(self._kinds) == 0:
                lines.append(f"Round #{bracket.number // len(self._kinds)}:")
            lines.append(
                f"  Bracket(Max Size (n)={bracket.size}, Milestone (r)={bracket.milestone}, "
                f"completed={bracket.share_done:.1%}): {len(bracket.live)} live trials"
            )
        return "\n".join(lines)

    def _may_compare_unfilled(self, trials: Sequence[Trial]) -> bool:
        """Whether a bracket that was never full is to wait for no more trials."""
        return self._search_rests

    def _compare(self, bracket: _Bracket, trials: Sequence[Trial]) -> None:
        """Let the best go on, if all are there: again where they have come beyond the next milestone as well."""
        while not bracket.is_in_last_round and self._is_due(bracket, trials):
            ranked = bracket.next_round()
            was_last = bracket.place == len(bracket.rounds) - 1  # the comparison that was due
            going_on = ranked[-bracket.size :]
            cutoff = bracket.live[going_on[0]].score
            for place, name in enumerate(reversed(ranked), 1):
                score, of = bracket.live[name].score, len(ranked)
                self._reasons[name] = self._reason(bracket, score, of=of, rank=place, cutoff=cutoff)
                if place > bracket.size:
                    self._condemn(bracket, name)
                elif bracket.live[name].time < bracket.milestone:
                    bracket.ready[name] = None
                elif was_last and self._stop_last_trials:
                    self._condemn(bracket, name)
                elif was_last:
                    bracket.ready[name] = None

    def _is_due(self, bracket: _Bracket, trials: Sequence[Trial]) -> bool:
        """Whether all are at the milestone or beyond, but those that somebody has paused, and no more will join."""
        if not (bracket.was_filled or self._may_compare_unfilled(trials)):
            return False
        is_any_there = False
        for name, standing in bracket.live.items():
            if standing.time >= bracket.milestone:
                is_any_there = True
                continue
            trial = self._find(trials, name)
            if trial is None or trial.status is not Status.PAUSED or not trial.is_paused_by_user:
                return False
        return is_any_there

    def _ready(self, bracket: _Bracket, trials: Sequence[Trial]) -> Trial | None:
        """Return a paused trial of the bracket that goes on, if nobody holds it."""
        found = (self._find(trials, name) for name in bracket.ready)
        return next((trial for trial in found if trial is not None and _is_left_paused(trial)), None)

    def _condemn(self, bracket: _Bracket, name: str) -> None:
        bracket.remove(name)
        self._condemned[name] = None
        self._num_stopped += 1

    def _forget(self, trials: Sequence[Trial], trial: Trial) -> None:
        name = trial.trial_id
        bracket = self._bracket_of.pop(name, None)
        self._condemned.pop(name, None)
        self._reasons.pop(name, None)
        self._numbers.pop(name, None)
        if bracket is not None:
            bracket.remove(name)
            self._compare(bracket, trials)

    def _reason(self, bracket: _Bracket, score: float, **more: Any) -> dict[str, Any]:
        sign = -1 if self.mode == "min" else 1
        rung = bracket.previous_milestone if more else bracket.milestone
        reason = {"bracket": bracket.number, "rung": rung, "value": sign * score, **more}
        if more:
            reason["cutoff"] = sign * more["cutoff"]
        return {
            key: value
            for key, value in reason.items()
            if not isinstance(value, float) or math.isfinite(value)
        }

    def _find(self, trials: Sequence[Trial], name: str) -> Trial | None:
        number = self._numbers.get(name, -1)
        if 0 <= number < len(trials) and trials[number].trial_id == name:
            return trials[number]
        return next((trial for trial in trials if trial.trial_id == name), None)


class _Standing(NamedTuple):
    """How far a trial has come, and how good it was there; higher is better."""

    time: float = -math.inf
    score: float = math.nan


@dataclass
class _Bracket:
    """Trials that wait for each other.

    Attributes:
        number: How many brackets there were before.
        rounds: All rounds of it.
        place: Which of them it is in.
        live: Where each trial stands that is neither over nor to end, in the order in which they came.
        ready: Paused trials that go on.
        num_joined: How many trials have been put into it, without those that failed before it was full.
        was_filled: Whether no more have been let in since.
    """

    number: int
    rounds: list[Round]
    place: int = 0
    live: dict[str, _Standing] = field(default_factory=dict)
    ready: dict[str, None] = field(default_factory=dict)
    num_joined: int = 0
    was_filled: bool = False
    _progress: float = 0.0

    def __post_init__(self) -> None:
        ends = [0, *(each.milestone for each in self.rounds)]
        steps = zip(self.rounds, ends, strict=False)
        self._work = comparable(sum(each.size * (each.milestone - before) for each, before in steps)) or 1.0

    @property
    def size(self) -> int:
        """How many trials take part in this round."""
        return self.rounds[self.place].size

    @property
    def milestone(self) -> int:
        """Up to which time they train in this round."""
        return self.rounds[self.place].milestone

    @property
    def previous_milestone(self) -> int:
        """The milestone at which trials were compared last."""
        return self.rounds[max(self.place - 1, 0)].milestone

    @property
    def is_in_last_round(self) -> bool:
        """Whether trials are compared no more."""
        return self.place == len(self.rounds) - 1

    @property
    def is_filled(self) -> bool:
        """Whether no more trials may join."""
        return self.was_filled or self.num_joined >= self.size

    @property
    def share_done(self) -> float:
        """How much of the work is done, from 0 to 1, about."""
        return min(self._progress / self._work, 1.0)

    def add(self, name: str) -> None:
        """Take a trial in."""
        self.live[name] = _Standing()
        self.num_joined += 1
        self.was_filled = self.is_filled

    def note(self, name: str, time: float, score: float) -> None:
        """Take a report of a live trial in; it may be of a time before, after a restart."""
        self.ready.pop(name, None)
        before = self.live[name].time
        self._progress += min(max(time - max(before, 0.0), 0.0), self.rounds[-1].milestone)
        self.live[name] = _Standing(time, score)

    def remove(self, name: str) -> None:
        """Take a trial out."""
        self.ready.pop(name, None)
        self.live.pop(name, None)

    def next_round(self) -> list[str]:
        """Begin the next round; return the trials that have come to its beginning, the best last."""
        before = self.milestone
        self.place += 1
        self.was_filled = self.is_filled
        there = [name for name, standing in self.live.items() if standing.time >= before]
        return sorted(there, key=lambda name: _rank(self.live[name].score))


def _rank(score: float) -> tuple[bool, float]:
    return (False, 0.0) if math.isnan(score) else (True, score)


def _is_left_paused(trial: Trial) -> bool:
    """Whether it is paused, and not by somebody."""
    return trial.status is Status.PAUSED and not trial.is_paused_by_user

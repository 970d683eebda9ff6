"""Successive halving at rungs, whatever trials are compared by: what its schedulers share.

Owns brackets and rungs, who is at which, and who is promoted. How entries are compared is the subclass's. Never
keeps a report: of each trial and rung, what it is compared by and nothing else.
"""

from __future__ import annotations

import math
import random
import secrets
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from tune_core.errors import ConfigError
from tune_core.metrics import comparable, lookup
from tune_core.schedulers.scheduler import TrialScheduler
from tune_core.trial import Status, Trial
from tune_core.validation import Validator, is_number

#: More rungs, or brackets, than anybody has a use for.
MAX_RUNGS = 1000
#: What becomes of a trial at a rung that is not among the best: it is stopped, or paused until it is.
TYPES = ("stopping", "promotion")

#: What a trial is compared by at a rung.
Entry = TypeVar("Entry")


class Rung(Generic[Entry]):
    """A point in time, and how trials did that came to it.

    Args:
        time: When it is.
        bracket: The number of its bracket, from 0.

    Attributes:
        entries: What each trial had when it came here, in that order.
        order: The ids of those that may be promoted, the best first; None: not worked out since the last one came.
        fronts: The front of each, for several metrics; the same.
        promoted: Trials that went on from here.
    """

    def __init__(self, time: float, bracket: int) -> None:
        self.time, self.bracket = time, bracket
        self.entries: dict[str, Entry] = {}
        self.order: list[str] | None = None
        self.fronts: list[int] | None = None
        self.promoted: set[str] = set()

    def add(self, trial_id: str, entry: Entry) -> None:
        """Take up that a trial has come here."""
        self.entries[trial_id] = entry
        self.order = self.fronts = None


class Bracket(Generic[Entry]):
    """A series of rungs, the highest first.

    Args:
        number: Which bracket it is, from 0; the rungs of the first bracket below that number are left out.
        first: The time of the lowest rung of the first bracket.
        last: No rung is later.
        factor: Each is later than the one before by this factor.
    """

    def __init__(self, number: int, first: float, last: float, factor: float) -> None:
        steps = reversed(range(number, num_rungs(first, last, factor)))
        self.rungs: list[Rung[Entry]] = [Rung(rung_time(first, last, factor, step), number) for step in steps]

    def reached(self, time: float) -> Rung[Entry] | None:
        """Return the highest rung that is not later than this; None if all are."""
        return next((rung for rung in self.rungs if time >= rung.time), None)

    def place_of(self, trial_id: str) -> Rung[Entry] | None:
        """Return the highest rung that a trial has come to; None if it has come to none."""
        return next((rung for rung in self.rungs if trial_id in rung.entries), None)


class RungScheduler(TrialScheduler, Generic[Entry]):
    """A scheduler that compares trials at rungs; subclass it, and say how entries are compared."""

    needs_metric = True

    def _check_rungs(
        self, validator: Validator, max_t: Any, grace_period: Any, reduction_factor: Any, brackets: Any
    ) -> None:
        """Find what is wrong with these arguments."""
        for name, value in (("max_t", max_t), ("grace_period", grace_period)):
            if not is_number(value) or value <= 0:
                validator.add(name, value, "expected a finite number above 0, in units of time_attr")
        if is_number(max_t) and is_number(grace_period) and grace_period > max_t > 0:
            validator.add(
                "grace_period", grace_period, f"is longer than max_t={max_t}: nobody would be stopped"
            )
        if not is_number(reduction_factor) or reduction_factor <= 1:
            validator.add("reduction_factor", reduction_factor, "expected a finite number above 1")
        validator.check_integer("brackets", brackets, minimum=1, maximum=MAX_RUNGS)
        if not validator.found and (count := num_rungs(grace_period, max_t, reduction_factor)) > MAX_RUNGS:
            expected = f"makes {count} rungs from grace_period to max_t; expected at most {MAX_RUNGS}: a larger factor"
            validator.add("reduction_factor", reduction_factor, expected)

    def _check_rest(self, validator: Validator, kind: Any, stop_last_trials: Any, seed: Any) -> None:
        """Find what is wrong with these arguments; `kind` is the argument `type`."""
        validator.check_bool("stop_last_trials", stop_last_trials)
        validator.check_choice("type", kind, TYPES)
        if seed is not None:
            validator.check_integer("seed", seed, minimum=0, also=", or None")

    def _build(
        self,
        kind: str,
        max_t: float,
        grace_period: float,
        reduction_factor: float,
        brackets: int,
        stop_last_trials: bool,
        seed: int | None,
    ) -> None:
        """Set up the rungs, by arguments that were found to be right."""
        self._pauses = self.resumes_before_new_trials = self.needs_checkpoints = kind == "promotion"
        self._max_t, self._stop_last_trials, self._factor = max_t, stop_last_trials, reduction_factor
        self._brackets: list[Bracket[Entry]] = [
            Bracket(number, grace_period, max_t, reduction_factor) for number in range(brackets)
        ]
        self._seed = secrets.randbits(32) if seed is None else seed
        self._random = random.Random(self._seed)
        self._bracket_of: dict[str, Bracket[Entry]] = {}
        self._num_stopped = self._num_promoted = 0
        #: Whose latest report was not answered with CONTINUE, and why.
        self._reason: tuple[str, dict[str, Any]] = ("", {})

    # What a subclass says.

    @abstractmethod
    def _moment(self, result: dict[str, Any]) -> tuple[float, Entry] | None:
        """Return time and entry of a report; None if it is not decided on."""

    @abstractmethod
    def _passes(self, rung: Rung[Entry], entry: Entry) -> bool:
        """Return whether a trial goes on that comes to a rung, by those that were there before; for "stopping"."""

    @abstractmethod
    def _ordered(self, rung: Rung[Entry]) -> list[str]:
        """Return who may be promoted from a rung, the best first; of more than its quota nobody is needed."""

    @abstractmethod
    def _position(self, rung: Rung[Entry], trial_id: str) -> dict[str, Any]:
        """Return how a trial stands at a rung, in the words of `decision_reason`."""

    # What a scheduler does.

    def check_searcher(self, searcher: Any) -> None:
        """Refuse a searcher that waits for trials to end, if trials pause: they would wait for each other.

        Raises:
            ConfigError: It does.
        """
        while self._pauses and searcher is not None:
            if any(cls.__name__ == "ConcurrencyLimiter" for cls in type(searcher).__mro__):
                raise ConfigError(
                    f"{type(self).__name__}(type='promotion') cannot work with a ConcurrencyLimiter, which waits for "
                    "trials that are paused until others have begun: use TuneConfig(max_concurrent_trials=...) instead"
                )
            searcher = getattr(searcher, "searcher", None)

    def on_trial_add(self, trials: Sequence[Trial], trial: Trial) -> None:
        """Put the trial into a bracket: of more rungs, more likely."""
        most = max(len(bracket.rungs) for bracket in self._brackets)
        weights = [math.exp(len(bracket.rungs) - most) for bracket in self._brackets]
        self._bracket_of[trial.trial_id] = self._random.choices(self._brackets, weights)[0]

    def on_trial_result(self, trials: Sequence[Trial], trial: Trial, result: dict[str, Any]) -> str:
        """Return STOP at `max_t`; at a rung STOP or PAUSE, as the type says; else CONTINUE."""
        if trial.trial_id not in self._bracket_of:
            self.on_trial_add(trials, trial)
        self._reason = ("", {})
        moment = self._moment(result)
        if moment is None:
            return self.CONTINUE
        time, entry = moment
        if time >= self._max_t and self._stop_last_trials:
            self._num_stopped += 1
            self._reason = trial.trial_id, {"rule": f"{self._time_name} >= {self._max_t:g}"}
            return self.STOP
        if self._pauses:
            return self.PAUSE if self._waits_at_rung(trial.trial_id, time, entry) else self.CONTINUE
        if self._goes_on(trial.trial_id, time, entry):
            return self.CONTINUE
        self._num_stopped += 1
        return self.STOP

    def choose_trial_to_run(self, trials: Sequence[Trial]) -> Trial | None:
        """Return the best trial of the highest rung that has one to promote; None if none has.

        With type="stopping", which pauses nobody, the first that is paused.
        """
        if not self._pauses:
            return super().choose_trial_to_run(trials)
        paused = {trial.trial_id: trial for trial in trials if trial.status is Status.PAUSED}
        rungs = sorted((rung for each in self._brackets for rung in each.rungs), key=lambda rung: -rung.time)
        for rung in rungs:
            for trial_id in self._best(rung):
                if trial_id in paused and self._place_of(trial_id) is rung:
                    rung.promoted.add(trial_id)
                    self._num_promoted += 1
                    return paused[trial_id]
        return None

    def decision_reason(self, trial: Trial) -> dict[str, Any]:
        """Return how the trial stands at its rung, or that it has come to `max_t`."""
        told, reason = self._reason
        if told == trial.trial_id and trial.status is not Status.PAUSED:
            return reason
        rung = self._place_of(trial.trial_id)
        return self._where(rung, trial.trial_id) if rung is not None else {}

    def is_full_budget(self, trial: Trial, result: dict[str, Any]) -> bool:
        """Return whether the report is of `max_t` or later; who waits at a rung before that has had less."""
        time = comparable(lookup(result, self._time_name))
        return time is not None and time >= self._max_t

    def on_trial_complete(self, trials: Sequence[Trial], trial: Trial, result: dict[str, Any]) -> None:
        """Let the last report count for those who come after."""
        moment = self._moment(result)
        if moment is not None and trial.trial_id in self._bracket_of:
            if self._pauses:
                self._waits_at_rung(trial.trial_id, *moment)
            else:
                self._goes_on(trial.trial_id, *moment)
        self._bracket_of.pop(trial.trial_id, None)

    def on_trial_error(self, trials: Sequence[Trial], trial: Trial) -> None:
        """Forget the trial's bracket; how it did at the rungs stays."""
        self._bracket_of.pop(trial.trial_id, None)

    def on_trial_remove(self, trials: Sequence[Trial], trial: Trial) -> None:
        """Forget the trial's bracket; how it did at the rungs stays."""
        self._bracket_of.pop(trial.trial_id, None)

    def get_state(self) -> dict[str, Any]:
        """Return the seed of the brackets: a resumed experiment chooses the same ones."""
        return {"seed": self._seed}

    def set_state(self, state: dict[str, Any]) -> None:
        """Choose brackets by this seed, from the beginning unless it is in force."""
        if state["seed"] != self._seed:
            self._seed = state["seed"]
            self._random = random.Random(self._seed)

    # Steps.

    @property
    def _time_name(self) -> str:
        return str(getattr(self, "_time_attr", "time"))

    def _best(self, rung: Rung[Entry]) -> list[str]:
        """Who may be promoted from a rung: the best 1/factor of those that came, rounded down."""
        if rung.order is None:
            rung.order = self._ordered(rung)
        return rung.order[: self._quota(rung)]

    def _quota(self, rung: Rung[Entry]) -> int:
        return math.floor(len(rung.entries) / self._factor + 1e-9)

    def _place_of(self, trial_id: str) -> Rung[Entry] | None:
        bracket = self._bracket_of.get(trial_id)
        return bracket.place_of(trial_id) if bracket is not None else None

    def _waits_at_rung(self, trial_id: str, time: float, entry: Entry) -> bool:
        """Note the entry at the highest rung that the trial has newly reached; return whether it waits there."""
        bracket = self._bracket_of[trial_id]
        reached, place = bracket.reached(time), bracket.place_of(trial_id)
        if reached is None or (place is not None and place.time > reached.time):
            return False  # below the first, or on its way again to where it was
        if place is not reached:
            reached.add(trial_id, entry)
        return reached.time < self._max_t and trial_id not in reached.promoted

    def _goes_on(self, trial_id: str, time: float, entry: Entry) -> bool:
        """Note the entry at the highest rung that the trial has newly reached; return whether it goes on."""
        for rung in self._bracket_of[trial_id].rungs:
            if time < rung.time:
                continue
            if trial_id not in rung.entries:
                passes = self._passes(rung, entry)
                before = {} if passes else self._needed(rung)
                rung.add(trial_id, entry)
                if not passes:
                    self._reason = trial_id, {**self._where(rung, trial_id), **before}
                return passes
            if not self._stop_last_trials:
                break  # who is above it is not compared at lower ones
        return True

    def _needed(self, rung: Rung[Entry]) -> dict[str, Any]:
        """What it took to pass a rung, by those that were there before."""
        return {}

    def _where(self, rung: Rung[Entry], trial_id: str) -> dict[str, Any]:
        where = {"bracket": rung.bracket} if len(self._brackets) > 1 else {}
        return {**where, "rung": rung.time, **self._position(rung, trial_id), "of": len(rung.entries)}


def num_rungs(first: float, last: float, factor: float) -> int:
    """Return how many rungs there are from `first` to `last`, each later than the one before by a factor."""
    # By logarithms: the quotient may be beyond floats.
    return math.floor((math.log(last) - math.log(first)) / math.log(factor) + 1e-9) + 1


def rung_time(first: float, last: float, factor: float, step: int) -> float:
    """Return the time of a rung, by its number from 0."""
    try:
        return first * factor**step
    except OverflowError:  # the last one, at the end of floats
        return last

"""Schedulers to test and to measure with; no experiment gains anything by them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from tune_core.metrics import lookup
from tune_core.schedulers import Exploit, TrialScheduler
from tune_core.trial import Status, Trial


class AnsweringScheduler(TrialScheduler):
    """Answers each report with CONTINUE, so that each report waits for its answer.

    `FIFOScheduler` decides the same, but nobody waits for it: the difference between the two is what
    a round trip from trial to experiment costs.

    Example:
        >>> AnsweringScheduler().always_continues
        False
        >>> str(AnsweringScheduler().on_trial_result([], None, {"loss": 1.5}))
        'CONTINUE'
    """

    def on_trial_result(self, trials: Sequence[Trial], trial: Trial, result: dict[str, Any]) -> str:
        """Return CONTINUE."""
        return self.CONTINUE


class PausingScheduler(TrialScheduler):
    """Pauses each trial after every so many iterations; the one that has come least far goes on.

    A trial that starts over each time still comes to its end: it is paused later each time.

    Args:
        every: After how many iterations, at least 1.

    Example:
        >>> scheduler = PausingScheduler(every=2)
        >>> trial = Trial("t0", 0, {})
        >>> [str(scheduler.on_trial_result([], trial, {"training_iteration": n})) for n in (1, 2, 3, 4)]
        ['CONTINUE', 'PAUSE', 'CONTINUE', 'PAUSE']
    """

    def __init__(self, every: int = 3) -> None:
        self._every = every
        self._next: dict[str, int] = {}

    def on_trial_result(self, trials: Sequence[Trial], trial: Trial, result: dict[str, Any]) -> str:
        """Return PAUSE at the trial's next multiple of `every`."""
        due = self._next.get(trial.trial_id, self._every)
        if result["training_iteration"] < due:
            return self.CONTINUE
        self._next[trial.trial_id] = due + self._every
        return self.PAUSE

    def choose_trial_to_run(self, trials: Sequence[Trial]) -> Trial | None:
        """Return the paused trial with the fewest iterations."""
        paused = [trial for trial in trials if trial.status is Status.PAUSED]
        return min(paused, key=lambda trial: (trial.iteration, trial.number), default=None)


class ExploitingScheduler(TrialScheduler):
    """Lets the worst trial go on from the checkpoint of the best, with its numbers scaled.

    Whoever is at a multiple of `every` iterations and then worst of all exploits the best: much
    of what makes up population based training, without its finer points.

    Args:
        metric: What to compare by.
        mode: "min" or "max".
        every: After how many iterations, at least 1.
        factor: What floats of the best configuration are multiplied by.

    Example:
        >>> scheduler = ExploitingScheduler("loss", "min", every=1)
        >>> good, bad = Trial("t0", 0, {"lr": 1.0}), Trial("t1", 1, {"lr": 9.0})
        >>> str(scheduler.on_trial_result([good, bad], good, {"training_iteration": 1, "loss": 0.1}))
        'CONTINUE'
        >>> scheduler.on_trial_result([good, bad], bad, {"training_iteration": 1, "loss": 0.5}).config
        {'lr': 0.8}
    """

    metric: str | None = None
    mode: str | None = None

    def __init__(
        self, metric: str | None = None, mode: str | None = None, *, every: int = 3, factor: float = 0.8
    ) -> None:
        self.metric, self.mode = metric, mode
        self._every, self._factor = every, factor
        self._scores: dict[str, float] = {}
        self._next: dict[str, int] = {}

    def on_trial_result(self, trials: Sequence[Trial], trial: Trial, result: dict[str, Any]) -> str | Exploit:
        """Return an Exploit of the best trial for the worst one, at multiples of `every`."""
        value = lookup(result, self.metric or "")
        if not isinstance(value, (int, float)):
            return self.CONTINUE
        self._scores[trial.trial_id] = -value if self.mode == "min" else value
        due = self._next.get(trial.trial_id, self._every)
        if result["training_iteration"] < due:
            return self.CONTINUE
        self._next[trial.trial_id] = due + self._every
        best = max(self._scores, key=lambda name: self._scores[name])
        if best == trial.trial_id or self._scores[trial.trial_id] > min(self._scores.values()):
            return self.CONTINUE
        donor = next(each for each in trials if each.trial_id == best)
        scaled = {
            name: value * self._factor if isinstance(value, float) else value
            for name, value in donor.config.items()
        }
        return Exploit(donor, scaled)


class RandomScheduler(TrialScheduler):
    """Answers anything at any time, so that an experiment has to cope with it; then only CONTINUE.

    Args:
        seed: Two of the same seed give the same answers to the same questions.
        budget: After so many answers it has no more ideas, so that trials come to an end.

    Example:
        >>> trial = Trial("t0", 0, {})
        >>> scheduler = RandomScheduler(seed=3, budget=2)
        >>> [scheduler.on_trial_result([trial], trial, {}) == "CONTINUE" for _ in range(4)][2:]
        [True, True]
    """

    def __init__(self, seed: int, budget: int = 100) -> None:
        self._random, self._budget = random.Random(seed), budget

    def on_trial_result(self, trials: Sequence[Trial], trial: Trial, result: dict[str, Any]) -> str | Exploit:
        """Return any answer."""
        self._budget -= 1
        if self._budget < 0:
            return self.CONTINUE
        answers = [self.CONTINUE] * 4 + [self.PAUSE] * 3 + [self.STOP, "exploit", "exploit"]
        answer = self._random.choice(answers)
        if answer != "exploit":
            return answer
        donor = self._random.choice(list(trials))
        return Exploit(donor, {**donor.config, "from": donor.number})

    def choose_trial_to_run(self, trials: Sequence[Trial]) -> Trial | None:
        """Return any paused trial, or none."""
        return self._random.choice([None, *self._paused(trials)])

    def trials_to_stop(self, trials: Sequence[Trial]) -> Sequence[Trial]:
        """Return a paused trial now and then."""
        return [trial for trial in self._paused(trials) if self._random.random() < 0.05]

    def _paused(self, trials: Sequence[Trial]) -> list[Trial]:
        return [trial for trial in trials if trial.status is Status.PAUSED]

"""HyperBand for a searcher that learns from its milestones."""

from __future__ import annotations

from collections.abc import Sequence

from tune_core.schedulers.hyperband import HyperBandScheduler
from tune_core.trial import Status, Trial


class HyperBandForBOHB(HyperBandScheduler):
    """HyperBand as BOHB wants it: the bracket with the most trials is filled first.

    So there are many short observations to learn from before the longer ones begin. A bracket that the searcher
    does not fill is compared only when nothing else can go on. Arguments are those of `HyperBandScheduler`;
    `TuneBOHB` is the searcher that goes with it.

    Example:
        >>> scheduler = HyperBandForBOHB(metric="loss", mode="min", max_t=9)
        >>> first = Trial("t0", 0, {})
        >>> scheduler.on_trial_add([first], first)
        >>> str(scheduler.on_trial_result([first], first, {"training_iteration": 1, "loss": 0.5}))
        'PAUSE'

    Source: as Ray Tune 2.60; Falkner et al., "BOHB", algorithm 1 (https://arxiv.org/abs/1807.01774). Differs:
        what `HyperBandScheduler` says; the searcher learns by itself, and is not driven.
    """

    largest_first = True

    def _may_compare_unfilled(self, trials: Sequence[Trial]) -> bool:
        if not self._search_rests:
            return False
        if any(trial.status in (Status.RUNNING, Status.PENDING) for trial in reversed(trials)):
            return False
        return not any(self._ready(bracket, trials) for bracket in self._brackets)

"""Population based training: bad trials go on from good ones' checkpoints, with hyperparameters changed a little.

Owns who is in the population, how each member does, and when the worst take over from the best. How
hyperparameters change is in `mutations`. Invariant: what it decides follows from its seed and from what it was
told; draws are made again for each exploit, by seed, trial and count, so that none depends on those before it.
"""

from __future__ import annotations

import logging
import math
import random
import secrets
from bisect import bisect_left, insort
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tune_core.errors import ConfigError
from tune_core.metrics import comparable, lookup
from tune_core.registry import find_trainable
from tune_core.schedulers.comparing import ComparingScheduler
from tune_core.schedulers.mutations import explore, filled_in, read_mutations, space_faults
from tune_core.schedulers.scheduler import Exploit
from tune_core.search import BasicVariantGenerator, fill_in
from tune_core.states import Decision
from tune_core.trial import Status, Trial
from tune_core.validation import Validator, is_number, shorten

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Member:
    """What is known of a trial of the population.

    Attributes:
        number: The trial's number.
        score: At its latest interval, higher is better; NaN counts as the worst. None before the first.
        train_time: When that was; of one that has exploited, the donor's.
        perturbed_at: When it was last considered.
        num_exploits: How often it was told to exploit.
        value: The metric as it was reported then.
    """

    number: int
    score: float | None = None
    train_time: float = 0.0
    perturbed_at: float = 0.0
    num_exploits: int = 0
    value: float = math.nan

    @property
    def key(self) -> tuple[float, int]:
        """What members are ranked by, the worst first; of equals, the later one is better."""
        assert self.score is not None
        return (-math.inf if math.isnan(self.score) else self.score), self.number

    @property
    def can_give(self) -> bool:
        """Whether others may go on from it: who has diverged has nothing to give."""
        return self.score is not None and not math.isnan(self.score)


class PopulationBasedTraining(ComparingScheduler):
    """Lets the worst of the trials go on from checkpoints of the best, with perturbed hyperparameters.

    Each time that a trial has trained for `perturbation_interval`, it is compared with how the others did at
    their own latest intervals. One that is among the worst `quantile_fraction` goes on from the latest
    checkpoint of one of the best, drawn at random: with its hyperparameters, each of them drawn again with
    `resample_probability`, else moved: a number is multiplied by one of `perturbation_factors`, a value of
    a list becomes its neighbour. So a schedule of hyperparameters is found within one training. If more
    trials wait than can run, those that come to an interval take turns with them.

    The trainable must report checkpoints, at least one in each interval, and go on from
    `tune.get_checkpoint()`; a trainable class saves when it is needed. Results hold the last configuration of
    each trial; `pbt_policy_<trial id>.txt` in the experiment's directory holds how it came to it.

    Args:
        time_attr: The reported number that time is measured by; it grows from report to report.
        metric: What to compare by; give it here or in `TuneConfig`.
        mode: "min" or "max"; goes with `metric`.
        perturbation_interval: How long a trial trains before it is considered, and again after that; above 0.
        burn_in_period: No trial is considered before this time.
        hyperparam_mutations: For each hyperparameter a list of values, a sampler such as `tune.loguniform(1e-4, 1e-1)`,
            a function that draws a value, or a dict of these for nested ones. As data, a sampler is
            `{"type": "uniform", "lower": 0, "upper": 1}`, a function its import string. A parameter that the search
            space leaves out is drawn from it at first.
        quantile_fraction: Which part of the population is replaced, by the same number of the best; 0 to 0.5.
        resample_probability: How likely a hyperparameter is drawn again, 0 to 1.
        perturbation_factors: What numbers are multiplied by, each equally likely; all above 0.
        custom_explore_fn: Is given the new configuration, and returns it changed. Or its import string.
        log_config: Whether the policy files are written.
        require_attrs: Whether a report without the time or the metric ends the experiment with an error.
        synch: Whether all trials wait for each other at each interval, and then change together.
        seed: Beyond Ray Tune: for everything that is drawn; None: other draws each time.

    Raises:
        ConfigError: An argument cannot work; all faults are named together.

    Example:
        >>> pbt = PopulationBasedTraining(
        ...     "training_iteration", "loss", "min", 1, hyperparam_mutations={"lr": [0.1, 0.2]}, seed=1
        ... )
        >>> good, bad = Trial("t0", 0, {"lr": 0.1}), Trial("t1", 1, {"lr": 0.2})
        >>> for trial, loss in ((good, 0.5), (bad, 0.9)):
        ...     answer = pbt.on_trial_result([good, bad], trial, {"training_iteration": 1, "loss": loss})
        >>> str(answer), pbt.decision_reason(bad)["rank"]  # nobody has a checkpoint yet
        ('CONTINUE', 2)

    Source: Jaderberg et al., "Population Based Training of Neural Networks", 2017
        (https://arxiv.org/abs/1711.09846), Algorithm 1; as Ray Tune 2.60. Differs: `seed`; a trial whose metric is
        NaN counts as the worst; the donor is drawn among those of the best that have a checkpoint, and its latest
        one counts; a trial gives way only to one that has come less far; with `synch` the next interval always ends
        after the present time; samplers as data; a value that is no number is drawn again.
    """

    needs_checkpoints = True

    def __init__(
        self,
        time_attr: str = "time_total_s",
        metric: str | None = None,
        mode: str | None = None,
        perturbation_interval: float = 60.0,
        burn_in_period: float = 0.0,
        hyperparam_mutations: Mapping[str, Any] | None = None,
        quantile_fraction: float = 0.25,
        resample_probability: float = 0.25,
        perturbation_factors: Sequence[float] = (1.2, 0.8),
        custom_explore_fn: Callable[[dict[str, Any]], dict[str, Any]] | str | None = None,
        log_config: bool = True,
        require_attrs: bool = True,
        synch: bool = False,
        *,
        seed: int | None = None,
    ) -> None:
        validator = Validator(type(self).__name__)
        self._mutations = read_mutations(validator, "hyperparam_mutations", hyperparam_mutations or {})
        if not hyperparam_mutations and custom_explore_fn is None:
            validator.add(
                "hyperparam_mutations", hyperparam_mutations, "expected some, or a custom_explore_fn"
            )
        if not is_number(resample_probability) or not 0 <= resample_probability <= 1:
            validator.add("resample_probability", resample_probability, "expected a number from 0 to 1")
        self._factors = _checked_factors(validator, perturbation_factors)
        self._resample_probability = resample_probability
        self._take_times(validator, perturbation_interval, burn_in_period, quantile_fraction)
        self._take_options(validator, custom_explore_fn, log_config, require_attrs, synch, seed)
        super().__init__(validator, time_attr, metric, mode)

    def _take_times(self, validator: Validator, interval: Any, burn_in: Any, fraction: Any) -> None:
        if not is_number(interval) or interval <= 0:
            validator.add(
                "perturbation_interval", interval, "expected a number above 0, in units of time_attr"
            )
            interval = 1.0
        validator.check_number("burn_in_period", burn_in)
        if not is_number(fraction) or not 0 <= fraction <= 0.5:
            validator.add("quantile_fraction", fraction, "expected a number from 0 to 0.5")
        self._interval, self._burn_in, self._fraction = interval, burn_in, fraction
        #: With `synch`, when all trials wait for each other next.
        self._next_sync = max(interval, burn_in) if is_number(burn_in) else interval

    def _take_options(
        self, validator: Validator, custom: Any, log_config: Any, require_attrs: Any, synch: Any, seed: Any
    ) -> None:
        self._custom_explore: Callable[[dict[str, Any]], Any] | None = None
        try:
            self._custom_explore = find_trainable(custom) if isinstance(custom, str) else custom
        except ConfigError as error:
            validator.note(f"custom_explore_fn: {error}")
        if self._custom_explore is not None:
            validator.check_callable("custom_explore_fn", self._custom_explore, "f(config)")
        for name, value in (("log_config", log_config), ("require_attrs", require_attrs), ("synch", synch)):
            validator.check_bool(name, value)
        if seed is not None:
            validator.check_integer("seed", seed, minimum=0, also=", or None")
        self.log_config, self._requires, self._synch = log_config, require_attrs, synch
        self._seed = secrets.randbits(32) if seed is None else seed
        self._members: dict[str, Member] = {}
        #: Members with a score, the worst first: keys and ids.
        self._ranked: list[tuple[tuple[float, int], str]] = []
        self._reasons: dict[str, dict[str, Any]] = {}
        self._num_perturbations = 0
        self._has_warned = False

    # Who may be used with it.

    def check_searcher(self, searcher: Any) -> None:
        """Refuse searchers that choose: hyperparameters change after that, and they would learn what is not so."""
        if searcher is not None and not isinstance(searcher, BasicVariantGenerator):
            raise ConfigError(
                f"search_alg={shorten(searcher)}: {type(self).__name__} changes hyperparameters by itself; "
                "expected None or a BasicVariantGenerator"
            )

    def check_space(self, param_space: Mapping[str, Any], num_samples: int) -> None:
        """Refuse mutations that cannot be of this search space."""
        faults = space_faults(param_space, self._mutations, "hyperparam_mutations")
        if faults:
            raise ConfigError([f"{type(self).__name__}: {fault}" for fault in faults])

    def fill_in(self, number: int, config: dict[str, Any]) -> dict[str, Any]:
        """Draw mutated hyperparameters that the search space leaves out."""
        return filled_in(config, self._mutations, self._generator("fill in", number))

    # What it is told.

    def on_trial_add(self, trials: Sequence[Trial], trial: Trial) -> None:
        """Take the trial into the population."""
        self._leave(trial)
        self._members[trial.trial_id] = Member(trial.number)

    def on_trial_result(self, trials: Sequence[Trial], trial: Trial, result: dict[str, Any]) -> str | Exploit:
        """Return an `Exploit` for one of the worst, PAUSE where others are to go on first, else CONTINUE.

        Raises:
            ConfigError: The report lacks the time or the metric, and `require_attrs` is True.
        """
        moment, member = self._required_moment(trial, result), self._member(trial)
        self._reasons.pop(trial.trial_id, None)
        if moment is None or trial.decision is not Decision.CONTINUE:  # it leaves, whatever is answered
            return self.CONTINUE
        time, score = moment
        due = self._next_sync if self._synch else member.perturbed_at + self._interval
        if time < self._burn_in or time < due:
            return self.CONTINUE
        if self._synch and not self.can_pause(trial, result):
            self._warn_of_no_checkpoint(trial, "cannot wait for the others")
            return self.CONTINUE
        self._rank(trial, member, time, score)
        if self._synch:
            self._note_reason(trial, member)
            return self.PAUSE
        member.perturbed_at = time
        donor = self._donor_for(trials, trial)
        self._note_reason(trial, member, donor)
        if donor is not None:
            return self._exploit(trial, donor)
        may_pause = self.can_pause(trial, result) and self._others_wait(trials, trial, time)
        return self.PAUSE if may_pause else self.CONTINUE

    def on_trial_complete(self, trials: Sequence[Trial], trial: Trial, result: dict[str, Any]) -> None:
        """Take the trial out of the population."""
        self._leave(trial)

    def on_trial_error(self, trials: Sequence[Trial], trial: Trial) -> None:
        """Take the trial out of the population."""
        self._leave(trial)

    def on_trial_remove(self, trials: Sequence[Trial], trial: Trial) -> None:
        """Take the trial out of the population."""
        self._leave(trial)

    def _member(self, trial: Trial) -> Member:
        return self._members.setdefault(trial.trial_id, Member(trial.number))

    def _leave(self, trial: Trial) -> None:
        member = self._members.pop(trial.trial_id, None)
        if member is not None and member.score is not None:
            self._unrank(trial.trial_id, member)
        self._reasons.pop(trial.trial_id, None)

    def _required_moment(self, trial: Trial, result: dict[str, Any]) -> tuple[float, float] | None:
        moment = self._moment(result)
        if moment is None and self._requires:
            lacking = [
                name
                for name in (self._time_attr, self.metric or "")
                if comparable(lookup(result, name)) is None
            ]
            raise ConfigError(
                f"{type(self).__name__}: trial {trial.trial_id} reported no number as {' and '.join(lacking)}; "
                "expected both in every report. Report them, name others by time_attr and metric, or set "
                "require_attrs=False: then such reports are not decided on"
            )
        return moment

    # Who is how good.

    def _rank(self, trial: Trial, member: Member, time: float, score: float) -> None:
        if member.score is not None:
            self._unrank(trial.trial_id, member)
        member.score, member.train_time = score, time
        member.value = -score if self.mode == "min" else score
        insort(self._ranked, (member.key, trial.trial_id))

    def _unrank(self, trial_id: str, member: Member) -> None:
        del self._ranked[bisect_left(self._ranked, (member.key, trial_id))]

    def _quantile_size(self, number: int) -> int:
        return min(math.ceil(number * self._fraction), number // 2) if number > 1 else 0

    def _donor_for(self, trials: Sequence[Trial], trial: Trial) -> Trial | None:
        """Return the trial that this one is to go on from; None: it is not among the worst, or there is none."""
        size = self._quantile_size(len(self._ranked))
        place = bisect_left(self._ranked, (self._members[trial.trial_id].key, trial.trial_id))
        if place >= size:
            return None
        return self._drawn(trials, trial, [name for _, name in self._ranked[len(self._ranked) - size :]])

    def _drawn(self, trials: Sequence[Trial], trial: Trial, best: Sequence[str]) -> Trial | None:
        """Return one of the best that has a checkpoint, drawn at random."""
        rng, left = (
            self._generator("donor", trial.number, self._members[trial.trial_id].num_exploits),
            list(best),
        )
        while left:
            name = left.pop(rng.randrange(len(left)))
            if self._members[name].can_give and (donor := self._find(trials, name)).start_point is not None:
                return donor
        self._warn_of_no_checkpoint(trial, "is among the worst, and cannot go on from any of the best")
        return None

    def _warn_of_no_checkpoint(self, trial: Trial, what: str) -> None:
        if not self._has_warned:
            _logger.warning(
                "%s: trial %s %s: there is no checkpoint. Report with checkpoint=…, at least once in each "
                "perturbation_interval (said once)",
                type(self).__name__,
                trial.trial_id,
                what,
            )
        self._has_warned = True

    def _find(self, trials: Sequence[Trial], trial_id: str) -> Trial:
        number = self._members[trial_id].number
        if number < len(trials) and trials[number].trial_id == trial_id:
            return trials[number]
        return next(trial for trial in trials if trial.trial_id == trial_id)

    def _others_wait(self, trials: Sequence[Trial], trial: Trial, time: float) -> bool:
        """Whether a trial that has come less far could run in place of this one."""
        members = self._members
        for other in trials:
            if other.status is not Status.PAUSED and other.status is not Status.PENDING:
                continue
            member = members.get(other.trial_id)
            if (
                member is not None
                and member.train_time < time
                and not other.is_paused_by_user
                and other is not trial
            ):
                return True
        return False

    # What a member becomes.

    def _exploit(self, trial: Trial, donor: Trial) -> Exploit:
        member, giver = self._members[trial.trial_id], self._members[donor.trial_id]
        count = member.num_exploits
        member.num_exploits += 1
        member.perturbed_at, member.train_time = giver.perturbed_at, giver.train_time
        self._num_perturbations += 1
        return Exploit(donor, partial(self.new_config, trial, donor, count))

    def new_config(self, trial: Trial, donor: Trial, count: int) -> dict[str, Any]:
        """Return what a trial goes on with after it has taken over from another one.

        Args:
            trial: Which one takes over.
            donor: From whom.
            count: How often it has done so before.

        Raises:
            ConfigError: `custom_explore_fn` returned something else.
        """
        config = explore(
            donor.config,
            self._mutations,
            self._generator("explore", trial.number, count),
            resample_probability=self._resample_probability,
            factors=self._factors,
        )
        return self._customised(config)

    def _customised(self, config: dict[str, Any]) -> dict[str, Any]:
        if self._custom_explore is None:
            return config
        changed: Any = self._custom_explore(fill_in({}, config))
        if not isinstance(changed, dict):
            raise ConfigError(
                f"custom_explore_fn returned {shorten(changed)}: expected the new configuration, a dict"
            )
        return changed

    def _generator(self, *purpose: object) -> random.Random:
        return random.Random(" ".join(map(str, (self._seed, *purpose))))

    # All together.

    def exploit_paused(self, trials: Sequence[Trial]) -> Mapping[str, Exploit]:
        """Return, with `synch`, how the worst go on, once all trials have come to the end of the interval."""
        waiting = self._all_waiting(trials) if self._synch else []
        if not waiting:
            return {}
        members = self._members
        self._next_sync += self._interval
        latest = max(members[trial.trial_id].train_time for trial in waiting)
        if self._next_sync <= latest:
            self._next_sync = max(latest + self._interval, math.nextafter(latest, math.inf))
        ranked = sorted(waiting, key=lambda trial: members[trial.trial_id].key)
        size = self._quantile_size(len(ranked))
        best = [trial.trial_id for trial in ranked[len(ranked) - size :]]
        drawn = [(trial, self._drawn(trials, trial, best)) for trial in ranked[:size]]
        return {trial.trial_id: self._exploit(trial, donor) for trial, donor in drawn if donor is not None}

    def _all_waiting(self, trials: Sequence[Trial]) -> list[Trial]:
        """Return the trials that are not over if all of them wait at the end of the interval, else none."""
        waiting = []
        for trial in trials:
            if trial.status is Status.RUNNING or trial.status is Status.PENDING:
                return []
            if trial.status is Status.PAUSED:
                waiting.append(trial)
        members = map(self._member, waiting)
        are_ready = all(
            member.score is not None and member.train_time >= self._next_sync for member in members
        )
        return waiting if are_ready else []

    def choose_trial_to_run(self, trials: Sequence[Trial]) -> Trial | None:
        """Return the paused trial that has come least far; with `synch`, of those not at the end of the interval."""
        latest = self._next_sync if self._synch else math.inf
        paused = [trial for trial in trials if trial.status is Status.PAUSED]
        known = [(self._member(trial).train_time, trial.number, trial) for trial in paused]
        time, _, first = min(known, key=lambda each: each[:2], default=(math.inf, 0, None))
        return first if time < latest else None

    # What is known of it.

    def wants_checkpoint(self, trial: Trial) -> bool:
        """Return whether the trial is one of the best since its latest report: others may go on from it."""
        return bool(self._reasons.get(trial.trial_id, {}).get("is_best"))

    def decision_reason(self, trial: Trial) -> dict[str, Any]:
        """Return the trial's rank at its latest interval, and whom it goes on from."""
        reason = self._reasons.get(trial.trial_id, {})
        return {name: value for name, value in reason.items() if name != "is_best"}

    def _note_reason(self, trial: Trial, member: Member, donor: Trial | None = None) -> None:
        number = len(self._ranked)
        rank = number - bisect_left(self._ranked, (member.key, trial.trial_id))
        reason: dict[str, Any] = {"value": member.value, "rank": rank, "of": number}
        if donor is not None:
            reason["donor"] = donor.trial_id
        self._reasons[trial.trial_id] = {**reason, "is_best": rank <= self._quantile_size(number)}

    def get_state(self) -> dict[str, Any]:
        """Return the seed: all else follows from what is told."""
        return {"seed": self._seed}

    def set_state(self, state: dict[str, Any]) -> None:
        """Draw by this seed."""
        self._seed = state["seed"]

    def debug_string(self) -> str:
        """Return how many members there are, and how often one took over from another."""
        name = type(self).__name__
        return f"{name}: {len(self._members)} in the population, {self._num_perturbations} perturbs"


def _checked_factors(validator: Validator, factors: Any) -> list[float]:
    expected = "expected at least one number above 0, such as (1.2, 0.8)"
    if not isinstance(factors, (list, tuple)) or not factors:
        validator.add("perturbation_factors", factors, expected)
        return []
    if not all(is_number(factor) and factor > 0 for factor in factors):
        validator.add("perturbation_factors", factors, expected)
    return list(factors)

"""Population based bandits: population based training whose hyperparameters a model chooses, and not chance.

Owns what each interval has brought, and what others have begun to try. The model is in `pb2_model`. Invariant: what
the model is given follows from what was told; so it is asked only when the answer counts, and not in a replay.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tune_core import search
from tune_core.metrics import flatten
from tune_core.schedulers.pbt import Member, PopulationBasedTraining
from tune_core.schedulers.scheduler import Exploit
from tune_core.search import fill_in
from tune_core.trial import Trial
from tune_core.validation import Validator, is_number

if TYPE_CHECKING:
    from tune_core.schedulers.pb2_model import Observation


#: Scores and times beyond this say nothing that a model could learn from; their squares would be infinite.
_LARGEST = 1e100


class PB2(PopulationBasedTraining):
    """Lets the worst trials go on from the best, with hyperparameters that a model expects to improve most.

    Who takes over from whom, and when, is as in `PopulationBasedTraining`. The new hyperparameters are those at which
    the upper confidence bound of a Gaussian process is highest: it learns, from every interval of every trial, how
    much the score grew from which time and score on with which hyperparameters, and trusts old intervals less. What
    others have begun to try counts as seen. So a small population does with few intervals what chance needs many for.

    Args:
        time_attr: The reported number that time is measured by; it grows from report to report.
        metric: What to compare by; give it here or in `TuneConfig`.
        mode: "min" or "max"; goes with `metric`.
        perturbation_interval: How long a trial trains before it is considered, and again after that; above 0.
        hyperparam_bounds: For each hyperparameter its bounds, `[low, high]`, or a dict of these for nested ones. One
            that the search space leaves out is drawn between them at first.
        quantile_fraction: Which part of the population is replaced, by the same number of the best; 0 to 0.5.
        log_config: Whether the policy files are written.
        require_attrs: Whether a report without the time or the metric ends the experiment with an error.
        synch: Whether all trials wait for each other at each interval, and then change together.
        custom_explore_fn: Is given the new configuration, and returns it changed. Or its import string.
        seed: Beyond Ray Tune: for everything that is drawn; None: other draws each time.

    Raises:
        ConfigError: An argument cannot work; all faults are named together.
        ImportError: scikit-learn is not installed.

    Example:
        >>> pb2 = PB2("training_iteration", "loss", "min", 5, {"lr": [1e-4, 1e-1]}, seed=1)  # doctest: +SKIP
        >>> pb2.fill_in(0, {})  # doctest: +SKIP
        {'lr': 0.0354...}

    Source: Parker-Holder et al., "Provably Efficient Online Hyperparameter Optimization with Population-Based Bandits",
        2020 (https://arxiv.org/abs/2002.02518), Algorithm 1; as Ray Tune 2.60. Differs: as `PopulationBasedTraining`;
        an observation begins with the time and the score at which its interval did, and the point that is sought has
        those of its donor now; time is counted in intervals; integers are rounded, not cut; at most 200 observations.
    """

    def __init__(
        self,
        time_attr: str = "time_total_s",
        metric: str | None = None,
        mode: str | None = None,
        perturbation_interval: float = 60.0,
        hyperparam_bounds: Mapping[str, Any] | None = None,
        quantile_fraction: float = 0.25,
        log_config: bool = True,
        require_attrs: bool = True,
        synch: bool = False,
        custom_explore_fn: Callable[[dict[str, Any]], dict[str, Any]] | str | None = None,
        *,
        seed: int | None = None,
    ) -> None:
        if importlib.util.find_spec("sklearn") is None:
            raise ImportError("PB2 needs scikit-learn: run pip install 'prefect-tune[pb2]'")
        validator = Validator("PB2")
        if not isinstance(hyperparam_bounds, Mapping) or not hyperparam_bounds:
            validator.add(
                "hyperparam_bounds", hyperparam_bounds, "expected a dict of parameter names to [low, high]"
            )
        else:
            _check_bounds(validator, "hyperparam_bounds", hyperparam_bounds)
        validator.raise_any()
        super().__init__(
            time_attr,
            metric,
            mode,
            perturbation_interval,
            hyperparam_mutations=_as_samplers(hyperparam_bounds or {}),
            quantile_fraction=quantile_fraction,
            resample_probability=0.0,
            custom_explore_fn=custom_explore_fn,
            log_config=log_config,
            require_attrs=require_attrs,
            synch=synch,
            seed=seed,
        )
        #: Bounds by path, in the order in which the model has the hyperparameters.
        self._bounds = {path: (bound.lower, bound.upper) for path, bound in flatten(self._mutations).items()}
        self._observations: list[Observation] = []
        #: Time and score at which a member's present interval began.
        self._begun: dict[str, tuple[float, float]] = {}
        #: Members that train with hyperparameters of which nothing is known yet, and those hyperparameters.
        self._pending: dict[str, Trial] = {}
        self._proposed: dict[str, tuple[float, ...]] = {}

    def _rank(self, trial: Trial, member: Member, time: float, score: float) -> None:
        from tune_core.schedulers.pb2_model import Observation

        super()._rank(trial, member, time, score)
        name, begun = trial.trial_id, self._begun.get(trial.trial_id)
        params = self._params(trial.config)
        is_usable = abs(score) < _LARGEST and abs(time) < _LARGEST
        if begun is not None and time > begun[0] and params is not None and is_usable:
            gain = (score - begun[1]) / max(time - begun[0], 1e-9 * self._interval)
            self._observations += [Observation(*begun, params, gain)] if abs(gain) < _LARGEST else []
        if is_usable:
            self._begun[name] = (time, score)
        self._pending.pop(name, None)
        self._proposed.pop(name, None)

    def _leave(self, trial: Trial) -> None:
        super()._leave(trial)
        for known in (self._begun, self._pending, self._proposed):
            known.pop(trial.trial_id, None)

    def _exploit(self, trial: Trial, donor: Trial) -> Exploit:
        answer = super()._exploit(trial, donor)
        self._begun.pop(trial.trial_id, None)
        if donor.trial_id in self._begun:
            self._begun[trial.trial_id] = self._begun[donor.trial_id]
        self._pending[trial.trial_id] = trial
        self._proposed.pop(trial.trial_id, None)
        return answer

    def new_config(self, trial: Trial, donor: Trial, count: int) -> dict[str, Any]:
        """Return the donor's configuration with the hyperparameters that the model proposes."""
        from tune_core.schedulers.pb2_model import propose

        pending = [
            params
            for name, other in self._pending.items()
            if name != trial.trial_id and (params := self._proposed.get(name) or self._coming_params(other))
        ]
        giver = self._members[donor.trial_id]
        context = self._begun.get(donor.trial_id, (min(giver.train_time, _LARGEST), 0.0))
        chosen = propose(
            self._observations,
            pending,
            context,
            list(self._bounds.values()),
            interval=self._interval,
            seed=[self._seed, trial.number, count],
        )
        config = fill_in({}, donor.config)
        for path, value in zip(self._bounds, chosen, strict=True):
            _put(config, path.split("/"), value)
        config = self._customised(config)
        params = self._params(config)
        if params is not None:
            self._proposed[trial.trial_id] = params
        return config

    def _coming_params(self, trial: Trial) -> tuple[float, ...] | None:
        return self._params(trial.exploit.config if trial.exploit is not None else trial.config)

    def _params(self, config: dict[str, Any]) -> tuple[float, ...] | None:
        values = flatten(config)
        params = [values.get(path) for path in self._bounds]
        return (
            tuple(float(value) for value in params if value is not None)
            if all(map(is_number, params))
            else None
        )


def _check_bounds(validator: Validator, name: str, bounds: Mapping[Any, Any]) -> None:
    for key, value in bounds.items():
        place = f"{name}[{key!r}]"
        if not isinstance(key, str) or "/" in key:
            validator.add(place, value, "expected parameter names that are strings, without a slash")
        elif isinstance(value, Mapping) and value:
            _check_bounds(validator, place, value)
        elif not isinstance(value, (list, tuple)) or len(value) != 2 or not all(map(is_number, value)):
            validator.add(place, value, "expected two finite numbers, [low, high], or a dict of these")
        elif value[0] > value[1]:
            validator.add(place, value, "the bounds are the wrong way round: swap them")


def _as_samplers(bounds: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _as_samplers(value) if isinstance(value, Mapping) else search.uniform(*value)
        for key, value in bounds.items()
    }


def _put(config: dict[str, Any], path: list[str], value: float) -> None:
    """Put a value in its place, as an integer if an integer was there."""
    *parents, key = path
    for parent in parents:
        config = config.setdefault(parent, {})
    before = config.get(key)
    is_integer = isinstance(before, int) and not isinstance(before, bool)
    config[key] = round(value) if is_integer else value

"""Lets running trials have more or fewer resources, as others begin and end.

Owns who gets what is free. It decides nothing else: that is another scheduler's, inside this one. It moves
nobody: an answer names the bundles that a trial's next attempt gets. Invariant: what it answers follows from
the trials, the report and what it was told of the cluster, so that a resume comes to the same.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from tune_core.errors import ConfigError
from tune_core.init_args import RecordsArguments
from tune_core.metrics import comparable, lookup
from tune_core.resources import Bundle, PlacementGroupFactory
from tune_core.schedulers.scheduler import Exploit, FIFOScheduler, Reallocate, TrialScheduler
from tune_core.trial import AttemptPhase, Trial
from tune_core.validation import Validator, is_number

#: What rounding leaves of amounts of resources.
_REST = 1e-9


class ClusterView:
    """What a function that allocates resources is shown: the trials, and what the cluster has.

    Args:
        trials: All trials, in creation order.
        total_resources: What the cluster has of each resource; {} while that is not known.

    Example:
        >>> view = ClusterView([Trial("t0", 0, {})], {"CPU": 4.0})
        >>> view.total_resources, view.used_resources()
        ({'CPU': 4.0}, {'CPU': 1.0})
    """

    def __init__(self, trials: Sequence[Trial], total_resources: Mapping[str, float]) -> None:
        self._trials = trials
        self.total_resources = dict(total_resources)

    def get_trials(self) -> list[Trial]:
        """Return all trials, in creation order; for reading."""
        return list(self._trials)

    def get_live_trials(self) -> list[Trial]:
        """Return those that are not finished: they run, wait, or are paused."""
        return [trial for trial in self._trials if not trial.is_finished()]

    def resources_of(self, trial: Trial) -> Bundle:
        """Return what a trial takes: of a running one that is about to move, the more of what it has and will have."""
        now, then = trial.resources.required_resources, (trial.next_resources or trial.resources)
        after = then.required_resources
        if trial.phase is AttemptPhase.NONE:
            return after
        return {name: max(now.get(name, 0.0), after.get(name, 0.0)) for name in {**now, **after}}

    def used_resources(self) -> Bundle:
        """Return what all trials that are not finished take."""
        used: Bundle = {}
        for trial in self.get_live_trials():
            for name, amount in self.resources_of(trial).items():
                used[name] = used.get(name, 0.0) + amount
        return used


#: Called with the view, the trial that has reported, its report, and the scheduler; returns the bundles that
#: the trial is to have, or None for those that it has.
Allocate: TypeAlias = Callable[
    [ClusterView, Trial, dict[str, Any], "ResourceChangingScheduler"], PlacementGroupFactory | None
]


class AllocationFunction(RecordsArguments, ABC):
    """A function that allocates resources, with arguments of its own; a plain function does as well."""

    def check(self, resources: PlacementGroupFactory) -> None:
        """Refuse bundles of a new trial that it cannot work with; by default it refuses none.

        Args:
            resources: What the trainable asks for.

        Raises:
            ConfigError: It cannot work with them.
        """

    @abstractmethod
    def __call__(
        self, view: ClusterView, trial: Trial, result: dict[str, Any], scheduler: ResourceChangingScheduler
    ) -> PlacementGroupFactory | None:
        """Return the bundles that a trial is to have; None: those that it has.

        Args:
            view: The trials and the cluster.
            trial: Who has reported.
            result: Its report.
            scheduler: Who asks.
        """


class DistributeResources(AllocationFunction):
    """Shares what is free out evenly: no trial gets more than its part, and none less than it asks for itself.

    What nobody needs for a first attempt is cut into equal units. A trial that reports gets as many of those
    that are free as its part allows. Where trials that wait need some back, it gives up its own, and goes on
    with what its trainable asks for.

    Args:
        add_bundles: Whether a unit is another bundle; False: it is added to the only bundle.
        increase_by: A unit: amounts by resource, such as `{"CPU": 2}`. None or {}: with `add_bundles` the
            last bundle that the trainable asks for, else 1 GPU for trials that have one, else 1 CPU.
        increase_by_times: How many units a trial gets at most, with `increase_by`; below 1: as many as there are.
        reserve_resources: Amounts of the cluster that are left alone.

    Raises:
        ConfigError: An argument cannot work; all faults are named together.

    Example:
        >>> from tune_core.schedulers import ResourceChangingScheduler
        >>> scheduler = ResourceChangingScheduler(
        ...     resources_allocation_function=DistributeResources(reserve_resources={"CPU": 1})
        ... )
        >>> scheduler.on_cluster_changed({"CPU": 4.0})
        >>> alone = Trial("t0", 0, {})
        >>> scheduler.on_trial_result([alone], alone, {"training_iteration": 1}).resources.bundles
        [{'CPU': 3.0}]

    Source: as Ray Tune 2.60. Differs: units of any resource; what a trial is about to give up or to get counts as
        taken; amounts of other resources that a trial was given since stay.
    """

    def __init__(
        self,
        add_bundles: bool = False,
        increase_by: dict[str, float] | None = None,
        increase_by_times: int = -1,
        reserve_resources: dict[str, float] | None = None,
    ) -> None:
        validator = Validator(type(self).__name__)
        validator.check_bool("add_bundles", add_bundles)
        for name, amounts in (("increase_by", increase_by), ("reserve_resources", reserve_resources)):
            if amounts is not None and not _are_amounts(amounts):
                validator.add(
                    name, amounts, 'expected amounts of at least 0 by resource, as {"CPU": 1}, or None'
                )
        if increase_by and _are_amounts(increase_by) and not any(increase_by.values()):
            validator.add("increase_by", increase_by, "expected at least one amount above 0, or None")
        validator.check_integer(
            "increase_by_times", increase_by_times, minimum=-1, also=" (below 1: no limit)"
        )
        validator.raise_any()
        self.add_bundles, self.increase_by_times = add_bundles, increase_by_times
        self.increase_by: Bundle = {name: amount for name, amount in (increase_by or {}).items() if amount}
        self.reserve_resources: Bundle = dict(reserve_resources or {})

    def check(self, resources: PlacementGroupFactory) -> None:
        """Refuse bundles of a trial to which nothing can be added.

        Raises:
            ConfigError: They are several, and units are no bundles of their own.
        """
        if not self.add_bundles and len(resources.to_dict()["bundles"]) > 1:
            raise ConfigError(
                f"{type(self).__name__}(add_bundles=False) adds to the only bundle of a trial, and there are "
                f"{len(resources.to_dict()['bundles'])} in {resources}: use add_bundles=True"
            )

    def __call__(
        self, view: ClusterView, trial: Trial, result: dict[str, Any], scheduler: ResourceChangingScheduler
    ) -> PlacementGroupFactory | None:
        """Return the bundles with which the trial has its part of what is free; None: it has them."""
        if not view.total_resources:
            return None
        unit = self._unit(trial)
        used = view.used_resources()
        free = {name: self._total(view, name) - used.get(name, 0.0) for name in unit}
        has = self._units(trial, unit)
        wanted = self._wanted(view, trial, result, scheduler, has, _times(free, unit))
        return None if wanted == has else self._with(trial, unit, wanted)

    def _wanted(
        self,
        view: ClusterView,
        trial: Trial,
        result: dict[str, Any],
        scheduler: ResourceChangingScheduler,
        has: int,
        free: int,
    ) -> int:
        """How many units beyond what it asks for itself a trial is to have.

        Args:
            view: The trials and the cluster.
            trial: Who has reported.
            result: Its report.
            scheduler: Who asks.
            has: How many it has.
            free: How many nobody has; below 0: how many are lacking for trials that wait.
        """
        if free < 0:
            return max(0, has + free)
        part = self._part(view, self._unit(trial))
        return has if free == 0 else min(has + free, part)

    def _part(self, view: ClusterView, unit: Bundle) -> int:
        """How many units each trial may have: an equal share of what first attempts leave, rounded up."""
        live = view.get_live_trials()
        left = {
            name: self._total(view, name)
            - sum(each.base_resources.required_resources.get(name, 0.0) for each in live)
            for name in unit
        }
        part = math.ceil(max(0, _times(left, unit)) / max(1, len(live)))
        return int(min(part, self._most))

    @property
    def _most(self) -> float:
        """How many units a trial may have, whatever is free."""
        has_limit = bool(self.increase_by) and self.increase_by_times > 0
        return self.increase_by_times if has_limit else math.inf

    def _total(self, view: ClusterView, name: str) -> float:
        return view.total_resources.get(name, 0.0) - self.reserve_resources.get(name, 0.0)

    def _unit(self, trial: Trial) -> Bundle:
        if self.increase_by:
            return self.increase_by
        bundles = trial.base_resources.bundles
        if self.add_bundles and bundles[-1]:
            return bundles[-1]
        return {"GPU": 1.0} if bundles[0].get("GPU") else {"CPU": 1.0}

    def _units(self, trial: Trial, unit: Bundle) -> int:
        """How many units a trial has beyond what it asks for itself."""
        has, base = trial.resources, trial.base_resources
        if self.add_bundles:
            return max(0, len(has.bundles) - len(base.bundles))
        more = {name: has.bundles[0].get(name, 0.0) - base.bundles[0].get(name, 0.0) for name in unit}
        return max(0, _times(more, unit))

    def _with(self, trial: Trial, unit: Bundle, units: int) -> PlacementGroupFactory:
        """The bundles of a trial with so many units beyond what it asks for itself."""
        data, base = trial.resources.to_dict(), trial.base_resources
        if self.add_bundles:
            data["bundles"] = [*data["bundles"][: len(base.to_dict()["bundles"])], *[dict(unit)] * units]
            if labels := base.options.get("bundle_label_selector"):
                data["options"]["bundle_label_selector"] = [*labels, *[labels[-1]] * units]
        else:
            first = data["bundles"][0]
            for name, amount in unit.items():
                first[name] = base.bundles[0].get(name, 0.0) + units * amount
        return PlacementGroupFactory.from_dict(data)


class DistributeResourcesToTopJob(DistributeResources):
    """Gives everything that is free to the best trial; those that were best before keep what they have.

    Where trials that wait need some back, a trial that reports gives up its own.

    Args:
        add_bundles: As for `DistributeResources`.
        increase_by: As for `DistributeResources`.
        increase_by_times: As for `DistributeResources`; a trial that has so many is passed over.
        reserve_resources: As for `DistributeResources`.
        metric: What says which trial is best; None: what `TuneConfig` or the scheduler inside say.
        mode: "min" or "max"; None: the same.

    Raises:
        ConfigError: An argument cannot work; all faults are named together.

    Example:
        >>> DistributeResourcesToTopJob(metric="loss", mode="min").metric
        'loss'

    Source: as Ray Tune 2.60. Differs: as for `DistributeResources`; nested metrics; the report that is being
        decided on counts; a trial without a number is never the best.
    """

    def __init__(
        self,
        add_bundles: bool = False,
        increase_by: dict[str, float] | None = None,
        increase_by_times: int = -1,
        reserve_resources: dict[str, float] | None = None,
        metric: str | None = None,
        mode: str | None = None,
    ) -> None:
        validator = Validator(type(self).__name__)
        if metric is not None:
            validator.check_name("metric", metric, ": the name of a reported metric")
        if mode is not None:
            validator.check_choice("mode", mode, ("min", "max"))
        validator.raise_any()
        super().__init__(add_bundles, increase_by, increase_by_times, reserve_resources)
        self.metric, self.mode = metric, mode

    def _wanted(
        self,
        view: ClusterView,
        trial: Trial,
        result: dict[str, Any],
        scheduler: ResourceChangingScheduler,
        has: int,
        free: int,
    ) -> int:
        if free < 0:
            return max(0, has + free)
        is_best = self._best(view, trial, result, scheduler) is trial
        return int(min(has + free, max(has, self._most))) if is_best else has

    def _best(
        self, view: ClusterView, trial: Trial, result: dict[str, Any], scheduler: ResourceChangingScheduler
    ) -> Trial | None:
        """The best of the trials that may have more."""
        metric, mode = self.metric or scheduler.metric, self.mode or scheduler.mode
        if not isinstance(metric, str) or mode is None:
            raise ConfigError(
                f"{type(self).__name__}: metric and mode are missing, one of each, to say who is best: give them "
                "here, to the scheduler inside, or to TuneConfig"
            )
        best, best_score = None, -math.inf
        for each in view.get_live_trials():
            value = comparable(lookup(result if each is trial else each.last_result, metric))
            if value is None or math.isnan(value) or self._units(each, self._unit(each)) >= self._most:
                continue
            score = -value if mode == "min" else value
            if best is None or score > best_score:
                best, best_score = each, score
        return best


class ResourceChangingScheduler(TrialScheduler):
    """Gives running trials other resources, while another scheduler decides which of them go on.

    Whenever the scheduler inside answers CONTINUE, a function says which bundles the trial is to have. If
    they are others, the trial saves and goes on with them, from that checkpoint and without a failure:
    see `Reallocate`. A trainable reads them by `tune.get_context().get_trial_resources()`, a class by
    `self.trial_resources`. Trials that never save keep what they have, and the log says so.

    Args:
        base_scheduler: Decides everything else; None: first in, first out.
        resources_allocation_function: Called with a `ClusterView`, the trial, its report and this
            scheduler; returns the bundles that the trial is to have, or None for those that it has. It has to
            answer the same to the same, since a resume asks again. None: nobody gets others.

    Raises:
        ConfigError: An argument cannot work; all faults are named together.

    Example:
        >>> from tune_core.schedulers import ASHAScheduler
        >>> scheduler = ResourceChangingScheduler(ASHAScheduler(max_t=16), DistributeResources())
        >>> scheduler.set_search_properties("loss", "min"), scheduler.metric
        (True, 'loss')

    Source: as Ray Tune 2.60. Differs: the function is shown a `ClusterView` in place of the controller; trials
        may ask for different bundles; `reuse_actors=True` works; a trial moves when it has saved, and never
        twice without having come further; bundles that the cluster cannot give are refused, and not waited for.
    """

    def __init__(
        self,
        base_scheduler: TrialScheduler | None = None,
        resources_allocation_function: AllocationFunction | Allocate | None = DistributeResources(),  # noqa: B008 - never written to
    ) -> None:
        validator = Validator(type(self).__name__)
        if base_scheduler is not None and validator.check_instance(
            "base_scheduler", base_scheduler, TrialScheduler
        ):
            is_same = isinstance(base_scheduler, ResourceChangingScheduler)
            validator.extend(
                [f"{validator.owner}: base_scheduler is one, too: give that inside it"] * is_same
            )
        if resources_allocation_function is not None:
            call = "resources_allocation_function(view, trial, result, scheduler)"
            validator.check_callable("resources_allocation_function", resources_allocation_function, call)
        validator.raise_any()
        self.base_scheduler: TrialScheduler = base_scheduler or FIFOScheduler()
        self._function = resources_allocation_function
        self._total: dict[str, float] = {}
        self._num_moves = 0
        self._take_over()

    def _take_over(self) -> None:
        """Show metric and mode of the scheduler inside as ours."""
        self.metric, self.mode = self.base_scheduler.metric, self.base_scheduler.mode
        self.has_own_objective = self.base_scheduler.has_own_objective

    @property
    def needs_metric(self) -> bool:  # type: ignore[override] # follows the one inside
        """Whether the scheduler inside does."""
        return self.base_scheduler.needs_metric

    @property
    def needs_checkpoints(self) -> bool:  # type: ignore[override] # follows the one inside
        """Whether the scheduler inside does; here, trials that never save keep what they have."""
        return self.base_scheduler.needs_checkpoints

    @property
    def resumes_before_new_trials(self) -> bool:  # type: ignore[override] # follows the one inside
        """Whether the scheduler inside does."""
        return self.base_scheduler.resumes_before_new_trials

    @property
    def supports_several_objectives(self) -> bool:  # type: ignore[override] # follows the one inside
        """Whether the scheduler inside does."""
        return self.base_scheduler.supports_several_objectives

    @property
    def log_config(self) -> bool:  # type: ignore[override] # follows the one inside
        """Whether the scheduler inside does."""
        return self.base_scheduler.log_config

    @property
    def saves_on_request(self) -> bool:
        """What the scheduler inside was told."""
        return self.base_scheduler.saves_on_request

    @saves_on_request.setter
    def saves_on_request(self, saves: bool) -> None:
        self.base_scheduler.saves_on_request = saves

    @property
    def always_continues(self) -> bool:
        """Whether nobody gets other resources, and the scheduler inside always continues."""
        return self._function is None and self.base_scheduler.always_continues

    @property
    def total_resources(self) -> dict[str, float]:
        """What the cluster has of each resource; {} while that is not known."""
        return dict(self._total)

    def set_search_properties(
        self, metric: str | list[str] | None, mode: str | list[str] | None, **spec: Any
    ) -> bool:
        """Pass it on."""
        is_taken = self.base_scheduler.set_search_properties(metric, mode, **spec)
        self._take_over()
        if is_taken:  # one that compares nothing need not have kept it
            self.metric, self.mode = self.metric or metric, self.mode or mode
        return is_taken

    def check_searcher(self, searcher: Any) -> None:
        """Pass it on."""
        self.base_scheduler.check_searcher(searcher)

    def check_space(self, param_space: Mapping[str, Any], num_samples: int) -> None:
        """Pass it on."""
        self.base_scheduler.check_space(param_space, num_samples)

    def fill_in(self, number: int, config: dict[str, Any]) -> dict[str, Any]:
        """Pass it on."""
        return self.base_scheduler.fill_in(number, config)

    def can_pause(self, trial: Trial, result: Mapping[str, Any]) -> bool:
        """Pass it on."""
        return self.base_scheduler.can_pause(trial, result)

    def wants_checkpoint(self, trial: Trial) -> bool:
        """Pass it on."""
        return self.base_scheduler.wants_checkpoint(trial)

    def exploit_paused(self, trials: Sequence[Trial]) -> Mapping[str, Exploit]:
        """Pass it on."""
        return self.base_scheduler.exploit_paused(trials)

    def decision_reason(self, trial: Trial) -> dict[str, Any]:
        """Pass it on."""
        return self.base_scheduler.decision_reason(trial)

    def is_full_budget(self, trial: Trial, result: dict[str, Any]) -> bool:
        """Ask the base scheduler."""
        return self.base_scheduler.is_full_budget(trial, result)

    def on_cluster_changed(self, total: Mapping[str, float]) -> None:
        """Take note of what there is to share out."""
        self._total = dict(total)
        self.base_scheduler.on_cluster_changed(total)

    def on_trial_add(self, trials: Sequence[Trial], trial: Trial) -> None:
        """Pass it on, unless nothing can be added to the trial's bundles.

        Raises:
            ConfigError: The function says so.
        """
        if isinstance(self._function, AllocationFunction):
            self._function.check(trial.base_resources)
        self.base_scheduler.on_trial_add(trials, trial)

    def on_trial_result(
        self, trials: Sequence[Trial], trial: Trial, result: dict[str, Any]
    ) -> str | Exploit | Reallocate:
        """Return what the scheduler inside does; for its CONTINUE, a `Reallocate` if the trial is to have others."""
        answer = self.base_scheduler.on_trial_result(trials, trial, result)
        if answer != self.CONTINUE or self._function is None or trial.next_resources is not None:
            return answer
        if result["training_iteration"] <= trial.reallocated_at:
            return answer
        wanted = self._function(ClusterView(trials, self._total), trial, result, self)
        if wanted is None or wanted == trial.resources:
            return answer
        self._num_moves += 1
        return Reallocate(wanted)

    def choose_trial_to_run(self, trials: Sequence[Trial]) -> Trial | None:
        """Pass it on."""
        return self.base_scheduler.choose_trial_to_run(trials)

    def trials_to_stop(self, trials: Sequence[Trial]) -> Sequence[Trial]:
        """Pass it on."""
        return self.base_scheduler.trials_to_stop(trials)

    def on_trial_complete(self, trials: Sequence[Trial], trial: Trial, result: dict[str, Any]) -> None:
        """Pass it on."""
        self.base_scheduler.on_trial_complete(trials, trial, result)

    def on_trial_error(self, trials: Sequence[Trial], trial: Trial) -> None:
        """Pass it on."""
        self.base_scheduler.on_trial_error(trials, trial)

    def on_trial_remove(self, trials: Sequence[Trial], trial: Trial) -> None:
        """Pass it on."""
        self.base_scheduler.on_trial_remove(trials, trial)

    def get_state(self) -> dict[str, Any]:
        """Return that of the scheduler inside."""
        return self.base_scheduler.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Give it to the scheduler inside."""
        self.base_scheduler.set_state(state)

    def debug_string(self) -> str:
        """Return how often trials were to have other resources, and where the scheduler inside stands."""
        return f"(ResourceChangingScheduler: {self._num_moves} changes) {self.base_scheduler.debug_string()}"


def _are_amounts(amounts: object) -> bool:
    return isinstance(amounts, Mapping) and all(
        isinstance(name, str) and is_number(amount) and amount >= 0 for name, amount in amounts.items()
    )


def _times(amounts: Mapping[str, float], unit: Mapping[str, float]) -> int:
    """How often a unit goes into amounts, rounded down, also below 0."""
    return min(math.floor(amounts[name] / amount + _REST) for name, amount in unit.items() if amount)

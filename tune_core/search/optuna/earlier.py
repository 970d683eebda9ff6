"""What `OptunaSearch` does with trials of elsewhere, and with its own when its space changes."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tune_core.errors import ConfigError
from tune_core.metrics import flatten
from tune_core.search.optuna.conversion import (
    MISSING,
    Parameter,
    chosen_of,
    encoded,
    evaluated_trial,
    fixed_point,
    part,
    suggest,
    values_of,
)
from tune_core.search.optuna.rungs import RungModel
from tune_core.search.optuna.unseen import Seen
from tune_core.search.sample import children
from tune_core.search.searcher import Searcher
from tune_core.search.variants import walk_sample

if TYPE_CHECKING:
    from optuna import Study

_logger = logging.getLogger("prefect.tune")

#: Begins the `trial_id` of what was asked for and not run.
NOT_RUN = "none: "


class LearnsFromEarlier(Searcher):
    """The part of `OptunaSearch` that knows of trials of elsewhere.

    Attributes:
        first: What is suggested first.
        first_from: From this number of suggestions on.
    """

    learns_from_earlier = True

    first: tuple[dict[str, Any], ...] = ()
    first_from = 0

    _space: dict[str, Any]
    _parameters: list[Parameter]
    _function: Any
    _storage: Any
    _rungs: RungModel | None
    _seen: Seen
    _elsewhere: list[Any]
    _is_lenient: bool
    _num_asked: int
    _num_added: int
    _num_evaluated: int

    def add_evaluated_point(
        self,
        parameters: Mapping[str, Any],
        value: Any,
        error: bool = False,
        pruned: bool = False,
        intermediate_values: Sequence[float] | None = None,
    ) -> None:
        """Tell the study of a configuration that was tried elsewhere.

        Args:
            parameters: All that Optuna decides, nested or named "a/b".
            value: The metric's value; for several metrics a list. None if it failed.
            error: Whether it failed.
            pruned: Whether it was stopped early.
            intermediate_values: The metric's values at steps 0, 1, 2, …

        It is kept in the journal with the experiment's first events, so that a resume knows it, too.

        Raises:
            ConfigError: The space is a function, or the parameters are not those of the space.
        """
        search: Any = self  # an OptunaSearch
        point = (dict(parameters), value, error, pruned, list(intermediate_values or ()))
        if self._parameters or self._function is not None:
            self._add_point(search.study, *point)
        self._elsewhere.append(point)

    def _add_elsewhere(self, study: Study) -> None:
        """Tell a new study of those points; after a resume, but for those that are of another search space."""
        num_left = 0
        for known in self._elsewhere:
            try:
                self._add_point(study, *known)
            except ConfigError:
                if not self._is_lenient:
                    raise
                num_left += 1
        if num_left:
            _warn_of_left("evaluated points", num_left)

    def _add_point(
        self,
        study: Study,
        point: Mapping[str, Any],
        value: Any,
        error: bool = False,
        pruned: bool = False,
        intermediate: Sequence[float] | None = None,
    ) -> None:
        if self._function is not None:
            raise ConfigError(
                "OptunaSearch: the space is a function, of which nobody knows what it suggests: "
                "points that are evaluated already need a dict of distributions or samplers"
            )
        also = flatten(self._space)
        fixed = fixed_point(self._parameters, point, "the evaluated point", also)
        values = None if error else list(value) if isinstance(value, list | tuple) else [value]
        study.add_trial(
            evaluated_trial(self._parameters, point, fixed, values, intermediate, is_early=pruned)
        )
        self._seen.note(fixed, point)
        self._num_evaluated += 1
        if self._rungs is not None and not error:
            name = _evaluated(self._num_evaluated)
            self._rungs.note(name, fixed)
            self._rungs.end(
                name, "early" if pruned else "complete", None if values is None else values[0], {}
            )

    def on_earlier_trial(self, config: dict[str, Any], values: list[float]) -> None:
        """Add it to the study, unless the storage has kept it.

        Raises:
            ConfigError: As `add_evaluated_point`.
        """
        search: Any = self
        chosen = {each.name: part(config, each) for each in self._parameters}
        point = {name: value for name, value in chosen.items() if value is not MISSING}
        if self._storage is None or not self._is_kept(point, values):
            self._add_point(search.study, point, values if len(values) > 1 else values[0])

    def on_points_to_try(self, points: list[dict[str, Any]]) -> bool:
        """Suggest them from now on, one after the other."""
        self.first, self.first_from = tuple(points), self._num_asked - self._num_added
        return True

    def on_space_changed(self, config: dict[str, Any]) -> bool:
        """Go on with a study of the new space, which has the trials that fit; the log says how many do not.

        Raises:
            ConfigError: A storage keeps the study, in which Optuna cannot change a choice; or points that were given
                are none of the new space.
        """
        search: Any = self
        if search._has_own_space:
            return False
        before, parameters = self._parameters, chosen_of(config)
        for number, point in enumerate(search._points):
            fixed = search._fixed(point, number, parameters)
            if search._rewards:
                reward = search._rewards[number]
                values = list(reward) if isinstance(reward, list | tuple) else [reward]
                evaluated_trial(parameters, point, fixed, values, None, is_early=False)
        is_same = [*map(_look, before)] == [*map(_look, parameters)]
        # Choices that go by their index may have become others.
        if is_same and (self._storage is not None or all(each.could_be is None for each in parameters)):
            self._space, self._parameters = config, parameters
            return True
        if self._storage is not None:
            raise ConfigError(
                "OptunaSearch(storage=…): a study in a storage cannot change its space: give none"
            )
        trials, rungs = search.study.get_trials(deepcopy=False), self._rungs
        self._space, self._parameters = config, parameters
        search._study = search._empty_study()
        num_left = _retell(search, before, trials, rungs)
        if num_left:
            _warn_of_left("trials", num_left)
        return True

    def refuse_kept_choices(self) -> None:
        """Refuse a storage whose study has trials of another choice: Optuna would raise half way.

        Raises:
            ConfigError: It has.
        """
        search: Any = self
        if self._storage is None:
            return
        for trial in search.study.get_trials(deepcopy=False):
            for each in self._parameters:
                kept, now = trial.distributions.get(each.name), each.distribution
                if (
                    kept != now
                    and "CategoricalDistribution" in {type(kept).__name__, type(now).__name__}
                    and kept
                ):
                    raise ConfigError(
                        f"OptunaSearch(storage=…): its study has trials of {each.name} with {kept}, and the space "
                        f"has {now}: give another study_name, or no storage"
                    )

    def is_first(self, number: int) -> bool:
        """Return whether the suggestion of this number is one of those."""
        return 0 <= number - self.first_from < len(self.first)

    def _is_kept(self, point: dict[str, Any], values: list[float]) -> bool:
        """Whether a study that outlives its experiments has the point from a time before."""
        search: Any = self
        params = fixed_point(self._parameters, point, "the evaluated point")
        return any(
            each.values == values and each.params == params
            for each in search.study.get_trials(deepcopy=False)
            if "trial_id" not in each.user_attrs
        )


def _look(parameter: Parameter) -> tuple[Any, ...]:
    return parameter.name, parameter.path, parameter.when, parameter.distribution


def _evaluated(number: int) -> str:
    """What the n-th trial of elsewhere is called where trials are compared."""
    return f"evaluated point {number}"


def _warn_of_left(what: str, count: int) -> None:
    _logger.warning(
        "%d %s are not of the changed search space: OptunaSearch does not learn from them", count, what
    )


def _retell(search: Any, before: list[Parameter], trials: list[Any], rungs: RungModel | None) -> int:
    """Tell a new study of the trials of the one before; return how many are not of its space."""
    num_left, num_elsewhere, study = 0, 0, search.study
    #: What the trials that fit were called before, and are now, with what is decided of each.
    kept: dict[str, tuple[str, dict[str, Any]]] = {}
    sampler, study.sampler = study.sampler, search._no_sampler  # all is decided
    for trial in trials:
        trial_id = trial.user_attrs.get("trial_id")
        if str(trial_id).startswith(NOT_RUN):
            continue
        num_elsewhere += trial_id is None
        ours = encoded(search._parameters, _decoded(before, trial.params))
        if ours.lacking:
            num_left += 1
            search._trials.pop(trial_id, None)
            continue
        _tell_again(search, trial, trial_id, ours.params)
        search._num_evaluated += trial_id is None
        was, now = (
            (trial_id, trial_id)
            if trial_id is not None
            else (_evaluated(num_elsewhere), _evaluated(search._num_evaluated))
        )
        kept[was] = now, ours.params
        drawn = values_of(search._parameters, ours.params)
        made = next(walk_sample(search._space, random.Random(0), drawn)).config
        search._seen.note(ours.params, made)
    study.sampler = sampler
    if search._rungs is not None and rungs is not None:
        search._rungs.take_over(rungs, kept)
    return num_left


def _tell_again(search: Any, trial: Any, trial_id: str | None, params: dict[str, Any]) -> None:
    """Add a trial, with what is decided of it now, to the new study."""
    from optuna.trial import create_trial

    if trial.state.is_finished():
        search.study.add_trial(
            create_trial(
                state=trial.state,
                values=trial.values,
                params=params,
                distributions={e.name: e.distribution for e in search._parameters if e.name in params},
                intermediate_values=trial.intermediate_values,
                user_attrs=trial.user_attrs,
                constraints=trial.constraints or None,
            )
        )
        return
    search.study.enqueue_trial(params)
    live = search.study.ask()
    for each in search._parameters:
        if each.name in params:
            suggest(live, each)
    live.set_user_attr("trial_id", trial_id)
    for step, value in trial.intermediate_values.items():
        live.report(value, step)
    search._trials[trial_id] = live


def _decoded(parameters: list[Parameter], params: dict[str, Any]) -> dict[str, Any]:
    """Return what Optuna knows of a trial as a configuration."""
    config: dict[Any, Any] = {}
    known = [each for each in parameters if each.name in params]
    for path, value in values_of(known, params).items():
        holder: Any = config
        for key in path[:-1]:
            if isinstance(holder, dict):
                holder.setdefault(key, {})
            holder = holder[key]
        holder[path[-1]] = _copied(value)
    return config


def _copied(node: Any) -> Any:
    """Return a category whose dicts and lists may be written into."""
    if isinstance(node, dict):
        return {key: _copied(child) for key, child in node.items()}
    return [_copied(child) for _, child in children(node)] if isinstance(node, list | tuple) else node

"""What `OptunaSearch` does with trials of earlier experiments, and with its own when its space changes."""

from __future__ import annotations

import logging
from typing import Any

from tune_core.errors import ConfigError
from tune_core.search.optuna.conversion import MISSING, Parameter, chosen_of, part, possible
from tune_core.search.searcher import Searcher

_logger = logging.getLogger("prefect.tune")


class LearnsFromEarlier(Searcher):
    """The part of `OptunaSearch` that knows of earlier experiments.

    Attributes:
        first: What is suggested first.
        first_from: From this number of suggestions on.
    """

    learns_from_earlier = True

    first: tuple[dict[str, Any], ...] = ()
    first_from = 0

    _parameters: list[Parameter]
    _storage: Any
    _num_asked: int
    _num_added: int

    def on_earlier_trial(self, config: dict[str, Any], values: list[float]) -> None:
        """Add it to the study, unless the storage has kept it.

        Raises:
            ConfigError: As `add_evaluated_point`.
        """
        chosen = {each.name: (each, part(config, each)) for each in self._parameters}
        point = {name: value for name, (_, value) in chosen.items() if value is not MISSING}
        if self._storage is None or not self._is_kept(point, values):
            search: Any = self  # an OptunaSearch
            search.add_evaluated_point(point, values if len(values) > 1 else values[0])

    def on_points_to_try(self, points: list[dict[str, Any]]) -> bool:
        """Suggest them from now on, one after the other."""
        self.first, self.first_from = tuple(points), self._num_asked - self._num_added
        return True

    def on_space_changed(self, config: dict[str, Any]) -> bool:
        """Go on with a study of the new space, which has the trials that fit; the log says how many do not.

        Raises:
            ConfigError: A storage keeps the study, in which Optuna cannot change a choice.
        """
        search: Any = self
        if search._has_own_space:
            return False
        parameters = chosen_of(config)
        before, search._space = search._parameters, config
        if [(each.path, each.distribution) for each in before] == [
            (each.path, each.distribution) for each in parameters
        ]:
            return True
        if self._storage is not None:
            raise ConfigError(
                "OptunaSearch(storage=…): a study in a storage cannot change its space: give none"
            )
        trials = search.study.get_trials(deepcopy=False)
        search._parameters, search._study = parameters, None
        num_left = _retell(search, before, trials)
        if num_left:
            _logger.warning(
                "%d trials are not of the changed search space: OptunaSearch does not learn from them",
                num_left,
            )
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
        return any(
            each.values == values
            and all(each.params.get(name, MISSING) == value for name, value in point.items())
            for each in search.study.get_trials(deepcopy=False)
            if "trial_id" not in each.user_attrs
        )


def _retell(search: Any, before: list[Parameter], trials: list[Any]) -> int:
    """Tell a new study of the trials of the one before; return how many are not of its space."""
    from optuna.trial import create_trial

    num_left, study = 0, search.study
    distributions = {each.name: each.distribution for each in search._parameters}
    for trial in trials[len(study.trials) :]:  # points with rewards are in it already
        config = _decoded(before, trial.params)
        params = {each.name: possible(each, config) for each in search._parameters}
        trial_id = trial.user_attrs.get("trial_id")
        if MISSING in params.values():
            num_left += 1
            search._trials.pop(trial_id, None)
        elif trial.state.is_finished():
            study.add_trial(
                create_trial(
                    state=trial.state,
                    values=trial.values,
                    params=params,
                    distributions=distributions,
                    intermediate_values=trial.intermediate_values,
                    user_attrs=trial.user_attrs,
                )
            )
        else:
            study.enqueue_trial(params)
            live = study.ask(distributions)
            live.set_user_attr("trial_id", trial_id)
            for step, value in trial.intermediate_values.items():
                live.report(value, step)
            search._trials[trial_id] = live
    return num_left


def _decoded(parameters: list[Parameter], params: dict[str, Any]) -> dict[str, Any]:
    """Return what Optuna knows of a trial as a configuration."""
    config: dict[Any, Any] = {}
    for each in parameters:
        if each.name not in params:
            continue
        holder = config
        for key in each.path[:-1]:
            holder = holder.setdefault(key, {})
        holder[each.path[-1]] = each.decode(params[each.name])
    return config

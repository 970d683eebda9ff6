"""Configurations from Optuna's samplers, through ask and tell.

Owns one study, in memory unless a storage is given. Never runs anything. Invariant: with the default
sampler, the n-th suggestion follows from the seed, from n, and from what was suggested and told before;
so a searcher to which a journal is replayed goes on as the one that wrote it. A sampler that was passed
has a state of its own, which only asking changes: a replay asks it again, in the same order.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tune_core.errors import ConfigError
from tune_core.metrics import comparable, flatten, lookup
from tune_core.search.basic_variant import global_seed
from tune_core.search.optuna.conversion import MISSING, Parameter, chosen_of, parameters_of, part, possible
from tune_core.search.sample import unresolved_paths
from tune_core.search.searcher import Searcher, Suggestion
from tune_core.search.space import validate_space
from tune_core.search.variants import walk_sample
from tune_core.validation import Validator, shorten, suggestion

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.samplers import BaseSampler

logger = logging.getLogger(__name__)

_DIRECTIONS = {"min": "minimize", "max": "maximize"}


class OptunaSearch(Searcher):
    """Chooses configurations by Optuna, from the search space of the `Tuner` or one of its own.

    Every sampler of `tune` but grids and `randn` is understood; `sample_from` functions are called
    once Optuna has decided the rest. A sampler that ends its study, as `GridSampler` does, ends the search.

    A resumed experiment goes on as if nothing had been, with a new study in memory: with the default
    sampler, and with one that is passed again with the seed that it had and suggests the same if it is asked
    and told the same. With another one, the log says so, and the search goes on from what was found, with
    other draws; so it does with a storage, which keeps trials and no sampler. A configuration that is no
    longer in the search space is not told to Optuna, and the log says so.

    Args:
        space: None: the Tuner's `param_space`. A dict with samplers, or with Optuna's distributions
            (nested, or named "a/b"); or a function of an `optuna.Trial` that calls its `suggest_…`
            methods, and may return a dict of constants.
        metric: The metric to optimise, or a list of several; None: the experiment's.
        mode: "min" or "max", for several metrics a list of them.
        points_to_evaluate: Configurations, or parts of them, to try first.
        sampler: An Optuna sampler; None: TPE, which is for one metric and for several.
        study_name: Name of the study in the storage; None: "optuna".
        storage: An Optuna storage; None: in memory. A study that is in it already goes on.
        seed: Of the default sampler; None: from Python's (or numpy's) global random state.
        evaluated_rewards: The metric's values at `points_to_evaluate`, which then are not run: a
            number for each point, for several metrics a list.

    Raises:
        ConfigError: An argument cannot work; all faults are named together.
        ImportError: Optuna is not installed; the message says how to.

    Example:
        >>> from tune_core.search import uniform
        >>> searcher = OptunaSearch(metric="loss", mode="min", seed=1)
        >>> searcher.set_search_properties(None, None, {"x": uniform(0, 1)}, num_samples=10)
        True
        >>> 0 <= searcher.suggest("t0").config["x"] <= 1
        True
        >>> searcher.on_trial_complete("t0", {"loss": 0.5})
        >>> searcher.study.best_value
        0.5

    Source: as Ray Tune 2.60, for Optuna 5. Differs: constants of the search space, lists, log scales
        with steps, and `sample_from` work; points may be parts; several metrics may have rewards;
        a resume, as above.
    """

    def __init__(
        self,
        space: Mapping[str, Any] | Callable[[Trial], Mapping[str, Any] | None] | None = None,
        metric: str | list[str] | None = None,
        mode: str | list[str] | None = None,
        points_to_evaluate: list[dict[str, Any]] | None = None,
        sampler: BaseSampler | None = None,
        study_name: str | None = None,
        storage: Any = None,
        seed: int | None = None,
        evaluated_rewards: list[Any] | None = None,
    ) -> None:
        _import_optuna()
        super().__init__(metric, mode)
        validator = Validator(type(self).__name__)
        _check_arguments(validator, sampler, study_name, storage, seed)
        _check_points(validator, points_to_evaluate, evaluated_rewards)
        if "obs" in (mode if isinstance(mode, list) else ()):
            validator.add(
                "mode", mode, "expected 'min' or 'max' for each metric: leave out what is only observed"
            )
        self._function = space if callable(space) else None
        self._has_own_space = space is not None
        #: The search space, and what of it Optuna decides.
        self._space: dict[str, Any] = {}
        self._parameters: list[Parameter] = []
        if space is not None and self._function is None:
            self._read_space(space, validator)
        validator.raise_any()
        if sampler is not None and seed is not None:
            logger.warning("OptunaSearch(seed=%r) is not used: give it to the sampler", seed)
        self._points = list(points_to_evaluate or ())
        self._rewards = list(evaluated_rewards or ())
        self._sampler, self._storage, self._study_name = sampler, storage, study_name or "optuna"
        self._seed = str(seed) if seed is not None else global_seed()
        self._study: Study | None = None
        #: Whether the sampler has ended the study, and whether a replay asks it again.
        self._has_stopped, self._asks_again = False, sampler is not None
        self._num_asked = self._num_added = 0
        self._trials: dict[str, Trial] = {}
        self._steps: dict[str, int] = {}

    @property
    def study(self) -> Study:
        """The Optuna study, for its plots and statistics.

        Raises:
            ConfigError: Metric, mode or search space are not known yet.
        """
        if self._study is None:
            self._study = self._new_study()
        return self._study

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any
    ) -> bool:
        """Take the objective and, without a space of its own, the search space.

        Raises:
            ConfigError: Metric or mode are missing, or Optuna cannot decide something in the space.
        """
        super().set_search_properties(metric, mode, config, **spec)
        if not self._has_own_space:
            self._space, self._parameters = config, chosen_of(config)
        self._study = self._new_study()
        # What is left of an experiment before, or of a run that is tried again.
        self._num_asked = self._num_added = 0
        self._trials, self._steps = {}, {}
        self._has_stopped, self._asks_again = False, self._sampler is not None
        return not self._has_own_space

    def check_search_properties(
        self, metric: str | list[str] | None, mode: str | list[str] | None, config: dict[str, Any]
    ) -> None:
        """Refuse grids and what else Optuna cannot decide, points that are none of the space, and no metric."""
        if self._has_own_space and (left := unresolved_paths(config)):
            raise ConfigError(
                f"OptunaSearch(space=…) does not draw from param_space, which has samplers: {', '.join(left)}. "
                "Give them in one place"
            )
        parameters = self._parameters if self._has_own_space else chosen_of(config)
        self._refuse_lacking(self._metric or metric, self._mode or mode, parameters)
        for number, point in enumerate(self._points):
            self._fixed(point, number, parameters)

    def suggest(self, trial_id: str) -> Suggestion | dict[str, Any] | str:
        """Return what Optuna suggests, the points that were given first; FINISHED once its sampler ends the study."""
        return self.FINISHED if self._has_stopped else self._suggest_next(trial_id)

    def _suggest_next(self, trial_id: str) -> Suggestion | dict[str, Any]:
        points = [] if self._rewards else self._points
        number = self._num_asked - self._num_added
        return self._ask(trial_id, self._fixed(points[number], number) if number < len(points) else {})

    def on_suggestion_replayed(self, trial_id: str, config: dict[str, Any]) -> None:
        """Tell the study of a suggestion of an earlier session; a sampler that was passed is asked again."""
        if self._known_trial(trial_id) is not None or not self._asks_again:
            self._take(trial_id, config)
            return
        self._suggest_next(trial_id)
        trial = self._trials[trial_id]
        if trial.params == self._params_of(config, trial):
            return
        self._asks_again = False
        logger.warning(
            "OptunaSearch: asked again, %s suggests otherwise for trial %s than it did: it has another seed or none, "
            "or the search space is another. The search goes on from what was found so far, with other draws",
            type(self._sampler).__name__,
            trial_id,
        )
        self._num_asked -= 1
        self._forget(trial_id)
        self._take(trial_id, config)

    def _params_of(self, config: dict[str, Any], trial: Trial) -> dict[str, Any] | None:
        """What Optuna would call a configuration of the journal; None if it is not of this space."""
        if self._function is not None:
            flat = flatten(config)
            return {name: flat.get(name, MISSING) for name in trial.params}
        fixed = {each.name: possible(each, config) for each in self._parameters}
        return None if MISSING in fixed.values() else fixed

    def _take(self, trial_id: str, config: dict[str, Any]) -> None:
        """Have the study know a configuration that is given."""
        known = self._known_trial(trial_id)
        if known is not None:  # the storage has kept it
            self._num_asked += 1
            self._trials[trial_id] = known
            if self._asks_again and self._sampler is not None:
                self._asks_again = False
                self._sampler.reseed_rng()  # it would draw again what it has drawn before
            return
        if self._function is not None:
            self._take_of_function(trial_id, config)
            return
        fixed = {each.name: possible(each, config) for each in self._parameters}
        lacking = [name for name, value in fixed.items() if value is MISSING]
        if lacking:
            self._num_asked += 1
            self._warn_of_outsider(trial_id, ", ".join(map(repr, lacking)))
            return
        self._ask(trial_id, fixed)

    def _take_of_function(self, trial_id: str, config: dict[str, Any]) -> None:
        flat = flatten(config)
        try:
            self._ask(trial_id, {name: value for name, value in flat.items() if _is_scalar(value)})
        except ValueError as error:  # of Optuna: the function asks for other values now
            self._forget(trial_id)
            self._warn_of_outsider(trial_id, str(error))

    def _warn_of_outsider(self, trial_id: str, what: str) -> None:
        logger.warning(
            "trial %s: %s of its configuration is not in the search space any more: OptunaSearch does not learn from "
            "it",
            trial_id,
            what,
        )

    def _forget(self, trial_id: str) -> None:
        from optuna.trial import TrialState

        with _quiet_studies():
            self.study.tell(self._trials.pop(trial_id), state=TrialState.FAIL)

    def on_configuration_added(self, trial_id: str, config: dict[str, Any]) -> bool:
        """Add it to the study; return True.

        Raises:
            ConfigError: It lacks a parameter of the space, or has a value that Optuna could not choose.
        """
        if self._function is None:
            chosen = {each: part(config, each) for each in self._parameters}
            missing = [each.name for each, value in chosen.items() if value is MISSING]
            if missing:
                raise ConfigError(f"config: {', '.join(missing)} is missing: OptunaSearch chooses it")
            self._refuse_impossible(chosen)
        self._take(trial_id, config)
        self._num_added += 1
        return True

    def _refuse_impossible(self, chosen: Mapping[Parameter, Any]) -> None:
        """Refuse what Optuna could not choose, before the study knows of it."""
        from optuna.trial import create_trial

        for each, value in chosen.items():
            try:
                params = {each.name: each.encode(value)}
                create_trial(value=0.0, params=params, distributions={each.name: each.distribution})
            except (TypeError, ValueError) as error:
                raise ConfigError(f"config: {each.name}={shorten(value)}: {error}") from error

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Tell the study of an intermediate value; Optuna has them for one metric only."""
        trial, step = self._trials.get(trial_id), result.get("training_iteration")
        if trial is None or isinstance(self._metric, list) or not isinstance(step, int):
            return
        value = _number(lookup(result, self._metric or ""))
        if value is not None and step > self._steps.get(trial_id, -1):
            self._steps[trial_id] = step
            trial.report(value, step)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the study of the last value; without one the trial was pruned. One that ended by an error has failed."""
        self._tell(trial_id, result, error)

    def on_trial_stopped_early(self, trial_id: str, result: dict[str, Any] | None = None) -> None:
        """Tell the study of a pruned trial, with its last value and step; of several metrics, of a complete one.

        A sampler for several metrics knows no pruned trials.
        """
        if result is not None:
            self.on_trial_result(trial_id, result)
        self._tell(trial_id, result, is_early=not isinstance(self._metric, list))

    def _tell(
        self, trial_id: str, result: dict[str, Any] | None, error: bool = False, *, is_early: bool = False
    ) -> None:
        from optuna.trial import TrialState

        trial = self._trials.pop(trial_id, None)
        self._steps.pop(trial_id, None)
        if trial is None:
            return
        metrics = self._metric if isinstance(self._metric, list) else [self._metric or ""]
        values = [_number(lookup(result or {}, name)) for name in metrics]
        complete = [value for value in values if value is not None]
        with _quiet_studies():
            if len(complete) == len(values) and not error and not is_early:
                self.study.tell(trial, complete, TrialState.COMPLETE, skip_if_finished=True)
            else:
                state = TrialState.FAIL if error or len(values) > 1 else TrialState.PRUNED
                self.study.tell(trial, None, state, skip_if_finished=True)

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

        Raises:
            ConfigError: The space is a function, or the parameters are not those of the space.
        """
        self._add_point(self.study, parameters, value, error, pruned, intermediate_values)

    def get_state(self) -> dict[str, Any]:
        """Return the seed; suggestions and results are replayed."""
        return {"seed": self._seed}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on with that seed."""
        self._seed = state["seed"]

    # The study.

    def _new_study(self) -> Study:
        optuna = _import_optuna()
        if self._metric is None and isinstance(self._mode, str):
            self._metric = "_metric"  # what a trainable that returns a number reports
        self._refuse_lacking(self._metric, self._mode, self._parameters)
        modes = self._mode if isinstance(self._mode, list) else [str(self._mode)]
        with _quiet_studies():
            study: Study = optuna.create_study(
                storage=self._storage,
                sampler=self._sampler or optuna.samplers.TPESampler(),
                pruner=optuna.pruners.NopPruner(),
                study_name=self._study_name,
                load_if_exists=True,
                directions=[_DIRECTIONS[mode] for mode in modes],
            )
        study.stop = self._note_stop  # type: ignore[method-assign] # its own is for `optimize` only, and raises
        for number, point in enumerate(self._points):
            self._fixed(point, number)  # every point is checked before the first trial
            if self._rewards and not study.get_trials(deepcopy=False)[number:]:
                self._add_point(study, point, self._rewards[number])
        return study

    def _refuse_lacking(self, metric: Any, mode: Any, parameters: list[Parameter]) -> None:
        if metric is None and isinstance(mode, str):
            metric = "_metric"
        given = (("metric", metric), ("mode", mode), ("space", parameters or self._function))
        missing = [name for name, value in given if not value]
        if missing:
            raise ConfigError(
                f"OptunaSearch: no {', no '.join(missing)}: give metric and mode to it or to TuneConfig, and "
                "samplers to it or to param_space"
            )

    def _note_stop(self) -> None:
        self._has_stopped = True

    def _ask(self, trial_id: str, fixed: dict[str, Any]) -> Suggestion | dict[str, Any]:
        study = self.study
        if self._sampler is None:
            study.sampler = _import_optuna().samplers.TPESampler(seed=self._random().getrandbits(32))
        if fixed:
            study.enqueue_trial(fixed)
        distributions = {parameter.name: parameter.distribution for parameter in self._parameters}
        trial = study.ask(distributions)
        trial.set_user_attr("trial_id", trial_id)
        self._trials[trial_id] = trial
        drawn_from, self._num_asked = self._random(), self._num_asked + 1
        if self._function is not None:
            return _unflattened(_call(self._function, trial))
        if not self._space:
            return _unflattened(trial.params)
        values = {each.path: each.decode(trial.params[each.name]) for each in self._parameters}
        variant = next(walk_sample(self._space, drawn_from, values))
        # Of a space of its own, the experiment adds what is fixed in param_space.
        return variant.config if self._has_own_space else Suggestion(variant.config, variant.varied)

    def _random(self) -> random.Random:
        """What the suggestion that comes next may draw from."""
        return random.Random(f"{self._seed}/{self._num_asked}")

    def _known_trial(self, trial_id: str) -> Trial | None:
        if self._storage is None:
            return None
        optuna, study = _import_optuna(), self.study
        for frozen in study.get_trials(deepcopy=False):
            if frozen.user_attrs.get("trial_id") == trial_id:
                trial: Trial = optuna.trial.Trial(study, frozen._trial_id)
                return trial
        return None

    def _add_point(
        self,
        study: Study,
        point: Mapping[str, Any],
        value: Any,
        error: bool = False,
        pruned: bool = False,
        intermediate: Sequence[float] | None = None,
    ) -> None:
        from optuna.trial import TrialState, create_trial

        if self._function is not None:
            raise ConfigError(
                "OptunaSearch: the space is a function, of which nobody knows what it suggests: "
                "points that are evaluated already need a dict of distributions or samplers"
            )
        fixed = self._fixed(point, None)
        missing = [each.name for each in self._parameters if each.name not in fixed]
        if missing:
            raise ConfigError(f"OptunaSearch: the evaluated point {shorten(dict(point))} lacks {missing}")
        state = TrialState.FAIL if error else TrialState.PRUNED if pruned else TrialState.COMPLETE
        values = None if error else list(value) if isinstance(value, list | tuple) else [value]
        try:
            study.add_trial(
                create_trial(
                    state=state,
                    values=values,
                    params=fixed,
                    distributions={each.name: each.distribution for each in self._parameters},
                    intermediate_values=dict(enumerate(intermediate or ())),
                )
            )
        except ValueError as fault:
            raise ConfigError(f"OptunaSearch: the evaluated point {shorten(dict(point))}: {fault}") from fault

    # The search space.

    def _read_space(self, space: Any, validator: Validator) -> None:
        from optuna.distributions import BaseDistribution

        if not isinstance(space, Mapping) or not space:
            validator.add(
                "space", space, "expected a dict of samplers or distributions, or a function of a trial"
            )
        elif unresolved_paths(space):
            try:
                validate_space(dict(space))
                self._space, self._parameters = dict(space), parameters_of(space, "space")
            except ConfigError as error:
                validator.extend(error.faults)
        else:
            for name, distribution in flatten(space).items():
                if isinstance(distribution, BaseDistribution):
                    self._parameters.append(Parameter(tuple(name.split("/")), distribution))
                else:
                    expected = "expected an Optuna distribution or a sampler; constants go into param_space"
                    validator.add(f"space[{name!r}]", distribution, expected)

    def _fixed(
        self, point: Mapping[str, Any], number: int | None, parameters: list[Parameter] | None = None
    ) -> dict[str, Any]:
        """A point by the names of the study, in Optuna's values."""
        where = "the evaluated point" if number is None else f"points_to_evaluate[{number}]"
        if self._function is not None:
            return {name: value for name, value in flatten(point).items() if _is_scalar(value)}
        fixed: dict[str, Any] = {}
        parameters = self._parameters if parameters is None else parameters
        for parameter in parameters:
            value = point[parameter.name] if parameter.name in point else part(point, parameter)
            if value is MISSING:
                continue
            try:
                fixed[parameter.name] = parameter.encode(value)
            except (TypeError, ValueError) as error:
                raise ConfigError(f"OptunaSearch: {where}: {parameter.name}: {error}") from error
        known = [each.name for each in parameters]
        for name in flatten(point):
            if not any(f"{name}/".startswith(f"{each}/") for each in known):
                fault = f"OptunaSearch: {where}: the search space has no {name!r}{suggestion(name, known)}"
                raise ConfigError(fault)
        return fixed


class _Recorder:
    """An Optuna trial that notes what its `suggest_…` methods return."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self.suggested: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._trial, name)
        if not name.startswith("suggest_"):
            return attribute

        def suggest(*args: Any, **kwargs: Any) -> Any:
            value = attribute(*args, **kwargs)
            self.suggested[args[0] if args else kwargs["name"]] = value
            return value

        return suggest


def _call(function: Callable[..., Any], trial: Trial) -> dict[str, Any]:
    recorder = _Recorder(trial)
    constants = function(recorder)
    if constants is None:
        return recorder.suggested
    if not isinstance(constants, Mapping) or not all(isinstance(key, str) for key in constants):
        raise ConfigError(
            f"OptunaSearch: the function of the space returned {shorten(constants)}: "
            "expected None, or a dict of constants with strings as keys"
        )
    return {**recorder.suggested, **constants}


def _import_optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ImportError("OptunaSearch needs Optuna: run pip install 'prefect-tune[optuna]'") from error
    return optuna


@contextmanager
def _quiet_studies() -> Iterator[None]:
    """Keep Optuna's line about each study off the terminal."""
    studies = logging.getLogger("optuna.study")
    before = studies.level
    studies.setLevel(logging.WARNING)
    try:
        yield
    finally:
        studies.setLevel(before)


def _check_arguments(validator: Validator, sampler: Any, study_name: Any, storage: Any, seed: Any) -> None:
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage

    if sampler is not None:
        validator.check_instance("sampler", sampler, BaseSampler)
    if study_name is not None:
        validator.check_name("study_name", study_name)
    if storage is not None and not isinstance(storage, BaseStorage):
        validator.note(
            f"storage: expected an optuna.storages.BaseStorage, such as RDBStorage(url), got {type(storage).__name__}"
        )
    if seed is not None:
        validator.check_integer("seed", seed, minimum=0, also=", or None")


def _check_points(validator: Validator, points: Any, rewards: Any) -> None:
    is_list = isinstance(points, list | tuple) and all(isinstance(point, Mapping) for point in points)
    if points is not None and not is_list:
        validator.add("points_to_evaluate", points, "expected a list of dicts")
    if rewards is None or (points is not None and not is_list):
        return
    if not isinstance(rewards, list | tuple) or len(rewards) != len(points or ()):
        validator.add(
            "evaluated_rewards", rewards, "expected a list with a value for each of points_to_evaluate"
        )


def _unflattened(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return `{"a/b": 1}` as `{"a": {"b": 1}}`."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, last = name.split("/")
        node = nested
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = value
    return nested


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def _number(value: object) -> float | None:
    """Return a metric's value; None for NaN, which Optuna does not take."""
    number = comparable(value)
    return None if number is None or math.isnan(number) else number

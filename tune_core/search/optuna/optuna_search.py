"""Configurations from Optuna's samplers, through ask and tell.

Owns one study, in memory unless a storage is given. Never runs anything. Invariant: with a sampler of a name,
the n-th suggestion follows from the seed, from n, and from what was suggested and told before; so a searcher to
which a journal is replayed goes on as the one that wrote it. A sampler that was passed has a state of its own,
which only asking changes: a replay asks it again, in the same order.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tune_core.constraints import known_violations, read_constraints
from tune_core.encoding import dumps
from tune_core.errors import ConfigError
from tune_core.metrics import flatten, lookup
from tune_core.search.basic_variant import global_seed
from tune_core.search.optuna.arguments import (
    check_arguments,
    check_points,
    import_optuna,
    number_of,
    quiet_studies,
    refuse_lacking,
)
from tune_core.search.optuna.conversion import (
    MISSING,
    Encoded,
    Parameter,
    chosen_of,
    encoded,
    fixed_point,
    part,
    read_space,
    refuse_impossible,
    suggest,
    values_of,
)
from tune_core.search.optuna.earlier import NOT_RUN, LearnsFromEarlier
from tune_core.search.optuna.function_space import call, is_scalar, unflattened
from tune_core.search.optuna.rungs import Ending, RungModel
from tune_core.search.optuna.samplers import AUTO, MODELS, SamplerName, choose_sampler, make_sampler
from tune_core.search.optuna.unseen import Seen
from tune_core.search.sample import unresolved_paths
from tune_core.search.searcher import Suggestion
from tune_core.search.variants import walk_sample
from tune_core.validation import Validator

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.samplers import BaseSampler

logger = logging.getLogger(__name__)

_DIRECTIONS = {"min": "minimize", "max": "maximize"}
#: How often a sampler is asked again that suggests what has been suggested before.
_MOST_ASKED = 10


class OptunaSearch(LearnsFromEarlier):
    """Chooses configurations by Optuna, from the search space of the `Tuner` or one of its own.

    Every sampler of `tune` but grids and `randn` is understood; `sample_from` functions are called
    once Optuna has decided the rest. What stands within a `choice` is decided only where that is chosen: a
    conditional parameter, which the study calls `optimizer.0/momentum`. A sampler that ends its study, as
    `GridSampler` does, ends the search.

    A resumed experiment goes on as if nothing had been, with a new study in memory: with every sampler that is
    given by its name, and with one that is passed again with the seed that it had and suggests the same if it is
    asked and told the same. With another one, the log says so, and the search goes on from what was found, with
    other draws; so it does if one is passed with a storage, which keeps trials and no sampler. A configuration that
    is no longer in the search space is not told to Optuna, and the log says so.

    A trial that was stopped early is a pruned one in the study, with its last value and step. As soon as there is
    one, "tpe" and "gp" learn from all trials at the highest step that enough of them have reached, also from those that
    still run; with a storage, of several metrics, and with a function, from the study as it is. CMA-ES learns of
    pruned trials with `sampler_options={"consider_pruned_trials": True}`, the genetic samplers do not.

    Args:
        space: None: the Tuner's `param_space`. A dict with samplers, or with Optuna's distributions
            (nested, or named "a/b"); or a function of an `optuna.Trial` that calls its `suggest_…`
            methods, and may return a dict of constants.
        metric: The metric to optimise, or a list of several; None: the experiment's.
        mode: "min" or "max", for several metrics a list of them.
        points_to_evaluate: Configurations, or parts of them, to try first.
        sampler: "tpe", "gp" (a Gaussian process), "cmaes", "nsgaii", "nsgaiii", "qmc" or "random"; "auto" for "gp" in
            a space of at most 20 numbers with one metric, else "tpe"; an Optuna sampler; None: "tpe".
        study_name: Name of the study in the storage; None: "optuna".
        storage: An Optuna storage; None: in memory. A study that is in it already goes on.
        seed: Of a sampler that is given by name; None: from Python's (or numpy's) global random state.
        evaluated_rewards: The metric's values at `points_to_evaluate`, which then are not run: a
            number for each point, for several metrics a list.
        sampler_options: Beyond Ray Tune: arguments of the sampler that is given by name.
        constraints: Beyond Ray Tune: bounds on other reported metrics, as `{"latency_ms": ("<=", 20)}`. What is beyond
            them is never best. "tpe", "gp", "nsgaii" and "nsgaiii" learn to keep them.
        dedupe: Beyond Ray Tune: whether a configuration is suggested only once, unless it is one of
            `points_to_evaluate`. Once all have been, the search ends.

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
        a resume, as above; a configuration that has been run is not suggested again, unless `dedupe=False`.
    """

    supports_several_objectives = True

    def __init__(
        self,
        space: Mapping[str, Any] | Callable[[Trial], Mapping[str, Any] | None] | None = None,
        metric: str | list[str] | None = None,
        mode: str | list[str] | None = None,
        points_to_evaluate: list[dict[str, Any]] | None = None,
        sampler: SamplerName | Any | None = None,  # or a BaseSampler
        study_name: str | None = None,
        storage: Any = None,
        seed: int | None = None,
        evaluated_rewards: list[Any] | None = None,
        *,
        sampler_options: dict[str, Any] | None = None,
        constraints: dict[str, Any] | None = None,
        dedupe: bool = True,
    ) -> None:
        import_optuna()
        super().__init__(metric, mode)
        validator = Validator(type(self).__name__)
        check_arguments(validator, sampler, study_name, storage, seed, sampler_options)
        self.constraints = read_constraints(validator, constraints)
        validator.check_bool("dedupe", dedupe)
        check_points(validator, points_to_evaluate, evaluated_rewards)
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
            self._space, self._parameters = read_space(space, validator)
        validator.raise_any()
        is_named = sampler is None or isinstance(sampler, str)
        if not is_named and seed is not None:
            logger.warning("OptunaSearch(seed=%r) is not used: give it to the sampler", seed)
        self._points = list(points_to_evaluate or ())
        self._rewards = list(evaluated_rewards or ())
        #: The sampler that was passed, or the name of the one that is made, and of that the arguments.
        self._sampler: BaseSampler | None = None if isinstance(sampler, str) else sampler
        self._sampler_name = sampler if isinstance(sampler, str) else "tpe"
        self._sampler_options = dict(sampler_options or {})
        self._storage, self._study_name = storage, study_name or "optuna"
        self._dedupe = dedupe
        self._seen = Seen((), {})
        #: Arguments of `add_evaluated_point`, and whether those that are none of the search space are left out.
        self._elsewhere: list[Any] = []
        self._is_lenient = False
        #: What the sampler sees once trials are stopped early; None: always the study itself.
        self._rungs: RungModel | None = None
        #: Metrics of constraints that a complete trial has not reported; said once of each.
        self._unreported: set[str] = set()
        #: What "auto" stands for in this search space; of the latest suggestion, all of it, and whether it is new.
        self._chosen = ""
        self._asked: dict[str, Any] = {}
        self._is_new = True
        self._seed = str(seed) if seed is not None else global_seed()
        self._no_sampler = import_optuna().samplers.RandomSampler(seed=0)  # where all is decided
        self._study: Study | None = None
        #: Whether the search has ended, and whether a replay asks the sampler again instead of telling it.
        self._has_stopped, self._asks_again = False, not is_named or dedupe
        self._num_asked = self._num_added = self._num_evaluated = 0
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
        self,
        metric: str | list[str] | None,
        mode: str | list[str] | None,
        config: dict[str, Any],
        **spec: Any,
    ) -> bool:
        """Take the objective and, without a space of its own, the search space.

        Raises:
            ConfigError: Metric or mode are missing, or Optuna cannot decide something in the space.
        """
        super().set_search_properties(metric, mode, config, **spec)
        if not self._has_own_space:
            self._space, self._parameters = config, chosen_of(config)
        self._study = self._new_study()
        self.refuse_kept_choices()
        # What is left of an experiment before, or of a run that is tried again.
        self._num_asked = self._num_added = 0
        self.first = ()
        self._trials, self._steps = {}, {}
        self._has_stopped, self._asks_again = False, self._sampler is not None or self._dedupe
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
        refuse_lacking(self._metric or metric, self._mode or mode, parameters or self._function)
        for number, point in enumerate(self._points):
            self._fixed(point, number, parameters)

    def suggest(self, trial_id: str) -> Suggestion | dict[str, Any] | str:
        """Return what Optuna suggests, the points that were given first; FINISHED once it has no more to suggest."""
        return self.FINISHED if self._has_stopped else self._suggest_next(trial_id)

    def _suggest_next(self, trial_id: str) -> Suggestion | dict[str, Any] | str:
        points = [] if self._rewards else self._points
        number = self._num_asked - self._num_added
        if self.is_first(number):  # asked for, also if it is there twice
            return self._ask(trial_id, self._fixed(self.first[number - self.first_from], None))
        number -= len(self.first) if number >= self.first_from else 0
        if number < len(points):  # likewise
            return self._ask(trial_id, self._fixed(points[number], number))
        for attempt in range(_MOST_ASKED if self._dedupe and not self._seen.is_exhausted else 1):
            if self._dedupe and self._seen.is_exhausted:
                break
            answer = self._ask(trial_id, {}, attempt)
            if self._is_new or not self._dedupe:
                return answer
            self._num_asked -= 1
            self._forget(trial_id)
        return self._suggest_left(trial_id)

    def _suggest_left(self, trial_id: str) -> Suggestion | dict[str, Any] | str:
        """Return one of the configurations that are left, which the sampler does not find; FINISHED if none is."""
        left = self._seen.left()
        if left:
            return self._ask(trial_id, self._random("left").choice(left))
        if self._seen.size is None:  # nobody can say whether something is left
            return self._ask(trial_id, {}, _MOST_ASKED)
        self._has_stopped = True
        logger.info(
            "OptunaSearch: all %d configurations of the search space have been suggested: the search ends. "
            "OptunaSearch(dedupe=False) would suggest them again",
            self._seen.size,
        )
        return self.FINISHED

    def on_suggestion_replayed(self, trial_id: str, config: dict[str, Any]) -> None:
        """Tell the study of a suggestion of an earlier session, or ask again for it where only that is exact."""
        is_ambiguous = self._function is None and encoded(self._parameters, config).is_ambiguous
        if self._known_trial(trial_id) is not None or not (self._asks_again or is_ambiguous):
            self._take(trial_id, config)
            return
        self._suggest_next(trial_id)
        self._has_stopped = False
        trial = self._trials.get(trial_id)
        if trial is not None and self._makes(trial, config):
            return
        self._asks_again = False
        if self._sampler is not None:
            logger.warning(
                "OptunaSearch: asked again, %s suggests otherwise for trial %s than it did: it has another seed or "
                "none, or the search space is another. The search goes on from what was found so far, with other draws",
                type(self._sampler).__name__,
                trial_id,
            )
        if trial is not None:
            self._num_asked -= 1
            self._forget(trial_id)
        self._take(trial_id, config)

    def _makes(self, trial: Trial, config: dict[str, Any]) -> bool:
        """Whether what Optuna has decided is this configuration of the journal."""
        if self._function is not None:
            flat = flatten(config)
            return trial.params == {name: flat.get(name, MISSING) for name in trial.params}
        ours = encoded(self._parameters, config)
        if ours.is_ambiguous:
            whole = [each for each in self._parameters if each.when is None]
            return all(dumps(part(self._asked, each)) == dumps(part(config, each)) for each in whole)
        return not ours.lacking and trial.params == ours.params

    def _take(self, trial_id: str, config: dict[str, Any]) -> None:
        """Have the study know a configuration that is given."""
        known = self._known_trial(trial_id)
        if known is not None:  # the storage has kept it
            self._num_asked += 1
            self._trials[trial_id] = known
            self._seen.note(known.params, config)
            if self._asks_again and self._sampler is not None:
                self._asks_again = False
                self._sampler.reseed_rng()  # it would draw again what it has drawn before
            return
        if self._function is not None:
            self._take_of_function(trial_id, config)
            return
        ours: Encoded = encoded(self._parameters, config)
        if ours.lacking:
            self._num_asked += 1
            absent = [
                each.name
                for each in self._parameters
                if each.name in ours.lacking and part(config, each) is MISSING
            ]
            what = ", ".join(map(repr, ours.lacking))
            self._warn_of_outsider(trial_id, what, is_new=absent == ours.lacking)
            return
        self._ask(trial_id, ours.params)

    def _take_of_function(self, trial_id: str, config: dict[str, Any]) -> None:
        flat = flatten(config)
        try:
            self._ask(trial_id, {name: value for name, value in flat.items() if is_scalar(value)})
        except ValueError as error:  # of Optuna: the function asks for other values now
            self._forget(trial_id)
            self._warn_of_outsider(trial_id, str(error))

    def _warn_of_outsider(self, trial_id: str, what: str, *, is_new: bool = False) -> None:
        fault = f"lacks {what}, which the search space has now"
        if not is_new:
            fault = f"{what} of its configuration is not in the search space any more"
        logger.warning("trial %s: %s: OptunaSearch does not learn from it", trial_id, fault)

    def _forget(self, trial_id: str) -> None:
        from optuna.trial import TrialState

        trial = self._trials.pop(trial_id)
        if self._rungs is not None:
            self._rungs.drop(trial_id)
        trial.set_user_attr("trial_id", f"{NOT_RUN}not run as {trial_id}")
        with quiet_studies():
            self.study.tell(trial, state=TrialState.FAIL)

    def on_configuration_added(self, trial_id: str, config: dict[str, Any]) -> bool:
        """Add it to the study; return True.

        Raises:
            ConfigError: It lacks a parameter of the space, or has a value that Optuna could not choose.
        """
        if self._function is None:
            refuse_impossible(self._parameters, config)
        self._take(trial_id, config)
        self._num_added += 1
        return True

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Tell the study of an intermediate value; Optuna has them for one metric only."""
        trial, step = self._trials.get(trial_id), result.get("training_iteration")
        if trial is None or isinstance(self._metric, list) or not isinstance(step, int):
            return
        value = number_of(lookup(result, self._metric or ""))
        if value is not None and step > self._steps.get(trial_id, -1):
            self._steps[trial_id] = step
            trial.report(value, step)
            if self._rungs is not None:
                self._rungs.report(trial_id, step, value, known_violations(self.constraints, result))

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
        values = [number_of(lookup(result or {}, name)) for name in metrics]
        complete = [value for value in values if value is not None]
        if not error:
            self._set_constraints(trial, result or {}, is_early=is_early)
        if self._rungs is not None:
            ending: Ending = "failed" if error else "early" if is_early else "complete"
            self._rungs.end(trial_id, ending, complete[0] if complete else None, trial.constraints)
        with quiet_studies():
            if len(complete) == len(values) and not error and not is_early:
                self.study.tell(trial, complete, TrialState.COMPLETE, skip_if_finished=True)
            else:
                state = TrialState.FAIL if error or len(values) > 1 else TrialState.PRUNED
                self.study.tell(trial, None, state, skip_if_finished=True)

    def _set_constraints(self, trial: Trial, result: dict[str, Any], *, is_early: bool) -> None:
        """Tell the study how far a trial is beyond each bound; what it has not reported counts as beyond."""
        for constraint in self.constraints:
            violation = constraint.violation(result)
            if violation is None and is_early:
                continue  # it may yet have kept it
            if violation is None and result and constraint.metric not in self._unreported:
                self._unreported.add(constraint.metric)
                logger.warning(
                    "OptunaSearch(constraints=…): trial %s is complete and has not reported %r: it counts as beyond "
                    "%s. Report it, or take the constraint out (said once)",
                    trial.user_attrs.get("trial_id"),
                    constraint.metric,
                    constraint,
                )
            trial.set_constraint(constraint.metric, math.inf if violation is None else violation)

    def get_state(self) -> dict[str, Any]:
        """Return the seed, and the sampler that "auto" stands for; suggestions and results are replayed."""
        state: dict[str, Any] = {"seed": self._seed}
        if self._chosen:
            state["sampler"] = self._chosen
        if self._elsewhere:
            state["evaluated"] = [list(point) for point in self._elsewhere]
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on with those."""
        self._seed = state["seed"]
        self._chosen = state.get("sampler", self._chosen)
        points = [tuple(point) for point in state.get("evaluated", ())]
        if dumps(points) != dumps(self._elsewhere):  # the search space may have changed since
            self._elsewhere, self._study, self._is_lenient = points, None, True

    def _new_study(self) -> Study:
        """Return a study that has what was evaluated before."""
        study = self._empty_study()
        if not study.get_trials(deepcopy=False):
            self._add_elsewhere(study)
        for number, point in enumerate(self._points):
            self._fixed(point, number)  # every point is checked before the first trial
            if self._rewards and not study.get_trials(deepcopy=False)[number:]:
                self._add_point(study, point, self._rewards[number])
        return study

    def _empty_study(self) -> Study:
        """Return a study without trials, but for those that a storage keeps; forget what has been suggested."""
        optuna = import_optuna()
        if self._metric is None and isinstance(self._mode, str):
            self._metric = "_metric"  # what a trainable that returns a number reports
        refuse_lacking(self._metric, self._mode, self._parameters or self._function)
        modes = self._mode if isinstance(self._mode, list) else [str(self._mode)]
        with quiet_studies():
            study: Study = optuna.create_study(
                storage=self._storage,
                sampler=self._sampler or self._made_sampler(0),
                pruner=optuna.pruners.NopPruner(),
                study_name=self._study_name,
                load_if_exists=True,
                directions=[_DIRECTIONS[mode] for mode in modes],
            )
        self._seen, self._num_evaluated = Seen(self._parameters, self._space), 0
        is_modelled = self._sampler is None and (self._chosen or self._sampler_name) in MODELS
        is_plain = len(modes) == 1 and self._function is None and self._storage is None
        self._rungs = RungModel(self._parameters, _DIRECTIONS[modes[0]]) if is_modelled and is_plain else None
        study.stop = self._note_stop  # type: ignore[method-assign] # its own is for `optimize` only, and raises
        return study

    def _note_stop(self) -> None:
        self._has_stopped = True

    def _ask(self, trial_id: str, fixed: dict[str, Any], attempt: int = 0) -> Suggestion | dict[str, Any]:
        study = self.study
        if self._sampler is None:
            study.sampler = self._made_sampler(attempt)
        if self._rungs is not None and self._rungs.is_on:
            fixed = self._rungs.ask(trial_id, study.sampler, fixed)
            study.sampler = self._no_sampler
        if fixed:
            study.enqueue_trial(fixed)
        trial = study.ask()
        trial.set_user_attr("trial_id", trial_id)
        self._trials[trial_id] = trial
        drawn_from, self._num_asked = self._random(), self._num_asked + 1
        if self._function is not None:
            made = call(self._function, trial)
            self._is_new = self._seen.note(trial.params, made)
            return unflattened(made)
        params: dict[str, Any] = {}
        for each in self._parameters:
            if each.is_active(params):
                params[each.name] = suggest(trial, each)
        if self._rungs is not None:
            self._rungs.note(trial_id, params)
        if not self._space:
            self._is_new = self._seen.note(params, {})
            return unflattened(params)
        variant = next(walk_sample(self._space, drawn_from, values_of(self._parameters, params)))
        self._asked = variant.config
        self._is_new = self._seen.note(params, variant.config)
        # Of a space of its own, the experiment adds what is fixed in param_space.
        return variant.config if self._has_own_space else Suggestion(variant.config, variant.varied)

    def _made_sampler(self, attempt: int) -> BaseSampler:
        """The sampler for the suggestion that comes next."""
        if self._sampler_name == AUTO and not self._chosen:
            num_metrics = len(self._metric) if isinstance(self._metric, list) else 1
            self._chosen = choose_sampler(self._parameters, num_metrics)
        draws = self._random(str(attempt) if attempt else "")
        seed = random.Random(self._seed).getrandbits(32)
        name, options = self._chosen or self._sampler_name, self._sampler_options
        if name == "tpe" and not isinstance(self._metric, list) and options.get("multivariate") is not False:
            # Parameters that are there together are modelled together: it finds better configurations.
            options = {"group": any(each.when for each in self._parameters), **options}
        return make_sampler(name, options, draws, seed)

    def _random(self, more: str = "") -> random.Random:
        """What the suggestion that comes next may draw from."""
        return random.Random(f"{self._seed}/{self._num_asked}{more and '/'}{more}")

    def _known_trial(self, trial_id: str) -> Trial | None:
        if self._storage is None:
            return None
        optuna, study = import_optuna(), self.study
        for frozen in study.get_trials(deepcopy=False):
            if frozen.user_attrs.get("trial_id") == trial_id:
                trial: Trial = optuna.trial.Trial(study, frozen._trial_id)
                return trial
        return None

    def _fixed(
        self, point: Mapping[str, Any], number: int | None, parameters: list[Parameter] | None = None
    ) -> dict[str, Any]:
        """A point by the names of the study, in Optuna's values."""
        where = "the evaluated point" if number is None else f"points_to_evaluate[{number}]"
        if self._function is not None:
            return {name: value for name, value in flatten(point).items() if is_scalar(value)}
        return fixed_point(self._parameters if parameters is None else parameters, point, where)

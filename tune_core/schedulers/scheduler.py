"""What may answer a report with other than CONTINUE: the interface, and first in, first out.

A view goes in, a decision comes out: a scheduler reads trials and rows, keeps what it needs to
know, and returns a decision. It never holds the controller, starts or stops anything, or
changes what it reads; so its past can be replayed and it can be tested as a function.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tune_core.init_args import RecordsArguments
from tune_core.states import Decision
from tune_core.trial import Status, Trial

#: What a number is reported as that a training function returns.
RETURNED_METRIC = "_metric"


@dataclass(frozen=True)
class Exploit:
    """An answer to a report: go on from another trial's checkpoint, with this configuration.

    The trial stops without saving and starts again from the donor's latest checkpoint; its
    iterations and total times go on from there, and its tag shows what is new in its
    configuration. No bytes are copied. If the donor has no checkpoint, the answer means CONTINUE.

    Args:
        donor: The trial to go on from, or its id.
        config: The configuration to go on with, or a function that returns it: called once, and not
            when a resume replays what was decided, so it may be dear, or draw random numbers of its own.

    Source: what `PopulationBasedTraining` of Ray Tune 2.60 does by itself to the trials.
    """

    donor: Trial | str
    config: dict[str, Any] | Callable[[], dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Reallocate:
    """An answer to a report: train on, and let the next attempt have other bundles, which begins soon.

    The trial goes on until it has saved: a class saves when it is told to, a function with its next report
    that has a checkpoint. Then the attempt ends, and the next one begins with the new bundles from there. It
    means CONTINUE where that cannot be, and the log says why: the cluster, as it is, can never give the
    bundles, or the trial has never saved. It also means CONTINUE if the trial has such bundles or is about
    to get others, and until it has come past the iteration at which others were chosen for it last.

    Args:
        resources: The bundles: a `PlacementGroupFactory`, or a dict as for `with_resources`.

    Source: what `ResourceChangingScheduler` of Ray Tune 2.60 does by itself to the trials.
    """

    resources: Any


class TrialScheduler(RecordsArguments, ABC):
    """Decides, report by report, which trials go on.

    `trials` holds every trial so far, in creation order. It and `trial` are for reading; `trial`
    does not know yet of the report that is being decided on. Every report of a running trial
    is decided on, except its last one if it is `done`, and those of a trial that is to pause and
    has not saved yet. Each trial ends with exactly one `on_trial_complete`, `on_trial_error` or
    `on_trial_remove`.

    A paused trial goes on when there is room for it, the searcher has no new configuration at
    that time, and `choose_trial_to_run` names it; with `resumes_before_new_trials` the searcher is
    asked only if it names none. A training function pauses at its next report
    with a checkpoint, or at once if it has never saved: then it starts over. When nothing runs
    and no paused trial is named, those that are paused end as they are.

    Attributes:
        metric: What to optimise; None until it is known. A list only if it `supports_several_objectives`.
        mode: "min" or "max"; None until it is known. Likewise.

    Example:
        >>> class StopAboveOne(TrialScheduler):
        ...     def on_trial_result(self, trials, trial, result):
        ...         return self.STOP if result[self.metric] > 1 else self.CONTINUE
        >>> scheduler = StopAboveOne()
        >>> scheduler.set_search_properties("loss", "min")
        True
        >>> str(scheduler.on_trial_result([], None, {"loss": 1.5}))
        'STOP'

    Source: the hooks of Ray Tune 2.60. Differs: they are given the trials instead of the
        controller, which they would have to drive; only `on_trial_result` must be there; Exploit and
        Reallocate; a resume tells them what happened, instead of unpickling them.
    """

    #: Train on.
    CONTINUE: ClassVar[str] = Decision.CONTINUE
    #: Stop now; go on later, from the last checkpoint.
    PAUSE: ClassVar[str] = Decision.PAUSE
    #: Stop for good.
    STOP: ClassVar[str] = Decision.STOP

    #: Whether it works with a metric only, which it or `TuneConfig` has to be given.
    needs_metric: ClassVar[bool] = False
    #: Whether `TuneConfig` may give it a list of metrics, and a list of modes. If not, that is refused.
    supports_several_objectives: ClassVar[bool] = False
    #: Whether trials that never save checkpoints lose their work under it, since it pauses or exploits.
    needs_checkpoints: bool = False
    #: Whether `choose_trial_to_run` is asked before the searcher: then new trials start only if no paused one goes on.
    resumes_before_new_trials: bool = False

    #: Whether `pbt_global.txt` and `pbt_policy_<trial id>.txt` in the experiment's directory say who went on from whom.
    log_config: bool = False
    #: Whether trials save when they are told to pause, as trainable classes do; the experiment sets it.
    saves_on_request: bool = False

    metric: str | list[str] | None = None
    mode: str | list[str] | None = None
    #: Whether it was made with a metric or mode, so that `TuneConfig` must not name them too.
    has_own_objective: bool = False

    @property
    def always_continues(self) -> bool:
        """Whether every answer is CONTINUE, whatever is reported: then it is not asked, and no report waits for it.

        A subclass may say so by an attribute of this name. Of `FIFOScheduler` it is true unless
        somebody has written an `on_trial_result` of their own.
        """
        return False

    def set_search_properties(
        self, metric: str | list[str] | None, mode: str | list[str] | None, **spec: Any
    ) -> bool:
        """Take over what `TuneConfig` says to optimise.

        Args:
            metric: None if `TuneConfig` does not say; a list only if it `supports_several_objectives`.
            mode: The same.
            **spec: What later versions tell in addition.

        Returns:
            False if the scheduler was given another metric or mode already: nothing is taken over.
        """
        if metric and self.metric not in (None, metric):
            return False
        if mode and self.mode not in (None, mode):
            return False
        self.metric = metric or self.metric
        self.mode = mode or self.mode
        if self.metric is None and self.mode is not None:
            self.metric = RETURNED_METRIC
        return True

    def can_pause(self, trial: Trial, result: Mapping[str, Any]) -> bool:
        """Return whether a trial that is paused at this report goes on later where it was, or nearly so.

        Args:
            trial: Whose report it is.
            result: The report.
        """
        has_saved = trial.start_point is not None or "checkpoint_dir_name" in result
        return has_saved or self.saves_on_request

    def check_searcher(self, searcher: Any) -> None:
        """Refuse a searcher that this scheduler cannot work with; called when a `TuneConfig` is made.

        The default refuses none.

        Args:
            searcher: `TuneConfig.search_alg`; None: grid and random search.

        Raises:
            ConfigError: They cannot work together.
        """

    def check_space(self, param_space: Mapping[str, Any], num_samples: int) -> None:
        """Refuse a search space that this scheduler cannot work with; called when a `Tuner` is made.

        The default refuses none.

        Args:
            param_space: The search space, checked by itself.
            num_samples: `TuneConfig.num_samples`.

        Raises:
            ConfigError: They cannot work together.
        """

    def fill_in(self, number: int, config: dict[str, Any]) -> dict[str, Any]:
        """Return the configuration that a new trial starts with; by default the searcher's own.

        The journal has what is returned, and a replay does not ask again: so it follows from the
        arguments and from the seed of `get_state` alone.

        Args:
            number: The trial's number.
            config: What the searcher, or somebody who asked for a trial, has chosen; for reading.
        """
        return config

    def wants_checkpoint(self, trial: Trial) -> bool:
        """Return whether a trial that goes on is to save; asked after its report was decided on.

        Trainable classes do so; a function saves with the reports that it chooses. The default is False.
        """
        return False

    def decision_reason(self, trial: Trial) -> dict[str, Any]:
        """Return what the decision on the trial's latest report was based on, as JSON can hold it.

        Asked right after `on_trial_result` returned STOP, PAUSE or an `Exploit`, or `trials_to_stop` named the
        trial, and of every paused trial once none of them goes on any more; kept in the journal and shown to
        people. The default is {}.

        Args:
            trial: Whose report was decided on, or which is paused.

        Returns:
            What is known, of: `rung` (a time), `value` (the trial's), `cutoff` (what it took to go on), `rank`
            (1 for the best) and `of` (how many were compared), `bracket`, `donor`.
        """
        return {}

    def on_cluster_changed(self, total: Mapping[str, float]) -> None:
        """Learn what the cluster has of each resource: before the first trial, and when it has changed.

        A resume tells it again, and before that everything that was told then.

        Args:
            total: The sums over all nodes, such as `{"CPU": 16.0, "GPU": 2.0}`.
        """

    def is_full_budget(self, trial: Trial, result: dict[str, Any]) -> bool:
        """Return whether a trial that is stopped after this report has had all that any trial gets.

        The searcher is told of such a trial as complete, of another one that was stopped as stopped early. The
        default returns False: every STOP is early.

        Args:
            trial: Whose report it is.
            result: Its last report with every auto-filled key.
        """
        return False

    def on_trial_add(self, trials: Sequence[Trial], trial: Trial) -> None:
        """Learn of a new trial, before it starts."""

    @abstractmethod
    def on_trial_result(
        self, trials: Sequence[Trial], trial: Trial, result: dict[str, Any]
    ) -> str | Exploit | Reallocate:
        """Decide on a report.

        Args:
            trials: All trials.
            trial: Whose report it is.
            result: The report with every auto-filled key.

        Returns:
            CONTINUE, PAUSE, STOP, an `Exploit`, or a `Reallocate`.
        """

    def choose_trial_to_run(self, trials: Sequence[Trial]) -> Trial | None:
        """Choose the paused trial that goes on now; by default the first.

        Asked when there is room; after None, not before a trial has reported, ended or been added.

        Args:
            trials: All trials; those to choose from have `status` PAUSED.

        Returns:
            One that is paused; None if none should go on now.
        """
        return next((trial for trial in trials if trial.status is Status.PAUSED), None)

    def trials_to_stop(self, trials: Sequence[Trial]) -> Sequence[Trial]:
        """Return paused trials that are never to go on; by default none.

        Asked before `choose_trial_to_run`, until it returns none.
        """
        return ()

    def exploit_paused(self, trials: Sequence[Trial]) -> Mapping[str, Exploit]:
        """Return, by trial id, how paused trials are to go on from others' checkpoints; by default none.

        Asked after `trials_to_stop` has returned none, and before `choose_trial_to_run`, until it returns
        none. All of them are given their checkpoints at once, before any of them runs.

        Args:
            trials: All trials; those that may be named have `status` PAUSED.
        """
        return {}

    def on_trial_complete(self, trials: Sequence[Trial], trial: Trial, result: dict[str, Any]) -> None:
        """Learn that a trial is over; `result` is its last report, {} if there was none."""

    def on_trial_error(self, trials: Sequence[Trial], trial: Trial) -> None:
        """Learn that a trial has failed for good."""

    def on_trial_remove(self, trials: Sequence[Trial], trial: Trial) -> None:
        """Learn that a trial that was paused will never run again."""

    def get_state(self) -> dict[str, Any]:
        """Return what `set_state` needs and a replay cannot tell, as JSON can hold it. The default is {}.

        A resumed experiment makes the scheduler again and tells it everything that the journal holds,
        in the same order; a scheduler needs state only for what does not follow from that, such as a seed.
        """
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from where `get_state` was called; what it was told after that is told again.

        Args:
            state: What `get_state` returned.
        """

    def debug_string(self) -> str:
        """Return where the scheduler stands, to be read: the flow run's log has it once the experiment has ended."""
        return f"Using {type(self).__name__}."


class FIFOScheduler(TrialScheduler):
    """Lets every trial run to its own end, in the order of their creation.

    A subclass inherits that it works with several metrics: one that compares by `self.metric` sets
    `supports_several_objectives` to False unless it takes a list.

    Example:
        >>> FIFOScheduler().always_continues
        True

    Source: as Ray Tune 2.60.
    """

    supports_several_objectives: ClassVar[bool] = True

    @property
    def always_continues(self) -> bool:
        """Whether `on_trial_result` is the one below."""
        own = type(self).on_trial_result is FIFOScheduler.on_trial_result
        return own and "on_trial_result" not in vars(self)

    def on_trial_result(self, trials: Sequence[Trial], trial: Trial, result: dict[str, Any]) -> str:
        """Return CONTINUE."""
        return self.CONTINUE

    def debug_string(self) -> str:
        """Return what it is."""
        return "Using FIFO scheduling algorithm."

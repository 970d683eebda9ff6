"""Where requests to a running experiment become events, or are refused: each with the words that say why.

Owns what may be asked in which state. It changes nothing but the searcher, which has to know of an
event before the controller does; the caller hands the event to the controller at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import singledispatchmethod
from typing import Any

from tune_core.config.run_config import RunConfig, TuneConfig
from tune_core.config.space_change import changed_samplers, check_space_change, sampler_of, with_samplers
from tune_core.config.spec import describe_value
from tune_core.control.controller import Controller
from tune_core.control.messages import Event, SpecRecorded, Steered
from tune_core.control.policy import Policy
from tune_core.control.resume import Replay
from tune_core.control.warm_start import unfit
from tune_core.encoding import dumps, loads
from tune_core.errors import TuneError
from tune_core.search.space import validate_space
from tune_core.states import Decision, Steer
from tune_core.steering.inbox import (
    AddConfiguration,
    ChangeSpace,
    LoosenStop,
    PauseExperiment,
    PauseTrial,
    RaiseNumSamples,
    Reply,
    Request,
    ResumeExperiment,
    ResumeTrial,
    StopExperiment,
    StopTrial,
)
from tune_core.storage.filesystems import brief
from tune_core.trial import AttemptPhase, Status, Trial
from tune_core.validation import shorten, suggestion

#: Of a trial's number; an integer of thousands of digits is an error of Python's.
_MAX_DIGITS = 20

_logger = logging.getLogger(__name__)


class Refused(TuneError):
    """A request cannot be granted; the message says why."""


class RequestHandler:
    """Answers requests to one experiment.

    Args:
        replay: The experiment as it stands: its controller, its steering, its spec, and what was handled.
        clock: Seconds since the epoch.
    """

    def __init__(self, replay: Replay, clock: Callable[[], float]) -> None:
        assert replay.policy is not None
        self._replay, self._clock = replay, clock
        self._controller: Controller = replay.controller
        self._policy: Policy = replay.policy

    def consider(self, request_id: str, request: Request) -> tuple[Event | None, Reply]:
        """Answer a request; with an accepted one comes the event to handle at once.

        Args:
            request_id: Names it; one that the journal has is not carried out again.
            request: What is asked for.
        """
        if request_id in self._replay.state.handled:
            return None, Reply(True, "it is in the journal, and was or will be carried out")
        try:
            self._refuse_at_end()
            event, message = self._answer(request, request_id)
        except TuneError as error:
            return None, Reply(False, str(error))
        except Exception as error:  # of the user's own searcher, or functions for names and resources
            _logger.warning("request %s has failed", shorten(request), exc_info=True)
            return None, Reply(False, brief(error))
        return event, Reply(True, message)

    @property
    def waits(self) -> str:
        """What waits for somebody to resume it, as a sentence; "" if nothing does."""
        if self._controller.is_paused:
            return "the experiment is paused on request, until ResumeExperiment"
        held = [each.trial_id for each in self._controller.unfinished if each.is_paused_by_user]
        return f"paused on request, until ResumeTrial: {shorten(', '.join(held))}" if held else ""

    def _refuse_at_end(self) -> None:
        if self._controller.has_ended:
            raise Refused("the experiment has ended: Tuner.restore goes on with it")
        if self._controller.stop_request is not None:
            raise Refused(f"the experiment is about to end: {self._controller.stop_request.reason}")

    @singledispatchmethod
    def _answer(self, request: Any, request_id: str) -> tuple[Event, str]:
        raise Refused(f"{request!r} is no request that this version of prefect-tune knows")

    @_answer.register
    def _(self, request: PauseTrial, request_id: str) -> tuple[Event, str]:
        trial = self._trial(request.trial_id)
        if trial.is_paused_by_user:
            raise Refused(f"trial {trial.trial_id} is paused already, by an earlier request")
        if trial.decision is Decision.STOP:
            raise Refused(f"trial {trial.trial_id} is about to end")
        return self._steered(request_id, Steer.PAUSE, trial), self._how_it_pauses(trial)

    @_answer.register
    def _(self, request: ResumeTrial, request_id: str) -> tuple[Event, str]:
        trial = self._trial(request.trial_id)
        if not trial.is_paused_by_user:
            raise Refused(self._why_not_resumed(trial))
        message = f"trial {trial.trial_id} goes on as soon as there is room"
        if self._controller.is_paused:
            message = f"trial {trial.trial_id} goes on when the experiment does, which is paused"
        elif trial.status is Status.PAUSED and not trial.is_set_aside:
            message = f"trial {trial.trial_id} goes on when the scheduler chooses it, which has paused it too"
        return self._steered(request_id, Steer.RESUME, trial), message

    @_answer.register
    def _(self, request: StopTrial, request_id: str) -> tuple[Event, str]:
        trial = self._trial(request.trial_id)
        when = "is ended" if trial.phase is AttemptPhase.NONE else "ends at its next report"
        if trial.decision is Decision.STOP:
            when = "is about to end"
        return self._steered(request_id, Steer.STOP, trial), f"trial {trial.trial_id} {when}"

    @_answer.register
    def _(self, request: PauseExperiment, request_id: str) -> tuple[Event, str]:
        if self._controller.is_paused:
            raise Refused("the experiment is paused already")
        running = [each for each in self._controller.unfinished if each.status is Status.RUNNING]
        message = "no trial starts any more"
        if running:
            message += f"; {len(running)} that run pause {self._when()}"
        never = [each for each in running if not self._can_save(each)]
        if never:
            message += f", of which {len(never)} have not saved any yet: without, they run to their end"
        return self._steered(request_id, Steer.PAUSE), message

    @_answer.register
    def _(self, request: ResumeExperiment, request_id: str) -> tuple[Event, str]:
        if not self._controller.is_paused:
            raise Refused(f"the experiment is not paused{self.waits and '; '}{self.waits}")
        return self._steered(request_id, Steer.RESUME), "the experiment goes on"

    @_answer.register
    def _(self, request: StopExperiment, request_id: str) -> tuple[Event, str]:
        event = replace(self._steered(request_id, Steer.STOP), reason=request.reason)
        return event, f"the experiment ends; {len(self._controller.unfinished)} trials are ended as they are"

    @_answer.register
    def _(self, request: AddConfiguration, request_id: str) -> tuple[Event, str]:
        number = len(self._controller.trials)
        trial_id = f"{self._controller.rules.experiment_id}_{number:05d}"
        config = self._replay.resolve(request.config)
        event = self._policy.add_configuration(request_id, trial_id, number, config)
        return event, f"it runs as trial {trial_id} as soon as there is room"

    @_answer.register
    def _(self, request: RaiseNumSamples, request_id: str) -> tuple[Event, str]:
        before, after = self._policy.num_samples, request.num_samples
        if before < 0:
            raise Refused("num_samples=-1: the experiment has no end that could be put off")
        if after <= before:
            raise Refused(f"num_samples={after}: it is {before} already, expected more")
        self._policy.raise_num_samples(after)
        event = self._respecified(request_id, "tune_config", "num_samples", after)
        if event.rules.get("total_trials") is not None:  # of which a share may fail
            event = replace(event, rules={**event.rules, "total_trials": self._policy.total_trials})
        return event, f"num_samples is {after} from now on; it was {before}"

    @_answer.register
    def _(self, request: ChangeSpace, request_id: str) -> tuple[Event, str]:
        samplers = {name: sampler_of(name, given) for name, given in request.parameters.items()}
        before = self._policy.param_space
        after = with_samplers(before, samplers)
        validate_space(after)
        described = [loads(dumps(describe_value(space))) for space in (before, after)]
        changes = check_space_change(*described)
        if not changes:
            raise Refused(f"parameters={shorten(request.parameters)}: nothing changes")
        self._policy.change_space(after)
        said = "; ".join(map(str, changes))
        left = [trial for trial in self._replay.trials if unfit(after, trial.config) is not None]
        message = f"from now on, {said}; trials before stay what they are"
        if left:
            message += f", and {len(left)} of {len(self._replay.trials)} are not of the new space"
        event = self._respecified(request_id, "param_space", None, described[1])
        return event, message

    @_answer.register
    def _(self, request: LoosenStop, request_id: str) -> tuple[Event, str]:
        before, after = self._policy.local_stop, request.stop
        if self._policy.stopper is not None:
            kind = type(self._policy.stopper).__name__
            raise Refused(
                f"RunConfig.stop is a {kind}: only bounds, as {{'training_iteration': 20}}, can be loosened"
            )
        tighter = [
            f"{name!r}: {bound!r} is new"
            if name not in before
            else f"{name!r}: {bound!r} is below {before[name]!r}"
            for name, bound in after.items()
            if name not in before or bound < before[name]
        ]
        if tighter or after == before:
            fault = ", ".join(tighter) or "nothing changes"
            raise Refused(f"stop={after!r} is not looser than {before!r}: {fault}; StopTrial ends a trial")
        event = self._respecified(request_id, "run_config", "stop", dict(after))
        self._policy.local_stop = dict(after)
        return event, f"stop is {after!r} from now on, it was {before!r}; trials that it has ended stay ended"

    def _trial(self, text: str) -> Trial:
        """Find an unfinished trial by its id, or by its number."""
        known = self._controller.trials
        is_number = text.isdecimal() and len(text) < _MAX_DIGITS
        trial_id = f"{self._controller.rules.experiment_id}_{int(text):05d}" if is_number else text
        trial = known.get(trial_id)
        if trial is None:
            ids = [*known]
            there = f"trials {ids[0]} to {ids[-1]}" if ids else "no trials yet"
            raise Refused(
                f"there is no trial {shorten(text)}{suggestion(text[:_MAX_DIGITS], ids)}; the experiment has {there}"
            )
        if trial.is_finished():
            raise Refused(f"trial {trial_id} has ended: it is {trial.status}")
        return trial

    def _steered(self, request_id: str, action: Steer, trial: Trial | None = None) -> Steered:
        return Steered(self._clock(), request_id, action, trial.trial_id if trial is not None else "")

    def _respecified(self, request_id: str, part: str, name: str | None, value: Any) -> SpecRecorded:
        before = self._replay.spec
        assert before is not None
        spec = {**before.spec, part: value if name is None else {**before.spec[part], name: value}}
        return SpecRecorded(self._clock(), before.revision + 1, spec, before.rules, request_id)

    def _when(self) -> str:
        if self._controller.rules.saves_on_request:
            return "after the step that they take"
        return "at their next report with a checkpoint"

    def _can_save(self, trial: Trial) -> bool:
        """Whether it is known to be able to: a function that never has may never do so."""
        return self._controller.rules.saves_on_request or trial.checkpoint is not None

    def _how_it_pauses(self, trial: Trial) -> str:
        name = f"trial {trial.trial_id}"
        if trial.phase is AttemptPhase.NONE or trial.status is not Status.RUNNING:
            return f"{name} is paused"
        if self._controller.rules.saves_on_request:
            return f"{name} pauses after the step that it takes"
        hint = "" if self._can_save(trial) else "; it has not saved any yet: without one it runs to its end"
        return f"{name} pauses at its next report with a checkpoint{hint}"

    def _why_not_resumed(self, trial: Trial) -> str:
        if self._controller.is_paused:
            return f"trial {trial.trial_id} waits for the experiment, which is paused: resume that"
        if trial.status is Status.PAUSED:
            return f"trial {trial.trial_id} is paused by the scheduler, which lets it go on when it sees fit"
        return f"trial {trial.trial_id} is not paused: it is {trial.status}"


def space_as_steered(space: dict[str, Any], spec: SpecRecorded | None) -> dict[str, Any]:
    """Return the search space with the samplers that requests have changed: of a run that is tried again.

    Args:
        space: What the experiment began with.
        spec: What it is since a request changed it last; None: none did.
    """
    if spec is None:
        return space
    changed = changed_samplers(loads(dumps(describe_value(space))), spec.spec["param_space"])
    return with_samplers(space, changed)


def as_steered(
    tune_config: TuneConfig, run_config: RunConfig, spec: SpecRecorded | None
) -> tuple[TuneConfig, RunConfig]:
    """Return how an experiment is run after the requests in its journal: of a run that is tried again.

    Args:
        tune_config: How it began to search.
        run_config: How it began to run.
        spec: What it is since a request changed it last; None: none did.
    """
    if spec is None:
        return tune_config, run_config
    num_samples: int = spec.spec["tune_config"]["num_samples"]
    stop: Any = spec.spec["run_config"]["stop"]
    is_plain = isinstance(stop, Mapping) and not any(name.startswith("$") for name in stop)
    return (
        replace(tune_config, num_samples=num_samples),
        replace(run_config, stop=dict(stop)) if is_plain else run_config,
    )

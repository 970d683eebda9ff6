"""An experiment's state: what is new and what is replayed come to the same."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

import tune_core as tune
from tests.support.fake_backend import ABackend, row_of
from tune_core.control.controller import Controller
from tune_core.control.controller_config import ControllerConfig
from tune_core.control.messages import (
    AttemptStarted,
    CapacityChanged,
    ExperimentStarted,
    SpecRecorded,
    Steered,
    TrialReported,
    TrialSuggested,
    event_from_dict,
    event_to_dict,
)
from tune_core.control.state import ExperimentState
from tune_core.encoding import dumps, loads
from tune_core.errors import IllegalTransition
from tune_core.states import Outcome, Steer, StopCause
from tune_core.testing.schedulers import PausingScheduler
from tune_core.testing.simulator import RandomCrashes, simulate

RULES = ControllerConfig("a1b2c")
SPEC = SpecRecorded(0.0, 1, {"name": "e"}, asdict(RULES))


def suggested(number: int, request_id: str = "") -> TrialSuggested:
    trial_id = f"a1b2c_{number:05d}"
    resources = {"bundles": [{"CPU": 1.0}]}
    return TrialSuggested(1.0, trial_id, {}, str(number), trial_id, "train", resources, "", request_id)


def snapshot(state: ExperimentState) -> dict[str, Any]:
    return {
        "trials": [
            {name: getattr(trial, name) for name in trial.__slots__ if name != "storage"}
            for trial in state.trials
        ],
        "spec": state.spec,
        "handled": state.handled,
        "ended_at": state.ended_at,
        "last_time": state.last_time,
        "budget": state.budget_used_s,
    }


def test_a_state_that_was_live_is_the_one_that_its_journal_tells(a_backend: ABackend) -> None:
    options = {"failure_config": tune.FailureConfig(max_failures=1), "num_samples": 3, "slots": 2}
    backend = a_backend(PausingScheduler(every=2), **options)
    backend.time = 5.0
    backend.hello()
    backend.hello(1)
    backend.row(1)
    backend.row(2, checkpoint=0)
    backend.attempts.died(backend.attempt(1), Outcome.CRASHED, "SIGKILL")
    backend.found()
    backend.time = 60.0
    backend.loop.apply(Steered(60.0, "request", Steer.STOP, backend.id(2)))
    backend.last_word(Outcome.STOPPED, iteration=2, index=0)
    backend.loop.stop_all(StopCause.INTERRUPT, "Ctrl-C")

    again = ExperimentState(Controller(backend.rules))
    for event, _ in backend.journal.records:
        again.apply(event_from_dict(loads(dumps(event_to_dict(event)))))

    assert snapshot(again) == snapshot(backend.loop.state)
    assert again.handled == {"request"}
    assert again.budget_used_s == 60.0


def test_a_state_that_was_simulated_is_the_one_that_its_journal_tells() -> None:
    run = simulate(
        lambda config, iteration: ({"loss": config["x"] / iteration}, 3.0),
        param_space={"x": tune.uniform(1, 2)},
        tune_config=tune.TuneConfig(num_samples=6, scheduler=PausingScheduler(every=3)),
        run_config=tune.RunConfig(failure_config=tune.FailureConfig(max_failures=-1)),
        iterations=8,
        slots=2,
        crashes=RandomCrashes(0.1, seed=3),
    )

    state = ExperimentState(Controller(run.rules))
    for event, _ in run.records:
        state.apply(event)

    assert [trial.attempt for trial in state.trials] == [trial.attempt for trial in run.trials]
    assert state.is_over
    assert len(state.ended_at) == 6


def test_a_state_knows_requests_when_their_events_are_applied() -> None:
    state = ExperimentState(Controller(RULES))

    state.apply(SPEC)
    state.apply(ExperimentStarted(0.0, 2))
    assert state.handled == set()
    state.apply(suggested(0, request_id="added"))

    assert (state.spec, state.handled) == (SPEC, {"added"})


def test_time_is_used_up_by_drivers_at_work_only() -> None:
    state = ExperimentState(Controller(RULES))
    for event in (SPEC, ExperimentStarted(10.0, 1), suggested(0)):
        state.apply(event)

    state.apply(AttemptStarted(20.0, "a1b2c_00000", 1, 1, "host", "ip"))
    state.apply(TrialReported(30.0, "a1b2c_00000", 1, 1, row_of(1)))
    used = state.budget_used_s
    assert used == 29.0  # since the suggestion, whose time is 1.0
    state.apply(CapacityChanged(500.0, 0))  # another driver takes over
    state.apply(TrialReported(510.0, "a1b2c_00000", 1, 2, row_of(2)))

    assert state.budget_used_s == used
    assert state.last_time == 510.0


def test_an_event_that_cannot_happen_leaves_no_trial_behind() -> None:
    state = ExperimentState(Controller(RULES))
    state.apply(ExperimentStarted(0.0, 1))
    state.apply(suggested(0))

    with pytest.raises(IllegalTransition, match="nobody asked for this suggestion"):
        state.apply(suggested(0))

    assert len(state.trials) == 1

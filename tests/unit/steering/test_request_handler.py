"""Which requests an experiment grants in which state, and the words that it answers with."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

import tune_core as tune
from tune_core.config.spec import describe
from tune_core.control.controller import Controller
from tune_core.control.controller_config import ControllerConfig
from tune_core.control.messages import (
    Answer,
    AttemptEnded,
    AttemptStarted,
    Command,
    Event,
    ExperimentStarted,
    PausedChosen,
    SearchEnded,
    SpecRecorded,
    StartAttempt,
    Steered,
    StopAttempt,
    Suggest,
    TrialReported,
    TrialSuggested,
)
from tune_core.control.policy import Policy
from tune_core.control.resume import Replay
from tune_core.search import Repeater, Searcher
from tune_core.search.optuna import OptunaSearch
from tune_core.states import Decision, Outcome
from tune_core.steering.inbox import (
    AddConfiguration,
    ChangeSpace,
    LoosenStop,
    PauseExperiment,
    PauseTrial,
    RaiseNumSamples,
    Request,
    ResumeExperiment,
    ResumeTrial,
    StopExperiment,
    StopTrial,
)
from tune_core.steering.request_handler import RequestHandler, as_steered, space_as_steered
from tune_core.stopper import MaximumIterationStopper
from tune_core.testing.schedulers import PausingScheduler
from tune_core.trial import Status


def train(config: dict[str, Any]) -> None:
    """Stands for a trainable."""


class Experiment:
    """A controller and a helm, and what both have said."""

    def __init__(
        self,
        space: dict[str, Any] | None = None,
        stop: Any = None,
        saves_on_request: bool = False,
        capacity: int = 2,
        **options: Any,
    ) -> None:
        self.tune_config, self.run_config = tune.TuneConfig(**options), tune.RunConfig(stop=stop)
        space = {"x": tune.uniform(0, 1)} if space is None else space
        policy = Policy(
            self.tune_config,
            stop,
            space,
            train,
            "train",
            saves_on_request=saves_on_request,
            wall_clock=lambda: 0.0,
        )
        self.rules = ControllerConfig("a1b2c", saves_on_request=saves_on_request)
        self.controller = Controller(self.rules)
        self.replay = Replay(self.controller, policy)
        self.policy = policy
        self.handler = RequestHandler(self.replay, lambda: 7.0)
        spec = describe(
            name="e",
            experiment_id="a1b2c",
            trainable_name="train",
            param_space=space,
            tune_config=self.tune_config,
            run_config=self.run_config,
        )
        self.commands: list[Command] = []
        self.events: list[Event] = []
        self.handle(SpecRecorded(0.0, 1, spec, asdict(self.rules)))
        self.handle(ExperimentStarted(0.0, capacity))

    def handle(self, event: Event) -> list[Command]:
        """Apply an event, and answer what is asked of the searcher and the scheduler."""
        self.events.append(event)
        commands = self.replay.state.apply(event)
        self.commands += commands
        if isinstance(event, TrialSuggested):
            self.policy.add(self.replay.trials, self.replay.trials[-1])
        for command in commands:
            if isinstance(command, Suggest):
                commands = [
                    *commands,
                    *self.handle(self.policy.suggest(command.trial_id, len(self.replay.trials))),
                ]
        return commands

    def run(self, number: int, attempt_number: int = 1) -> Experiment:
        """Let a trial run."""
        self.handle(AttemptStarted(1.0, self.id(number), attempt_number, 1, "host", "ip"))
        return self

    def report(
        self,
        number: int,
        iteration: int,
        checkpoint: int | None = None,
        decision: Decision = Decision.CONTINUE,
    ) -> list[Command]:
        row = {"timestamp": 0, "done": False, "training_iteration": iteration}
        attempt_number = self.controller.trials[self.id(number)].attempt_number
        return self.handle(
            TrialReported(2.0, self.id(number), attempt_number, iteration, row, checkpoint, decision)
        )

    def end(self, number: int, outcome: Outcome = Outcome.STOPPED) -> list[Command]:
        attempt_number = self.controller.trials[self.id(number)].attempt_number
        return self.handle(AttemptEnded(3.0, self.id(number), attempt_number, outcome))

    def id(self, number: int) -> str:
        return f"a1b2c_{number:05d}"

    def ask(self, request: Request) -> str:
        """Return what is granted, or "no: " and what is not."""
        event, reply = self.handler.consider(f"r{len(self.replay.state.handled)}", request)
        assert reply.accepted == (event is not None)
        if event is not None:
            self.handle(event)
        return reply.message if reply.accepted else f"no: {reply.message}"

    def statuses(self) -> list[str]:
        return [str(trial.status) for trial in self.controller.trials.values()]


def test_request_that_the_journal_has_is_not_carried_out_again() -> None:
    experiment = Experiment().run(0)
    event, _ = experiment.handler.consider("r", StopTrial("0"))
    assert event is not None
    experiment.handle(event)

    again, reply = experiment.handler.consider("r", StopTrial("0"))

    assert isinstance(event, Steered)
    assert again is None
    assert reply.accepted
    assert reply.message == "it is in the journal, and was or will be carried out"


def test_replay_knows_what_was_handled() -> None:
    experiment = Experiment(num_samples=2)
    requests = (PauseTrial("0"), AddConfiguration({"x": 0.5}), RaiseNumSamples(4))
    for request in requests:
        event, _ = experiment.handler.consider(str(request), request)
        assert event is not None
        experiment.handle(event)
    replay = Replay(Controller(experiment.rules)).run((event, ()) for event in experiment.events)

    assert replay.state.handled == {*map(str, requests)}


@pytest.mark.parametrize("request_", [PauseTrial("7"), ResumeTrial("7"), StopTrial("7")])
def test_unknown_trial_is_refused_with_those_that_there_are(request_: Request) -> None:
    assert Experiment(num_samples=2).ask(request_) == (
        "no: there is no trial '7'; the experiment has trials a1b2c_00000 to a1b2c_00001"
    )


def test_misspelt_trial_is_refused_with_the_nearest() -> None:
    message = Experiment().ask(StopTrial("a1b2_00000"))

    assert message.startswith("no: there is no trial 'a1b2_00000'; did you mean 'a1b2c_00000'?")


@pytest.mark.parametrize("request_", [PauseTrial("0"), ResumeTrial("0"), StopTrial("0")])
def test_trial_that_has_ended_is_refused(request_: Request) -> None:
    experiment = Experiment(num_samples=2).run(0)
    experiment.end(0, Outcome.COMPLETED)

    assert experiment.ask(request_) == "no: trial a1b2c_00000 has ended: it is TERMINATED"


@pytest.mark.parametrize(
    "request_",
    [
        PauseExperiment(),
        ResumeExperiment(),
        StopExperiment(),
        AddConfiguration({"x": 0.5}),
        RaiseNumSamples(9),
    ],
)
def test_nothing_is_granted_at_the_end(request_: Request) -> None:
    experiment = Experiment().run(0)
    assert experiment.ask(StopExperiment("enough")).startswith("the experiment ends; 1 trials")

    assert experiment.ask(request_) == "no: the experiment is about to end: enough"
    experiment.end(0)
    assert experiment.controller.has_ended
    assert experiment.ask(request_) == "no: the experiment has ended: Tuner.restore goes on with it"


@pytest.mark.parametrize("text", [9999 * "9", "-1", "\u00b2", "\u0663"])
def test_number_of_no_trial_is_refused(text: str) -> None:
    message = Experiment().run(0).ask(StopTrial(text))

    assert message.startswith("no: there is no trial ")
    assert len(message) < 300


# Pausing.


def test_trial_that_is_about_to_end_is_not_paused() -> None:
    experiment = Experiment().run(0)
    experiment.report(0, 1, checkpoint=0, decision=Decision.STOP)

    assert experiment.ask(PauseTrial("0")) == "no: trial a1b2c_00000 is about to end"
    assert experiment.ask(StopTrial("0")) == "trial a1b2c_00000 is about to end"


def test_function_pauses_at_its_next_report_with_a_checkpoint() -> None:
    experiment = Experiment().run(0)
    assert experiment.ask(PauseTrial("0")) == (
        "trial a1b2c_00000 pauses at its next report with a checkpoint; it has not saved any yet: without one it runs "
        "to its end"
    )
    assert experiment.report(0, 1) == []
    (answer,) = experiment.report(0, 2, checkpoint=0)
    assert answer == Answer(experiment.id(0), 1, Decision.PAUSE)
    assert experiment.end(0) == []
    assert experiment.statuses() == ["PAUSED"]
    assert not experiment.controller.has_ended

    assert experiment.ask(ResumeTrial("0")) == "trial a1b2c_00000 goes on as soon as there is room"

    assert experiment.commands[-1] == StartAttempt(experiment.id(0), 2, 0, 2, 0)


def test_class_pauses_after_its_step() -> None:
    experiment = Experiment(saves_on_request=True).run(0)

    assert experiment.ask(PauseTrial("0")) == "trial a1b2c_00000 pauses after the step that it takes"
    assert experiment.report(0, 1) == [Answer(experiment.id(0), 1, Decision.PAUSE)]


def test_trial_that_waits_for_its_bundles_pauses_at_once() -> None:
    experiment = Experiment(num_samples=2, capacity=1).run(0)

    assert experiment.ask(PauseTrial("1")) == "trial a1b2c_00001 is paused"

    assert experiment.commands[-1] == StopAttempt(experiment.id(1), 1)
    experiment.end(1)
    assert experiment.statuses() == ["RUNNING", "PAUSED"]


def test_pause_that_has_not_taken_effect_can_be_taken_back() -> None:
    experiment = Experiment().run(0)
    experiment.ask(PauseTrial("0"))

    assert experiment.ask(ResumeTrial("0")) == "trial a1b2c_00000 goes on as soon as there is room"

    assert experiment.report(0, 1, checkpoint=0) == []


def test_trial_that_fails_while_it_is_to_pause_waits_with_its_retry() -> None:
    experiment = Experiment().run(0)
    experiment.handle(SpecRecorded(0.0, 2, {}, {**asdict(experiment.rules), "max_failures": 1}))
    experiment.ask(PauseTrial("0"))

    assert experiment.end(0, Outcome.ERROR) == []

    assert experiment.statuses() == ["PAUSED"]
    experiment.ask(ResumeTrial("0"))
    assert experiment.commands[-1] == StartAttempt(experiment.id(0), 2, None, 0, -1)


def test_scheduler_does_not_choose_what_somebody_has_paused() -> None:
    experiment = Experiment(num_samples=2, scheduler=PausingScheduler(1)).run(0).run(1)
    for number in (0, 1):
        experiment.report(number, 1, checkpoint=0, decision=Decision.PAUSE)
    experiment.ask(PauseTrial("0"))
    experiment.end(0)

    chosen = experiment.policy.choose(experiment.replay.trials)

    assert chosen.trial_id is None
    experiment.end(1)
    assert experiment.policy.choose(experiment.replay.trials).trial_id == experiment.id(1)


def test_scheduler_that_chooses_what_somebody_has_paused_all_the_same_chooses_none() -> None:
    class Remembering(PausingScheduler):
        """Chooses among the trials that it was told of, not among those that it is shown."""

        def on_trial_add(self, trials: Any, trial: Any) -> None:
            super().on_trial_add(trials, trial)
            self.first = trials[0]

        def choose_trial_to_run(self, trials: Any) -> Any:
            return self.first

    experiment = Experiment(num_samples=2, scheduler=Remembering(1)).run(0).run(1)
    for number in (0, 1):
        experiment.report(number, 1, checkpoint=0, decision=Decision.PAUSE)
    experiment.ask(PauseTrial("0"))
    experiment.end(0)
    experiment.end(1)

    assert experiment.policy.choose(experiment.replay.trials).trial_id is None


def test_paused_trials_of_the_scheduler_wait_with_what_somebody_has_paused() -> None:
    """They may wait for it to come as far as they have: to end them would be for good."""
    experiment = Experiment(num_samples=2, scheduler=PausingScheduler(1)).run(0).run(1)
    experiment.ask(PauseTrial("0"))
    experiment.report(0, 1, checkpoint=0)
    experiment.end(0)
    experiment.report(1, 1, checkpoint=0, decision=Decision.PAUSE)
    experiment.end(1)
    experiment.handle(PausedChosen(4.0, None))

    assert experiment.statuses() == ["PAUSED", "PAUSED"]
    assert not experiment.controller.has_ended


def test_trial_that_the_scheduler_has_paused_is_not_resumed_by_anybody_else() -> None:
    experiment = Experiment(num_samples=1, scheduler=PausingScheduler(1)).run(0)
    experiment.report(0, 1, checkpoint=0, decision=Decision.PAUSE)
    experiment.end(0)

    assert experiment.ask(ResumeTrial("0")) == (
        "no: trial a1b2c_00000 is paused by the scheduler, which lets it go on when it sees fit"
    )
    assert experiment.ask(PauseTrial("0")) == "trial a1b2c_00000 is paused"
    assert experiment.ask(ResumeTrial("0")) == (
        "trial a1b2c_00000 goes on when the scheduler chooses it, which has paused it too"
    )
    assert experiment.statuses() == ["PAUSED"]


def test_nothing_is_paused_or_resumed_twice() -> None:
    experiment = Experiment(num_samples=2).run(0)

    assert experiment.handler.waits == ""
    assert experiment.ask(ResumeTrial("0")) == "no: trial a1b2c_00000 is not paused: it is RUNNING"
    assert experiment.ask(ResumeExperiment()) == "no: the experiment is not paused"
    experiment.ask(PauseTrial("0"))
    assert experiment.ask(PauseTrial("0")) == "no: trial a1b2c_00000 is paused already, by an earlier request"
    assert experiment.ask(ResumeExperiment()) == (
        "no: the experiment is not paused; paused on request, until ResumeTrial: 'a1b2c_00000'"
    )
    experiment.ask(PauseExperiment())
    assert experiment.handler.waits == "the experiment is paused on request, until ResumeExperiment"
    assert experiment.ask(PauseExperiment()) == "no: the experiment is paused already"
    assert experiment.ask(ResumeTrial("1")) == (
        "no: trial a1b2c_00001 waits for the experiment, which is paused: resume that"
    )


def test_paused_experiment_starts_nothing_and_does_not_end() -> None:
    experiment = Experiment(num_samples=5).run(0).run(1)
    experiment.report(0, 1, checkpoint=0)
    assert experiment.ask(PauseExperiment()) == (
        "no trial starts any more; 2 that run pause at their next report with a checkpoint, of which 1 have not saved "
        "any yet: without, they run to their end"
    )
    experiment.report(0, 2, checkpoint=1)
    experiment.end(0)
    experiment.end(1, Outcome.COMPLETED)

    assert experiment.statuses()[:2] == ["PAUSED", "TERMINATED"]
    assert not any(trial.status is Status.RUNNING for trial in experiment.controller.trials.values())
    before = len(experiment.commands)
    assert experiment.ask(ResumeExperiment()) == "the experiment goes on"
    assert any(isinstance(each, StartAttempt) for each in experiment.commands[before:])


# Stopping.


def test_stopped_trial_ends_at_its_next_report_and_the_search_goes_on() -> None:
    experiment = Experiment(num_samples=3, capacity=1).run(0)

    assert experiment.ask(StopTrial("0")) == "trial a1b2c_00000 ends at its next report"

    assert experiment.commands[-1] == StopAttempt(experiment.id(0), 1)
    experiment.end(0, Outcome.CRASHED)
    assert experiment.statuses()[0] == "TERMINATED"


def test_paused_trial_is_stopped_at_once() -> None:
    experiment = Experiment(saves_on_request=True).run(0)
    experiment.ask(PauseTrial("0"))
    experiment.report(0, 1)
    experiment.end(0)

    assert experiment.ask(StopTrial("0")) == "trial a1b2c_00000 is ended"

    assert experiment.statuses() == ["TERMINATED"]


# Adding.


def added(experiment: Experiment, config: dict[str, Any]) -> str:
    return experiment.ask(AddConfiguration(config))


def test_added_configuration_runs_beyond_num_samples() -> None:
    experiment = Experiment(num_samples=2)

    message = added(experiment, {"x": 0.25})

    assert message == "it runs as trial a1b2c_00002 as soon as there is room"
    trial = experiment.controller.trials[experiment.id(2)]
    assert (trial.config, trial.experiment_tag, trial.status) == ({"x": 0.25}, "2_x=0.2500", Status.PENDING)
    assert experiment.policy.total_trials == 3
    experiment.run(0).run(1)
    assert experiment.commands[-1] == StartAttempt(experiment.id(2), 1, None, 0, -1)


def test_added_configuration_is_not_counted_as_one_of_the_search() -> None:
    class Constant(Searcher):
        def set_search_properties(self, *args: Any, **spec: Any) -> bool:
            super().set_search_properties(*args, **spec)
            return True

        def suggest(self, trial_id: str) -> dict[str, Any]:
            return {"x": 0.5}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            assert trial_id != "a1b2c_00001", "it was never told of that trial"

    experiment = Experiment(num_samples=3, search_alg=Constant(), capacity=1)
    added(experiment, {"x": 0.25})
    experiment.policy.complete(experiment.replay.trials, experiment.controller.trials[experiment.id(1)])

    answers = [experiment.policy.suggest(f"t{number}", number) for number in (2, 3, 4)]

    assert [isinstance(answer, SearchEnded) for answer in answers] == [False, False, True]


SPACE = {
    "lr": tune.loguniform(1e-4, 1e-1),
    "net": {"width": tune.choice([16, 32]), "layers": tune.grid_search([1, 2])},
    "epochs": 3,
    "twice": tune.sample_from(lambda config: 2 * config["lr"]),
}


def test_added_configuration_is_completed_from_the_space() -> None:
    experiment = Experiment(SPACE)

    added(experiment, {"lr": 0.01, "net": {"width": 16, "layers": 2}})

    number = len(experiment.controller.trials) - 1
    assert experiment.controller.trials[experiment.id(number)].config == {
        "lr": 0.01,
        "net": {"width": 16, "layers": 2},
        "epochs": 3,
        "twice": 0.02,
    }


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"lr": 0.01}, "config: net/layers, net/width is missing"),
        ({"lr": 1, "net": {"width": 16, "layers": 2}}, r"config: lr=1: expected a value of loguniform"),
        (
            {"lr": 0.01, "net": {"width": 17, "layers": 2}},
            r"config: net/width=17: expected a value of choice",
        ),
        ({"lr": 0.01, "net": {"width": 16, "layers": 9}}, r"config: net/layers=9"),
        ({"lrr": 0.01}, "config: the search space has no 'lrr'; did you mean 'lr'"),
    ],
)
def test_configuration_that_is_none_of_the_space_is_refused(config: dict[str, Any], fault: str) -> None:
    experiment = Experiment(SPACE)
    before = len(experiment.controller.trials)

    message = added(experiment, config)

    assert message.startswith("no: ")
    assert fault in message
    assert len(experiment.controller.trials) == before


def test_function_of_the_user_that_fails_refuses_the_configuration_only() -> None:
    names = iter(["first"])
    experiment = Experiment(trial_dirname_creator=lambda trial: next(names))

    assert added(experiment, {"x": 0.5}).startswith("no: ")
    assert not experiment.controller.has_ended


class Stubborn(Searcher):
    """A searcher of somebody's that fails when it is steered."""

    def suggest(self, trial_id: str) -> dict[str, Any]:
        return {}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Learn nothing."""

    def on_configuration_added(self, trial_id: str, config: dict[str, Any]) -> bool:
        raise RuntimeError("not now")

    def on_num_samples_raised(self, num_samples: int) -> None:
        raise RuntimeError("never")


def test_searcher_that_fails_refuses_the_request_and_nothing_has_changed() -> None:
    experiment = Experiment(
        {},
        num_samples=3,
        search_alg=Stubborn(),
        capacity=1,
        trial_dirname_creator=lambda trial: trial.trial_id,
    )
    before = experiment.replay.spec

    assert added(experiment, {}) == "no: RuntimeError: not now"
    assert experiment.ask(RaiseNumSamples(9)) == "no: RuntimeError: never"

    assert (experiment.replay.spec, experiment.policy.num_samples) == (before, 3)
    number = len(experiment.controller.trials)
    assert isinstance(experiment.policy.suggest(experiment.id(number), number), TrialSuggested)


def test_optuna_learns_from_what_was_added() -> None:
    search = OptunaSearch(seed=1, points_to_evaluate=[{"x": 0.1}, {"x": 0.2}])
    experiment = Experiment(num_samples=3, search_alg=search, metric="loss", mode="min", capacity=1)

    added(experiment, {"x": 0.75})

    configs = [trial.params for trial in search.study.get_trials()]
    assert {"x": 0.75} in configs
    number = len(experiment.controller.trials)
    suggested = experiment.policy.suggest(experiment.id(number), number)
    assert isinstance(suggested, TrialSuggested)
    configs = [each.config for each in experiment.controller.trials.values()]
    assert [*configs, suggested.config] == [{"x": 0.1}, {"x": 0.75}, {"x": 0.2}]


def test_optuna_refuses_what_its_own_space_lacks() -> None:
    search = OptunaSearch({"x": tune.uniform(0, 1)}, seed=1)
    experiment = Experiment({"epochs": 3}, search_alg=search, metric="loss", mode="min")

    assert added(experiment, {"y": 1}) == "no: config: x is missing: OptunaSearch chooses it"
    assert added(experiment, {"x": "high"}).startswith("no: config: x='high': ")
    assert added(experiment, {"x": 2}).startswith("no: config: x=2: ")
    assert len(search.study.get_trials()) == len(experiment.controller.trials)
    assert added(experiment, {"x": 0.5}).startswith("it runs as trial")


def test_repeater_repeats_nothing_that_was_added() -> None:
    experiment = Experiment(
        num_samples=4, search_alg=Repeater(OptunaSearch(seed=1), 2), metric="loss", mode="min", capacity=1
    )

    assert added(experiment, {"x": 0.5}).startswith("it runs as trial")
    number = len(experiment.controller.trials) - 1
    experiment.policy.complete(experiment.replay.trials, experiment.controller.trials[experiment.id(number)])


# More, and longer.


def test_raised_num_samples_extends_a_search_that_had_ended() -> None:
    experiment = Experiment(num_samples=1).run(0)

    assert experiment.ask(RaiseNumSamples(3)) == "num_samples is 3 from now on; it was 1"

    assert len(experiment.controller.trials) == 2  # the third one waits for room
    spec = experiment.replay.spec
    assert spec is not None
    assert (spec.revision, spec.spec["tune_config"]["num_samples"]) == (2, 3)
    assert experiment.ask(RaiseNumSamples(3)) == "no: num_samples=3: it is 3 already, expected more"


def test_experiment_without_an_end_cannot_be_extended() -> None:
    assert Experiment(num_samples=-1).ask(RaiseNumSamples(3)).startswith("no: num_samples=-1")


def test_looser_stop_rule_holds_for_whatever_starts_from_now_on() -> None:
    experiment = Experiment(stop={"training_iteration": 10, "acc": 0.9}, num_samples=2)

    message = experiment.ask(LoosenStop({"training_iteration": 20}))

    assert message.startswith("stop is {'training_iteration': 20} from now on")
    assert experiment.policy.local_stop == {"training_iteration": 20}
    spec = experiment.replay.spec
    assert spec is not None
    assert spec.spec["run_config"]["stop"] == {"training_iteration": 20}


@pytest.mark.parametrize(
    ("stop", "asked", "fault"),
    [
        ({"a": 10}, {"a": 9}, "'a': 9 is below 10"),
        ({"a": 10}, {"a": 10, "b": 1}, "'b': 1 is new"),
        ({"a": 10}, {"a": 10}, "nothing changes"),
        (None, {"a": 10}, "'a': 10 is new"),
        (MaximumIterationStopper(3), {"a": 10}, "RunConfig.stop is a MaximumIterationStopper"),
    ],
)
def test_stop_rule_that_is_not_looser_is_refused(stop: Any, asked: dict[str, float], fault: str) -> None:
    message = Experiment(stop=stop).ask(LoosenStop(asked))

    assert message.startswith("no: ")
    assert fault in message


def test_another_space_holds_for_trials_to_come() -> None:
    experiment = Experiment(num_samples=20, capacity=1).run(0)

    message = experiment.ask(ChangeSpace({"x": tune.uniform(5, 6), "net/width": tune.choice([1, 2])}))
    experiment.end(0, Outcome.COMPLETED)
    experiment.run(1).end(1, Outcome.COMPLETED)

    assert message == (
        "from now on, x: uniform(5, 6) instead of uniform(0, 1); net/width is new: choice([1, 2]); trials before stay "
        "what they are, and 2 of 2 are not of the new space"
    )
    configs = [trial.config for trial in experiment.replay.trials]
    assert all(0 <= config["x"] <= 1 and "net" not in config for config in configs[:2])
    assert all(5 <= config["x"] <= 6 and config["net"]["width"] in (1, 2) for config in configs[2:])
    assert len(configs) > 2
    spec = experiment.replay.spec
    assert spec is not None
    assert (spec.revision, spec.request_id) == (2, "r0")
    assert space_as_steered({"x": tune.uniform(0, 1), "f": print}, spec) == {
        "x": tune.uniform(5, 6),
        "f": print,
        "net": {"width": tune.choice([1, 2])},
    }
    assert experiment.ask(AddConfiguration({"x": 5.5, "net": {"width": 2}})).startswith("it runs as trial")


class _Plain(Searcher):
    def suggest(self, trial_id: str) -> dict[str, Any]:
        return {"x": 0.5}


class _Drawing(_Plain):
    def set_search_properties(self, *args: Any, **spec: Any) -> bool:
        return super().set_search_properties(*args, **spec) or True


@pytest.mark.parametrize(
    ("space", "options", "asked", "fault"),
    [
        ({"x": tune.uniform(0, 1)}, {}, {"x": tune.uniform(0, 1)}, "nothing changes"),
        ({"x": tune.uniform(0, 1)}, {}, {"x": tune.choice([1])}, "cannot become a choice"),
        ({"x": tune.grid_search([1, 2])}, {}, {"y": tune.uniform(0, 1)}, "a grid is walked in its order"),
        ({"x": 3}, {}, {"x/y": tune.uniform(0, 1)}, "is 3, not a dict"),
        ({"x": 3}, {"search_alg": _Plain()}, {"y": tune.uniform(0, 1)}, "has a search space of its own"),
        (
            {"x": tune.uniform(0, 1)},
            {"search_alg": _Drawing()},
            {"x": tune.uniform(0, 2)},
            "_Drawing cannot take",
        ),
    ],
)
def test_a_space_that_cannot_be_is_refused(
    space: dict[str, Any], options: dict[str, Any], asked: dict[str, Any], fault: str
) -> None:
    experiment = Experiment(space, **options)

    message = experiment.ask(ChangeSpace(asked))

    assert message.startswith("no: ")
    assert fault in message
    assert experiment.policy.param_space == space


def test_run_that_is_tried_again_is_run_as_it_was_steered() -> None:
    experiment = Experiment(stop={"training_iteration": 10}, num_samples=1)
    before = (experiment.tune_config, experiment.run_config)
    assert as_steered(*before, None) == before
    experiment.ask(RaiseNumSamples(3))
    experiment.ask(LoosenStop({"training_iteration": 20}))

    tuning, run = as_steered(*before, experiment.replay.spec)

    assert (tuning.num_samples, run.stop) == (3, {"training_iteration": 20})

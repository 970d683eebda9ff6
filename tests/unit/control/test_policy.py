"""Searcher, scheduler and stoppers are asked and told at the right moments, and only then."""

from __future__ import annotations

import time
from typing import Any

import pytest

import tune_core as tune
from tune_core.config.run_config import TuneConfig
from tune_core.control import segments
from tune_core.control.experiment import SPEC_FILE
from tune_core.control.messages import PausedChosen, SearchEnded, SuggestionDeferred, TrialSuggested
from tune_core.control.policy import Policy
from tune_core.errors import ConfigError
from tune_core.schedulers import Exploit, FIFOScheduler, TrialScheduler
from tune_core.search import BasicVariantGenerator, ConcurrencyLimiter, Searcher, Suggestion
from tune_core.states import Decision, ExploitChoice
from tune_core.steering import inbox
from tune_core.stopper import MaximumIterationStopper, Stopper
from tune_core.storage.experiment_storage import RESERVED_NAMES
from tune_core.trial import Attempt, CheckpointRecord, StartPoint, Status, Trial
from tune_core.views.html_report import REPORT_FILE

NOW = 1_700_000_000.0


class NotingSearcher(Searcher):
    """Suggests what it was given, and notes what it is told."""

    def __init__(self, *answers: Any) -> None:
        super().__init__()
        self.answers = list(answers)
        self.told: list[Any] = []

    def set_search_properties(self, metric: Any, mode: Any, config: dict[str, Any], **spec: Any) -> bool:
        self.told.append(("set", metric, mode, config, spec))
        return super().set_search_properties(metric, mode, config, **spec)

    def suggest(self, trial_id: str) -> Any:
        self.told.append(("suggest", trial_id))
        return self.answers.pop(0)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self.told.append(("result", trial_id, result))

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        self.told.append(("complete", trial_id, result, error))


class NotingScheduler(TrialScheduler):
    """Decides what it was given, and notes what it is told."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.told: list[Any] = []

    def on_trial_add(self, trials: Any, trial: Trial) -> None:
        self.told.append(("add", trial.trial_id))

    def on_trial_result(self, trials: Any, trial: Trial, result: dict[str, Any]) -> str:
        self.told.append(("result", trial.trial_id, result))
        answer: str = self.answers.pop(0)
        return answer

    def on_trial_complete(self, trials: Any, trial: Trial, result: dict[str, Any]) -> None:
        self.told.append(("complete", trial.trial_id, result))

    def on_trial_error(self, trials: Any, trial: Trial) -> None:
        self.told.append(("error", trial.trial_id))

    def on_trial_remove(self, trials: Any, trial: Trial) -> None:
        self.told.append(("remove", trial.trial_id))


def train(config: dict[str, Any]) -> None: ...


def a_steering(stop: Any = None, space: dict[str, Any] | None = None, **config: Any) -> Policy:
    return Policy(TuneConfig(**config), stop, space or {}, train, "train", wall_clock=lambda: NOW)


def a_trial(status: Status = Status.RUNNING, row: dict[str, Any] | None = None) -> Trial:
    return Trial("t0", 0, {"lr": 0.1}, status=status, last_row={"timestamp": 0, **row} if row else {})


# Suggestions.


def test_suggestion_becomes_an_event_with_names_and_resources() -> None:
    searcher = NotingSearcher(Suggestion({"lr": 0.25, "fixed": 1}, {"lr": 0.25}))
    trainable = tune.with_resources(train, {"cpu": 2})
    policy = Policy(
        TuneConfig(search_alg=searcher, num_samples=-1), None, {}, trainable, "train", wall_clock=lambda: NOW
    )

    event = policy.suggest("t7", 7)

    date = time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(NOW))
    assert isinstance(event, TrialSuggested)
    assert (event.time, event.trial_id, event.trainable_name) == (NOW, "t7", "train")
    assert event.config == {"lr": 0.25, "fixed": 1}
    assert event.experiment_tag == "7_lr=0.2500"
    assert event.dirname == f"train_t7_7_lr=0.2500_{date}"
    assert event.trial_name == ""
    assert tune.PlacementGroupFactory.from_dict(event.resources).required_resources == {"CPU": 2.0}


def test_every_parameter_of_a_plain_dict_names_the_trial() -> None:
    event = a_steering(search_alg=NotingSearcher({"lr": 1, "net": {"width": 2}})).suggest("t0", 0)

    assert isinstance(event, TrialSuggested)
    assert event.config == {"lr": 1, "net": {"width": 2}}
    assert event.experiment_tag == "0_lr=1,width=2"


def test_fixed_values_of_the_search_space_are_added_to_a_plain_dict() -> None:
    space = {"net": {"depth": 3, "sizes": [1, 2]}, "epochs": 5}
    policy = a_steering(space=space, search_alg=NotingSearcher({"lr": 1, "net": {"width": 2}}))

    event = policy.suggest("t0", 0)

    assert isinstance(event, TrialSuggested)
    assert event.config == {"net": {"depth": 3, "sizes": [1, 2], "width": 2}, "epochs": 5, "lr": 1}
    assert event.config["net"]["sizes"] is not space["net"]["sizes"]
    assert event.experiment_tag == "0_lr=1,width=2"


def test_searcher_that_does_not_draw_from_the_space_refuses_samplers_in_it() -> None:
    with pytest.raises(
        ConfigError, match=r"NotingSearcher does not draw from param_space, .*: lr, net/width\."
    ):
        a_steering(
            space={"lr": tune.uniform(0, 1), "net": {"width": tune.grid_search([1])}, "fixed": 1},
            search_alg=NotingSearcher(),
        )


def test_searcher_that_leaves_a_sampler_undecided_is_refused() -> None:
    class Forgetful(NotingSearcher):
        def set_search_properties(self, *args: Any, **spec: Any) -> bool:
            return True

    policy = a_steering(space={"a": tune.uniform(0, 1), "b": 1}, search_alg=Forgetful({"b": 2}))

    with pytest.raises(ConfigError, match=r"Forgetful did not choose every value of param_space: a\."):
        policy.suggest("t0", 0)


def test_searcher_is_asked_for_no_more_than_num_samples() -> None:
    searcher = NotingSearcher({"lr": 1}, {"lr": 2})
    policy = a_steering(search_alg=searcher, num_samples=1)

    events = [policy.suggest("t0", 0), policy.suggest("t1", 1)]

    assert [type(event) for event in events] == [TrialSuggested, SearchEnded]
    assert searcher.answers == [{"lr": 2}]


def test_searcher_without_a_number_of_samples_is_asked_for_ever() -> None:
    policy = a_steering(search_alg=NotingSearcher({"lr": 1}), num_samples=-1)

    assert isinstance(policy.suggest("t0", 1000), TrialSuggested)


def test_searcher_may_wait_or_end() -> None:
    policy = a_steering(search_alg=NotingSearcher(None, Searcher.FINISHED))

    assert policy.suggest("t0", 0) == SuggestionDeferred(NOW)
    assert policy.suggest("t0", 0) == SearchEnded(NOW)


@pytest.mark.parametrize("answer", [7, "finished", [("lr", 1)], True])
def test_other_answers_of_a_searcher_are_refused(answer: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"NotingSearcher.suggest returned .*: expected a dict, a Suggestion, None, or"
    ):
        a_steering(search_alg=NotingSearcher(answer)).suggest("t0", 0)


def test_names_may_be_the_users_own() -> None:
    policy = a_steering(
        search_alg=NotingSearcher({"lr": 1}),
        num_samples=4,
        trial_name_creator=lambda trial: f"name-{trial.trial_id}-{trial.config['lr']}",
        trial_dirname_creator=lambda trial: f"dir-{trial.trial_id}-{trial.experiment_tag}-{trial}",
    )

    event = policy.suggest("t0", 3)

    assert isinstance(event, TrialSuggested)
    assert event.trial_name == "name-t0-1"
    assert event.dirname == "dir-t0-3_lr=1-name-t0-1"


@pytest.mark.parametrize(
    "name", ["", "a/b", ".", "..", "../../etc", "/etc", "nul\0", "\udc80", "\uffff", "ü" * 128, None, 7]
)
def test_name_that_is_no_directory_is_refused(name: Any) -> None:
    policy = a_steering(search_alg=NotingSearcher({}), trial_dirname_creator=lambda _: name)

    with pytest.raises(
        ConfigError, match=r"trial_dirname_creator, for trial t0: trial name .*plain relative name"
    ):
        policy.suggest("t0", 0)


@pytest.mark.parametrize(
    "name", ["journal", "inbox", "experiment.json", "report.html", "Journal", ".hidden", "x_attempt_2"]
)
def test_name_that_the_experiment_needs_itself_is_refused(name: str) -> None:
    policy = a_steering(search_alg=NotingSearcher({}), trial_dirname_creator=lambda _: name)

    with pytest.raises(ConfigError, match=rf"trial_dirname_creator, for trial t0: trial name '{name}'"):
        policy.suggest("t0", 0)


def test_reserved_names_are_those_that_are_written() -> None:
    assert {segments.DIRECTORY, inbox.DIRECTORY, SPEC_FILE, REPORT_FILE} == RESERVED_NAMES


# What the searcher and the scheduler are given.


def test_searcher_and_scheduler_learn_what_to_optimise() -> None:
    searcher, scheduler = NotingSearcher(), NotingScheduler()

    a_steering(
        space={"lr": 1}, search_alg=searcher, scheduler=scheduler, metric="loss", mode="min", num_samples=3
    )

    assert searcher.told == [("set", "loss", "min", {"lr": 1}, {"num_samples": 3})]
    assert (searcher.metric, searcher.mode) == (scheduler.metric, scheduler.mode) == ("loss", "min")


def test_grid_and_random_search_in_order_of_creation_is_the_default() -> None:
    policy = a_steering(space={"lr": tune.grid_search([1, 2])}, num_samples=2)

    assert isinstance(policy.searcher, BasicVariantGenerator)
    assert isinstance(policy.scheduler, FIFOScheduler)
    assert policy.total_trials == 4
    configs = [policy.suggest(f"t{number}", number) for number in range(5)]
    assert [event.config["lr"] for event in configs if isinstance(event, TrialSuggested)] == [1, 2, 1, 2]


def test_searcher_of_ones_own_is_expected_to_suggest_num_samples() -> None:
    assert a_steering(search_alg=NotingSearcher(), num_samples=3).total_trials == 3
    assert a_steering(search_alg=NotingSearcher(), num_samples=-1).total_trials is None
    assert a_steering(num_samples=-1).total_trials is None


@pytest.mark.parametrize(
    ("ours", "searchers", "expected"),
    [(None, 0, None), (0, 0, None), (3, 0, 3), (None, 2, 2), (3, 2, 2), (1, 2, 1)],
)
def test_tighter_limit_of_concurrent_trials_counts(
    ours: int | None, searchers: int, expected: int | None
) -> None:
    searcher = NotingSearcher()
    searcher.max_concurrent = searchers

    assert a_steering(search_alg=searcher, max_concurrent_trials=ours).max_concurrent == expected


# Decisions.


class OnlyStop(Stopper):
    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stop", "scheduler", "waits", "rules"),
    [
        (None, None, False, {}),
        ({}, None, False, {}),
        ({"loss": 1}, None, False, {"loss": 1}),
        ({"loss": 1}, NotingScheduler(), True, {"loss": 1}),
        (None, FIFOScheduler(), False, {}),
        (None, NotingScheduler(), True, {}),
        (MaximumIterationStopper(3), None, True, {}),
        ([OnlyStop()], None, True, {}),
        (lambda trial_id, result: False, None, True, {}),
    ],
)
def test_reports_wait_only_where_something_could_answer_other_than_continue(
    stop: Any, scheduler: TrialScheduler | None, waits: bool, rules: dict[str, float]
) -> None:
    policy = a_steering(stop, scheduler=scheduler)

    assert policy.waits_for_decisions is waits
    assert policy.local_stop == rules


def decide(policy: Policy, **row: Any) -> tuple[Decision, dict[str, Any], dict[str, Any]]:
    row = {"done": False, **row}
    result = {**row, "trial_id": "t0"}
    decision, _ = policy.decide([], a_trial(), row, result)
    return decision, row, result


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("CONTINUE", Decision.CONTINUE),
        (TrialScheduler.PAUSE, Decision.PAUSE),
        (Decision.STOP, Decision.STOP),
    ],
)
def test_scheduler_decides(answer: Any, expected: Decision) -> None:
    scheduler = NotingScheduler(answer)

    decision, row, result = decide(a_steering(scheduler=scheduler), loss=1)

    assert decision is expected
    assert scheduler.told == [("result", "t0", {"done": False, "loss": 1, "trial_id": "t0"})]
    assert row["done"] is result["done"] is False


@pytest.mark.parametrize("answer", ["NOOP", "continue", "EXPLOIT", Decision.EXPLOIT, None, True, []])
def test_other_answers_of_a_scheduler_are_refused(answer: Any) -> None:
    with pytest.raises(
        ConfigError,
        match=r"on_trial_result returned .*: expected one of CONTINUE, STOP, PAUSE, an Exploit or a Reallocate",
    ):
        decide(a_steering(scheduler=NotingScheduler(answer)))


def test_fifo_is_not_even_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FIFOScheduler, "on_trial_result", None)

    assert decide(a_steering())[0] is Decision.CONTINUE


def test_subclass_of_fifo_that_answers_itself_is_asked() -> None:
    class Strict(FIFOScheduler):
        def on_trial_result(self, trials: Any, trial: Trial, result: dict[str, Any]) -> str:
            return self.STOP

    class Quiet(FIFOScheduler):
        """Writes something else."""

        def debug_string(self) -> str:
            return "quiet"

    patched = FIFOScheduler()
    patched.on_trial_result = lambda *_: FIFOScheduler.STOP  # type: ignore[method-assign]
    assert decide(a_steering(scheduler=Strict()))[0] is Decision.STOP
    assert a_steering(scheduler=Strict()).waits_for_decisions
    assert decide(a_steering(scheduler=patched))[0] is Decision.STOP
    assert not a_steering(scheduler=Quiet()).waits_for_decisions


class Batches(NotingSearcher):
    """Keeps to a limit by itself."""

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        self.told.append(("limit", max_concurrent))
        return True


def test_searcher_is_told_how_many_trials_may_run_at_once() -> None:
    searcher, inner = Batches(), Batches({"x": 1}, {"x": 2})
    policy = a_steering(search_alg=searcher, max_concurrent_trials=3)
    assert searcher.told[0] == ("limit", 3)
    assert policy.max_concurrent is None
    assert a_steering(search_alg=NotingSearcher(), max_concurrent_trials=3).max_concurrent == 3

    limiter = ConcurrencyLimiter(inner, 1)
    assert a_steering(search_alg=limiter, max_concurrent_trials=4).max_concurrent == 1
    assert inner.told[0] == ("limit", 1)
    assert [limiter.suggest(name) for name in ("t0", "t1")] == [{"x": 1}, {"x": 2}]


def test_report_that_is_done_stops_without_asking_anybody() -> None:
    scheduler, searcher = NotingScheduler(), NotingSearcher()

    decision, _, _ = decide(a_steering(scheduler=scheduler, search_alg=searcher), done=True)

    assert decision is Decision.STOP
    assert scheduler.told == []
    assert [told[0] for told in searcher.told] == ["set"]


def test_stopper_is_asked_before_the_scheduler_and_its_hit_is_written_into_the_row() -> None:
    scheduler = NotingScheduler()
    policy = a_steering(lambda trial_id, result: result["loss"] < 1, scheduler=scheduler)

    decision, row, result = decide(policy, loss=0.5)

    assert decision is Decision.STOP
    assert row["done"] is result["done"] is True
    assert scheduler.told == []


@pytest.mark.parametrize(("decision", "is_told"), [("CONTINUE", True), ("PAUSE", True), ("STOP", False)])
def test_searcher_learns_from_reports_after_which_the_trial_may_go_on(decision: str, is_told: bool) -> None:
    searcher = NotingSearcher()

    decide(a_steering(scheduler=NotingScheduler(decision), search_alg=searcher), loss=1)

    results = [told for told in searcher.told if told[0] == "result"]
    assert results == ([("result", "t0", {"done": False, "loss": 1, "trial_id": "t0"})] if is_told else [])


@pytest.mark.parametrize(
    ("stop", "expected"),
    [(None, False), ({"loss": 1}, False), (OnlyStop(), True), (MaximumIterationStopper(1), False)],
)
def test_stopper_may_end_the_whole_experiment(stop: Any, expected: bool) -> None:
    assert a_steering(stop).wants_all_stopped() is expected


# Exploits.


def trials_with(*checkpoints: int | None) -> list[Trial]:
    """Running trials, each with a checkpoint of that index, or with none."""
    return [
        Trial(
            f"t{number}",
            number,
            {"lr": 0.1, "net": {"width": 8}},
            experiment_tag=f"{number}_lr=0.1000",
            dirname=f"dir{number}",
            status=Status.RUNNING,
            checkpoints=[] if index is None else [CheckpointRecord(index, 5)],
        )
        for number, index in enumerate(checkpoints)
    ]


def decide_on_first(trials: list[Trial], answer: Any, checkpoint: int | None = None) -> Any:
    row: dict[str, Any] = {"done": False, "loss": 1}
    return a_steering(scheduler=NotingScheduler(answer)).decide(trials, trials[0], row, row, checkpoint)


@pytest.mark.parametrize("by_id", [True, False])
def test_exploit_names_the_donors_latest_checkpoint(by_id: bool) -> None:
    trials = trials_with(None, 3)
    config = {"lr": 0.2, "net": {"width": 8}, "new": True}

    decided = decide_on_first(trials, Exploit("t1" if by_id else trials[1], config))

    tag = "0_lr=0.1000@perturbed[lr=0.2000,new=True]"
    assert decided == (Decision.EXPLOIT, ExploitChoice("t1", 3, config, tag))


def test_second_exploit_replaces_the_tag_of_the_first() -> None:
    trials = trials_with(None, 3)
    trials[0].experiment_tag = "0_lr=0.1000@perturbed[lr=0.2000]"

    _, choice = decide_on_first(trials, Exploit("t1", {**trials[0].config, "lr": 0.3}))

    assert choice.experiment_tag == "0_lr=0.1000@perturbed[lr=0.3000]"


def test_exploit_of_a_donor_that_has_only_borrowed_goes_to_the_lender() -> None:
    trials = trials_with(None, None, 4)
    trials[1].borrowed = StartPoint("t2", "dir2", trials[2].checkpoints[0])

    _, choice = decide_on_first(trials, Exploit(trials[1], {}))

    assert (choice.donor, choice.checkpoint) == ("t2", 4)


def test_trial_that_exploits_itself_takes_the_checkpoint_of_this_report() -> None:
    trials = trials_with(3)

    _, choice = decide_on_first(trials, Exploit(trials[0], {}), checkpoint=4)

    assert (choice.donor, choice.checkpoint) == ("t0", 4)


def test_exploit_of_a_donor_without_a_checkpoint_is_skipped(caplog: pytest.LogCaptureFixture) -> None:
    trials = trials_with(3, None)

    assert decide_on_first(trials, Exploit(trials[1], {})) == (Decision.CONTINUE, None)
    assert "trial t0 cannot go on from trial t1, which has no checkpoint" in caplog.text


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Exploit("t9", {}), r"Exploit\(donor='t9'\): there is no such trial"),
        (Exploit(None, {}), r"Exploit\(donor=None\): there is no such trial"),  # type: ignore[arg-type]
        (Exploit("t1", [1]), r"Exploit\(config=\[1\]\): expected a dict"),  # type: ignore[arg-type]
    ],
)
def test_exploit_that_makes_no_sense_is_refused(answer: Exploit, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        decide_on_first(trials_with(0, 0), answer)


# Pauses.


def test_scheduler_is_not_asked_again_about_a_trial_that_is_to_pause() -> None:
    trials = trials_with(3)
    trials[0].attempt = Attempt(wants_pause=True)
    searcher, scheduler = NotingSearcher(), NotingScheduler()
    row: dict[str, Any] = {"done": False, "loss": 1}

    decided = a_steering(search_alg=searcher, scheduler=scheduler).decide(trials, trials[0], row, row)

    assert decided == (Decision.CONTINUE, None)
    assert scheduler.told == []
    assert searcher.told[-1][0] == "result"


class AClass:
    """Stands for a trainable class, which can save when it is told to."""


@pytest.mark.parametrize(
    ("trainable", "saved_before", "checkpoint", "warns"),
    [
        (train, None, None, True),
        (train, 3, None, False),
        (train, None, 0, False),
        (AClass, None, None, False),
    ],
)
def test_pause_that_loses_work_is_warned_of_once(
    trainable: Any,
    saved_before: int | None,
    checkpoint: int | None,
    warns: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    trials = trials_with(saved_before)
    config = TuneConfig(scheduler=NotingScheduler("PAUSE", "PAUSE"))
    policy = Policy(config, None, {}, trainable, "train", saves_on_request=trainable is AClass)

    for _ in range(2):
        policy.decide(trials, trials[0], {"done": False}, {}, checkpoint)

    assert caplog.text.count("has never saved a checkpoint: it will start over") == int(warns)


class Needy(NotingScheduler):
    needs_checkpoints = True


class NeverSaving(tune.Trainable):
    def step(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(
    ("scheduler", "saved_before", "checkpoint", "warns"),
    [
        (Needy, None, None, True),
        (Needy, 3, None, False),
        (Needy, None, 0, False),
        (NotingScheduler, None, None, False),
    ],
)
def test_scheduler_that_needs_checkpoints_says_so_once_at_the_first_report_without_one(
    scheduler: type[NotingScheduler],
    saved_before: int | None,
    checkpoint: int | None,
    warns: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    trials = trials_with(saved_before)
    policy = a_steering(scheduler=scheduler("CONTINUE", "CONTINUE"))
    assert not caplog.text

    for _ in range(2):
        policy.decide(trials, trials[0], {"done": False}, {}, checkpoint)

    text = f"{scheduler.__name__} needs checkpoints, and trial {trials[0].trial_id} has reported without one"
    assert caplog.text.count(text) == caplog.text.count("starts over") == int(warns)


def test_trial_that_is_over_with_its_first_report_needs_no_checkpoint(
    caplog: pytest.LogCaptureFixture,
) -> None:
    trials = trials_with(None)

    a_steering(scheduler=Needy()).decide(trials, trials[0], {"done": True}, {}, None)

    assert not caplog.text


@pytest.mark.parametrize(("scheduler", "warns"), [(Needy, True), (NotingScheduler, False)])
def test_class_that_cannot_save_is_warned_of_before_the_first_trial(
    scheduler: type[NotingScheduler], warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    config = TuneConfig(scheduler=scheduler("CONTINUE"))
    policy = Policy(config, None, {}, NeverSaving, "NeverSaving", saves_on_request=False)

    text = "Needy needs checkpoints, and NeverSaving has no save_checkpoint method: write it"
    assert caplog.text.count(text) == int(warns)
    trials = trials_with(None)
    policy.decide(trials, trials[0], {"done": False}, {}, None)
    assert caplog.text.count("needs checkpoints") == int(warns)


class Choosing(FIFOScheduler):
    """Returns what it was given."""

    def __init__(self, chosen: Any, stopped: Any = ()) -> None:
        self.chosen, self.stopped = chosen, stopped

    def choose_trial_to_run(self, trials: Any) -> Any:
        return self.chosen(trials)

    def trials_to_stop(self, trials: Any) -> Any:
        return [trials[number] for number in self.stopped]


def choose(scheduler: TrialScheduler, statuses: str) -> PausedChosen:
    words = {"P": Status.PAUSED, "R": Status.RUNNING, "T": Status.TERMINATED}
    trials = [Trial(f"t{number}", number, {}, status=words[each]) for number, each in enumerate(statuses)]
    return a_steering(scheduler=scheduler).choose(trials)


class Explaining(FIFOScheduler):
    """Stops, or pauses, and says what it was told to say."""

    def __init__(self, answer: str, reason: Any, metric: str | None = "loss") -> None:
        self.answer, self.said, self.metric, self.mode = answer, reason, metric, "min"

    def on_trial_result(self, trials: Any, trial: Trial, result: dict[str, Any]) -> str:
        return self.answer

    def decision_reason(self, trial: Trial) -> dict[str, Any]:
        return self.said

    def choose_trial_to_run(self, trials: Any) -> None:
        return None

    def trials_to_stop(self, trials: Any) -> Any:
        return [trial for trial in trials if trial.trial_id == "t9"]


def reason_of(policy: Policy, **row: Any) -> dict[str, Any]:
    row = {"done": False, **row}
    decision, _ = policy.decide([], a_trial(), row, {**row, "trial_id": "t0"})
    return policy.reason(a_trial(), row, decision)


@pytest.mark.parametrize("answer", ["STOP", "PAUSE"])
def test_what_the_scheduler_says_is_kept_with_its_metric(answer: str) -> None:
    policy = a_steering(scheduler=Explaining(answer, {"rung": 4, "value": 0.5}))

    assert reason_of(policy) == {
        "decision": answer, "metric": "loss", "mode": "min", "rung": 4, "value": 0.5,
    }  # fmt: skip


def test_nobody_asks_why_a_trial_goes_on_nor_makes_up_what_is_not_said() -> None:
    assert reason_of(a_steering(scheduler=Explaining("CONTINUE", None))) == {}
    assert reason_of(a_steering(scheduler=Explaining("STOP", {}))) == {}


@pytest.mark.parametrize("said", [None, "because", {"trial": object()}])
def test_reasons_that_the_journal_cannot_hold_are_refused(said: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"Explaining.decision_reason returned .*expected a dict of what JSON"
    ):
        reason_of(a_steering(scheduler=Explaining("STOP", said)))


@pytest.mark.parametrize(
    ("stop", "reason"),
    [
        ({"epoch": 5}, {"decision": "STOP", "rule": "epoch >= 5"}),
        (lambda trial_id, result: result["epoch"] == 7, {"decision": "STOP", "stopper": "FunctionStopper"}),
        (None, {"decision": "STOP", "rule": "it reported done"}),
    ],
)
def test_stop_rules_and_stoppers_are_reasons_too(stop: Any, reason: dict[str, Any]) -> None:
    policy = a_steering(stop, scheduler=Explaining("STOP", {"rung": 1}))

    assert reason_of(policy, done=not callable(stop), epoch=7) == reason


def test_trials_that_are_paused_for_ever_get_their_last_reason() -> None:
    trials = [Trial(f"t{number}", number, {}, status=Status.PAUSED) for number in range(2)]
    scheduler = Explaining("PAUSE", {"rank": 2})
    policy = a_steering(search_alg=BasicVariantGenerator(), scheduler=scheduler)
    policy.suggest("t0", 0)
    said = {"decision": "STOP", "metric": "loss", "mode": "min", "rank": 2}
    assert policy.choose(trials) == PausedChosen(NOW, None), "the searcher may have more"

    assert isinstance(policy.suggest("t1", 1), SearchEnded)

    assert policy.choose(trials) == PausedChosen(NOW, None, reason={"t0": said, "t1": said})
    given_up = [Trial("t9", 9, {}, status=Status.PAUSED)]
    assert policy.choose(given_up) == PausedChosen(NOW, None, ("t9",), {"t9": said})


def test_first_paused_trial_goes_on_by_default() -> None:
    assert choose(FIFOScheduler(), "RTPP") == PausedChosen(NOW, "t2")


@pytest.mark.parametrize(("index", "expected"), [(3, "t3"), (None, None)])
def test_scheduler_chooses_who_goes_on(index: int | None, expected: str | None) -> None:
    scheduler = Choosing(lambda trials: None if index is None else trials[index])

    assert choose(scheduler, "RTPP") == PausedChosen(NOW, expected)


def test_scheduler_that_gives_trials_up_chooses_after_they_are_over() -> None:
    scheduler = Choosing(None, stopped=[1, 2, 2, 3])

    assert choose(scheduler, "RTPP") == PausedChosen(NOW, None, ("t2", "t3"))


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (
            lambda trials: trials[0],
            "returned trial t0: expected None or one of the trials that are PAUSED, which are t1",
        ),
        (lambda trials: "t1", "returned 't1': expected None"),
    ],
)
def test_choice_of_a_trial_that_is_not_paused_is_refused(chosen: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"Choosing.choose_trial_to_run {message}"):
        choose(Choosing(chosen), "RP")


class TakingOver(Choosing):
    """Has paused trials go on from others."""

    def __init__(self, exploits: dict[str, Exploit]) -> None:
        super().__init__(lambda trials: trials[2])
        self.exploits = exploits

    def exploit_paused(self, trials: Any) -> Any:
        return self.exploits


def exploit_paused(exploits: dict[str, Exploit], statuses: str) -> PausedChosen:
    words = {"P": Status.PAUSED, "R": Status.RUNNING}
    trials = [
        Trial(
            f"t{number}",
            number,
            {"x": number},
            status=words[each],
            attempt=Attempt(),
            experiment_tag=str(number),
        )
        for number, each in enumerate(statuses)
    ]
    trials[0].checkpoints.append(CheckpointRecord(4, 9))
    return a_steering(scheduler=TakingOver(exploits)).choose(trials)


def test_paused_trials_take_over_before_one_of_them_goes_on() -> None:
    taken = {"t1": Exploit("t0", {"x": 5}), "t2": Exploit("t0", lambda: {"x": 2})}

    assert exploit_paused(taken, "PPP") == PausedChosen(
        NOW,
        None,
        exploits={
            "t1": ExploitChoice("t0", 4, {"x": 5}, "1@perturbed[x=5]"),
            "t2": ExploitChoice("t0", 4, {"x": 2}, "2@perturbed[]"),
        },
    )


def test_paused_trial_cannot_take_over_what_was_never_saved() -> None:
    assert exploit_paused({"t0": Exploit("t1", {})}, "PPP") == PausedChosen(NOW, "t2")


@pytest.mark.parametrize("name", ["t1", "t9"])
def test_only_paused_trials_are_told_to_take_over_so(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"TakingOver.exploit_paused returned trial '{name}': expected"):
        exploit_paused({name: Exploit("t0", {})}, "PRP")


class FillingIn(FIFOScheduler):
    def fill_in(self, number: int, config: dict[str, Any]) -> dict[str, Any]:
        return {**config, "lr": number / 2}


def test_scheduler_completes_configurations_that_the_journal_then_has() -> None:
    policy = a_steering(space={"x": 1}, scheduler=FillingIn())

    event = policy.suggest("t3", 3)
    added = policy.add_configuration("r", "t4", 4, {"x": 1})

    assert isinstance(event, TrialSuggested)
    assert (event.config, event.experiment_tag) == ({"x": 1, "lr": 1.5}, "3_lr=1.5000")
    assert added.config == {"x": 1, "lr": 2.0}


class Saving(FIFOScheduler):
    def on_trial_result(self, *args: Any) -> str:
        return self.CONTINUE

    def wants_checkpoint(self, trial: Trial) -> bool:
        return trial.number == 0


@pytest.mark.parametrize(("number", "saves", "asked"), [(0, True, True), (1, True, False), (0, False, False)])
def test_scheduler_has_a_trial_save_that_can(number: int, saves: bool, asked: bool) -> None:
    policy = Policy(TuneConfig(scheduler=Saving()), None, {}, AClass, "train", saves_on_request=saves)
    row: dict[str, Any] = {"done": False}

    policy.decide([], Trial("t", number, {}), row, dict(row))

    assert row.get("should_checkpoint", False) is asked


def test_running_trial_cannot_be_given_up() -> None:
    with pytest.raises(ConfigError, match=r"Choosing.trials_to_stop returned trial t0, which is RUNNING"):
        choose(Choosing(None, stopped=[0]), "RP")


def test_paused_trial_that_will_never_go_on_is_removed() -> None:
    scheduler = NotingScheduler()
    trial = a_trial(Status.TERMINATED, {"loss": 1})
    trial.attempt = Attempt(decision=Decision.PAUSE)

    a_steering(scheduler=scheduler).complete([trial], trial)

    assert scheduler.told == [("remove", "t0")]


# The ends of trials.


def test_scheduler_learns_of_new_trials() -> None:
    scheduler = NotingScheduler()

    a_steering(scheduler=scheduler).add([], a_trial())

    assert scheduler.told == [("add", "t0")]


def test_finished_trial_is_told_with_its_last_result() -> None:
    searcher, scheduler = NotingSearcher(), NotingScheduler()
    trial = a_trial(Status.TERMINATED, {"loss": 1})

    a_steering(search_alg=searcher, scheduler=scheduler, metric="loss", mode="min").complete([trial], trial)

    result = trial.last_result
    assert result["done"] is True
    assert searcher.told[-1] == ("complete", "t0", result, False)
    assert scheduler.told == [("complete", "t0", result)]


def test_failed_trial_is_told_as_failed() -> None:
    searcher, scheduler = NotingSearcher(), NotingScheduler()
    trial = a_trial(Status.ERROR, {"loss": 1})

    a_steering(search_alg=searcher, scheduler=scheduler).complete([trial], trial)

    assert searcher.told[-1] == ("complete", "t0", None, True)  # what it reported before is no result
    assert scheduler.told == [("error", "t0")]


@pytest.mark.parametrize("row", [None, {"accuracy": 1}, {"loss": None}])
def test_searcher_gets_no_result_without_its_metric(row: dict[str, Any] | None) -> None:
    searcher, scheduler = NotingSearcher(), NotingScheduler()
    trial = a_trial(Status.TERMINATED, row)

    a_steering(search_alg=searcher, scheduler=scheduler, metric="loss", mode="min").complete([trial], trial)

    assert searcher.told[-1] == ("complete", "t0", None, False)
    assert scheduler.told == [("complete", "t0", trial.last_result)]


def test_nested_metric_is_found() -> None:
    searcher = NotingSearcher()
    trial = a_trial(Status.TERMINATED, {"eval": {"loss": 1}})

    a_steering(search_alg=searcher, metric="eval/loss", mode="min").complete([trial], trial)

    assert searcher.told[-1][2] == trial.last_result


def test_two_trials_cannot_have_one_directory() -> None:
    config = tune.TuneConfig(num_samples=2, trial_dirname_creator=lambda trial: "same")
    policy = Policy(config, None, {}, lambda config: None, "train")
    policy.suggest("a1b2c_00000", 0)

    with pytest.raises(ConfigError, match=r"trial_dirname_creator returned 'same' for trial a1b2c_00001 too"):
        policy.suggest("a1b2c_00001", 1)

"""Training functions: what their values mean, and every way in which they end."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tune_core as tune
from tests.support.fake_uplink import FakeUplink
from tests.support.sessions import an_attempt
from tune_core.errors import ChannelLost
from tune_core.states import Decision, Outcome
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.training.execution import ORIGINAL_DIRECTORY, Ending, describe_error, run_attempt
from tune_core.training.session_binding import current_session
from tune_core.training.uplink import Report


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test starts in a directory of its own, and no trial has run before."""
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.setenv(ORIGINAL_DIRECTORY, "")
    monkeypatch.delenv(ORIGINAL_DIRECTORY)
    monkeypatch.delenv("RAY_CHDIR_TO_TRIAL_DIR", raising=False)


@pytest.fixture
def storage(tmp_path: Path) -> ExperimentStorage:
    return ExperimentStorage.open(tmp_path / "storage", "experiment")


@pytest.fixture
def run(storage: ExperimentStorage, tmp_path: Path) -> Callable[..., tuple[Ending, FakeUplink]]:
    """Runs a function as an attempt, perhaps stopped by the answer to one report; returns its end and the uplink."""

    def run_function(
        function: Callable[..., Any], *, stop_at: int | None = None, **changes: Any
    ) -> tuple[Ending, FakeUplink]:
        uplink = FakeUplink()
        if stop_at is not None:
            uplink.decisions[stop_at] = Decision.STOP
        attempt = an_attempt(storage, **{"waits_for_decisions": stop_at is not None} | changes)
        ending = run_attempt(attempt, function, uplink, tmp_path / "work")
        assert uplink.checkpoints == [], "a function has no late checkpoints"
        return ending, uplink

    return run_function


Run = Callable[..., tuple[Ending, FakeUplink]]


# What is returned and yielded.


@pytest.mark.parametrize("value", [None, {}, [], (), "", set(), frozenset()], ids=repr)
def test_returning_nothing_reports_nothing(value: Any, run: Run) -> None:
    ending, uplink = run(lambda config: value)

    assert ending == Ending(Outcome.COMPLETED)
    assert uplink.reports == []


@pytest.mark.parametrize(
    "value",
    [0, 0.0, False, True, 7, 1.5, float("inf"), Fraction(1, 2), np.float32(0.5), np.int64(3)],
    ids=repr,
)
def test_returned_number_is_a_report_zero_and_false_too(value: Any, run: Run) -> None:
    ending, uplink = run(lambda config: value)

    assert ending == Ending(Outcome.COMPLETED)
    assert uplink.values_of("_metric") == [value]


def test_returned_dict_is_one_more_report(run: Run) -> None:
    def train(config: dict[str, Any]) -> dict[str, Any]:
        tune.report({"loss": 1})
        return {"loss": config["lr"]}

    ending, uplink = run(train)

    assert ending == Ending(Outcome.COMPLETED)
    assert uplink.values_of("loss") == [1, 0.1]
    assert uplink.values_of("training_iteration") == [1, 2]


@pytest.mark.parametrize(
    "value",
    ["loss", [1], (1, 2), {1}, object(), np.array([1, 2]), np.array(1.0), b""],
    ids=lambda v: type(v).__name__,
)
def test_other_values_are_an_error_of_the_trial(value: Any, run: Run) -> None:
    ending, uplink = run(lambda config: value)

    assert ending.outcome is Outcome.ERROR
    assert ending.error is not None
    assert (
        f"({type(value).__name__}): return a dict of metrics or a single number, or nothing" in ending.error
    )
    assert uplink.reports == []


def test_every_value_of_a_generator_is_a_report(run: Run) -> None:
    def train(config: dict[str, Any]) -> Iterator[Any]:
        yield {"loss": 1}
        yield None
        yield {}
        yield 0
        tune.report({"loss": 2})
        yield 2.5
        return {"loss": 3}

    ending, uplink = run(train)

    assert ending == Ending(Outcome.COMPLETED)
    assert uplink.values_of("loss") == [1, 2]
    assert uplink.values_of("_metric") == [0, 2.5]
    assert uplink.values_of("training_iteration") == [1, 2, 3, 4]


@pytest.mark.parametrize("kind", ["yield", "report"])
def test_generator_that_is_stopped_runs_its_finally_blocks(kind: str, run: Run) -> None:
    seen = []

    def train(config: dict[str, Any]) -> Iterator[Any]:
        try:
            for loss in range(9):
                if kind == "yield":
                    yield {"loss": loss}
                else:
                    tune.report({"loss": loss})
        finally:
            seen.append("finally")

    ending, uplink = run(train, stop_at=2)

    assert ending == Ending(Outcome.STOPPED)
    assert seen == ["finally"]
    assert len(uplink.reports) == 2


def test_generator_that_yields_what_is_no_metric_is_closed(run: Run) -> None:
    seen = []

    def train(config: dict[str, Any]) -> Iterator[Any]:
        try:
            yield "loss"
        finally:
            seen.append("finally")

    ending, _ = run(train)

    assert ending.outcome is Outcome.ERROR
    assert seen == ["finally"]


async def coroutine(config: dict[str, Any]) -> None: ...


class Awaitable:
    def __await__(self) -> Iterator[None]:
        yield None


@pytest.mark.parametrize("function", [coroutine, lambda config: Awaitable()])
def test_async_functions_are_refused(function: Callable[..., Any], run: Run) -> None:
    ending, _ = run(function)

    assert ending.outcome is Outcome.ERROR
    assert ending.error is not None
    assert ending.error.endswith("is async: a trainable is a plain function or a generator")


def test_async_generators_are_refused(run: Run) -> None:
    async def train(config: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        yield {"loss": 1}

    ending, uplink = run(train)

    assert ending.outcome is Outcome.ERROR
    assert uplink.reports == []


# Endings.


def test_exception_is_the_error_of_the_trial(run: Run) -> None:
    def train(config: dict[str, Any]) -> None:
        tune.report({"loss": 1})
        raise ValueError("no data")

    ending, uplink = run(train)

    assert (ending.outcome, ending.error, ending.retryable) == (Outcome.ERROR, "ValueError: no data", True)
    assert uplink.values_of("loss") == [1]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (SystemExit(), "SystemExit"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (GeneratorExit(), "GeneratorExit"),
        (KeyError("x"), "KeyError: 'x'"),
        (ExceptionGroup("several", [ValueError(1)]), "ExceptionGroup: several (1 sub-exception)"),
    ],
    ids=repr,
)
def test_nothing_that_is_raised_leaves_the_attempt(error: BaseException, text: str, run: Run) -> None:
    def train(config: dict[str, Any]) -> None:
        raise error

    ending, _ = run(train)

    assert (ending.outcome, ending.error) == (Outcome.ERROR, text)
    assert describe_error(error) == text


def test_sys_exit_of_the_trainable_is_an_error(run: Run) -> None:
    ending, _ = run(lambda config: sys.exit("giving up"))

    assert (ending.outcome, ending.error) == (Outcome.ERROR, "SystemExit: giving up")


def test_stop_runs_finally_blocks_before_the_attempt_ends(run: Run) -> None:
    seen = []

    def train(config: dict[str, Any]) -> None:
        try:
            while True:
                tune.report({"loss": 1})
        except Exception:  # noqa: BLE001 - what users write
            seen.append("except")
        finally:
            seen.append("finally")

    ending, uplink = run(train, stop_at=3)

    assert ending == Ending(Outcome.STOPPED)
    assert seen == ["finally"]
    assert len(uplink.reports) == 3


def test_trainable_that_catches_the_stop_and_returns_has_completed(run: Run) -> None:
    def train(config: dict[str, Any]) -> None:
        try:
            tune.report({"loss": 1})
        except SystemExit:
            return

    ending, _ = run(train, stop_at=1)

    assert ending == Ending(Outcome.COMPLETED)


def test_trainable_that_catches_the_stop_and_goes_on_is_stopped_again(run: Run) -> None:
    def train(config: dict[str, Any]) -> None:
        try:
            tune.report({"loss": 1})
        except SystemExit:
            tune.report({"loss": 2})

    ending, uplink = run(train, stop_at=1)

    assert ending == Ending(Outcome.STOPPED)
    assert uplink.values_of("loss") == [1]


def test_finally_block_that_raises_is_an_error(run: Run) -> None:
    def train(config: dict[str, Any]) -> None:
        try:
            tune.report({"loss": 1})
        finally:
            raise OSError("disk full")

    ending, _ = run(train, stop_at=1)

    assert (ending.outcome, ending.error) == (Outcome.ERROR, "OSError: disk full")


def test_missing_metric_would_be_missing_again(run: Run) -> None:
    ending, uplink = run(lambda config: tune.report({"los": 1}), metric="loss")

    assert (ending.outcome, ending.retryable, ending.traceback) == (Outcome.ERROR, False, "")
    assert ending.error is not None
    assert ending.error.startswith(
        "MetricMissing: metric 'loss' is missing from the report of trial a1b2c_00000"
    )
    assert uplink.values_of("los") == [1]


def test_error_after_a_missing_metric_was_caught_is_an_error_of_its_own(run: Run) -> None:
    def train(config: dict[str, Any]) -> None:
        try:
            tune.report({"los": 1})
        except tune.TuneError as error:
            raise RuntimeError("oh") from error

    ending, _ = run(train, metric="loss")

    assert (ending.error, ending.retryable) == ("RuntimeError: oh", True)


def test_lost_driver_ends_the_attempt(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(self: FakeUplink, report: Report) -> None:
        raise ChannelLost("the driver is gone")

    monkeypatch.setattr(FakeUplink, "send", lose)

    ending, _ = run(lambda config: tune.report({"loss": 1}))

    assert (ending.outcome, ending.error) == (Outcome.ERROR, "ChannelLost: the driver is gone")


def test_attempt_that_cannot_begin_is_an_error(run: Run) -> None:
    ending, uplink = run(lambda config: None, stop={"loss": "high"})

    assert ending.outcome is Outcome.ERROR
    assert uplink.reports == []


def test_session_is_gone_when_the_attempt_has_ended(run: Run) -> None:
    sessions = []
    run(lambda config: sessions.append(current_session()))

    assert sessions != [None]
    assert current_session() is None


def test_clocks_can_be_given(storage: ExperimentStorage, tmp_path: Path) -> None:
    uplink, ticks = FakeUplink(), iter(range(100, 200, 10))

    run_attempt(
        an_attempt(storage),
        lambda config: 1,
        uplink,
        tmp_path / "work",
        wall_clock=lambda: 7.5,
        clock=lambda: next(ticks),
    )

    assert uplink.values_of("timestamp") == [7]
    assert uplink.values_of("time_total_s") == [10]


# Tracebacks.


def test_traceback_starts_at_the_users_own_frame(run: Run) -> None:
    def inner() -> None:
        raise ValueError("no data")

    def train(config: dict[str, Any]) -> None:
        inner()

    ending, _ = run(train)

    lines = ending.traceback.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].startswith(f'  File "{__file__}"')
    assert lines[1].endswith("in train")
    assert lines[-1] == "ValueError: no data"
    assert "run_attempt" not in ending.traceback


def test_traceback_of_a_refused_report_leads_to_the_call_in_the_trainable(run: Run) -> None:
    def train(config: dict[str, Any]) -> None:
        tune.report(7)  # type: ignore[arg-type]

    ending, _ = run(train)

    assert "tune.report(7)" in ending.traceback.splitlines()[2]


def test_traceback_without_a_frame_of_the_user_is_whole(run: Run) -> None:
    ending, _ = run(lambda config: "loss")

    assert "_run_function" in ending.traceback


def test_traceback_keeps_the_cause(run: Run) -> None:
    def train(config: dict[str, Any]) -> None:
        try:
            {}["x"]  # type: ignore[index]
        except KeyError as error:
            raise ValueError("no x") from error

    ending, _ = run(train)

    assert "KeyError: 'x'" in ending.traceback
    assert "direct cause" in ending.traceback


def test_users_folder_whose_name_only_begins_like_ours_is_the_users(run: Run) -> None:
    ours, names = Path(tune.__file__).parent, {"json": json}
    exec(compile("def train(config):\n    json.loads('x')", f"{ours}_examples/train.py", "exec"), names)

    ending, _ = run(names["train"])

    assert ending.traceback.splitlines()[1] == f'  File "{ours}_examples/train.py", line 2, in train'


# The working directory.


def test_trainable_runs_in_its_trials_directory(run: Run, tmp_path: Path) -> None:
    seen = []

    def train(config: dict[str, Any]) -> None:
        Path("model.txt").write_text("x")
        seen.append((Path.cwd(), tune.get_context().get_trial_dir(), os.environ[ORIGINAL_DIRECTORY]))

    run(train)

    assert seen == [(tmp_path / "work", str(tmp_path / "work"), str(tmp_path / "home"))]
    assert (tmp_path / "work" / "model.txt").exists()
    assert Path.cwd() == tmp_path / "home"


def test_original_directory_is_that_of_before_the_first_trial(run: Run, tmp_path: Path) -> None:
    run(lambda config: None)
    os.chdir(tmp_path)

    seen = []
    run(lambda config: seen.append(os.environ[ORIGINAL_DIRECTORY]))

    assert seen == [str(tmp_path / "home")]


@pytest.mark.parametrize("function", [lambda config: 1 / 0, lambda config: sys.exit()])
def test_directory_is_left_however_the_trial_ends(
    function: Callable[..., Any], run: Run, tmp_path: Path
) -> None:
    run(function)

    assert Path.cwd() == tmp_path / "home"


def test_directory_stays_only_if_the_trial_left_something_in_it(run: Run, tmp_path: Path) -> None:
    run(lambda config: None)
    assert not (tmp_path / "work").exists()

    run(lambda config: Path("kept.txt").write_text("x"))
    assert (tmp_path / "work" / "kept.txt").read_text() == "x"


def test_trial_can_stay_in_the_current_directory(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_CHDIR_TO_TRIAL_DIR", "0")
    seen = []

    run(lambda config: seen.append((Path.cwd(), tune.get_context().get_trial_dir())))

    assert seen == [(tmp_path / "home", str(tmp_path / "work"))]
    assert os.environ[ORIGINAL_DIRECTORY] == str(tmp_path / "home")


@pytest.mark.parametrize(("of_driver", "of_process"), [(False, "1"), (True, "0"), (None, "0")])
def test_environment_of_the_driver_says_where_a_trial_works_else_that_of_its_process(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, of_driver: bool | None, of_process: str
) -> None:
    monkeypatch.setenv("RAY_CHDIR_TO_TRIAL_DIR", of_process)
    seen = []

    run(lambda config: seen.append(Path.cwd()), changes_directory=of_driver)

    assert seen == [tmp_path / ("work" if of_driver else "home")]


@pytest.mark.parametrize("function", [lambda config: None, lambda config: 1 / 0])
def test_directory_that_nothing_was_left_in_goes_again(
    function: Callable[..., Any], storage: ExperimentStorage, tmp_path: Path
) -> None:
    run_attempt(an_attempt(storage), function, FakeUplink(), tmp_path / "experiment" / "trial")

    assert not (tmp_path / "experiment" / "trial").exists()
    # The parent stays: another trial may be about to make its own directory in it.
    assert (tmp_path / "experiment").is_dir()


def test_directory_with_files_stays(run: Run, tmp_path: Path) -> None:
    run(lambda config: Path("model.txt").write_text("x") and None)

    assert (tmp_path / "work" / "model.txt").read_text() == "x"


def test_directory_that_is_gone_cannot_be_returned_to(run: Run, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="cannot return to .*home"):
        ending, _ = run(lambda config: (tmp_path / "home").rmdir())

    assert ending == Ending(Outcome.COMPLETED)


@pytest.mark.parametrize("keeps", ["at_end", "always"])
def test_files_that_are_to_be_kept_are_kept_even_if_the_trial_fails(
    keeps: str, run: Run, storage: ExperimentStorage
) -> None:
    def train(config: dict[str, Any]) -> None:
        Path("log.txt").write_text("x")
        raise ValueError

    run(train, keeps_artifacts=keeps)

    assert storage.read("trial_0/log.txt") == b"x"


def test_files_are_not_kept_unless_asked_for(run: Run, storage: ExperimentStorage) -> None:
    run(lambda config: Path("log.txt").write_text("x") and None)

    assert storage.list("trial_0") == []


def test_exception_without_a_text_is_the_error_of_its_attempt_all_the_same(run: Callable[..., Any]) -> None:
    class Silent(Exception):
        def __str__(self) -> str:
            raise ValueError("no text")

        __repr__ = __str__

    def fail(config: dict[str, Any]) -> None:
        raise Silent

    ending, _ = run(fail)

    assert (ending.outcome, ending.error) == (Outcome.ERROR, "Silent: <its str() raised ValueError>")
    assert "raise Silent" in ending.traceback


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize(
    ("leave", "code"),
    [
        (lambda: None, 0),
        (sys.exit, 0),
        (lambda: sys.exit(3), 3),
        (lambda: sys.exit("bye"), 1),
        (lambda: 1 / 0, 1),
    ],
    ids=["returns", "exits", "exits with a code", "exits with words", "raises"],
)
def test_forked_process_ends_where_it_leaves_the_trainable(
    leave: Callable[[], Any], code: int, run: Run
) -> None:
    def train(config: dict[str, Any]) -> dict[str, int]:
        child = os.fork()
        if child == 0:
            return leave()  # type: ignore[no-any-return]
        return {"code": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}

    ending, uplink = run(train)

    assert ending.outcome is Outcome.COMPLETED
    assert uplink.values_of("code") == [code]


# Alarms.


class Struck(BaseException):
    """What the handler of an alarm raises."""


@pytest.fixture
def alarms() -> Iterator[None]:
    """Alarms raise `Struck`; afterwards none is pending."""

    def strike(number: int, frame: Any) -> None:
        raise Struck

    before = signal.signal(signal.SIGALRM, strike)
    left = signal.setitimer(signal.ITIMER_REAL, 0)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
    signal.setitimer(signal.ITIMER_REAL, *left)


def returns(config: dict[str, Any]) -> dict[str, float]:
    signal.setitimer(signal.ITIMER_REAL, config["delay"], config["interval"])
    return {"loss": 1.0}


def yields(config: dict[str, Any]) -> Iterator[dict[str, float]]:
    yield returns(config)


class Steps(tune.Trainable):
    def step(self) -> dict[str, Any]:
        return {**returns(self.config), "done": True}


@pytest.mark.parametrize("trainable", [returns, yields, Steps])
def test_alarm_that_is_pending_as_the_trainable_ends_never_strikes(
    trainable: Any, run: Run, alarms: None
) -> None:
    ending, uplink = run(trainable, config={"delay": 1000.0, "interval": 0.0})

    assert ending.outcome in (Outcome.COMPLETED, Outcome.STOPPED)
    assert uplink.values_of("loss") == [1.0]
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.parametrize("interval", [0.0, 1e-2], ids=["once", "again and again"])
def test_alarm_that_strikes_as_the_trainable_returns_is_its_error_or_nothing(
    interval: float, run: Run, alarms: None
) -> None:
    endings = [run(returns, config={"delay": 1e-6 * (1 + n), "interval": interval})[0] for n in range(200)]

    found = {(ending.outcome, ending.error) for ending in endings}
    assert found <= {(Outcome.COMPLETED, None), (Outcome.ERROR, "Struck")}
    assert (Outcome.COMPLETED, None) in found
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_alarm_that_was_set_before_the_trial_stays(run: Run, alarms: None) -> None:
    signal.setitimer(signal.ITIMER_REAL, 1000.0)

    run(lambda config: None)

    assert signal.getitimer(signal.ITIMER_REAL)[0] > 0

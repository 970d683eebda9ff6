"""Running an attempt at a trial: a training function once, or the steps of a trainable class.

Owns what return and yield values mean, when an object is saved and cleaned up, the trial's
working directory, and the turning of every way in which user code can end into an `Ending`.
Nothing that the user's code raises leaves `run_attempt`, not even `SystemExit`.
"""

from __future__ import annotations

import inspect
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from numbers import Number
from pathlib import Path
from typing import Any, NoReturn

from tune_core.errors import CheckpointCorrupted, CheckpointNotFound, TrainableError
from tune_core.states import Decision, Outcome, StopCause
from tune_core.storage.checkpoint import Checkpoint
from tune_core.training.attempt_spec import AttemptSpec
from tune_core.training.session import Session, StopTrial
from tune_core.training.session_binding import bind
from tune_core.training.trainable import (
    Trainable,
    TrainingResult,
    TrialPlace,
    can_save,
    clean_up,
    is_trainable_class,
    trainable_name,
)
from tune_core.training.trainable_cache import Leftover, TrainableCache
from tune_core.training.uplink import Uplink
from tune_core.validation import safe_str, shorten

#: Whether a trial works in its own directory; Ray Tune's, and as there the driver's counts before that of the process.
CHANGES_DIRECTORY = "RAY_CHDIR_TO_TRIAL_DIR"
#: Where the process was before the first trial changed its directory; as Ray Tune names it.
ORIGINAL_DIRECTORY = "TUNE_ORIG_WORKING_DIR"
#: Stops after which a trial goes on later: its object is saved if it can be.
_SAVING = frozenset({Decision.PAUSE, StopCause.INTERRUPT, StopCause.FAILURE})
_FAILED = frozenset({Outcome.ERROR, Outcome.CORRUPTED})
#: Stops after which its state is of no use: another trial's is taken, or a newer attempt runs.
_FORGETTING = frozenset({"EXPLOIT", "stale"})
#: What `signal.alarm` and `signal.setitimer` set.
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt at a trial ended.

    Attributes:
        error: `ExceptionType: text` of the user's exception.
        traceback: Its traceback, from the trainable's own frame on.
        retryable: False if another attempt would fail in the same way.
        leaves: What is left of it in its process.
        reason: Why it was stopped, in words; "": nobody has said.
    """

    outcome: Outcome
    error: str | None = None
    traceback: str = ""
    retryable: bool = True
    leaves: Leftover = Leftover.NOTHING
    reason: str = field(default="", compare=False)


def run_attempt(
    spec: AttemptSpec,
    trainable: Callable[..., Any],
    uplink: Uplink,
    directory: str | Path,
    *,
    trainables: TrainableCache | None = None,
    wall_clock: Callable[[], float] = time.time,
    clock: Callable[[], float] = time.monotonic,
) -> Ending:
    """Run one attempt at a trial to its end.

    When this returns, all rows have been handed to the uplink and no code of the attempt runs
    any more, except in threads that the trainable left behind. Nothing is raised.

    Args:
        spec: What to run, and from where.
        trainable: The training function, or the class derived from `Trainable`.
        uplink: The way to the driver.
        directory: The working directory on this node; it is created.
        trainables: Keeps an object for the next attempt, as `TrainableCache.begin` was told; None: none is kept.
        wall_clock: Seconds since the epoch.
        clock: Monotonic seconds.
    """
    trainables = trainables or TrainableCache()
    with _alarms_ending():  # once more: one may have struck between the trainable and its own
        ending = _run(spec, trainable, uplink, directory, trainables, wall_clock, clock)
    return replace(ending, leaves=trainables.end(has_failed=ending.outcome in _FAILED))


def _run(
    spec: AttemptSpec,
    trainable: Callable[..., Any],
    uplink: Uplink,
    directory: str | Path,
    trainables: TrainableCache,
    wall_clock: Callable[[], float],
    clock: Callable[[], float],
) -> Ending:
    session: Session | None = None
    start: Checkpoint | None = None
    try:
        is_class = is_trainable_class(trainable)
        session = Session(spec, uplink, takes_reports=not is_class, wall_clock=wall_clock, clock=clock)
        session.trial_dir = str(directory)
        start = session.checkpoint
        with _working_directory(spec, session.trial_dir), bind(session), session.finishing_upload():
            if start is not None:
                start.check()
            session.restart_clock()
            try:
                with _forks_ending():
                    if is_class:
                        with _alarms_ending():
                            _run_class(trainable, spec, session, trainables)
                    else:
                        _run_function(trainable, spec.config, session)
            finally:
                if spec.keeps_artifacts != "never":
                    session.keep_artifacts()
    except StopTrial:
        return Ending(Outcome.STOPPED, reason=session.rule_met if session is not None else "")
    except BaseException as error:  # noqa: BLE001 - sys.exit() of a trainable is an error of its trial
        failed = session.metric_missing if session else None
        if error is failed:
            return Ending(Outcome.ERROR, describe_error(error), retryable=False)
        is_start = session is not None and session.checkpoint is start and _is_about(error, start)
        outcome = Outcome.CORRUPTED if is_start else Outcome.ERROR
        return Ending(outcome, describe_error(error), format_traceback(error, trainable))
    return Ending(Outcome.COMPLETED)


@contextmanager
def _alarms_ending() -> Iterator[None]:
    """Cancel the alarms that the trainable has set where it ends: they are not for our code, nor for the next trial."""
    before = _alarms()
    try:
        yield
    finally:
        left = _alarms() - before
        while left:
            try:
                signal.setitimer(min(left), 0)
                left.remove(min(left))
            except BaseException:  # noqa: BLE001, S112 - of its handler: it comes too late, the trainable has ended
                continue


def _alarms() -> set[int]:
    return {timer for timer in _TIMERS if signal.getitimer(timer)[0] > 0}


@contextmanager
def _forks_ending() -> Iterator[None]:
    """End a process that the trainable has forked where it leaves the trainable: the attempt is its parent's.

    Our code after that would speak over its parent's connections.
    """
    process, code = os.getpid(), 0
    try:
        yield
    except BaseException as error:
        if os.getpid() == process:
            raise
        code = _exit_code(error)
    if os.getpid() != process:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # whatever the trainable has put there
                stream.flush()
        os._exit(code)


def _exit_code(error: BaseException) -> int:
    """Return what a process exits with that an exception ends, as Python's own would, and show why."""
    if not isinstance(error, SystemExit):
        traceback.print_exception(error)
        return 1
    if error.code is None or isinstance(error.code, int):
        return error.code or 0
    print(error.code, file=sys.stderr)  # noqa: T201 - as `sys.exit(text)` does
    return 1


def _is_about(error: BaseException, start: Checkpoint | None) -> bool:
    """Whether an exception, or what led to it, says that this checkpoint is damaged or gone."""
    cause: BaseException | None = error
    seen: set[int] = set()
    while start is not None and cause is not None and id(cause) not in seen:
        if isinstance(cause, (CheckpointCorrupted, CheckpointNotFound)) and cause.path == start.path:
            return True
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__
    return False


def describe_error(error: BaseException) -> str:
    """Return `ExceptionType: text` on one line."""
    text = safe_str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def format_traceback(error: BaseException, trainable: Any) -> str:
    """Return the traceback from the first frame that is the user's."""
    frame = error.__traceback__
    here = str(Path(__file__).parent) + os.sep
    while frame is not None and frame.tb_frame.f_code.co_filename.startswith(here):
        frame = frame.tb_next
    trimmed = frame if frame is not None else error.__traceback__
    return "".join(traceback.format_exception(type(error), error, trimmed))


def _run_function(function: Callable[..., Any], config: dict[str, Any], session: Session) -> None:
    with _alarms_ending():
        result = function(config)
        if inspect.isgenerator(result):
            try:
                for value in result:
                    _report_value(value, session)
            finally:
                result.close()
            return
    if inspect.isawaitable(result):
        close = getattr(result, "close", lambda: None)
        close()
        raise TrainableError(
            f"{trainable_name(function)} is async: a trainable is a plain function or a generator"
        )
    _report_value(result, session)


def _report_value(value: Any, session: Session) -> None:
    """Report what was returned or yielded. Differs from Ray Tune: 0 and False are values."""
    if value is None or (isinstance(value, (Mapping, Set, list, tuple, str)) and not value):
        return
    if isinstance(value, Mapping):
        session.report(value)
    elif isinstance(value, Number):
        session.report({"_metric": value})
    else:
        raise TrainableError(
            f"the trainable returned or yielded {shorten(value)} ({type(value).__name__}): "
            "return a dict of metrics or a single number, or nothing"
        )


def _run_class(
    kind: Callable[..., Trainable], spec: AttemptSpec, session: Session, trainables: TrainableCache
) -> None:
    place = TrialPlace(spec.trial_id, spec.trial_name, spec.resources, session.trial_dir)
    trainable = trainables.take(spec.config, place) or kind(spec.config, place)
    is_kept = False
    try:
        if session.checkpoint is not None:
            counted = {"training_iteration": spec.iteration, **spec.totals}
            trainable.restore(TrainingResult(session.checkpoint, counted))
        _train(trainable, session)
    except StopTrial:
        is_kept = trainables.keep(trainable)
        raise
    finally:
        if not is_kept:
            clean_up(trainable)


def _train(trainable: Trainable, session: Session) -> NoReturn:
    """Take steps until the trial is stopped; save before a row is sent, or late if the answer asks for it.

    Raises:
        StopTrial: The trial is over.
    """
    spec = session.spec
    try:
        while True:
            # Only here: once a step is taken its row is sent, so that what is saved later belongs to it.
            session.check_stop()
            row = session.row_of(trainable.train())
            frequency, iteration = spec.checkpoint_frequency, session.iteration + 1
            is_due = frequency > 0 and iteration % frequency == 0
            if is_due or row.get("should_checkpoint") or (row["done"] and spec.checkpoint_at_end):
                with _keeping(row, session), _saved(trainable) as checkpoint:
                    session.publish(row, checkpoint)
            else:
                session.publish(row)
                if session.is_told_to_save:
                    with _saved(trainable) as checkpoint:
                        session.save(checkpoint)
    except StopTrial:
        session.finish_upload()
        if _wants_save(type(trainable), session):
            with _saved(trainable) as checkpoint:
                session.save(checkpoint)
        raise


def _wants_save(kind: type[Trainable], session: Session) -> bool:
    """Whether a trial that was stopped after its row had been sent is saved now."""
    if not session.has_unsaved_progress or session.stopped_by in _FORGETTING:
        return False
    if session.spec.checkpoint_at_end or session.is_told_to_save:
        return True
    return session.stopped_by in _SAVING and can_save(kind)


@contextmanager
def _saved(trainable: Trainable) -> Iterator[Checkpoint]:
    with tempfile.TemporaryDirectory(prefix="checkpoint_tmp_") as directory:
        yield trainable.save(directory).checkpoint


@contextmanager
def _keeping(row: dict[str, Any], session: Session) -> Iterator[None]:
    """Send the row of a step even if its state cannot be saved: the step was taken."""
    before = session.iteration
    try:
        yield
    except StopTrial:
        raise
    except BaseException:
        if session.iteration == before:
            row.pop("should_checkpoint", None)
            with suppress(StopTrial):
                session.publish({**row, "done": False, "checkpoint_dir_name": None})
        raise


def changes_directory() -> bool | None:
    """Return whether the environment has trials work in their own directories; None: it says nothing."""
    said = os.environ.get(CHANGES_DIRECTORY)
    return None if said is None else said != "0"


@contextmanager
def _working_directory(spec: AttemptSpec, directory: str) -> Iterator[None]:
    """Work in a directory that is made for it, and removed afterwards if the trainable left nothing in it."""
    Path(directory).mkdir(parents=True, exist_ok=True)
    os.environ.setdefault(ORIGINAL_DIRECTORY, str(Path.cwd()))
    wanted = spec.changes_directory
    if wanted is None:
        wanted = changes_directory() is not False
    try:
        if not wanted:
            yield
        else:
            with _changed_directory(directory):
                yield
    finally:
        with suppress(OSError):  # not empty: what the user's code wrote stays
            Path(directory).rmdir()


@contextmanager
def _changed_directory(directory: str) -> Iterator[None]:
    before = str(Path.cwd())
    os.chdir(directory)
    try:
        yield
    finally:
        try:
            os.chdir(before)
        except OSError as error:
            warnings.warn(f"cannot return to {before}: {error}", stacklevel=2)

"""Running a training function as one attempt at a trial.

Owns the signature check, what return and yield values mean, the trial's working directory,
and the turning of every way in which user code can end into an `Ending`. Nothing that the
user's code raises leaves `run_lease`, not even `SystemExit`.
"""

from __future__ import annotations

import functools
import inspect
import os
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from numbers import Number
from pathlib import Path
from typing import Any

from tune_core.errors import TrainableError
from tune_core.messages import Outcome
from tune_core.session import Lease, Session, StopTrial, Uplink, bind

#: Where the process was before the first trial changed its directory; as Ray Tune names it.
ORIGINAL_DIRECTORY = "TUNE_ORIG_WORKING_DIR"


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt at a trial ended.

    Attributes:
        error: `ExceptionType: text` of the user's exception.
        traceback: Its traceback, from the trainable's own frame on.
        retryable: False if another attempt would fail in the same way.
    """

    outcome: Outcome
    error: str | None = None
    traceback: str = ""
    retryable: bool = True


def check_signature(function: Callable[..., Any]) -> None:
    """Make sure that a training function can be called with the config alone.

    Raises:
        TrainableError: It takes no argument, or needs more than one.

    Source: as Ray Tune 2.60.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # a builtin without a signature: calling it will tell
    try:
        signature.bind({})
    except TypeError as error:
        raise TrainableError(
            f"{trainable_name(function)}{signature}: a Tuner calls its trainable with one argument, the config "
            f"({error}). Write `def {trainable_name(function)}(config):`; for more arguments use functools.partial"
        ) from error


def trainable_name(trainable: Any) -> str:
    """Return the name that trial directories and runs are called by.

    Example:
        >>> trainable_name(lambda config: None)
        'lambda'

    Source: as Ray Tune 2.60.
    """
    name = getattr(trainable, "_name", None) or getattr(trainable, "__name__", None)
    if isinstance(name, str):
        if name == "<lambda>":
            return "lambda"
        return "DEFAULT" if name.startswith("<") else name
    if isinstance(trainable, functools.partial):
        return trainable_name(trainable.func)
    return type(trainable).__name__ if callable(trainable) else "DEFAULT"


def run_lease(
    lease: Lease,
    trainable: Callable[..., Any],
    uplink: Uplink,
    directory: str | Path,
    *,
    wall_clock: Callable[[], float] = time.time,
    clock: Callable[[], float] = time.monotonic,
) -> Ending:
    """Run one attempt at a trial to its end.

    When this returns, all rows have been handed to the uplink and no code of the attempt runs
    any more, except in threads that the trainable left behind. Nothing is raised.

    Args:
        lease: What to run, and from where.
        trainable: The training function.
        uplink: The way to the driver.
        directory: The working directory on this node; it is created.
        wall_clock: Seconds since the epoch.
        clock: Monotonic seconds.
    """
    session: Session | None = None
    try:
        session = Session(lease, uplink, wall_clock=wall_clock, clock=clock)
        session.trial_dir = str(directory)
        with _working_directory(session.trial_dir), bind(session):
            session.restart_clock()
            try:
                _run_function(trainable, lease.config, session)
            finally:
                if lease.keeps_artifacts != "never":
                    session.keep_artifacts()
    except StopTrial:
        return Ending(Outcome.STOPPED)
    except BaseException as error:  # noqa: BLE001 - sys.exit() of a trainable is an error of its trial
        failed = session.metric_missing if session else None
        if error is failed:
            return Ending(Outcome.ERROR, describe_error(error), retryable=False)
        return Ending(Outcome.ERROR, describe_error(error), format_traceback(error, trainable))
    return Ending(Outcome.COMPLETED)


def describe_error(error: BaseException) -> str:
    """Return `ExceptionType: text` on one line."""
    text = str(error)
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
    result = function(config)
    if inspect.isawaitable(result):
        close = getattr(result, "close", lambda: None)
        close()
        raise TrainableError(
            f"{trainable_name(function)} is async: a trainable is a plain function or a generator"
        )
    if inspect.isgenerator(result):
        try:
            for value in result:
                _report_value(value, session)
        finally:
            result.close()
    else:
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
            f"the trainable returned or yielded {value!r} ({type(value).__name__}): "
            "return a dict of metrics or a single number, or nothing"
        )


@contextmanager
def _working_directory(directory: str) -> Iterator[None]:
    """Work in a directory that is made for it, and that goes again if the trainable left nothing in it."""
    Path(directory).mkdir(parents=True, exist_ok=True)
    try:
        if os.environ.get("RAY_CHDIR_TO_TRIAL_DIR", "1") == "0":
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
    os.environ.setdefault(ORIGINAL_DIRECTORY, before)
    os.chdir(directory)
    try:
        yield
    finally:
        try:
            os.chdir(before)
        except OSError as error:
            warnings.warn(f"cannot return to {before}: {error}", stacklevel=2)

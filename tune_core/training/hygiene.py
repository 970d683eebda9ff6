"""What a trial must not leave to the next one in its process: environment, directory, imports' path and the like.

A process that serves several trials puts back, after each, what the first of them found. Modules stay imported,
and whatever a trial has changed inside of them; `TuneConfig(fresh_process=True)` is for trials that do so.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Packages whose loggers are left alone: they set up logging once in a process, as they are imported.
_KEEP_LOGGERS = ("prefect", "ray", "tune_core", "trial", "print")
#: How the names of threads begin that are this package's, or what it works with: those of no trial.
_OWN_THREADS = ("tune-", "fsspecIO", "ray_", "asyncio_", "APILogWorker", "EventsWorker", "PrefectGlobal")

logger = logging.getLogger("trial")


@dataclass(frozen=True, slots=True)
class _Logging:
    """How a logger is set up."""

    level: int
    propagate: bool
    disabled: bool
    handlers: tuple[logging.Handler, ...] = ()

    @classmethod
    def of(cls, each: logging.Logger) -> _Logging:
        return cls(each.level, each.propagate, each.disabled, tuple(each.handlers))

    def put_back(self, each: logging.Logger) -> None:
        each.setLevel(self.level)
        each.propagate, each.disabled = self.propagate, self.disabled
        for handler in [handler for handler in each.handlers if handler not in self.handlers]:
            each.removeHandler(handler)
            handler.close()
        for handler in self.handlers:
            each.addHandler(handler)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a process is like as its first trial begins.

    Example:
        >>> before = Surroundings.now()
        >>> os.environ["MADE_UP"] = "1"
        >>> before.put_back()
        >>> "MADE_UP" in os.environ
        False
    """

    environment: dict[str, str]
    directory: str | None
    path: list[str]
    loggers: dict[str, _Logging]
    warnings: list[Any]
    show_warning: Callable[..., Any]
    signals: dict[int, Any]
    #: None: nobody had seeded it.
    random_state: Any
    numpy_state: Any = None

    @classmethod
    def now(cls) -> Surroundings:
        """Return what this process is like."""
        handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
        return cls(
            environment=dict(os.environ),
            directory=_directory(),
            path=sys.path[:],
            loggers={name: _Logging.of(each) for name, each in _loggers()},
            warnings=list(warnings.filters),
            show_warning=warnings.showwarning,
            # None: not set from Python, and so not by a trial either, as far as can be seen.
            signals={number: handler for number, handler in handlers.items() if handler is not None},
            random_state=random.getstate() if _has_seeded_random else None,
            numpy_state=_numpy_state(),
        )

    def put_back(self) -> None:
        """Make this process like that again."""
        for name in os.environ.keys() - self.environment.keys():
            del os.environ[name]
        os.environ.update(self.environment)
        if self.directory is not None and _directory() != self.directory:
            with suppress(OSError):  # somebody has removed it
                os.chdir(self.directory)
        sys.path[:] = self.path
        for name, each in _loggers():
            self.loggers.get(name, _UNTOUCHED).put_back(each)
        if warnings.filters != self.warnings:
            # Simple filters, one by one: so the registries of what was shown are told.
            warnings.resetwarnings()
            warnings.filters[:] = self.warnings  # type: ignore[index]
        warnings.showwarning = self.show_warning
        self._put_back_signals()
        self._put_back_random_states()

    def _put_back_random_states(self) -> None:
        """Seed what the trainable's modules have seeded as they did, and else each trial as a new process would be."""
        random.seed() if self.random_state is None else random.setstate(self.random_state)
        if (numpy := sys.modules.get("numpy.random")) is None:
            return
        if self.numpy_state is None:
            numpy.seed()
        else:
            numpy.set_state(self.numpy_state)

    def _put_back_signals(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # Python lets no other thread set a handler, so no trial here could have
        for number, handler in self.signals.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)


#: What numpy's global generator was made from as numpy was imported.
_numpy_unseeded: list[bytes] = []
#: Whether the trainable's modules have seeded `random`.
_has_seeded_random = False


def note_unseeded_numpy(_: object = None) -> None:
    """Remember what numpy's global generator draws from: to be called as soon as numpy is imported."""
    numpy = sys.modules["numpy.random"]
    numpy.random_sample()  # a new generator mixes what it was made from at its first draw
    _numpy_unseeded[:] = [numpy.get_state()[1].tobytes()]


@contextmanager
def seeds_noted() -> Iterator[None]:
    """Note whether the code inside seeds `random`: the trainable's modules, as they are imported.

    Its state would not tell, since packages draw from it as they are imported.
    """
    seed = random.seed

    def noted(*args: Any, **kwargs: Any) -> None:
        global _has_seeded_random  # noqa: PLW0603 - there is one generator in a process
        _has_seeded_random = True
        seed(*args, **kwargs)

    random.seed = noted
    try:
        yield
    finally:
        random.seed = seed


def _numpy_state() -> Any:
    """Return the state of numpy's global generator if somebody has seeded it."""
    numpy = sys.modules.get("numpy.random")
    if numpy is None or numpy.get_state()[1].tobytes() in _numpy_unseeded:
        return None
    return numpy.get_state()


#: A logger that nobody had asked for.
_UNTOUCHED = _Logging(logging.NOTSET, propagate=True, disabled=False)


def warn_of_threads(before: Set[threading.Thread]) -> None:
    """Have the trial's log say which threads it leaves behind.

    Args:
        before: Those that there were as it began.
    """
    left = [each.name for each in threading.enumerate() if each not in before]
    if names := sorted(name for name in left if not name.startswith(_OWN_THREADS)):
        logger.warning(
            "the trial has ended, but threads that it started go on in its process, beside the trials that follow: %s. "
            "End them, or give each trial a process of its own: TuneConfig(fresh_process=True)",
            ", ".join(names),
        )


def _directory() -> str | None:
    try:
        return str(Path.cwd())
    except OSError:  # it has been removed
        return None


def _loggers() -> list[tuple[str, logging.Logger]]:
    """Return the loggers that trials may set up; the root is the one without a name."""
    named = [
        (name, each)
        for name, each in list(logging.Logger.manager.loggerDict.items())
        if isinstance(each, logging.Logger) and name.partition(".")[0] not in _KEEP_LOGGERS
    ]
    return [("", logging.getLogger()), *named]

"""Which session a thread of a trial's process belongs to: that of one attempt, and never of a later one.

The trainable's own thread has it in its context. Threads that a trainable starts have an empty one:
each belongs to the session that was the process's only one when it first asked, if it was started
since that began. Such a thread may outlive its attempt; what it then reports is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple
from weakref import WeakSet

from tune_core.errors import NotInTrial
from tune_core.training.session import Session


class _Bound(NamedTuple):
    """A session, and the threads that were there before it."""

    session: Session
    older: WeakSet[threading.Thread]


_of_context: ContextVar[Session | None] = ContextVar("tune_session", default=None)
#: The sessions of this process.
_in_process: list[_Bound] = []


class _OfThread(threading.local):
    session: Session | None = None


_of_thread = _OfThread()


@contextmanager
def bind(session: Session) -> Iterator[None]:
    """Make `report` and its like mean this session, in this context and in threads started from it.

    When this is left, no report of the session is under way, and each later one is refused.
    """
    token = _of_context.set(session)
    bound = _Bound(session, WeakSet(threading.enumerate()))
    _in_process.append(bound)
    try:
        yield
    finally:
        _of_context.reset(token)
        _in_process.remove(bound)
        session.end()


def current_session() -> Session | None:
    """Return the session of the calling trainable; None outside one.

    A thread that a trainable started has it too, unless several trials share the process.

    Raises:
        NotInTrial: The thread is older than the trial, so it is one that an earlier trial has left behind.
    """
    session = _of_context.get() or _of_thread.session
    if session is None and len(_in_process) == 1:
        (bound,) = _in_process
        thread = threading.current_thread()
        if thread is not threading.main_thread():  # which runs signal handlers, for whichever trial there is
            if thread in bound.older:
                raise NotInTrial(
                    f"thread {thread.name!r} was started before trial {bound.session.spec.trial_id} began, so it does "
                    "not belong to it: start threads that report inside of the trainable, or run what they "
                    "do with contextvars.copy_context().run"
                )
            _of_thread.session = bound.session
        session = bound.session
    return session

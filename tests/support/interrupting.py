"""Exceptions that strike anywhere, as those of signal handlers and of debuggers do."""

from __future__ import annotations

import ctypes
import gc
import random
import threading
from collections.abc import Callable


class Interrupted(Exception):
    """Raised in the middle of something."""


def call_interrupted(call: Callable[[int], None], times: int) -> list[int]:
    """Call `call(0)`, `call(1)`, … and raise `Interrupted` somewhere in many of them; return those that returned."""
    returned: list[int] = []
    lock, is_over, caller = threading.Lock(), threading.Event(), ctypes.c_ulong(threading.get_ident())
    under_way: int | None = None

    def interrupt() -> None:
        pauses, last = random.Random(0), None
        while not is_over.wait(pauses.random() * 2e-3):
            with lock:
                if under_way not in (None, last):  # once in each, so that none comes between them
                    last = under_way
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(caller, ctypes.py_object(Interrupted))

    thread = threading.Thread(target=interrupt)
    gc.disable()  # hypothesis has a callback there, in which nothing could be caught
    thread.start()
    for number in range(times):
        try:
            under_way = number
            call(number)
            returned.append(number)
            with lock:
                under_way = None
        except Interrupted:
            continue
    is_over.set()
    thread.join()
    gc.enable()
    return returned

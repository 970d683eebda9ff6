"""What a trial has to say, in order, some of it only after an upload in the background.

Owns that thread and what is held back for it. It knows neither rows nor checkpoints. An exception
that a signal handler or another thread raises in here tears nothing: what was put is sent, at the
latest with what is put next, and what may have been sent already is sent again.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Upload(Generic[Item]):
    """Work in a thread, and what is to be sent when it is over.

    Args:
        work: Returns that and, if it failed, its error. It raises nothing.

    Attributes:
        result: What it returned; None while it is under way.
    """

    def __init__(self, work: Callable[[], tuple[Item, BaseException | None]]) -> None:
        self._work = work
        self._is_taken = threading.Lock()
        self._thread: threading.Thread | None = None
        self.result: tuple[Item, BaseException | None] | None = None

    def begin(self, over: Callable[[], None]) -> None:
        """Have it done, once, however often this is called; `over` is called when it is."""

        def run() -> None:
            if self._is_taken.acquire(blocking=False):
                self.result = self._work()
                over()

        if not self._is_taken.locked():
            self._thread = threading.Thread(target=run, name="tune-upload", daemon=True)
            self._thread.start()

    def join(self) -> None:
        """Wait until it is over."""
        if self._thread is not None:
            self._thread.join()


class SendQueue(Generic[Item]):
    """Sends items in the order in which they were put, from whichever thread is at hand.

    Args:
        send: Sends one; called with `lock` held. One that was sent before is to be ignored.
        keep: Called instead, before, with one that has to wait for an upload.

    Attributes:
        lock: Held while what items are sent over is in use.

    Example:
        >>> sent = []
        >>> send_queue = SendQueue(sent.append)
        >>> uploaded = threading.Event()
        >>> send_queue.put(Upload(lambda: ("first", None) if uploaded.wait(5) else ("too late", None)))
        >>> send_queue.put("second")
        >>> uploaded.set()
        >>> send_queue.wait()
        >>> sent
        ['first', 'second']
    """

    def __init__(
        self, send: Callable[[Item], None], keep: Callable[[Item], None] = lambda item: None
    ) -> None:
        self.lock = threading.RLock()
        self._send, self._keep = send, keep
        self._waiting: deque[Item | Upload[Item]] = deque()
        self._failure: BaseException | None = None

    def put(self, item: Item | Upload[Item]) -> None:
        """Send an item; while an upload is under way, after that. Of an upload, send what it returns."""
        with self.lock:
            is_first = not self._waiting
            self._waiting.append(item)
            if isinstance(item, Upload):
                self.flush()
            elif is_first:
                self._send(item)
                self._waiting.popleft()
            else:
                self._keep(item)
                self.flush()

    def flush(self) -> None:
        """Send what does not have to wait for an upload."""
        with self.lock:
            while self._waiting:
                item = self._waiting[0]
                if isinstance(item, Upload):
                    if item.result is None:
                        item.begin(self._flush_after_upload)
                        return
                    item, self._failure = item.result
                self._send(item)
                self._waiting.popleft()

    def wait(self) -> None:
        """Wait until nothing is held back."""
        while self._waiting:
            self.flush()
            for item in [*self._waiting][:1]:
                if isinstance(item, Upload):
                    item.join()

    def take_failure(self) -> BaseException | None:
        """Return the error of the latest upload, once; None if it went well or is under way."""
        with self.lock:
            failure, self._failure = self._failure, None
            return failure

    def _flush_after_upload(self) -> None:
        try:
            self.flush()
        except Exception as error:  # noqa: BLE001 - the next `put` raises it
            self._failure = self._failure or error

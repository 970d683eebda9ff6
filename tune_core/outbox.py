"""What a trial has to say, in order, some of it only after an upload in the background.

Owns that thread and what is held back for it. It knows neither rows nor checkpoints.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Outbox(Generic[Item]):
    """Sends items in the order in which they were put, from whichever thread is at hand.

    Args:
        send: Sends one; called with `lock` held.

    Attributes:
        lock: Held by whoever uses what items are sent over.

    Example:
        >>> sent = []
        >>> outbox = Outbox(sent.append)
        >>> uploaded = threading.Event()
        >>> outbox.put_after(lambda: ("first", None) if uploaded.wait(5) else ("too late", None))
        >>> outbox.put("second")
        >>> uploaded.set()
        >>> outbox.wait()
        >>> sent
        ['first', 'second']
    """

    def __init__(self, send: Callable[[Item], None]) -> None:
        self.lock = threading.RLock()
        self._idle = threading.Condition(self.lock)
        self._send = send
        self._is_uploading = False
        self._held: deque[Item] = deque()
        self._failure: BaseException | None = None

    def put(self, item: Item) -> None:
        """Send an item; while an upload is under way, after that."""
        with self.lock:
            if self._is_uploading:
                self._held.append(item)
            else:
                self._send(item)

    def put_after(self, upload: Callable[[], tuple[Item, BaseException | None]]) -> None:
        """Upload in a thread, then send what that returns and what was put since; return at once.

        Args:
            upload: Returns the item and, if it failed, its error. It raises nothing.
        """
        with self.lock:
            self._idle.wait_for(lambda: not self._is_uploading)
            self._is_uploading = True

        def run() -> None:
            item, failure = upload()
            with self.lock:
                try:
                    for each in (item, *self._held):
                        self._send(each)
                except Exception as error:  # noqa: BLE001 - whoever puts next is told
                    failure = failure or error
                self._held.clear()
                self._failure, self._is_uploading = failure, False
                self._idle.notify_all()

        threading.Thread(target=run, name="tune-upload", daemon=True).start()

    def wait(self) -> None:
        """Wait until nothing is held back."""
        with self.lock:
            self._idle.wait_for(lambda: not self._is_uploading)

    def take_failure(self) -> BaseException | None:
        """Return the error of the latest upload, once; None if it went well or is under way."""
        with self.lock:
            failure, self._failure = self._failure, None
            return failure

"""What one process keeps from one trial to the next: the loaded trainable, and an object of a class.

Owns when an object may go on, and that each is cleaned up once. It lives in one thread. The actor
that holds it asks it to clean up before the process ends.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any

from tune_core.training.attempt_spec import ReuseRule
from tune_core.training.trainable import Trainable, TrialPlace, clean_up, is_written

#: Part of the descriptors that a process may have which may be open when an attempt ends: the next one needs some.
MAX_OPEN_PART = 0.5

logger = logging.getLogger(__name__)


class Leftover(StrEnum):
    """What an attempt leaves in its process."""

    #: Nothing that matters.
    NOTHING = "nothing"
    #: An object that wants to be cleaned up before the process ends.
    OBJECT = "object"
    #: Nothing, but the process has served as long as it may.
    EXHAUSTED = "worn"


def resident_memory() -> int:
    """Return how much memory this process holds, in bytes; where nobody says, the most it ever held."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return largest if sys.platform == "darwin" else largest * 1024


def open_part() -> float:
    """Return how many of the descriptors that this process may have are open, as a part of 1; 0 where nobody says."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return 0.0
    try:
        return sum(1 for _ in Path("/dev/fd").iterdir()) / limit
    except OSError as error:
        return 1.0 if error.errno in (errno.EMFILE, errno.ENFILE) else 0.0


class TrainableCache:
    """Keeps a trainable and its object for the next trial of the same experiment and bundles.

    For each attempt `begin` is called, then `take` and `keep` for a class, then `end`.

    Args:
        memory: Bytes that the process holds.
        descriptors: See `open_part`.

    Example:
        >>> cache, rule = TrainableCache(), ReuseRule("experiment", max_reuses=1)
        >>> for _ in range(2):
        ...     train = cache.begin(rule, lambda: print)
        ...     str(cache.end(has_failed=False))
        'nothing'
        'worn'
    """

    def __init__(
        self, memory: Callable[[], int] = resident_memory, descriptors: Callable[[], float] = open_part
    ) -> None:
        self._memory, self._descriptors = memory, descriptors
        self._rule: ReuseRule | None = None
        self._trainable: Callable[..., Any] | None = None
        self._object: Trainable | None = None
        self._uses = 0
        self._is_exhausted = False
        self._held_at_first: int | None = None
        self._max_growth: int | None = None

    def begin(
        self,
        rule: ReuseRule | None,
        load: Callable[[], Callable[..., Any]],
        *,
        max_growth: int | None = None,
    ) -> Callable[..., Any]:
        """Return the trainable for an attempt; what was kept for others is cleaned up.

        Args:
            rule: What may be kept, and for whom; None: nothing.
            load: Returns the trainable, if none is kept.
            max_growth: By how many bytes the process may have grown since its first attempt; None: no limit.
        """
        self._max_growth = max_growth
        if max_growth is not None and self._held_at_first is None:
            self._held_at_first = self._memory()
        if rule is None or self._rule is None or rule.key != self._rule.key:
            self.clean_up()
        trainable = self._trainable or load()
        self._rule, self._trainable = rule, trainable if rule else None
        self._uses, self._is_exhausted = self._uses + 1, False
        return trainable

    def take(self, config: dict[str, Any], place: TrialPlace) -> Trainable | None:
        """Return the kept object, reset for another trial; None if there is none, or none that can go on."""
        kept, self._object = self._object, None
        if kept is None:
            return None
        name = type(kept).__name__
        try:
            if kept.reset(config, place):
                return kept
            logger.info("%s.reset_config returned False: a fresh object is made", name)
        except (Exception, SystemExit):
            logger.warning("%s.reset_config raised: a fresh object is made", name, exc_info=True)
        clean_up(kept)
        return None

    def keep(self, trainable: Trainable) -> bool:
        """Keep an object whose trial ended well, if it may go on; return whether it was kept."""
        if self._rule is None or not is_written(type(trainable), "reset_config") or self._wears_out():
            return False
        self._object = trainable
        return True

    def end(self, *, has_failed: bool) -> Leftover:
        """Say what the attempt left behind; of one that failed nothing goes on."""
        if has_failed:
            self._trainable = None
        if self._is_exhausted or self._wears_out():
            return Leftover.EXHAUSTED
        return Leftover.NOTHING if self._object is None else Leftover.OBJECT

    def clean_up(self) -> None:
        """End the object that is kept, and forget everything."""
        kept, self._object = self._object, None
        self._rule, self._trainable, self._uses, self._is_exhausted = None, None, 0, False
        if kept is not None:
            clean_up(kept)

    def _wears_out(self) -> bool:
        if self._object is not None:
            return False
        rule = self._rule or ReuseRule("")
        is_used_up = rule.max_reuses is not None and self._uses > rule.max_reuses
        holds_too_much = rule.max_memory is not None and self._memory() > rule.max_memory
        self._is_exhausted = (
            is_used_up or holds_too_much or self._has_grown() or self._descriptors() > MAX_OPEN_PART
        )
        return self._is_exhausted

    def _has_grown(self) -> bool:
        if self._max_growth is None or self._held_at_first is None:
            return False
        return self._memory() - self._held_at_first > self._max_growth

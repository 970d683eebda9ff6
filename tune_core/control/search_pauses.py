"""When a searcher that has nothing to suggest is asked again."""

from __future__ import annotations

import logging
import math

_logger = logging.getLogger(__name__)

#: How long a searcher that has nothing to suggest is left alone while nothing runs, in seconds: at first, and
#: at most. Each time it is twice as long.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 10.0


class SearchPauses:
    """Says when a searcher that had nothing to suggest while nothing ran is asked again.

    Example:
        >>> pauses = SearchPauses()
        >>> [pauses.is_over(True, now) for now in (5.0, 5.05, 5.15)]
        [False, False, True]
    """

    def __init__(self) -> None:
        self._pause_s, self._has_warned = FIRST_PAUSE_S, False
        #: When it is asked, on the clock of `is_over`.
        self.due = math.inf

    def is_over(self, waits: bool, now: float) -> bool:
        """Return whether it is time; the log says once that the experiment waits.

        Args:
            waits: Whether nothing can happen until it is asked again.
            now: Seconds, on a clock that does not go back.
        """
        if not waits:
            self._pause_s, self.due = FIRST_PAUSE_S, math.inf
        elif self.due == math.inf:
            self.due = now + self._pause_s
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        elif now >= self.due:
            self.due = math.inf
            if not self._has_warned:
                _logger.warning("nothing runs, and the searcher suggests nothing: it is asked until it does")
            self._has_warned = True
            return True
        return False

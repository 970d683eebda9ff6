"""Why trials failed: their failures grouped by what went wrong and where in the user's code.

Pure: terminal, command line, summary page and the flow run's state all say what is made here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from tune_core.logger.rows import ERROR_FILE
from tune_core.text import cut, one_line, printable, quantity
from tune_core.trial import Trial

#: Letters of an error and groups in a text: an error may be as long as a whole batch of data.
_LETTERS: Final = 2000
GROUPS_SHOWN: Final = 10
_FRAME: Final = re.compile(r'^\s*(?:\|\s*)*File "([^"\n]+)", line (\d+)', re.MULTILINE)
#: Frames that are not the user's own: installed packages, the standard library, and this library.
_NOT_USERS: Final = re.compile(
    r"[/\\](?:site-packages|dist-packages|lib[/\\]python3[^/\\]*|tune_core)[/\\]|^<(?!ipython|stdin)"
)
#: What differs between two failures of one cause that left no traceback: process ids, addresses, times.
_NUMBERS: Final = re.compile(r"0x[0-9a-fA-F]+|\d+")


@dataclass(frozen=True, slots=True)
class Failure:
    """The last failure of one trial.

    Attributes:
        trial_id: The trial.
        dirname: Its directory, below the experiment's.
        error: `ExceptionType: text`.
        traceback: As text; "" if its process died without one.
    """

    trial_id: str
    dirname: str
    error: str
    traceback: str = ""

    @property
    def line(self) -> str:
        """The error, whole, on one line that a terminal can show."""
        return cut(one_line(self.error), _LETTERS)

    @property
    def place(self) -> str | None:
        """The line of the user's code that failed, as `path:line`; None: the traceback names none.

        Of the frames of what was raised last, the innermost one that is not a package's; without
        such a frame, the innermost one.
        """
        *_, raised_last = re.split(r"^(?=Traceback \(most recent call last\):$)", self.traceback, flags=re.M)
        frames = _FRAME.findall(raised_last)
        own = [frame for frame in frames if not _NOT_USERS.search(frame[0])]
        return ":".join((own or frames)[-1]) if frames else None


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Trials that failed in the same way: the same kind of error, at the same line.

    Attributes:
        first: The failure of the first of them.
        trial_ids: All of them, in creation order.
        texts: How many different errors they raised there.
    """

    first: Failure
    trial_ids: Sequence[str]
    texts: int

    @property
    def count(self) -> int:
        """How many trials failed in this way."""
        return len(self.trial_ids)

    def file(self, storage_url: str) -> str:
        """Return where the traceback of the first one is."""
        return f"{storage_url}/{self.first.dirname}/{ERROR_FILE}"

    @property
    def error(self) -> str:
        """The error of the first one, and how many others it stands for."""
        others = self.texts - 1
        return self.first.line + (f" (and {quantity(others, 'other text')})" if others else "")

    def lines(self, storage_url: str) -> list[str]:
        """Return all of this as lines; paths are not cut."""
        place = f" at {printable(self.first.place)}" if self.first.place else ""
        return [
            f"{quantity(self.count, 'trial')} failed: {self.error}",
            f"  first: {self.first.trial_id}{place}",
            f"  traceback: {self.file(storage_url)}",
        ]


def failures_of(trials: Iterable[Trial]) -> list[Failure]:
    """Return the failures of the trials whose last attempt failed."""
    return [
        Failure(trial.trial_id, trial.dirname, trial.error, trial.traceback)
        for trial in trials
        if trial.error is not None
    ]


def group_failures(failures: Iterable[Failure]) -> list[FailureGroup]:
    r"""Return the failures of trials, in creation order, grouped by cause; the most frequent first.

    Example:
        >>> failures = [Failure(str(number), f"t{number}", "ValueError: no") for number in range(3)]
        >>> (group,) = group_failures(failures)
        >>> print("\n".join(group.lines("/runs/digits")))
        3 trials failed: ValueError: no
          first: 0
          traceback: /runs/digits/t0/error.txt
    """
    groups: dict[tuple[str, str], list[Failure]] = {}
    for failure in failures:
        kind, place = failure.error.partition(":")[0], failure.place
        key = (kind, place) if place else ("", _NUMBERS.sub("#", failure.line))
        groups.setdefault(key, []).append(failure)
    found = [
        FailureGroup(same[0], [each.trial_id for each in same], len({each.line for each in same}))
        for same in groups.values()
    ]
    return sorted(found, key=lambda group: -group.count)


def failure_lines(failures: Iterable[Failure], storage_url: str, limit: int = GROUPS_SHOWN) -> list[str]:
    """Return the lines of each way in which trials failed, and one for what is left out."""
    groups = group_failures(failures)
    lines = [line for group in groups[:limit] for line in group.lines(storage_url)]
    rest = groups[limit:]
    if rest:
        lines.append(f"{sum(group.count for group in rest)} trials failed in {len(rest)} other ways")
    return lines

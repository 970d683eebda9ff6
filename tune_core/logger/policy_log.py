"""What `pbt_global.txt` and `pbt_policy_<trial id>.txt` hold: who went on from whom, and with what.

Owns the lineage of each trial: which configurations have led to its weights, and from which iteration on each held. A
checkpoint keeps the lineage that it was made with, whatever its trial does later. Never writes a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tune_core.encoding import dumps_row
from tune_core.states import ExploitChoice
from tune_core.trial import Trial

#: The file of all changes, in the experiment's directory.
GLOBAL_FILE = "pbt_global.txt"


def policy_file(trial_id: str) -> str:
    """Return the name of the file of one trial's schedule.

    Example:
        >>> policy_file("a1b2c_00003")
        'pbt_policy_a1b2c_00003.txt'
    """
    return f"pbt_policy_{trial_id}.txt"


@dataclass(frozen=True, slots=True)
class _Part:
    """What holds of checkpoints of a trial from this index on."""

    first_index: int
    config: dict[str, Any]
    lines: tuple[bytes, ...] = ()


class PolicyLog:
    r"""Follows exploits, and says what belongs in which file.

    Args:
        changed: Called with each new line of all changes, the trial that it is of, and that trial's whole file.

    Example:
        >>> log = PolicyLog()
        >>> good, bad = Trial("t0", 0, {"lr": 1}, experiment_tag="0"), Trial("t1", 1, {"lr": 9}, experiment_tag="1")
        >>> log.add(good), log.add(bad)
        (None, None)
        >>> log.exploited(bad, ExploitChoice("t0", 0, {"lr": 2}, "1@perturbed[lr=2]"), good)
        >>> log.files["pbt_policy_t1.txt"]
        b'["1","0",0,0,{"lr":1},{"lr":2}]\n'

    Source: the files of Ray Tune 2.60. Differs: the donor's iteration and configuration are those of the checkpoint
        that was taken over, and not those that the donor has come to since.
    """

    def __init__(self, changed: Callable[[bytes, Trial, bytes], None] | None = None) -> None:
        self._changed = changed
        self._lines: list[bytes] = []
        self._parts: dict[str, list[_Part]] = {}

    @property
    def files(self) -> dict[str, bytes]:
        """Every file as a whole, by name; those that would be empty are not there."""
        latest = {
            policy_file(name): parts[-1].lines for name, parts in self._parts.items() if parts[-1].lines
        }
        everything = {GLOBAL_FILE: self._lines} if self._lines else {}
        return {name: _text(lines) for name, lines in {**everything, **latest}.items()}

    def add(self, trial: Trial) -> None:
        """Take note of a trial that begins, or starts over."""
        self._parts.setdefault(trial.trial_id, []).append(_Part(0, trial.config))

    def exploited(self, trial: Trial, choice: ExploitChoice, donor: Trial) -> None:
        """Take note that a trial goes on from a checkpoint of a donor, which may be itself."""
        source = self._part(donor, choice.checkpoint)
        records = (record.iteration for record in donor.checkpoints if record.index == choice.checkpoint)
        line = dumps_row(
            {
                "line": [
                    trial.experiment_tag.partition("@perturbed")[0],
                    donor.experiment_tag.partition("@perturbed")[0],
                    trial.iteration,
                    next(records, donor.iteration),
                    source.config,
                    choice.config,
                ]
            }
        ).removeprefix(b'{"line":')[:-1]
        line = line.strip()
        part = _Part(trial.last_checkpoint_index + 1, choice.config, (*source.lines, line))
        self._parts.setdefault(trial.trial_id, []).append(part)
        self._lines.append(line)
        if self._changed is not None:
            self._changed(line, trial, _text(part.lines))

    def _part(self, donor: Trial, index: int) -> _Part:
        parts = self._parts.get(donor.trial_id, ())
        return next((part for part in reversed(parts) if part.first_index <= index), _Part(0, donor.config))


def _text(lines: Iterable[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)

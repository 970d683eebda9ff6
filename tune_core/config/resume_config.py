"""What becomes of the trials of an experiment that goes on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from tune_core.config.shown import shown
from tune_core.validation import Validator


@dataclass(repr=False)
class ResumeConfig:
    """What becomes of the trials of an experiment that is restored.

    Each is a `ResumeConfig.ResumeType`, or its value as a string.

    Args:
        finished: Trials that ended without an error.
        unfinished: Trials that were waiting, running or paused.
        errored: Trials that failed for good.

    Raises:
        ConfigError: A value is none of them; all faults are named together.

    Example:
        >>> ResumeConfig(errored="restart").errored
        <ResumeType.RESTART: 'restart'>

    Source: as Ray Tune 2.60.
    """

    class ResumeType(Enum):
        """What to do with a trial."""

        #: Go on from its latest checkpoint.
        RESUME = "resume"
        #: Begin again, as a new trial with the same configuration.
        RESTART = "restart"
        #: Leave it as it is.
        SKIP = "skip"

    finished: ResumeType | str = ResumeType.SKIP
    unfinished: ResumeType | str = ResumeType.RESUME
    errored: ResumeType | str = ResumeType.SKIP

    def __post_init__(self) -> None:
        validator = Validator("ResumeConfig")
        known = {kind.value: kind for kind in self.ResumeType}
        for name in ("finished", "unfinished", "errored"):
            given = getattr(self, name)
            if isinstance(given, self.ResumeType):
                continue
            validator.check_choice(name, given, tuple(known), also=", or a ResumeConfig.ResumeType")
            setattr(self, name, known.get(given) if isinstance(given, str) else given)
        validator.raise_any()

    __repr__ = shown

"""Every error that prefect-tune raises on purpose, as one tree.

Each message says what was given, what was expected and by whom, and what to do.
Errors of the user's own code are never wrapped on the way out of a trial's process;
they reach the driver as text inside `TrialError`. All others show no credentials of URLs.
"""

from __future__ import annotations

from collections.abc import Sequence

from tune_core.masking import masked


class TuneError(Exception):
    """Root of every error that prefect-tune raises on purpose.

    Its text is shown in many places, so it never has the `user:password@` of a URL.

    Args:
        message: What was given, what was expected, and what to do.

    Example:
        >>> str(TuneError("name='s3://key:secret@bucket/a': expected a plain name"))
        "name='s3://***@bucket/a': expected a plain name"
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(masked(message))


class ConfigError(TuneError, ValueError):
    """A configuration object was given values that it cannot work with.

    All faults of one object are reported together; `faults` holds them one by one.

    Args:
        faults: One message, or every message that was collected.

    Example:
        >>> str(ConfigError(["num_samples=0: at least 1 is needed", "mode='up': use 'min' or 'max'"]))
        "2 faults: (1) num_samples=0: at least 1 is needed; (2) mode='up': use 'min' or 'max'"
    """

    def __init__(self, faults: str | Sequence[str]) -> None:
        self.faults = [masked(fault) for fault in ([faults] if isinstance(faults, str) else faults)]
        if len(self.faults) == 1:
            message = self.faults[0]
        else:
            numbered = "; ".join(f"({n}) {fault}" for n, fault in enumerate(self.faults, 1))
            message = f"{len(self.faults)} faults: {numbered}"
        super().__init__(message)

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[str]]]:
        return type(self), (self.faults,)


class TrainableError(TuneError, ValueError):
    """The trainable cannot be run: wrong signature, wrong return value, or not serializable."""


class NotPicklable(TrainableError, TypeError):
    """The trainable cannot be sent to the processes that run it."""


class NoResults(TuneError, RuntimeError):
    """The results of an experiment were asked for before it was run."""


class SaveRestoreError(TuneError, AssertionError):
    """A trainable does not go on where it was saved."""


class GpuError(TuneError, RuntimeError):
    """The GPUs cannot be looked at, or the one that was asked for was not free in time."""


class StorageError(TuneError):
    """The experiment's storage cannot be used: missing, refused, or broken."""


class JournalDamaged(StorageError):
    """A segment of an experiment's journal is not what was written, or is missing."""


class SpecError(TuneError, ValueError):
    """The stored description of an experiment is not enough to make it again, or cannot be read."""


class SpecIncomplete(SpecError):
    """Something of an experiment cannot be made again from its stored description, and has to be passed."""


class CreateConflict(StorageError):
    """A create-only write met an object that somebody else wrote."""


class CheckpointError(TuneError):
    """A checkpoint cannot be read or written.

    Attributes:
        path: Where the checkpoint is that could not be read; "" if that is not the point.
    """

    path = ""


class CheckpointNotFound(CheckpointError, ValueError):
    """No committed checkpoint is at that place. A ValueError too, as Ray Tune's restore raises."""


class CheckpointCorrupted(CheckpointError):
    """The files of a checkpoint are not the ones that its commit marker names."""


class PlacementError(TuneError):
    """The cluster cannot give a trial the bundles that it asks for."""


class NoRoomForChild(PlacementError, RuntimeError):
    """A trial launched a task or an actor that none of its bundles has room for."""


class ExperimentConflict(TuneError):
    """Another driver owns this experiment, or took it over."""


class NotSteered(TuneError):
    """A request to an experiment was not answered: there is none, it has ended, or nobody drives it."""


class ChannelLost(TuneError):
    """The experiment's driver stopped answering, so nothing that is reported can be kept."""


class IllegalTransition(TuneError):
    """The controller met an event that cannot happen in the trial's state: a defect of prefect-tune."""


class NotInTrial(TuneError, RuntimeError):
    """Something reported that does not belong to a running trial: a thread of an earlier one, or a forked process."""


class InvalidMetric(TuneError, ValueError):
    """A metric was reported that cannot be kept: nothing could write it, compare it or read it again."""


class MetricMissing(TuneError):
    """A report lacks the metric that the experiment is tuned for."""


class TrialError(TuneError):
    """An attempt at a trial failed; the text holds the traceback of the trial's process.

    Args:
        message: One line, `ExceptionType: text`.
        traceback: The remote traceback, as text; empty if the process died without one.
    """

    def __init__(self, message: str, traceback: str = "") -> None:
        Exception.__init__(self, message)  # the user's own words: they stay as they are
        self.traceback = traceback

    def __reduce__(self) -> tuple[type[TrialError], tuple[str, str]]:
        return type(self), (str(self.args[0]), self.traceback)

"""What an attempt at a trial is told: its trial, where it starts from, and what is asked of it."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tune_core.resources import PlacementGroupFactory
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.storage.sharing import private_directory


@dataclass(frozen=True, slots=True)
class ReuseRule:
    """What a process may keep from one attempt to the next (`TuneConfig.reuse_actors`).

    Attributes:
        key: Only attempts of equal keys share: those of one experiment, with equal bundles.
        max_reuses: `TuneConfig.max_reuses`.
        max_memory: `TuneConfig.max_reuse_memory`.
    """

    key: str
    max_reuses: int | None = None
    max_memory: int | None = None


@dataclass(frozen=True, slots=True)
class AttemptSpec:
    """Everything that one attempt at a trial needs to know; travels to its process as bytes.

    Attributes:
        experiment_name: Name of the experiment.
        trial_id: The trial's id.
        trial_name: `<trainable>_<trial id>`.
        dirname: The trial's directory below the experiment's.
        attempt_number: Number of this attempt, from 1.
        config: The trial's configuration.
        resources: The bundles that the attempt was given.
        storage: Where checkpoints are committed.
        checkpoint: Index of the checkpoint to start from; None: from scratch.
        checkpoint_dirname: The trial's directory that this checkpoint is in; "" for its own.
        iteration: `training_iteration` of that checkpoint; 0 without one.
        totals: `time_total_s`, `timesteps_total` … at that checkpoint.
        highest_index: Highest checkpoint index of earlier attempts; -1: none.
        metric: The metric that every report must contain, or all that it must; None: any report will do.
        stop: Bounds `name >= value` that the session checks itself.
        waits_for_decisions: Whether something could answer a report with other than CONTINUE.
        may_be_told_to_save: Whether the answer to a report could be that the trial is to save.
        log_files: Names of the files that stdout and stderr are copied to; None: to none.
        prints: Whether what it prints may be seen on a terminal, besides its log (`verbose=0`: no).
        keeps_artifacts: When files that the trainable leaves in its directory go to the storage;
            "always" is with each checkpoint and at the end.
        checkpoint_frequency: A trainable class saves every so many iterations; 0 for never.
        checkpoint_at_end: Whether a trainable class saves when its trial ends.
        async_upload: Whether the trial goes on while a checkpoint is uploaded, where no answer is waited for.
        reuse: What may be kept for later attempts; None: nothing.
        max_growth: `TuneConfig.max_process_growth`.
        changes_directory: Whether the attempt works in its trial's directory, as the driver's environment says;
            None: as that of the attempt's process says.
    """

    experiment_name: str
    trial_id: str
    trial_name: str
    dirname: str
    attempt_number: int
    config: dict[str, Any]
    resources: PlacementGroupFactory
    storage: ExperimentStorage
    checkpoint: int | None = None
    checkpoint_dirname: str = ""
    iteration: int = 0
    totals: dict[str, float] = field(default_factory=dict)
    highest_index: int = -1
    metric: str | list[str] | None = None
    stop: dict[str, float] = field(default_factory=dict)
    waits_for_decisions: bool = False
    may_be_told_to_save: bool = False
    log_files: tuple[str, str] | None = None
    prints: bool = True
    keeps_artifacts: Literal["never", "at_end", "always"] = "never"
    checkpoint_frequency: int = 0
    checkpoint_at_end: bool = False
    async_upload: bool = False
    reuse: ReuseRule | None = None
    max_growth: int | None = None
    changes_directory: bool | None = None

    @property
    def waits_for_answers(self) -> bool:
        """Whether each report but the last is answered."""
        return self.waits_for_decisions or self.may_be_told_to_save


def working_directory(spec: AttemptSpec) -> str:
    """Return the local directory that an attempt runs in, on this node, below one that is this user's alone.

    Raises:
        StorageError: Somebody else has taken the name of that.
    """
    root = private_directory(Path(tempfile.gettempdir(), f"prefect-tune-{os.getuid()}"))
    return str(root / spec.experiment_name / spec.dirname)

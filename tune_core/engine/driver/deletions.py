"""Removes checkpoints that nothing needs any more, in a thread of its own: nobody waits for a deletion."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor

from tune_core.control.journal import Journal
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.trial import AttemptPhase, Trial

logger = logging.getLogger("prefect.tune")


class Deletions:
    """Deletes and sweeps checkpoints of one experiment. What fails is logged: it costs space, not the experiment.

    Args:
        storage: The experiment's storage.
    """

    def __init__(self, storage: ExperimentStorage) -> None:
        self._storage = storage
        self._thread = ThreadPoolExecutor(1, "tune-deletions")

    def delete(self, dirname: str, index: int, journal: Journal) -> None:
        """Remove a checkpoint once the journal says so.

        Not before: a driver whose place was taken would delete what the new one needs, and a crash
        between the two would leave the trial without the checkpoint that its journal names.
        """
        journal.when_written(lambda: self._submit(self._delete, dirname, index))

    def sweep(self, trial: Trial, journal: Journal) -> None:
        """Remove what the dead attempts at a trial left behind, once the journal says that they are dead.

        All that they have committed must be taken up before.
        """
        keep, dirname = {record.index for record in trial.checkpoints}, trial.dirname
        attempt_number = (
            trial.attempt_number + 1 if trial.phase is AttemptPhase.NONE else trial.attempt_number
        )
        journal.when_written(lambda: self._submit(self._sweep, dirname, keep, attempt_number))

    def close(self) -> None:
        """Carry out what was ordered, then stop."""
        self._thread.shutdown()

    def _submit(self, action: Callable[..., None], dirname: str, *details: object) -> None:
        def act() -> None:
            try:
                action(dirname, *details)
            except Exception as error:  # noqa: BLE001 - costs space, not the experiment
                logger.warning("cannot remove checkpoints of %s: %s", dirname, error)

        self._thread.submit(act)

    def _delete(self, dirname: str, index: int) -> None:
        self._storage.delete_checkpoint(dirname, index)

    def _sweep(self, dirname: str, keep: Collection[int], attempt_number: int) -> None:
        self._storage.sweep(dirname, keep=keep, attempt_number=attempt_number)

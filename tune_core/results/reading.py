"""The results of an experiment as its journal tells them: for everybody who was not there when they came."""

from __future__ import annotations

from tune_core.control.controller import Controller
from tune_core.control.controller_config import ControllerConfig
from tune_core.control.resume import Replay
from tune_core.control.segments import read_journal
from tune_core.objective import Objective
from tune_core.results.result_grid import ResultGrid
from tune_core.storage.experiment_storage import ExperimentStorage


def read_results(
    storage: ExperimentStorage,
    experiment_id: str | None = None,
    objective: Objective | None = None,
    *,
    discard_damaged: bool = False,
) -> ResultGrid:
    """Return the results of an experiment so far. Executes nothing that is stored.

    Args:
        storage: Where it is.
        experiment_id: Which one of its name; None: the one that `storage` says.
        objective: What `get_best_result` goes by if it is not told; None: nothing.
        discard_damaged: Whether the journal is read up to its first damaged segment, instead of refused.

    Raises:
        StorageError: The journal is damaged, or the storage does not answer.
    """
    records = read_journal(storage, experiment_id, discard_damaged=discard_damaged)
    controller = (replay := Replay(Controller(ControllerConfig(""))).run(records)).controller
    return ResultGrid.from_trials(
        replay.trials,
        storage,
        objective or Objective(),
        num_to_keep=controller.rules.num_to_keep,
        rank=controller.rank_checkpoint,
    )

"""How long a resume takes to read and replay its journal: whether snapshots are worth having.

    python -m benchmarks.replay [--trials 2000] [--rows 100]

There is no peer: Ray Tune loads a snapshot, which may be older than its trials.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import Any

import tune_core as tune
from tune_core.control.controller import Controller
from tune_core.control.controller_config import ControllerConfig
from tune_core.control.journal import Journal, claim
from tune_core.control.resume import Replay
from tune_core.control.segments import read_journal
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.testing.simulator import simulate


def curve(config: dict[str, Any], iteration: int) -> tuple[dict[str, Any], float]:
    """Report a row of about 300 bytes, after a second."""
    return {"loss": config["x"] / iteration, "note": "x" * 100}, 1.0


def fail(error: Exception) -> None:
    """Give up: the journal cannot be written."""
    raise error


def main() -> None:
    """Simulate an experiment, write its journal, and print how long each step takes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=100)
    given = parser.parse_args()
    run = simulate(
        curve,
        param_space={"x": tune.uniform(0, 1)},
        tune_config=tune.TuneConfig(num_samples=given.trials),
        slots=8,
        iterations=given.rows,
        checkpoint_every=10,
    )
    with tempfile.TemporaryDirectory() as directory:
        storage = ExperimentStorage.open(directory, "experiment")
        began = time.perf_counter()
        number = claim(storage, run.rules.experiment_id, {}, lambda _: False)
        journal = Journal(
            storage, run.rules.experiment_id, {}, number, on_flushed=lambda _: None, on_failure=fail
        )
        for event, _ in run.records:
            journal.append(event, [])
        journal.close()
        written = time.perf_counter()
        count = sum(1 for _ in read_journal(storage))
        read = time.perf_counter()
        Replay(Controller(ControllerConfig(""))).run(read_journal(storage))
        replayed = time.perf_counter()
    print(
        f"{count} events: written in {written - began:.1f} s, read in {read - written:.1f} s, "
        f"read and replayed in {replayed - read:.1f} s"
    )


if __name__ == "__main__":
    main()

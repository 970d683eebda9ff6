"""A disk that is full where trials work: a clear error of each trial that meets it, and of no other."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from tests.flows.conftest import Recorded
from tests.support.trials import report_step, rows_of, step_of

pytestmark = pytest.mark.slow


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory with room for a megabyte, and 64 files."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=64", "tmpfs", str(place)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    yield place
    deadline = time.monotonic() + 30  # a worker may still have its working directory there
    while subprocess.run(["umount", str(place)], capture_output=True, check=False).returncode:
        assert time.monotonic() < deadline, "the small disk is still in use"
        time.sleep(0.2)


def fill(config: dict[str, Any]) -> None:
    report_step(step_of(tune.get_checkpoint()) + 1)
    if config["how"] == "data":
        Path("data").write_bytes(b"x" * 4_000_000)
    report_step(2)


def test_trial_that_fills_its_disk_fails_and_says_so_and_the_next_one_works_elsewhere(
    run_config: Callable[..., tune.RunConfig], recorded: Callable[[str], Recorded], small_disk: Path
) -> None:
    # Its checkpoints are made elsewhere: it is the working directory that this is about.
    environment = {"env_vars": {"TMPDIR": str(small_disk)}}
    config = run_config(runtime_env=environment, log_to_file=True)
    space = {"how": tune.grid_search(["nothing", "data", "nothing"])}
    limited = tune.TuneConfig(max_concurrent_trials=1)

    results = tune.Tuner(fill, param_space=space, tune_config=limited, run_config=config).fit()

    fine, filling, after = results
    assert fine.error is None
    assert [row["step"] for row in rows_of(fine)] == [1, 2]
    assert "OSError: [Errno 28] No space left on device" in str(filling.error)
    assert [row["step"] for row in rows_of(filling)] == [1]
    assert step_of(filling.checkpoint) == 1
    # Its process is a new one, as after each failure, where Python passes over a full directory for temporary files.
    assert after.error is None
    assert [row["step"] for row in rows_of(after)] == [1, 2]
    states = [run.state_name for run in recorded(config.name).task_runs(3)]
    assert states == ["Completed", "Failed", "Completed"]


def test_storage_that_is_full_fails_the_report_and_loses_nothing_that_was_reported(
    run_config: Callable[..., tune.RunConfig], small_disk: Path
) -> None:
    def train(config: dict[str, Any]) -> None:
        first = step_of(tune.get_checkpoint()) + 1
        for step in range(first, 4):
            size = 10 if step < 3 or config["x"] == 0 else 4_000_000
            directory = Path(os.environ["PLENTY"], f"{config['x']}-{step}")
            directory.mkdir(exist_ok=True)
            (directory / "step").write_text(str(step))
            (directory / "data").write_bytes(b"x" * size)
            tune.report({"step": step}, checkpoint=tune.Checkpoint.from_directory(directory))

    plenty = small_disk.parent / "plenty"
    plenty.mkdir()
    config = run_config(
        storage_path=str(small_disk), runtime_env={"env_vars": {"PLENTY": str(plenty)}}, verbose=0
    )
    limited = tune.TuneConfig(max_concurrent_trials=1)
    space = {"x": tune.grid_search([1])}

    (full,) = tune.Tuner(train, param_space=space, tune_config=limited, run_config=config).fit()

    assert "the storage is full" in str(full.error)
    assert [row["step"] for row in rows_of(full)] == [1, 2]
    assert step_of(full.checkpoint) == 2

"""Files beside the journal are completed from it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from tests.support.resuming import STEPS, begin, count, fit, rows_of, undisturbed
from tune_core.logger.trial_files import TrialFiles
from tune_core.trial import Trial


def test_rows_that_files_lack_are_written_from_the_journal(path: Path) -> None:
    whole = begin(path)
    file = Path(whole[0].path, "result.json")
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:3]) + lines[3][:20])  # as a crash leaves it
    table = Path(whole[1].path, "progress.csv")
    records = table.read_bytes().splitlines(keepends=True)
    table.write_bytes(b"".join(records[:2]) + records[2][:-5])
    Path(whole[1].path, "params.json").unlink()

    results = fit(tune.Tuner.restore(path, count))

    with pytest.warns(UserWarning, match="skipped 1 of 7 rows"):
        assert rows_of(results) == undisturbed(1, 2)
    assert len(file.read_bytes().splitlines()) == STEPS + 1
    assert table.read_bytes() == b"".join(records)
    assert json.loads(Path(whole[1].path, "params.json").read_text()) == {"x": 2}


@pytest.mark.parametrize("how", ["removed", "emptied"])
@pytest.mark.parametrize("after", [4, STEPS])
def test_rows_of_files_that_somebody_removed_meanwhile_are_written_again(
    how: str, after: int, path: Path
) -> None:
    class Remover(tune.Callback):
        def setup(self, *args: Any, files: TrialFiles, **info: Any) -> None:
            self._files = files

        def on_trial_result(
            self, iteration: int, trials: Any, trial: Trial, result: Any, **info: Any
        ) -> None:
            if result["training_iteration"] == after:
                self._files.flush(trial.dirname)
                for name in ("result.json", "progress.csv"):
                    file = path / trial.dirname / name
                    file.unlink() if how == "removed" else file.write_bytes(b"")

    results = begin(path, callbacks=[Remover()])

    assert rows_of(results) == undisturbed(1, 2)
    assert [row["config"] for row in results[1].rows] == [{"x": 2}] * STEPS
    for result in results:
        table = list(csv.DictReader(Path(result.path, "progress.csv").read_text().splitlines()))
        assert [int(row["training_iteration"]) for row in table] == [*range(1, STEPS + 1)]


def test_file_that_lacks_rows_in_its_middle_is_written_again_by_a_resume(path: Path) -> None:
    whole = begin(path)
    for name in ("result.json", "progress.csv"):
        file = Path(whole[0].path, name)
        lines = file.read_bytes().splitlines(keepends=True)
        file.write_bytes(b"".join([*lines[:1], *lines[3:]]))

    results = fit(tune.Tuner.restore(path, count))

    assert rows_of(results) == undisturbed(1, 2)
    assert len(Path(whole[0].path, "progress.csv").read_text().splitlines()) == STEPS + 1


def test_nothing_is_written_twice_where_nothing_lacks(path: Path) -> None:
    whole = begin(path)
    files = {file: file.read_bytes() for result in whole for file in Path(result.path).glob("*.*")}

    fit(tune.Tuner.restore(path, count))

    assert {file: file.read_bytes() for file in files} == files


def test_long_texts_and_own_iterations_are_completed_too(path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        for step in range(1, 7):
            tune.report({"note": "x" * 200_000, "training_iteration": 100 * step})

    run_config = tune.RunConfig(name=path.name, storage_path=str(path.parent))
    (result,) = fit(tune.Tuner(train, run_config=run_config))
    file = Path(result.path, "result.json")
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:3]))

    (again,) = fit(tune.Tuner.restore(path, train))

    assert [row["training_iteration"] for row in again.rows] == [100, 200, 300, 400, 500, 600]
    assert file.read_bytes() == b"".join(lines)

"""The same model, as a function and as a class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.scenarios import SCENARIOS, Played, play

SAME = {
    # scenario of each, and the iterations that have checkpoints with the one and with the other
    "grid": ("grid", "class"),
    "retries": ("retries", "class, retries"),
}


@pytest.mark.parametrize("name", SAME)
def test_class_and_function_of_the_same_model_come_to_the_same(name: str, tmp_path: Path) -> None:
    of_function, of_class = (play(SCENARIOS[each](), str(tmp_path / each)) for each in SAME[name])

    def told(played: Played) -> list[Any]:
        return [
            (
                [
                    (row["attempt_number"], row["step"], row["loss"], row["checkpoint_dir_name"])
                    for row in result.rows
                ],
                [(record.index, record.iteration) for record in trial.checkpoints],
                (trial.attempt_number, trial.num_failures),
            )
            for trial, result in zip(played.trials, played.results, strict=True)
        ]

    assert told(of_function) == told(of_class)


def test_paused_class_goes_on_where_it_was_paused(tmp_path: Path) -> None:
    played = play(SCENARIOS["class, pauses"](), str(tmp_path))

    for trial, result in zip(played.trials, played.results, strict=True):
        assert [(row["attempt_number"], row["step"]) for row in result.rows] == [
            *((1, step) for step in (1, 2, 3)),
            *((2, step) for step in (4, 5, 6, 7)),
            *((3, step) for step in (8, 9, 10)),
        ]
        # Those of the pauses were committed after their rows; the last one came with its row.
        assert [(record.index, record.iteration) for record in trial.checkpoints] == [(0, 3), (1, 7), (2, 10)]
        assert [row["checkpoint_dir_name"] for row in result.rows if row["checkpoint_dir_name"]] == [
            "checkpoint_000002"
        ]


def test_stopped_class_is_saved_at_its_end(tmp_path: Path) -> None:
    played = play(SCENARIOS["class, stopper"](), str(tmp_path))

    assert [[record.iteration for record in trial.checkpoints] for trial in played.trials] == [[4]] * 3
    with played.results[0].checkpoint.as_directory() as directory:  # type: ignore[union-attr]
        assert Path(directory, "_dict_checkpoint.pkl").exists()

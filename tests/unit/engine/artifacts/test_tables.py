"""What tables of artifacts show of reports, and how large they get."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tune_core.engine.artifacts.tables import (
    BYTES_PER_TABLE,
    BYTES_PER_VERSION,
    CELL_LETTERS,
    COLUMNS,
    MORE,
    ROWS_PER_VERSION,
    TrialRows,
    cell,
    encoded,
    reports_table,
    row_values,
    uniform,
)


class Broken:
    """A user's object that cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("made up")


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("x" * 5_000_000, "(5,000,000 letters)"),
        ([[[0.25] * 64] * 28] * 28, "(50,176 values)"),
        ({f"layer{number}": [0.5] * 100 for number in range(10)}, "(1,000 values)"),
        ([[0] * 1000] * 2000, "(over 1,000,000 values)"),
        (set(range(1000)), "(1,000 values)"),
    ],
    ids=["text", "map", "dict", "matrix", "set"],
)
def test_long_value_is_shown_by_its_beginning_and_its_size(value: Any, size: str) -> None:
    shown = cell(value)

    assert len(shown) <= CELL_LETTERS
    assert shown.endswith(size)
    assert str(value).startswith(shown[:10])


@pytest.mark.parametrize("value", ["x" * CELL_LETTERS, [1, 2, 3], {"a": 1}, (), list(range(100))])
def test_short_value_is_shown_whole(value: Any) -> None:
    assert cell(value) == str(value)


def test_value_that_cannot_be_shown_costs_its_cell_only() -> None:
    assert cell(Broken()) == "<Broken>"


def test_wide_row_keeps_what_is_filled_in_and_says_how_much_it_lacks() -> None:
    report = {f"m{number}": number for number in range(50_000)} | {"training_iteration": 7, "done": True}

    shown = row_values(report, attempt_number=2)

    assert len(shown) <= COLUMNS + 2
    assert (shown["m0"], shown["training_iteration"], shown["done"], shown["attempt_number"]) == (
        0,
        7,
        True,
        2,
    )
    assert shown[MORE] == 50_000 - sum(name.startswith("m") and name != MORE for name in shown)


def test_rows_of_many_columns_each_make_no_endless_table() -> None:
    rows = [row_values({f"m{number}_{column}": 1 for column in range(100)}, 1) for number in range(100)]

    table = reports_table(rows)

    assert {len(row) for row in table} == {COLUMNS + 2}
    assert {len(row) for row in uniform(rows)} == {COLUMNS}


def test_version_of_a_table_is_full_by_rows_or_by_bytes() -> None:
    narrow, wide, ragged = TrialRows(), TrialRows(), TrialRows()

    while not narrow.is_full:
        narrow.add(row_values({"loss": 0.5, "training_iteration": 1}, 1))
    while not wide.is_full:
        wide.add(row_values({"map": [[0.123456789] * 64] * 64, "text": "x" * 10_000}, 1))
    while not ragged.is_full:
        ragged.add(row_values({f"m{len(ragged.rows)}_{column}": "x" * 100 for column in range(20)}, 1))

    assert len(narrow.rows) == ROWS_PER_VERSION
    assert 100 < len(wide.rows) < ROWS_PER_VERSION
    for each in (wide, ragged):
        assert len(encoded(reports_table(each.rows))) < 1.2 * BYTES_PER_VERSION


def test_one_row_is_a_table_however_large_it_is() -> None:
    one = TrialRows()
    assert not one.is_full

    one.add(row_values({f"m{number}": "x" * 5000 for number in range(500)}, 1))

    assert len(json.loads(encoded(reports_table(one.rows)))) == 1
    assert len(encoded(reports_table(one.rows))) < BYTES_PER_VERSION


def test_leaderboard_of_huge_configurations_has_the_best_trials_that_it_has_room_for() -> None:
    entries = [{f"config/{number}": cell("x" * 5000) for number in range(100)} for _ in range(100)]

    table = uniform(entries)

    assert 10 < len(table) < 100
    assert len(encoded(table)) < 1.2 * BYTES_PER_TABLE


# What V1 would make links and tags of.


@pytest.mark.parametrize(
    "hostile",
    [
        "[best](javascript:alert(1))",
        "[best][1] [1]: javascript:alert(1)",
        "![x](https://example.com/pixel.png)",
        "<javascript:alert(1)>",
        "<script>alert(1)</script>",
        "<!-- hidden -->",
    ],
)
def test_a_cell_holds_no_link_and_no_tag_for_v1_and_the_same_letters_for_v2(hostile: str) -> None:
    (row,) = json.loads(encoded([{"tag": hostile, hostile: 1}]))

    for shown in (row["tag"], *(name for name in row if name != "tag")):
        assert shown.replace("\u2060", "") == hostile
        assert not [pair for pair in ("](", "][", "]:", "<j", "<s", "</", "<!") if pair in shown]


@pytest.mark.parametrize("plain", ["a|b", "`code`", "x < 3", "[8, 8]", "1 ] 2", "line\nline", "😀"])
def test_what_is_neither_stays_as_it_is(plain: str) -> None:
    table = [{"value": plain, "n": 1.5, "list": "[[1], [2]]", "huge": 1 << 70}]

    assert json.loads(encoded(table)) == table

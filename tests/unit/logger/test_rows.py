"""How rows and failures are found in a trial's files."""

from __future__ import annotations

import math
import warnings

import pytest

from tune_core.logger.rows import last_failure, newest_rows, parse_rows


def a_row(iteration: object, attempt_number: int, **metrics: object) -> dict[str, object]:
    return {"training_iteration": iteration, "attempt_number": attempt_number, **metrics}


def test_the_newest_attempt_of_each_iteration_counts() -> None:
    rows = [a_row(1, 1), a_row(2, 1), a_row(3, 1), a_row(2, 2), a_row(3, 3), a_row(4, 3)]

    kept = newest_rows(rows)

    assert [(row["training_iteration"], row["attempt_number"]) for row in kept] == [
        (1, 1),
        (2, 2),
        (3, 3),
        (4, 3),
    ]


def test_rows_of_one_attempt_with_equal_iterations_all_stay() -> None:
    rows = [a_row(1, 1, loss=1), a_row(1, 1, loss=2)]

    assert newest_rows(rows) == rows


def test_iteration_beyond_floats_is_one_like_others() -> None:
    rows = [{"training_iteration": 10**400, "attempt_number": attempt_number} for attempt_number in (1, 2)]

    assert newest_rows(rows) == rows[1:]


def test_row_that_was_written_twice_counts_once() -> None:
    rows = [
        a_row(1, 1, iterations_since_restore=1, loss=float("nan")),
        a_row(2, 1, iterations_since_restore=2),
    ]

    assert newest_rows([*rows, *map(dict, rows)]) == rows


@pytest.mark.parametrize("iteration", [None, float("nan"), "three", [3]])
def test_rows_whose_iteration_is_no_number_all_stay(iteration: object) -> None:
    rows = [a_row(iteration, 1), a_row(iteration, 2)]

    assert newest_rows(rows) == rows


def test_an_iteration_beyond_floats_is_one_like_any_other() -> None:
    assert newest_rows([a_row(10**400, 1), a_row(10**400, 2)]) == [a_row(10**400, 2)]


def test_nan_and_infinity_literals_are_numbers() -> None:
    (row,) = parse_rows(b'{"a": NaN, "b": -Infinity}\n', "result.json")

    assert math.isnan(row["a"])
    assert row["b"] == -math.inf


def test_half_a_line_at_the_end_is_skipped_with_a_warning() -> None:
    data = b'{"loss": 1}\n{"loss": 2}\n{"lo'

    with pytest.warns(UserWarning, match=r"s3://b/result.json: skipped 1 of 3 rows .* line 3 "):
        rows = parse_rows(data, "s3://b/result.json")

    assert rows == [{"loss": 1}, {"loss": 2}]


@pytest.mark.parametrize("damage", [b"[1]", b"7", b"\xff\xfe", b'{"a": 1}{"b": 2}'])
def test_a_line_that_is_no_object_is_skipped_wherever_it_is(damage: bytes) -> None:
    with pytest.warns(UserWarning, match="line 1 "):
        rows = parse_rows(damage + b'\n{"loss": 2}\n', "result.json")

    assert rows == [{"loss": 2}]


def test_many_damaged_lines_are_one_short_warning() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        parse_rows(b"x\n" * 100, "result.json")

    assert [str(w.message) for w in caught] == [
        "result.json: skipped 100 of 100 rows that are no JSON objects: "
        "line 1, 2, 3, 4, 5, … (a crash may cut a line)"
    ]


def test_the_last_failure_is_found_with_its_traceback() -> None:
    text = (
        "Failure # 1 (occurred at 2026-11-23_22-00-00)\nValueError: one\nTraceback 1\n"
        "Failure # 2 (occurred at 2026-11-23_22-01-00)\nKeyError: 'two'\nTraceback 2\n  line\n"
    )

    failure = last_failure(text)

    assert failure is not None
    assert str(failure) == "KeyError: 'two'"
    assert failure.traceback == "Traceback 2\n  line"


def test_a_failure_that_the_trial_recovered_from_is_none() -> None:
    text = "Failure # 1 (occurred at x)\nValueError: one\nTraceback\nEnded without error (at y)\n"

    assert last_failure(text) is None


@pytest.mark.parametrize("text", ["", "\n", "something else\n"])
def test_no_failure_is_none(text: str) -> None:
    assert last_failure(text) is None


def test_a_failure_whose_text_was_cut_is_still_a_failure() -> None:
    failure = last_failure("Failure # 1 (occurr")

    assert failure is not None
    assert str(failure) == ""


def test_texts_that_many_rows_have_are_kept_once() -> None:
    lines = [f'{{"step": {step}, "hostname": "node", "date": "{step // 2}"}}'.encode() for step in range(4)]

    rows = parse_rows(b"\n".join(lines), "result.json")

    assert [(row["step"], row["date"]) for row in rows] == [(0, "0"), (1, "0"), (2, "1"), (3, "1")]
    assert len({id(row["hostname"]) for row in rows}) == 1
    assert len({id(row["date"]) for row in rows}) == 2

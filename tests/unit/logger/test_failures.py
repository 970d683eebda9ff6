"""Failures of trials, grouped by what went wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

from tune_core.logger.failures import Failure, failure_lines, failures_of, group_failures
from tune_core.training.execution import describe_error, format_traceback
from tune_core.trial import Status, Trial

HERE = str(Path(__file__))


def a_failure(number: int, error: str = "ValueError: no", trace: str = "") -> Failure:
    return Failure(f"a1b2c_{number:05d}", f"t{number}", error, trace)


def failed(function: Callable[[], Any], number: int = 0) -> Failure:
    try:
        function()
    except BaseException as error:  # noqa: BLE001 - whatever a trainable raises
        return a_failure(number, describe_error(error), format_traceback(error, None))
    raise AssertionError("it did not fail")


def line_of(text: str) -> int:
    """The number of the line of this file that has a text as its comment."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    (number,) = [number for number, line in enumerate(lines, 1) if line.endswith(f"# {text}")]
    return number


def too_wide(width: int) -> None:
    raise ValueError(f"too wide: {width}")  # raises


def calls_a_package() -> None:
    numpy.linalg.inv(numpy.zeros((2, 2)))  # calls


def raises_another() -> None:
    try:
        too_wide(1)
    except ValueError as error:
        raise RuntimeError("cannot go on") from error  # raises another


def groups() -> None:
    raise ExceptionGroup("several", [ValueError("a"), KeyError("b")])  # a group


@pytest.mark.parametrize(
    ("function", "line"),
    [
        (lambda: too_wide(3), "raises"),
        (calls_a_package, "calls"),
        (raises_another, "raises another"),
        (groups, "a group"),
    ],
)
def test_place_is_the_innermost_line_of_the_users_code(function: Callable[[], None], line: str) -> None:
    assert failed(function).place == f"{HERE}:{line_of(line)}"


def test_place_is_the_innermost_frame_if_none_is_the_users() -> None:
    trace = 'Traceback (most recent call last):\n  File "/v/site-packages/a.py", line 7, in f\nE: no\n'

    assert a_failure(0, trace=trace).place == "/v/site-packages/a.py:7"
    assert a_failure(0, trace="a process died").place is None


def test_failures_of_one_line_are_one_group_whatever_their_texts() -> None:
    failures = [failed(lambda number=number: too_wide(number), number) for number in range(30)]  # type: ignore[misc]
    failures.insert(1, failed(calls_a_package, 99))

    many, one = group_failures(failures)

    assert (many.count, many.first.trial_id, many.texts) == (30, "a1b2c_00000", 30)
    assert many.lines("s3://b/e") == [
        "30 trials failed: ValueError: too wide: 0 (and 29 other texts)",
        f"  first: a1b2c_00000 at {HERE}:{line_of('raises')}",
        "  traceback: s3://b/e/t0/error.txt",
    ]
    assert one.lines("/e")[0] == "1 trial failed: LinAlgError: Singular matrix"


def test_processes_that_died_are_one_group_whatever_their_numbers() -> None:
    errors = ["killed: process 4711 ended with -9", "killed: process 12 ended with -9", "lost: node 0x3f"]

    found = group_failures(a_failure(number, error) for number, error in enumerate(errors))

    assert [(group.count, group.first.line) for group in found] == [(2, errors[0]), (1, errors[2])]


def test_line_is_whole_on_one_line_and_harmless_and_has_a_bound() -> None:
    text = "RuntimeError: Error(s) in loading:\n\tsize mismatch for\x1b[31m fc: " + "x" * 500

    assert a_failure(0, text).line == (
        "RuntimeError: Error(s) in loading: size mismatch for?[31m fc: " + "x" * 500
    )
    assert len(a_failure(0, "y" * 10**6).line) == 2000


def test_ways_beyond_the_limit_are_counted() -> None:
    failures = [a_failure(number, f"{'abcdefghijkl'[number]}: no") for number in range(12)]

    lines = failure_lines([*failures, *failures[:1]], "/e", limit=2)

    assert lines == [
        "2 trials failed: a: no",
        "  first: a1b2c_00000",
        "  traceback: /e/t0/error.txt",
        "1 trial failed: b: no",
        "  first: a1b2c_00001",
        "  traceback: /e/t1/error.txt",
        "10 trials failed in 10 other ways",
    ]
    assert failure_lines([], "/e") == []


def test_only_trials_whose_last_attempt_failed_have_a_failure() -> None:
    trials = [
        Trial("a", 0, {}, dirname="d", status=Status.ERROR, error="E: no", traceback="T"),
        Trial("b", 1, {}, status=Status.TERMINATED),
    ]

    assert failures_of(trials) == [Failure("a", "d", "E: no", "T")]

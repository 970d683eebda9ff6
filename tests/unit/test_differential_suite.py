"""The differential suite itself: what it covers, how it compares, and the page that it writes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.differential import page
from tests.differential.case import RAISED, TOPICS, Difference, Script, all_scripts, describe_error, plain
from tests.differential.compare import MISSING, Found, differences, judge
from tests.differential.record import read_recorded
from tune_core.errors import ConfigError

REASON = Difference("what", "here", "why")


# What is covered.


def test_each_topic_has_scripts_and_many_of_them_fail_or_resume() -> None:
    scripts = all_scripts().values()
    per_topic = Counter(script.topic for script in scripts)

    assert len(scripts) >= 60
    assert {topic: count for topic, count in per_topic.items() if count < 4} == {}
    assert per_topic.keys() == TOPICS.keys()
    assert sum(script.fails for script in scripts) >= 15


@pytest.mark.parametrize("script", all_scripts().values(), ids=all_scripts())
def test_each_script_was_recorded_as_it_is_now(script: Script) -> None:
    recorded = read_recorded(script)

    again = f"run: python -m tests.differential.record {script.name}"
    assert recorded is not None, again
    assert recorded["digest"] == script.digest(), f"it has changed since: {again}"


# How it compares.


@pytest.mark.parametrize(
    ("peer", "ours", "expected"),
    [
        (1, 1, []),
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}, [Found("a.1.b", 2, 3)]),
        ({"a": 1}, {"b": 1}, [Found("a", 1, MISSING), Found("b", MISSING, 1)]),
        ([1, 2], [1], [Found("", [1, 2], [1])]),
        (1, True, [Found("", 1, True)]),
        (None, 0, [Found("", None, 0)]),
        ({RAISED: ["ValueError"]}, {RAISED: ["TuneError", "ValueError"]}, []),
        (
            {RAISED: ["OSError", "ValueError"]},
            {RAISED: ["ValueError"]},
            [Found(RAISED, ["OSError", "ValueError"], ["ValueError"])],
        ),
        ({"x": 5}, {"x": {RAISED: ["ValueError"]}}, [Found("x", 5, {RAISED: ["ValueError"]})]),
    ],
)
def test_differences_are_found_as_deep_down_as_possible(peer: Any, ours: Any, expected: list[Found]) -> None:
    assert list(differences(peer, ours)) == expected


@pytest.mark.parametrize(
    ("pattern", "is_declared"),
    [
        ("rows.0.attempt_number", True),
        ("rows.*.attempt_number", True),
        ("**attempt_number", True),
        ("rows.*", False),
        ("rows.**", True),
        ("*.attempt_number", False),
        ("rows.0", False),
    ],
)
def test_declared_differences_are_let_pass(pattern: str, is_declared: bool) -> None:
    verdict = judge({"rows": [{"loss": 1}]}, {"rows": [{"loss": 1, "attempt_number": 1}]}, {pattern: REASON})

    assert verdict.undeclared == ([] if is_declared else [Found("rows.0.attempt_number", MISSING, 1)])
    assert verdict.shown == ({REASON} if is_declared else set())


def test_error_is_told_by_what_catches_it() -> None:
    assert describe_error(ConfigError("x=1")) == {RAISED: ["TuneError", "ValueError"], "text": None}
    assert describe_error(ValueError("made up")) == {RAISED: ["ValueError"], "text": None}
    assert describe_error("ValueError: made up") == {RAISED: None, "text": "ValueError: made up"}
    assert describe_error(KeyError("a")) == {RAISED: ["KeyError", "LookupError"], "text": None}


def test_outcome_is_told_in_plain_json() -> None:
    told = plain({"b": (1, float("nan")), "a": {3, 1}, 5: KeyError})

    assert told == {"5": "<class 'KeyError'>", "a": [1, 3], "b": [1, "nan"]}


# The page.


def test_page_of_differences_is_up_to_date() -> None:
    text = page.PAGE.read_text(encoding="utf-8")

    assert page.renewed(text) == text, "run: python -m tests.differential.page"


def test_each_difference_is_on_the_page_once() -> None:
    whats = Counter(difference.what for difference in page.all_differences())

    assert [what for what, count in whats.items() if count > 1] == []


def test_page_without_a_place_for_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="the page has no place for the table"):
        page.renewed("# Differences\n")

from __future__ import annotations

import copy
import importlib
import json
import logging
import pickle
import random
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tune_core as tune
from tune_core.errors import ConfigError
from tune_core.search import (
    BasicVariantGenerator,
    Suggestion,
    choice,
    grid_search,
    randint,
    sample_from,
    uniform,
)
from tune_core.search.basic_variant import global_seed

#: Other processes may take the machine's time.
unhurried = settings(deadline=None)

SPACE: dict[str, Any] = {"a": grid_search([1, 2]), "b": uniform(0, 1), "c": choice(["x", "y", "z"])}


def a_searcher(space: dict[str, Any], num_samples: int = 1, **arguments: Any) -> BasicVariantGenerator:
    searcher = BasicVariantGenerator(**{"random_state": 1, **arguments})
    assert searcher.set_search_properties("loss", "min", space, num_samples=num_samples)
    return searcher


def suggestions(searcher: BasicVariantGenerator, most: int = 1000) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while len(found) < most:
        answer = searcher.suggest(f"t{len(found)}")
        if not isinstance(answer, Suggestion):
            assert answer == BasicVariantGenerator.FINISHED
            break
        found.append(answer.config)
    return found


# Samples.


def test_num_samples_repeats_the_whole_grid() -> None:
    searcher = a_searcher({"b": grid_search([1, 2]), "a": grid_search([10, 20])}, 2)

    found = suggestions(searcher)

    grid = [{"b": 1, "a": 10}, {"b": 1, "a": 20}, {"b": 2, "a": 10}, {"b": 2, "a": 20}]
    assert found == grid * 2
    assert searcher.total_trials == 8


@unhurried
@given(
    st.dictionaries(
        st.sampled_from("abcdef"),
        st.lists(st.integers(), min_size=1, max_size=4).map(grid_search),
        max_size=4,
    ),
    st.integers(1, 4),
)
def test_there_are_as_many_trials_as_grid_points_times_samples(
    space: dict[str, Any], num_samples: int
) -> None:
    product = num_samples
    for grid in space.values():
        product *= len(grid["grid_search"])

    searcher = a_searcher({**space, "x": uniform(0, 1)}, num_samples)

    assert searcher.total_trials == product
    assert len(suggestions(searcher, 2000)) == product


def test_a_suggestion_says_what_varied() -> None:
    answer = a_searcher({"a": grid_search([1]), "n": {"b": choice([2])}, "fixed": 3}).suggest("t")

    assert answer == Suggestion({"a": 1, "n": {"b": 2}, "fixed": 3}, {"a": 1, "n/b": 2})


def test_minus_one_samples_never_end() -> None:
    searcher = a_searcher({"a": grid_search([1, 2])}, -1, points_to_evaluate=[{"a": 7}])

    assert searcher.total_trials is None
    assert [config["a"] for config in suggestions(searcher, 6)] == [7, 1, 2, 1, 2, 1]


def test_a_huge_grid_answers_at_once() -> None:
    searcher = a_searcher({f"g{number}": grid_search(list(range(10))) for number in range(7)}, 3)

    assert searcher.total_trials == 3 * 10**7
    assert len(suggestions(searcher, 5)) == 5


def test_the_end_is_the_end_until_samples_are_added() -> None:
    searcher, reference = a_searcher(SPACE, 2), a_searcher(SPACE, 5)

    first = suggestions(searcher)
    assert searcher.suggest("again") == "FINISHED"
    searcher.add_samples(3)
    rest = suggestions(searcher)

    assert len(first) == 4
    assert first + rest == suggestions(reference)
    assert searcher.total_trials == reference.total_trials == 10


def test_samples_are_added_on_top_of_points_that_were_more_than_the_samples() -> None:
    searcher = a_searcher({"a": randint(0, 9)}, 1, points_to_evaluate=[{"a": 5}, {"a": 6}])

    searcher.add_samples(1)

    assert searcher.total_trials == len(suggestions(searcher)) == 3


# Points.


def test_each_point_takes_the_place_of_a_sample() -> None:
    points = [{"a": 2, "b": 2}, {"a": 1}, {"b": 2}]
    searcher = a_searcher({"a": grid_search([1, 2]), "b": randint(0, 3)}, 4, points_to_evaluate=points)

    total = searcher.total_trials
    found = suggestions(searcher)

    assert [config["a"] for config in found] == [2, 1, 1, 2, 1, 2]
    assert [found[number]["b"] for number in (0, 2, 3)] == [2, 2, 2]
    assert total == 6


def test_all_points_are_run_even_if_they_are_more_than_the_samples() -> None:
    searcher = a_searcher({"a": uniform(0, 1)}, 1, points_to_evaluate=[{"a": 0.1}, {"a": 0.2}])

    assert suggestions(searcher) == [{"a": 0.1}, {"a": 0.2}]
    assert searcher.total_trials == 2


def test_a_point_outside_of_the_space_is_run_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        searcher = a_searcher({"a": uniform(0, 1)}, points_to_evaluate=[{"a": 7}])

    assert suggestions(searcher) == [{"a": 7}]
    assert "points_to_evaluate[0]: 'a'=7 is not a value of uniform(0, 1)" in caplog.text


def test_faults_of_all_points_and_of_num_samples_are_raised_together() -> None:
    searcher = BasicVariantGenerator(points_to_evaluate=[{"x": 1}, {"lr": 1}, {"lrr": 2}])

    with pytest.raises(ConfigError) as caught:
        searcher.set_search_properties(None, None, {"lr": uniform(0, 1)}, num_samples=0)

    assert caught.value.faults == [
        "BasicVariantGenerator(num_samples=0): expected an integer of at least 1, or -1 for no end",
        "points_to_evaluate[0]: the search space has no 'x'",
        "points_to_evaluate[2]: the search space has no 'lrr'; did you mean 'lr'?",
    ]


# Repeatability.


@unhurried
@given(st.integers(), st.permutations(range(6)), st.booleans())
def test_a_seed_fixes_the_sequence_whatever_the_order_of_ids_and_completions(
    seed: int, order: list[int], constant: bool
) -> None:
    steady = a_searcher(SPACE, 3, random_state=seed, constant_grid_search=constant)
    busy = a_searcher(SPACE, 3, random_state=seed, constant_grid_search=constant, max_concurrent=2)

    found = []
    for number in order:
        answer = busy.suggest(f"trial-{number}")
        assert isinstance(answer, Suggestion)
        found.append(answer.config)
        busy.on_trial_result(f"trial-{number}", {"loss": number})
        if number % 2:
            busy.on_trial_complete(f"trial-{number}", error=number == 3)

    assert found == suggestions(steady)


def test_another_seed_draws_other_values() -> None:
    assert suggestions(a_searcher(SPACE, random_state=1)) != suggestions(a_searcher(SPACE, random_state=-1))


def test_constant_grid_search_draws_once_per_sample() -> None:
    found = suggestions(a_searcher(SPACE, 2, constant_grid_search=True))

    assert found[0]["b"] == found[1]["b"] != found[2]["b"] == found[3]["b"]


def test_setting_the_space_again_starts_over() -> None:
    searcher = a_searcher(SPACE, 2)
    first = suggestions(searcher)

    searcher.set_search_properties(None, None, SPACE, num_samples=2)

    assert suggestions(searcher) == first


@pytest.mark.parametrize("make", ["RandomState", "default_rng"])
def test_a_seed_is_taken_from_generators_of_numpy(make: str) -> None:
    numpy = pytest.importorskip("numpy")
    one, other = (getattr(numpy.random, make)(5) for _ in range(2))

    first = suggestions(a_searcher(SPACE, random_state=one))

    assert suggestions(a_searcher(SPACE, random_state=other)) == first
    assert suggestions(a_searcher(SPACE, random_state=other)) != first
    assert suggestions(a_searcher(SPACE, random_state=numpy.int64(3))) == suggestions(
        a_searcher(SPACE, random_state=3)
    )


def test_a_seed_is_taken_from_a_generator_of_the_standard_library() -> None:
    first = suggestions(a_searcher(SPACE, random_state=random.Random(5)))

    assert suggestions(a_searcher(SPACE, random_state=random.Random(5))) == first


def test_without_a_seed_the_global_state_of_numpy_decides() -> None:
    numpy = pytest.importorskip("numpy")
    found = []
    for seed in (4, 4, 5):
        numpy.random.seed(seed)
        found.append(suggestions(a_searcher(SPACE, random_state=None)))

    assert found[0] == found[1] != found[2]


def test_numpy_that_another_thread_is_importing_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    begun, may_end = threading.Event(), threading.Event()
    monkeypatch.setattr(sys, "half_imported", (begun, may_end), raising=False)
    (tmp_path / "numpy.py").write_text(
        "import sys\n"
        "begun, may_end = sys.half_imported\n"
        "begun.set()\n"
        "assert may_end.wait(60)\n"
        "class random:\n"
        "    bytes = staticmethod(lambda count: b'x' * count)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "numpy", raising=False)
    with ThreadPoolExecutor(2) as threads:
        importing = threads.submit(importlib.import_module, "numpy")
        assert begun.wait(60)
        seed = threads.submit(global_seed)
        wait([seed], timeout=0.1)
        may_end.set()
        importing.result()

        assert bytes.fromhex(seed.result()) == b"x" * 8


def test_without_a_seed_and_numpy_the_global_state_of_random_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "numpy", raising=False)
    found = []
    for seed in (4, 4, 5):
        random.seed(seed)
        found.append(suggestions(a_searcher(SPACE, random_state=None)))

    assert found[0] == found[1] != found[2]


# Going on.


@unhurried
@given(st.integers(0, 10))
def test_replayed_suggestions_are_walked_past(replayed: int) -> None:
    points = [{"c": "x"}]
    reference = suggestions(a_searcher(SPACE, 5, points_to_evaluate=points))

    searcher = a_searcher(SPACE, 5, points_to_evaluate=points)
    for number in range(replayed):
        searcher.on_suggestion_replayed(f"t{number}", reference[number])

    assert suggestions(searcher) == reference[replayed:]


def test_more_replayed_suggestions_than_there_are_samples_end_the_search() -> None:
    searcher = a_searcher(SPACE, 1)
    for number in range(7):
        searcher.on_suggestion_replayed(f"t{number}", {})

    assert searcher.suggest("t7") == "FINISHED"


def test_the_state_is_json_and_restores_the_place_and_the_seed() -> None:
    before = a_searcher(SPACE, 3, random_state=None)
    suggestions(before, 3)
    state = json.loads(json.dumps(before.get_state()))

    after = a_searcher(SPACE, 3, random_state=None)
    after.set_state(state)

    assert suggestions(after) == suggestions(before)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda searcher: pickle.loads(pickle.dumps(searcher))])
def test_a_copy_made_under_way_goes_on_from_there(duplicate: Any) -> None:
    searcher = a_searcher(SPACE, 3)
    suggestions(searcher, 3)

    twin = duplicate(searcher)

    assert suggestions(twin) == suggestions(searcher)


# Arguments.


def test_all_faulty_arguments_are_named_together() -> None:
    with pytest.raises(ConfigError) as caught:
        BasicVariantGenerator([1], -1, "yes", 1.5)  # type: ignore[list-item, arg-type]

    assert caught.value.faults == [
        "BasicVariantGenerator(points_to_evaluate=[1]): expected a list of dicts",
        "BasicVariantGenerator(max_concurrent=-1): expected an integer of at least 0",
        "BasicVariantGenerator(constant_grid_search='yes'): expected True or False",
        "BasicVariantGenerator(random_state=1.5): "
        "expected an integer, a numpy RandomState or Generator, or None",
    ]


def test_max_concurrent_is_told_to_the_experiment() -> None:
    assert BasicVariantGenerator(max_concurrent=3).max_concurrent == 3


def test_a_searcher_without_a_space_says_so() -> None:
    searcher = BasicVariantGenerator()

    assert searcher.total_trials is None
    with pytest.raises(ConfigError, match="no search space yet"):
        searcher.suggest("t")


def test_a_count_of_samples_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"add_samples\(count=0\): expected an integer of at least 1"):
        a_searcher(SPACE).add_samples(0)


def test_a_failing_function_of_the_user_is_reported_by_suggest() -> None:
    searcher = a_searcher({"a": sample_from(lambda config: config["b"])})

    with pytest.raises(ConfigError, match="sample_from at 'a' raised KeyError: 'b'"):
        searcher.suggest("t")


# Without repeats.


def without_repeats(space: dict[str, Any], num_samples: int, **options: Any) -> list[dict[str, Any]]:
    searcher = BasicVariantGenerator(random_state=1, dedupe=True, **options)
    searcher.set_search_properties(None, None, space, num_samples=num_samples)
    found = []
    while not isinstance(answer := searcher.suggest("t"), str):
        found.append(answer.config)
    assert searcher.suggest("t") == searcher.FINISHED
    return found


def test_draws_are_not_repeated_and_the_search_ends_when_all_have_been(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    space = {"a": tune.choice([1, 2, 3]), "b": tune.randint(0, 3)}

    assert len({tuple(config.values()) for config in without_repeats(space, 30)}) == 9
    assert "the search ends after 9 configurations" in caplog.text
    assert len(without_repeats(space, 7)) == 7


def test_grid_is_walked_once_without_repeats() -> None:
    assert without_repeats({"a": tune.grid_search([1, 2, 2])}, 3) == [{"a": 1}, {"a": 2}]


def test_points_may_be_repeated_all_the_same() -> None:
    found = without_repeats({"a": tune.choice([1, 2])}, 5, points_to_evaluate=[{"a": 1}, {"a": 1}])

    assert found == [{"a": 1}, {"a": 1}, {"a": 2}]


def test_search_without_repeats_goes_on_after_a_resume_as_before() -> None:
    space = {"a": tune.randint(0, 20)}
    wanted = without_repeats(space, 20)
    searcher = BasicVariantGenerator(random_state=1, dedupe=True)
    searcher.set_search_properties(None, None, space, num_samples=20)
    for config in wanted[:8]:
        searcher.on_suggestion_replayed("t", config)

    answer = searcher.suggest("t")
    assert not isinstance(answer, str)
    assert answer.config == wanted[8]

"""Ray Tune's environment variables: honoured, refused, or named once."""

from __future__ import annotations

import importlib.util
import re
import warnings
from pathlib import Path

import pytest

import tune_core as tune
from tune_core import environment
from tune_core.environment import HONOURED, NOT_NEEDED, REFUSED, REPLACED, check_environment
from tune_core.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
ALL = (*HONOURED, *REFUSED, *REPLACED, *NOT_NEEDED)


@pytest.fixture(autouse=True)
def nothing_named_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_named", set())


def test_what_does_nothing_here_is_named_once_with_what_to_use() -> None:
    given = {"TUNE_MAX_PENDING_TRIALS_PG": "4", "TUNE_RESULT_BUFFER_LENGTH": "10"}

    with pytest.warns(UserWarning, match="do nothing here") as caught:
        check_environment(given)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_environment(given)

    (warning,) = caught
    assert "TUNE_MAX_PENDING_TRIALS_PG (use TuneConfig(max_concurrent_trials=…))" in str(warning.message)
    assert "TUNE_RESULT_BUFFER_LENGTH (reports travel in batches" in str(warning.message)
    with pytest.warns(UserWarning, match="TUNE_RESULT_DELIM"):
        check_environment({**given, "TUNE_RESULT_DELIM": "."})


@pytest.mark.parametrize("name", HONOURED)
def test_what_is_honoured_is_not_named(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_environment({name: "1", "PATH": "/bin"})


def test_fit_refuses_a_place_for_results_that_ray_tune_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNE_RESULT_DIR", "/data/results")

    with pytest.raises(ConfigError, match=r"TUNE_RESULT_DIR='/data/results': use RunConfig\(storage_path"):
        tune.Tuner(lambda config: None).fit()


def test_the_documentation_lists_each_of_them_once() -> None:
    page = (ROOT / "docs" / "migrating.md").read_text(encoding="utf-8")

    assert [name for name in ALL if page.count(f"| `{name}` | ") != 1] == []


def test_every_variable_of_the_installed_ray_tune_is_known() -> None:
    found = importlib.util.find_spec("ray")
    assert found is not None
    assert found.origin is not None
    text = (Path(found.origin).parent / "tune" / "constants.py").read_text(encoding="utf-8")
    theirs = set(re.findall(r'"((?:TUNE|RAY)_[A-Z_]+)"', text))

    assert len(theirs) > 20
    assert theirs - {*ALL} == set()

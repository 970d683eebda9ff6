"""Trainables by registered name and by import string; what leads nowhere says where it ends."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from tune_core import registry
from tune_core.errors import ConfigError
from tune_core.registry import find_env, find_trainable, is_registered
from tune_core.testing.local_runtime import LocalRuntime


def train(config: dict[str, Any]) -> dict[str, Any]:
    return {"y": config.get("x", 0)}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that a test registers are gone after it."""
    monkeypatch.setattr(registry, "_trainables", {})
    monkeypatch.setattr(registry, "_environments", {})


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package of the user's with good and with broken modules."""
    sources = {
        "__init__": "",
        "models": "def train_digits(config): return {'y': config['x']}\nclass Model:\n"
        "    @staticmethod\n    def fit(config): return {'y': 1}\nsettings = {}\n",
        "needs_torch": "import a_package_that_nobody_has\n",
        "broken": "raise RuntimeError('no licence')\n",
        "typo": "def train(config) return\n",
    }
    (tmp_path / "user_package_h3").mkdir()
    for name, source in sources.items():
        (tmp_path / "user_package_h3" / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for module in [name for name in sys.modules if name.startswith("user_package_h3")]:
        del sys.modules[module]


# By registered name.


def test_registered_name_stands_for_the_trainable_and_names_its_trials(tmp_path: Path) -> None:
    tune.register_trainable("digits", train)

    tuner = tune.Tuner(
        "digits", param_space={"x": 3}, run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0)
    )
    results = LocalRuntime().run(tuner.experiment())

    assert results[0].metrics["y"] == 3
    assert Path(results[0].path).name.startswith("digits_")
    assert repr(tuner).startswith("Tuner(digits,")


def test_later_registration_takes_the_place_of_an_earlier_one() -> None:
    tune.register_trainable("train", train)
    tune.register_trainable("train", len)

    assert find_trainable("train") is len
    assert (is_registered("train"), is_registered("other")) == (True, False)


@pytest.mark.parametrize(
    ("name", "trainable", "match"),
    [
        ("", train, "name='.*expected a string"),
        (3, train, "name=3.*expected a string"),
        ("a:b", train, "name='a:b'.*without ':'"),
        ("digits", {"run": 1}, r"register_trainable\('digits', \{'run': 1\}\): expected a function"),
    ],
)
def test_what_cannot_be_registered_is_refused(name: Any, trainable: Any, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        tune.register_trainable(name, trainable)


def test_name_that_nobody_registered_names_the_nearest_one() -> None:
    tune.register_trainable("digits", train)

    with pytest.raises(ConfigError, match=r"trainable='digitz' cannot be .* no registered name.*'digits'"):
        tune.Tuner("digitz")


# By import string.


def test_import_string_is_imported_where_the_tuner_is_made(package: None, tmp_path: Path) -> None:
    run = tune.RunConfig(storage_path=str(tmp_path), verbose=0)

    tuner = tune.Tuner("user_package_h3.models:train_digits", param_space={"x": 2}, run_config=run)

    assert LocalRuntime().run(tuner.experiment())[0].metrics["y"] == 2
    assert tuner.experiment().trainable_name == "train_digits"


def test_name_behind_the_colon_may_have_dots(package: None) -> None:
    assert find_trainable("user_package_h3.models:Model.fit")({}) == {"y": 1}


@pytest.mark.parametrize(
    ("path", "match"),
    [
        (
            "user_package_h3.models:train_digit",
            r"user_package_h3.models has no 'train_digit'; did you mean 'train_dig",
        ),
        (
            "user_package_h3.models:Model.fti",
            r"user_package_h3.models.Model has no 'fti'; did you mean 'fit'",
        ),
        ("user_package_h3.modles:train", r"no module 'modles' in user_package_h3; did you mean 'models'"),
        ("user_package_h:train", r"no module 'user_package_h' on sys.path; did you mean 'user_package_h3'"),
        ("user_package_h3.models.deep:train", r"no module 'deep' in user_package_h3.models"),
        (
            "user_package_h3.needs_torch:train",
            r"itself imports what is not there: No module named 'a_package_th",
        ),
        (
            "user_package_h3.broken:train",
            r"importing user_package_h3.broken failed with RuntimeError: no licence",
        ),
        ("user_package_h3.typo:train", r"importing user_package_h3.typo failed with SyntaxError"),
        ("user_package_h3.models:settings", r"settings is \{\}, which is no function and no class"),
        ("user_package_h3.models.train", r"did you mean 'user_package_h3.models:train'\?"),
        ("user_package_h3:", r"no import string"),
        (":train", r"no import string"),
        ("..:train", r"importing .. failed with"),
    ],
)
def test_import_string_that_leads_nowhere_says_where_it_ends(package: None, path: str, match: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"trainable={path!r} cannot be imported: .*{match}.*expected 'package"
    ):
        tune.Tuner(path)


# Environments.


def test_environment_is_found_by_its_name() -> None:
    tune.register_env("corridor", train)

    assert find_env("corridor") is train
    with pytest.raises(
        ConfigError, match=r"no environment 'corridr' is registered in this process; .*'corridor'"
    ):
        find_env("corridr")


@pytest.mark.parametrize(("name", "creator"), [("", train), ("corridor", 3)])
def test_what_cannot_be_an_environment_is_refused(name: str, creator: Any) -> None:
    with pytest.raises(ConfigError, match="register_env"):
        tune.register_env(name, creator)

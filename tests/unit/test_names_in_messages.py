"""A name of this library that a message, a docstring or a page of the docs gives is there."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from pathlib import Path

import pytest

import tune_core as tune
from tune_core.callback import Callback
from tune_core.schedulers import TrialScheduler
from tune_core.search import Searcher
from tune_core.stopper import Stopper
from tune_core.validation import Validator

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path for folder in ("tune_core", "flows") for path in (ROOT / folder).rglob("*.py"))
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
#: Not `ray.tune.x`, not `prefect.tune`, not a path or a part of another name.
NAME = re.compile(r"(?<![\w./-])(tune_core|tune|flows|deployments)((?:\.[A-Za-z_]\w*)+)")
#: Words that look like names: files, names that Ray Tune has and that are said not to be here, events.
OTHERS = re.compile(r"\.(py|pkl|md|jsonl?|log|fit)$")


def names_in(text: str) -> set[str]:
    return {match[0] for match in NAME.finditer(text) if not OTHERS.search(match[0])}


def strings_of(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    return "\n".join(found)


def is_there(name: str) -> bool:
    first, *rest = name.split(".")
    found: object = tune if first == "tune" else importlib.import_module(first)
    place = "tune_core" if first == "tune" else first
    for part in rest:
        place = f"{place}.{part}"
        if hasattr(found, part):
            found = getattr(found, part)
        elif hasattr(found, "__path__") and importlib.util.find_spec(place) is not None:
            found = importlib.import_module(place)
        else:
            return False
    return True


@pytest.mark.parametrize("path", [*SOURCES, *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_names_are_there(path: Path) -> None:
    text = strings_of(path) if path.suffix == ".py" else path.read_text(encoding="utf-8")
    text = text.partition("## Names that are not here")[0]  # a table of names of Ray Tune

    assert [name for name in sorted(names_in(text)) if not is_there(name)] == []


def of_ray(name: str) -> object:
    return type(name, (), {"__module__": "ray.tune.logger.tensorboardx"})()


@pytest.mark.parametrize(
    ("name", "base", "advice"),
    [
        ("JsonLoggerCallback", Callback, "use tune_core.logger.callbacks.JsonLoggerCallback"),
        ("TBXLoggerCallback", Callback, "there is none here: derive one from tune_core.Callback"),
        ("AsyncHyperBandScheduler", TrialScheduler, "use tune_core.schedulers.AsyncHyperBandScheduler"),
        (
            "SchedulerOfLater",
            TrialScheduler,
            "there is none here: derive one from tune_core.schedulers.TrialScheduler",
        ),
        ("OptunaSearch", Searcher, "use tune_core.search.optuna.OptunaSearch"),
        ("HyperOptSearch", Searcher, "use tune_core.search.hyperopt.HyperOptSearch"),
        ("AxSearch", Searcher, "there is none here: derive one from tune_core.search.Searcher"),
        ("TimeoutStopper", Stopper, "use tune_core.stopper.TimeoutStopper"),
        ("RunConfig", tune.RunConfig, "use tune_core.RunConfig"),
    ],
)
def test_advice_names_what_is_there(name: str, base: type, advice: str) -> None:
    validator = Validator("Anything")

    validator.check_instance("part", of_ray(name), base)

    assert validator.found[0].endswith(f"; {advice}: `import tune_core as tune`")
    assert all(map(is_there, names_in(advice)))

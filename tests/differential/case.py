"""What scripts are made of: how they are declared, how they run an experiment, how an outcome is told.

An outcome is JSON. Times, pids, ids and dates in it are replaced by "*", so that both sides can be
compared; everything else is as the user of either library sees it.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import json
import math
import pickle
import pkgutil
import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

#: Headings of what a script is about.
TOPICS = {
    "a": "function API",
    "b": "class API",
    "c": "configuration and results",
    "d": "resources",
    "e": "with_parameters",
    "f": "search space",
    "h": "schedulers",
    "k": "failures",
    "l": "utilities",
}
VOLATILE = frozenset(
    (
        "time_this_iter_s",
        "time_total_s",
        "time_since_restore",
        "timestamp",
        "date",
        "pid",
        "hostname",
        "node_ip",
        "trial_id",
    )
)
#: Marks an exception in an outcome: of which of Python's own it is, so which `except` catches it.
RAISED = "$raised"


@dataclass(frozen=True, slots=True)
class Difference:
    """A deliberate difference, as a row of the documentation.

    Attributes:
        what: What behaves differently.
        here: What it does in this library.
        why: For what reason, or what it does in Ray Tune.
    """

    what: str
    here: str
    why: str


@dataclass(frozen=True, slots=True)
class Script:
    """A script and what is known of it.

    Attributes:
        name: `<module>.<function>`.
        topic: A key of `TOPICS`.
        run: Takes the library and a `Case`, returns the outcome.
        fails: Whether a trial of it fails or resumes, or an error is provoked.
        differs: Patterns of paths in its outcome that may differ, each with its reason.
    """

    name: str
    topic: str
    run: Callable[[Any, Case], Any]
    fails: bool
    differs: Mapping[str, Difference] = field(default_factory=dict)

    def digest(self) -> str:
        """Return a digest of the script's code, whatever its layout and its declarations."""
        tree = ast.parse(textwrap.dedent(inspect.getsource(self.run)))
        function = tree.body[0]
        assert isinstance(function, ast.FunctionDef)
        function.decorator_list.clear()
        return hashlib.sha256(ast.dump(function).encode()).hexdigest()[:12]


_scripts: dict[str, Script] = {}


def script(
    topic: str, *, fails: bool = False, differs: Mapping[str, Difference] | None = None
) -> Callable[[Callable[[Any, Case], Any]], Callable[[Any, Case], Any]]:
    """Declare a function as a script."""

    def declare(function: Callable[[Any, Case], Any]) -> Callable[[Any, Case], Any]:
        name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
        assert topic in TOPICS
        assert name not in _scripts, f"two scripts are named {name}"
        _scripts[name] = Script(name, topic, function, fails, differs or {})
        return function

    return declare


@cache
def all_scripts() -> dict[str, Script]:
    """Return every script by its name."""
    package = importlib.import_module("tests.differential.scripts")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"tests.differential.scripts.{module.name}")
    return dict(_scripts)


class Case:
    """One run of a script on one side.

    Args:
        tune: `ray.tune` or `tune_core`.
        directory: For its experiment and its files; empty.
    """

    def __init__(self, tune: Any, directory: Path) -> None:
        self.tune, self.directory = tune, directory
        self._experiments = 0

    def module(self, name: str) -> ModuleType:
        """Import a submodule of the library: `case.module("search")`."""
        return importlib.import_module(f"{self.tune.__name__}.{name}")

    def tuner(
        self, trainable: Any, space: dict[str, Any] | None = None, *, tuning: Any = None, **run: Any
    ) -> Any:
        """Return a Tuner whose experiment has a directory of its own."""
        self._experiments += 1
        run = {"name": f"e{self._experiments}", "storage_path": str(self.directory), "verbose": 0} | run
        return self.tune.Tuner(
            trainable,
            param_space=space,
            tune_config=self.tune.TuneConfig(**tuning or {}),
            run_config=self.tune.RunConfig(**run),
        )

    def results(self, trainable: Any, space: dict[str, Any] | None = None, **options: Any) -> Any:
        """Run an experiment; return its ResultGrid."""
        return self.tuner(trainable, space, **options).fit()

    def fit(self, trainable: Any, space: dict[str, Any] | None = None, **options: Any) -> Any:
        """Run an experiment; return what came of it."""
        try:
            results = self.results(trainable, space, **options)
        except Exception as error:  # noqa: BLE001 - it is the outcome
            return {"fit": describe_error(error)}
        has_metric = bool((options.get("tuning") or {}).get("metric"))
        return describe_grid(results, has_metric=has_metric)

    def attempt(self, action: Callable[[], Any]) -> Any:
        """Return what an action returns, or how it fails."""
        try:
            return plain(action())
        except Exception as error:  # noqa: BLE001 - it is the outcome
            return describe_error(error)

    def no_checkpoints(self) -> Any:
        """Return a CheckpointConfig for classes that cannot save."""
        return self.tune.CheckpointConfig(checkpoint_at_end=False)

    def retries(self, count: int) -> Any:
        """Return a FailureConfig with so many retries."""
        return self.tune.FailureConfig(max_failures=count)


# What trainables of scripts call, in the trial's process.


def save(tune: Any, metrics: dict[str, Any], **files: Any) -> None:
    """Report with a checkpoint of these files."""
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        for name, content in files.items():
            Path(directory, name).write_text(str(content))
        tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(directory))


def load(tune: Any, name: str) -> str | None:
    """Return a file of the latest checkpoint; None without one."""
    checkpoint = tune.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as directory:
        return Path(directory, name).read_text()


def first_time(marker: str) -> bool:
    """Whether this is the first call with this path, in any process."""
    try:
        Path(marker).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


# How an outcome is told.


def describe_grid(grid: Any, *, has_metric: bool = False) -> dict[str, Any]:
    """Tell what a ResultGrid answers, trial by trial, named by the order of their creation."""
    results = list(grid)
    numbers = [_number_of(result, position) for position, result in enumerate(results)]
    told = {
        "trials": len(grid),
        "num_errors": grid.num_errors,
        "num_terminated": grid.num_terminated,
        "errors": len(grid.errors),
        "order": numbers,
        "results": {number: describe_result(result) for number, result in zip(numbers, results, strict=True)},
    }
    if has_metric:
        try:
            told["best"] = plain(grid.get_best_result().config)
        except Exception as error:  # noqa: BLE001 - it is the outcome
            told["best"] = describe_error(error)
    return told


def _number_of(result: Any, position: int) -> str:
    # Not by the metrics: after a reset that failed, Ray Tune's are of the trial before.
    found = re.search(r"_[0-9a-f]{5}_(\d{5})(_|$)", Path(result.path).name)
    return str(int(found.group(1))) if found else f"at {position}"


def describe_result(result: Any) -> dict[str, Any]:
    """Tell what a Result holds, and which rows and checkpoints are in its directory."""
    directory = Path(result.path)
    return {
        "dirname": _without_ids(directory.name),
        "config": plain(result.config),
        "rows": rows_of(directory),
        "metrics": _stable(result.metrics or {}),
        "checkpoint": describe_checkpoint(result.checkpoint),
        "best_checkpoints": [
            [Path(checkpoint.path).name, metrics.get("training_iteration")]
            for checkpoint, metrics in result.best_checkpoints or []
        ],
        "kept": sorted(path.name for path in directory.glob("checkpoint_*")),
        "error": None if result.error is None else describe_error(result.error),
    }


def rows_of(directory: Path) -> list[Any]:
    """Return the rows of a trial's result.json; of each, the config is left out."""
    file = directory / "result.json"
    lines = file.read_text().splitlines() if file.exists() else []
    return [_stable({k: v for k, v in json.loads(line).items() if k != "config"}) for line in lines]


def describe_checkpoint(checkpoint: Any) -> Any:
    """Tell a checkpoint's name and its files; a pickled dict as what it holds."""
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as directory:
        files = {
            str(path.relative_to(directory)): _content(path)
            for path in sorted(Path(directory).rglob("*"))
            if path.is_file()
        }
    return {"name": Path(checkpoint.path).name, "files": files}


def _content(path: Path) -> Any:
    data = path.read_bytes()
    if path.suffix == ".pkl":
        return {"pickled": plain(pickle.loads(data))}
    try:
        return data.decode()
    except UnicodeDecodeError:
        return hashlib.sha256(data).hexdigest()


def describe_error(error: Any) -> Any:
    """Tell which of Python's exceptions this is, so what catches it; and a user's text, made up for the test."""
    if not isinstance(error, BaseException):
        return {RAISED: None, "text": _made_up(str(error))}
    kinds = sorted(
        kind.__name__
        for kind in type(error).__mro__
        if (kind.__module__ == "builtins" and kind not in (BaseException, Exception, object))
        or kind.__name__ == "TuneError"
    )
    return {RAISED: kinds, "text": _made_up(str(error))}


def _made_up(text: str) -> str | None:
    found = re.search(r"\w+: made up[^\n]*", text)
    return found.group() if found else None


def _stable(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: "*" if name in VOLATILE else plain(value) for name, value in sorted(row.items())}


def _without_ids(name: str) -> str:
    name = re.sub(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", "*", name)
    return re.sub(r"_[0-9a-f]{5}_(\d{5})", r"_*_\1", name)


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it and compare it."""
    if value is None or isinstance(value, (bool, str, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in sorted(value.items(), key=lambda pair: str(pair[0]))}
    if isinstance(value, (set, frozenset)):
        return sorted(plain(item) for item in value)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, BaseException):
        return describe_error(value)
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))

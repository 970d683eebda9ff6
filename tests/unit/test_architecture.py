"""Which module may import which, and how long a file may be. The table below is the documentation."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: A module imports only modules of rows above its own. `package.*` stands for a package whose modules may
#: import each other. `tune_core` alone is `tune_core/__init__.py`, the public names.
RANKS: tuple[tuple[str, ...], ...] = (
    # Values and their validation.
    ("tune_core.masking", "tune_core.references"),
    ("tune_core.errors",),
    (
        "tune_core.encoding",
        "tune_core.environment",
        "tune_core.faults",
        "tune_core.serialization",
        "tune_core.rows",
        "tune_core.terminal",
    ),
    (
        "tune_core.resources",
        "tune_core.parameters",
        "tune_core.registry",
        "tune_core.messages",
        "tune_core.metrics",
        "tune_core.arguments",
        "tune_core.autofill",
    ),
    ("tune_core.trial", "tune_core.rules"),
    ("tune_core.retention", "tune_core.ranking", "tune_core.failures"),
    # What is kept: files on any storage, made visible by one commit.
    ("tune_core.filesystems", "tune_core.sharing"),
    ("tune_core.transfer",),
    ("tune_core.commit", "tune_core.appending"),
    ("tune_core.checkpoint", "tune_core.objects"),
    ("tune_core.storage",),
    ("tune_core.segments", "tune_core.trial_files", "tune_core.results"),
    ("tune_core.journal",),
    ("tune_core.namesakes",),
    # What chooses, and what watches.
    ("tune_core.search.*", "tune_core.schedulers.*", "tune_core.stoppers", "tune_core.callbacks"),
    ("tune_core.progress_reporter", "tune_core.inbox"),
    ("tune_core.loggers", "tune_core.config", "tune_core.watchers"),
    ("tune_core.outbox", "tune_core.uplink"),
    # What runs: a trial's side, the experiment's side, and the seam to the engine.
    (
        "tune_core.session",
        "tune_core.controller",
        "tune_core.steering",
        "tune_core.progress",
        "tune_core.spec",
    ),
    ("tune_core.binding", "tune_core.state"),
    ("tune_core.trainable", "tune_core.context"),
    ("tune_core.reuse", "tune_core.hygiene"),
    ("tune_core.execution", "tune_core.endings"),
    ("tune_core.barrier",),
    ("tune_core.runtime",),
    ("tune_core.resume",),
    ("tune_core.loop",),
    ("tune_core.attempts",),
    ("tune_core.overview", "tune_core.svg", "tune_core.announcements", "tune_core.reading"),
    ("tune_core.importance", "tune_core.analysis"),
    ("tune_core.charts",),
    ("tune_core.pages",),
    ("tune_core.html_report",),
    ("tune_core.helm",),
    ("tune_core.tuner", "tune_core.utils.*"),
    ("tune_core.tune",),
    ("tune_core", "tune_core.testing.*"),
    # What a machine and a server say about runs: Prefect, and no Ray.
    ("deployments.store",),
    ("deployments.settings",),
    # The engine: the only place that knows Prefect and Ray.
    ("flows.migrations", "flows.prefect_private", "flows.ray_private"),
    ("flows.server", "flows.staging", "flows.tables", "flows.imports", "flows.spool"),
    ("flows.contact", "flows.context", "flows.forks", "flows.task_run_ends"),
    ("flows.server_process",),
    (
        "flows.cancellation",
        "flows.cluster",
        "flows.channel",
        "flows.children",
        "flows.deletions",
        "flows.events",
        "flows.heartbeat",
        "flows.artifacts",
        "flows.hosting",
        "flows.inbox",
        "flows.nested_groups",
        "flows.output",
        "flows.parameters",
        "flows.ray_tune",
        "flows.task_runner",
        "flows.workers",
        "flows.yaml12",
    ),
    ("flows.ticket",),
    (
        "flows.process",
        "flows.ownership",
        "flows.run_context",
        "flows.deaths",
        "flows.form_fields",
        "flows.pages",
    ),
    ("flows.trial", "flows.form"),
    ("flows.actor",),
    ("flows.slots",),
    ("flows.recorders", "flows.deadlock"),
    ("flows.attempts", "flows.parts"),
    ("flows.history", "flows.placement", "flows.reports", "flows.requests"),
    ("flows.driver",),
    ("flows.experiment", "flows.steer"),
    ("flows",),
    ("deployments.*",),
)

#: What `import tune_core` must not load: it would cost every worker and every notebook its start.
SLOW_PACKAGES = ("ray", "prefect", "pandas", "numpy", "rich", "s3fs", "optuna")

PACKAGES = ("tune_core", "flows", "deployments")
MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 80


def source_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in source_files(*PACKAGES)}


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported_names(path: Path) -> Iterator[str]:
    """Dotted names of every import, inside functions and `if TYPE_CHECKING` too."""
    for node in ast.walk(parse(path)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=0):
                yield from (f"{module}.{alias.name}" for alias in names)
            case ast.ImportFrom():
                raise AssertionError(f"{path}:{node.lineno}: relative import; write the absolute name")
            case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name)), *_]):
                yield name


def imported_modules(path: Path) -> set[str]:
    """Modules of this project that a file imports: `from package import module` means the module."""
    candidates = {name: name.rpartition(".")[0] for name in imported_names(path)}
    return {name if name in MODULES else package for name, package in candidates.items()} & MODULES.keys()


def row_of(module: str) -> tuple[int, str] | None:
    """The rank of a module and the entry of the table that gives it."""
    for rank, row in enumerate(RANKS):
        for entry in row:
            family = entry.removesuffix(".*")
            if module == family or (entry != family and module.startswith(family + ".")):
                return rank, entry
    return None


def test_every_module_has_a_rank() -> None:
    unknown = [module for module in MODULES if row_of(module) is None]

    assert not unknown, f"add to RANKS in {Path(__file__).name}: {unknown}"


def test_modules_import_only_lower_ranks() -> None:
    faults = []
    for module, path in MODULES.items():
        for target in imported_modules(path) - {module}:
            mine, theirs = row_of(module), row_of(target)
            if mine is None or theirs is None:
                continue  # named by test_every_module_has_a_rank
            same_package = mine[1] == theirs[1] and mine[1].endswith(".*")
            if theirs[0] >= mine[0] and not same_package:
                faults.append(f"{module} (rank {mine[0]}) imports {target} (rank {theirs[0]})")

    assert not faults, "\n".join(faults)


def test_no_imports_go_in_a_circle() -> None:
    graph = {module: imported_modules(path) - {module} for module, path in MODULES.items()}

    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_tune_core_imports_neither_prefect_nor_ray() -> None:
    faults = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in source_files("tune_core")
        for name in imported_names(path)
        if name.partition(".")[0] in {"prefect", "prefect_ray", "ray"}
    ]

    assert not faults, "\n".join(faults)


def test_nothing_imports_ray_tune() -> None:
    faults = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in source_files(*PACKAGES, "examples")
        for name in imported_names(path)
        if f"{name}.".startswith("ray.tune.")
    ]

    assert not faults, "\n".join(faults)


def test_importing_tune_core_loads_nothing_slow() -> None:
    code = f"import sys, tune_core; print(*sorted(set({SLOW_PACKAGES!r}) & set(sys.modules)))"

    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert ran.stdout.split() == []


@pytest.mark.parametrize("path", source_files(*PACKAGES, "examples"), ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    long_functions = {
        node.name: length
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := length_without_docstring(node)) > MAX_FUNCTION_LINES
    }

    assert lines <= MAX_FILE_LINES
    assert not long_functions


def length_without_docstring(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert function.end_lineno is not None
    length = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        docstring = function.body[0]
        assert docstring.end_lineno is not None
        length -= docstring.end_lineno - docstring.lineno + 1
    return length

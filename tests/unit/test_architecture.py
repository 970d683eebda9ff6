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
        "tune_core.validation",
        "tune_core.training.serialization",
        "tune_core.logger.rows",
        "tune_core.progress_reporter.terminal",
    ),
    (
        "tune_core.resources",
        "tune_core.training.parameters",
        "tune_core.registry",
        "tune_core.control.messages",
        "tune_core.metrics",
        "tune_core.init_args",
        "tune_core.training.autofill",
    ),
    ("tune_core.trial", "tune_core.control.controller_config"),
    ("tune_core.control.retention", "tune_core.ranking", "tune_core.logger.failures"),
    # What is kept: files on any storage, made visible by one commit.
    ("tune_core.storage.filesystems", "tune_core.storage.sharing"),
    ("tune_core.storage.transfer",),
    ("tune_core.storage.commit", "tune_core.logger.appending"),
    ("tune_core.storage.checkpoint", "tune_core.storage.objects"),
    ("tune_core.storage.experiment_storage",),
    ("tune_core.control.segments", "tune_core.logger.trial_files", "tune_core.results.result_grid"),
    ("tune_core.control.journal",),
    ("tune_core.control.namesakes",),
    # What chooses, and what watches.
    ("tune_core.search.*", "tune_core.schedulers.*", "tune_core.stopper", "tune_core.callback"),
    ("tune_core.progress_reporter.reporters", "tune_core.steering.inbox"),
    ("tune_core.logger.callbacks", "tune_core.config.run_config", "tune_core.control.watchers"),
    ("tune_core.training.send_queue", "tune_core.training.uplink"),
    # What runs: a trial's side, the experiment's side, and the seam to the engine.
    (
        "tune_core.training.session",
        "tune_core.control.controller",
        "tune_core.control.policy",
        "tune_core.progress_reporter.display",
        "tune_core.config.spec",
    ),
    ("tune_core.training.session_binding", "tune_core.control.state"),
    ("tune_core.training.trainable", "tune_core.training.context"),
    ("tune_core.training.trainable_cache", "tune_core.training.hygiene"),
    ("tune_core.training.execution", "tune_core.control.endings"),
    ("tune_core.control.barrier",),
    ("tune_core.runtime",),
    ("tune_core.control.resume",),
    ("tune_core.control.loop",),
    ("tune_core.control.attempts",),
    (
        "tune_core.views.overview",
        "tune_core.views.svg",
        "tune_core.views.notifications",
        "tune_core.results.reading",
    ),
    ("tune_core.views.importance", "tune_core.results.analysis"),
    ("tune_core.views.charts",),
    ("tune_core.views.pages",),
    ("tune_core.views.html_report",),
    ("tune_core.steering.request_handler",),
    ("tune_core.tuner", "tune_core.utils.*"),
    ("tune_core.tune",),
    ("tune_core", "tune_core.testing.*"),
    # What a machine and a server say about runs: Prefect, and no Ray.
    ("tune_core.engine.store",),
    ("tune_core.engine.settings",),
    # The engine: the only place that knows Prefect and Ray.
    (
        "tune_core.engine.server.migrations",
        "tune_core.engine.prefect_private",
        "tune_core.engine.ray_private",
    ),
    (
        "tune_core.engine.server.server",
        "tune_core.engine.staging",
        "tune_core.engine.artifacts.tables",
        "tune_core.engine.worker.import_hook",
        "tune_core.engine.channel.spool",
    ),
    (
        "tune_core.engine.server.contact",
        "tune_core.engine.prefect_context",
        "tune_core.engine.forks",
        "tune_core.engine.task_run_ends",
    ),
    ("tune_core.engine.server.server_process",),
    (
        "tune_core.engine.cancellation",
        "tune_core.engine.cluster",
        "tune_core.engine.channel.channel",
        "tune_core.engine.worker.children",
        "tune_core.engine.driver.deletions",
        "tune_core.engine.events",
        "tune_core.engine.heartbeat",
        "tune_core.engine.artifacts.artifacts",
        "tune_core.engine.remote_object",
        "tune_core.engine.driver.inbox_watcher",
        "tune_core.engine.slots.nested_groups",
        "tune_core.engine.worker.output",
        "tune_core.engine.worker.shared_parameters",
        "tune_core.engine.worker.ray_tune",
        "tune_core.engine.task_runner",
        "tune_core.engine.workers",
        "tune_core.engine.form.yaml12",
    ),
    ("tune_core.engine.worker.ticket",),
    (
        "tune_core.engine.worker.process",
        "tune_core.engine.ownership",
        "tune_core.engine.run_context",
        "tune_core.engine.deaths",
        "tune_core.engine.form.fields",
        "tune_core.engine.artifacts.experiment_pages",
    ),
    ("tune_core.engine.worker.trial_task", "tune_core.engine.form.form"),
    ("tune_core.engine.worker.recorder",),
    ("tune_core.engine.slots.pool",),
    ("tune_core.engine.slots.recorders", "tune_core.engine.slots.deadlock"),
    ("tune_core.engine.driver.task_runs", "tune_core.engine.driver.services"),
    (
        "tune_core.engine.driver.history",
        "tune_core.engine.driver.placement",
        "tune_core.engine.driver.reports",
        "tune_core.engine.driver.requests",
    ),
    ("tune_core.engine.driver.driver",),
    ("tune_core.engine.experiment", "tune_core.engine.steer"),
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

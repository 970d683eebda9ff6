"""Which module may import which, and how long a file may be. The table below is the documentation."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.support.import_graph import (
    MODULES,
    PAGE,
    ROOT,
    drawing,
    imported_modules,
    imported_names,
    package_graph,
    package_of,
    page_with,
    parse,
    source_files,
)

#: A module imports only modules of rows above its own, or of its own package. `package.*` stands for a package;
#: the values and `control` are ranked file by file. `tune_core` alone is `tune_core/__init__.py`, the public names.
RANKS: tuple[tuple[str, ...], ...] = (
    # The values.
    (
        "tune_core.masking",
        "tune_core.references",
        "tune_core.states",
        "tune_core.init_args",
        "tune_core.text",
        "tune_core.pareto",
        "tune_core.reasons",
    ),
    ("tune_core.encoding", "tune_core.errors"),
    ("tune_core.environment", "tune_core.validation"),
    ("tune_core.metrics", "tune_core.registry", "tune_core.resources"),
    ("tune_core.constraints",),
    ("tune_core.objective", "tune_core.stopper", "tune_core.trial"),
    ("tune_core.ranking",),
    # What chooses, what keeps, what runs inside a trial, what hears of it, and what a user asks for.
    ("tune_core.search.*", "tune_core.storage.*"),
    ("tune_core.schedulers.*",),
    ("tune_core.callback", "tune_core.training.*"),
    ("tune_core.logger.*",),
    ("tune_core.progress_reporter.*",),
    ("tune_core.config.*",),
    # What follows from what.
    (
        "tune_core.control",
        "tune_core.control.messages",
        "tune_core.control.controller_config",
        "tune_core.control.resources_after",
        "tune_core.control.usage",
    ),
    (
        "tune_core.control.questions",
        "tune_core.control.retention",
        "tune_core.control.segments",
        "tune_core.control.watchers",
    ),
    ("tune_core.control.journal", "tune_core.control.namesakes", "tune_core.control.controller"),
    ("tune_core.control.state",),
    (
        "tune_core.control.endings",
        "tune_core.control.own_state",
        "tune_core.control.reallocation",
        "tune_core.control.scheduler_answers",
        "tune_core.control.search_pauses",
    ),
    ("tune_core.control.policy",),
    ("tune_core.control.barrier", "tune_core.control.experiment", "tune_core.control.warm_start"),
    ("tune_core.control.resume",),
    ("tune_core.control.file_completion", "tune_core.control.loop", "tune_core.control.retry"),
    ("tune_core.control.attempts",),
    # What is asked of it, what came of it, and the door.
    ("tune_core.results.*", "tune_core.steering.*", "tune_core.views.*", "tune_core.simulation.*"),
    ("tune_core.runtime", "tune_core.testing.*"),
    ("tune_core.flow", "tune_core.tuner", "tune_core.utils.*"),
    ("tune_core.tune",),
    ("tune_core",),
    # The engine: Prefect and Ray. `store` and what it imports is what Prefect's server loads.
    (
        "tune_core.engine",
        "tune_core.engine.cancellation",
        "tune_core.engine.heartbeat",
        "tune_core.engine.store",
    ),
    ("tune_core.engine.prefect_private", "tune_core.engine.ray_private", "tune_core.engine.remote_object"),
    ("tune_core.engine.settings", "tune_core.engine.staging", "tune_core.engine.task_run_ends"),
    ("tune_core.engine.earlier_runs", "tune_core.engine.forks", "tune_core.engine.task_runner"),
    ("tune_core.engine.server.*",),
    ("tune_core.engine.prefect_context",),
    ("tune_core.engine.channel.*",),
    ("tune_core.engine.cluster",),
    ("tune_core.engine.deaths",),
    ("tune_core.engine.worker.*",),
    ("tune_core.engine.run_context", "tune_core.engine.slots.*"),
    ("tune_core.engine.artifacts.*", "tune_core.engine.events", "tune_core.engine.ownership"),
    ("tune_core.engine.driver.*",),
    ("tune_core.engine.form.*",),
    ("tune_core.engine.composition",),
    ("tune_core.engine.experiment", "tune_core.engine.steer"),
    ("tune_core.engine.named_flow",),
    ("tune_core.engine.prefect_runtime",),
    ("tune_core.cli.*",),
)

#: What `import tune_core` must not load: it would cost every worker and every notebook its start.
SLOW_PACKAGES = ("ray", "prefect", "pandas", "numpy", "rich", "s3fs", "optuna")

MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 80


def row_of(module: str) -> tuple[int, str] | None:
    """The rank of a module and the entry of the table that gives it."""
    found = [
        (rank, entry)
        for rank, row in enumerate(RANKS)
        for entry in row
        if module == entry or (entry.endswith(".*") and f"{module}.".startswith(entry.removesuffix("*")))
    ]
    return max(found, key=lambda each: len(each[1]), default=None)


def test_every_module_has_a_rank() -> None:
    unknown = [module for module in MODULES if row_of(module) is None]

    assert not unknown, f"add to RANKS in {Path(__file__).name}: {unknown}"


def test_modules_import_only_lower_ranks() -> None:
    wrong = []
    for module, path in MODULES.items():
        for target in imported_modules(path) - {module}:
            mine, theirs = row_of(module), row_of(target)
            if mine is None or theirs is None:
                continue  # named by test_every_module_has_a_rank
            same_package = mine[1] == theirs[1] and mine[1].endswith(".*")
            if theirs[0] >= mine[0] and not same_package:
                wrong.append(f"{module} (rank {mine[0]}) imports {target} (rank {theirs[0]})")

    assert not wrong, "\n".join(wrong)


def test_no_imports_go_in_a_circle() -> None:
    graph = {module: imported_modules(path) - {module} for module, path in MODULES.items()}

    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_no_packages_import_each_other() -> None:
    packages = {module: package_of(module).partition(".")[0] for module in MODULES}

    TopologicalSorter(package_graph(packages)).prepare()


def test_the_drawing_of_the_packages_is_what_the_code_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == page_with(drawing()), (
        "run: python -m tests.support.import_graph"
    )


def test_only_the_command_line_imports_the_engine() -> None:
    wrong = [
        f"{module} imports {target}"
        for module, path in MODULES.items()
        if not module.startswith(("tune_core.engine", "tune_core.cli"))
        for target in imported_modules(path)
        if target.startswith("tune_core.engine")
    ]

    assert not wrong, "\n".join(wrong)


def test_nothing_imports_the_projects_flows_and_deployments() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in source_files("tune_core", "examples", "benchmarks")
        for name in imported_names(path)
        if name.partition(".")[0] in {"flows", "deployments"}
    ]

    assert not wrong, "\n".join(wrong)


def test_only_engine_and_command_line_import_prefect_and_ray() -> None:
    wrong = [
        f"{module} imports {name}"
        for module, path in MODULES.items()
        if not module.startswith(("tune_core.engine", "tune_core.cli"))
        for name in imported_names(path)
        if name.partition(".")[0] in {"prefect", "prefect_ray", "ray"}
    ]

    assert not wrong, "\n".join(wrong)


def test_nothing_imports_ray_tune() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in source_files("tune_core", "flows", "examples")
        for name in imported_names(path)
        if f"{name}.".startswith("ray.tune.")
    ]

    assert not wrong, "\n".join(wrong)


def test_importing_tune_core_loads_nothing_slow() -> None:
    code = f"import sys, tune_core; print(*sorted(set({SLOW_PACKAGES!r}) & set(sys.modules)))"

    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert ran.stdout.split() == []


@pytest.mark.parametrize(
    "path", source_files("tune_core", "flows", "examples"), ids=lambda path: str(path.relative_to(ROOT))
)
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

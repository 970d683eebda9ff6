"""Every public name of Ray Tune is here, or in the table that says why not."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

import tune_core as tune

ROOT = Path(__file__).resolve().parents[2]

#: `ray.tune.__all__` of Ray 2.60.
NAMES_OF_RAY = frozenset(
    [
        "Trainable",
        "Callback",
        "TuneError",
        "grid_search",
        "register_env",
        "register_trainable",
        "run",
        "run_experiments",
        "with_parameters",
        "with_resources",
        "Stopper",
        "Experiment",
        "sample_from",
        "uniform",
        "quniform",
        "choice",
        "randint",
        "lograndint",
        "qrandint",
        "qlograndint",
        "randn",
        "qrandn",
        "loguniform",
        "qloguniform",
        "ExperimentAnalysis",
        "CLIReporter",
        "JupyterNotebookReporter",
        "ProgressReporter",
        "ResultGrid",
        "create_searcher",
        "create_scheduler",
        "PlacementGroupFactory",
        "Tuner",
        "TuneConfig",
        "ResumeConfig",
        "RunConfig",
        "CheckpointConfig",
        "FailureConfig",
        "Result",
        "Checkpoint",
        "get_checkpoint",
        "report",
        "get_context",
        "TuneContext",
        "SyncConfig",
    ]
)


def table_of_names() -> dict[str, str]:
    """The rows of the table of names in docs/differences.md: name to reason."""
    text = (ROOT / "docs" / "differences.md").read_text()
    table = text.partition("## Names that are not here")[2]
    rows = re.findall(r"^\| `tune\.(\w+)` \| (.+) \|$", table, re.MULTILINE)
    return dict(rows)


def test_every_public_name_of_ray_tune_is_here_or_has_a_reason_not_to_be() -> None:
    missing = NAMES_OF_RAY - set(tune.__all__)

    assert missing == set(table_of_names())
    assert all(len(reason) > 20 for reason in table_of_names().values())


def test_list_of_names_is_that_of_the_ray_that_is_installed() -> None:
    if not importlib.metadata.version("ray").startswith("2.60."):
        pytest.skip("the list is of Ray 2.60")
    spec = importlib.util.find_spec("ray")  # found, not imported
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse((Path(spec.origin).parent / "tune" / "__init__.py").read_text())
    (names,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]

    assert set(names) == NAMES_OF_RAY


def test_public_names_are_sorted_and_there() -> None:
    names = [name for name in tune.__all__ if name != "utils"]

    assert list(tune.__all__) == sorted(tune.__all__)
    assert all(getattr(tune, name) is not None for name in names)
    assert [name for name in names if isinstance(getattr(tune, name), ModuleType)] == []


@pytest.mark.parametrize("name", sorted(NAMES_OF_RAY & set(tune.__all__)))
def test_public_name_has_a_docstring_with_its_source_or_example(name: str) -> None:
    found = getattr(tune, name)

    text = inspect.getdoc(found) or ""
    assert len(text) > 30
    assert (
        issubclass(found, Exception)
        if inspect.isclass(found) and "Error" in name
        else re.search(r"^(Source|Example|    )", text, re.MULTILINE)
    )

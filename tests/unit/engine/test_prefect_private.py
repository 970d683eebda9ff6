"""What is used of Prefect's private parts, and what is done under a release that nobody has looked at."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import prefect
import pytest
from prefect.client.orchestration import get_client
from prefect.context import SyncClientContext
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED, temporary_settings

from tune_core.engine import prefect_private
from tune_core.engine.run_context import client_for
from tune_core.engine.server.contact import Contact

ROOT = Path(__file__).resolve().parents[3]
URL = "http://127.0.0.1:1/api"
#: Where private names of the two libraries may stand.
PRIVATE_MODULES = {"prefect_private.py", "ray_private.py"}


@pytest.mark.parametrize(
    ("version", "is_known"),
    [("3.7.9", False), ("3.8.8", True), ("3.9.1", True), ("3.10.0", False), ("4.0.0", False)],
)
def test_releases_that_were_looked_at_are_known(
    monkeypatch: pytest.MonkeyPatch, version: str, is_known: bool
) -> None:
    monkeypatch.setattr(prefect, "__version__", version)

    assert prefect_private.is_known() is is_known


@pytest.mark.parametrize(("version", "is_shared"), [(prefect.__version__, True), ("99.0.1", False)])
def test_client_of_the_engine_is_that_of_others_where_the_release_is_known(
    monkeypatch: pytest.MonkeyPatch, version: str, is_shared: bool
) -> None:
    monkeypatch.setattr(prefect, "__version__", version)
    settings = {PREFECT_API_URL: URL, PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED: False}

    with (
        temporary_settings(settings),
        client_for(Contact(URL)),
        SyncClientContext.get_or_create() as of_engine,
    ):
        other = get_client(sync_client=True)

    assert (other is of_engine.client) is is_shared
    assert str(other.api_url).rstrip("/") == URL


def private_imports(path: Path) -> list[str]:
    """Imports of private modules or names of Prefect and Ray, and assignments to attributes of what was imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    found, theirs = [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and re.match(r"(prefect|prefect_ray|ray)\b", node.module or ""):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            theirs |= {alias.asname or alias.name for alias in node.names}
            found += [name for name in names if re.search(r"\._(?!_)", name)]
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else ()
        for target in targets:
            if (
                isinstance(target, ast.Attribute)
                and isinstance(target.value, ast.Name)
                and target.value.id in theirs
            ):
                found.append(f"{target.value.id}.{target.attr} is replaced")
    return found


def test_private_parts_of_prefect_and_ray_are_used_in_one_module_each_and_none_is_replaced() -> None:
    faults = {
        str(path.relative_to(ROOT)): found
        for folder in ("flows", "tune_core")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path.name not in PRIVATE_MODULES and (found := private_imports(path))
    }

    assert not faults

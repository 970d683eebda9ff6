"""Every Python example of the documentation runs, on a real S3 server, Ray and Prefect; and the site builds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from examples.seaweedfs import start_seaweedfs
from tests.support.snippets import examples
from tune_core.engine.server.server import start_own_server, stop_own_server

ROOT = Path(__file__).resolve().parents[2]
PAGES = [page for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))] if examples(page)]


def test_the_pages_have_examples() -> None:
    """Else the next test could not fail."""
    names = [page.name for page in PAGES]

    assert {"README.md", "index.md", "migrating.md", "storage.md", "clusters.md", "extending.md"} <= {*names}


def test_every_python_example_of_the_documentation_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    s3 = start_seaweedfs(tmp_path / "s3", bucket="my-bucket")
    prefect = start_own_server()
    try:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        environment |= s3.environment | {
            "HOME": str(tmp_path),
            "PREFECT_API_URL": prefect.api_url,
            "PYTHONPATH": str(ROOT),
        }
        done = subprocess.run(
            [sys.executable, "-m", "tests.support.snippets", *map(str, PAGES)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
    finally:
        stop_own_server()
        s3.stop()

    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("ran ")] == [
        *map(str, PAGES)
    ]


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mkdocs",
            "build",
            "--strict",  # without --quiet, under which a warning is not counted
            "--site-dir",
            str(tmp_path / "site"),
        ],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    assert (tmp_path / "site" / "reference" / "experiments" / "index.html").stat().st_size > 50_000

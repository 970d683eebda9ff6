"""Where trial files are staged, and what becomes of what dead processes have left there."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tune_core.engine import staging
from tune_core.engine.staging import keep, staging_directory

#: Stages a file, says where, and waits to be killed.
DRIVER = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from tune_core.engine.staging import staging_directory
with staging_directory() as directory:
    (directory / "result.json").write_text("{}")
    print(directory, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_directory_goes_with_its_driver_whatever_happens_meanwhile(temporary: Path) -> None:
    with staging_directory() as directory:
        (directory / "result.json").touch()
        assert directory.stat().st_mode & 0o077 == 0
    with staging_directory() as cleaned:
        cleaned.rmdir()  # as systemd-tmpfiles would
    with pytest.raises(RuntimeError, match="made up"), staging_directory():
        raise RuntimeError("made up")

    assert list(temporary.iterdir()) == []


def test_directory_of_a_killed_driver_is_removed_by_the_next_and_that_of_a_living_one_is_not() -> None:
    def begin(place: str) -> tuple[subprocess.Popen[str], Path]:
        process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, place], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        return process, Path(process.stdout.readline().strip())

    killed, left = begin(tempfile.gettempdir())
    living, used = begin(tempfile.gettempdir())
    try:
        killed.kill()
        killed.communicate()

        with staging_directory():
            assert not left.exists()
            assert (used / "result.json").exists()
    finally:
        living.communicate()
    assert not used.exists()


def test_files_that_the_user_was_told_to_copy_stay() -> None:
    with staging_directory() as directory:
        (directory / "result.json").touch()
        keep(directory)

    with staging_directory():
        assert (directory / "result.json").exists()


def test_what_is_not_this_users_directory_is_left_alone(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = temporary / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").touch()
    link = temporary / "prefect-tune-staging-link"
    link.symlink_to(elsewhere)
    file = temporary / "prefect-tune-staging-file"
    file.touch()
    others = temporary / "prefect-tune-staging-others"
    others.mkdir()

    owner = others.stat().st_uid
    monkeypatch.setattr(staging.os, "geteuid", lambda: owner + 1)
    with staging_directory():
        assert (link.is_symlink(), file.exists(), others.exists()) == (True, True, True)
    monkeypatch.undo()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with staging_directory():
        assert (link.is_symlink(), (elsewhere / "file").exists(), file.exists()) == (True, True, True)
        assert not others.exists()

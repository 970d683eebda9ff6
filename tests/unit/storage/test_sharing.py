from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tune_core.errors import CheckpointError, StorageError
from tune_core.storage.checkpoint import Checkpoint
from tune_core.storage.sharing import fill_once, private_directory, shared_directory

HOLD_FOR_EVER = """
import sys
from pathlib import Path
from tune_core.storage.sharing import shared_directory

def fill(path):
    (path / "a").write_text("filled by the dead")
    if "--in-the-middle" in sys.argv:
        print("ready", flush=True)
        sys.stdin.read()

with shared_directory(Path(sys.argv[1]), fill):
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def fill(path: Path) -> None:
    (path / "a").write_text("filled")


class TestPrivateDirectory:
    def test_it_is_made_for_this_user_alone(self, root: Path) -> None:
        assert private_directory(root / "mine") == root / "mine"
        assert stat.S_IMODE((root / "mine").stat().st_mode) == 0o700

    def test_one_of_this_user_is_used_and_closed_to_others(self, root: Path) -> None:
        (root / "mine").mkdir(mode=0o777)
        (root / "mine").chmod(0o777)
        (root / "mine" / "kept").touch()

        private_directory(root / "mine")

        assert stat.S_IMODE((root / "mine").stat().st_mode) == 0o700
        assert (root / "mine" / "kept").exists()

    @pytest.mark.parametrize("what", ["link", "dangling link", "file"])
    def test_what_is_no_directory_is_refused(self, what: str, root: Path) -> None:
        (root / "elsewhere").mkdir()
        if what == "file":
            (root / "mine").touch()
        else:
            (root / "mine").symlink_to(root / ("elsewhere" if what == "link" else "nowhere"))

        with pytest.raises(StorageError, match=r"mine is no directory of this user's own .*set TMPDIR"):
            private_directory(root / "mine")

        assert not [*(root / "elsewhere").iterdir()]
        assert not (root / "nowhere").exists()

    def test_directory_of_another_user_is_refused(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (root / "mine").mkdir()
        monkeypatch.setattr(os, "getuid", lambda: 4711)

        with pytest.raises(StorageError, match=r"it belongs to user \d+\): remove it, or set TMPDIR"):
            private_directory(root / "mine")


def test_checkpoint_is_not_copied_where_a_link_leads(root: Path) -> None:
    (root / "source").mkdir()
    (root / "source" / "weights").write_text("secret")
    (root / "elsewhere").mkdir()
    checkpoint = Checkpoint.from_directory(root / "source")
    (root / f"checkpoint_tmp_{checkpoint._id}").symlink_to(root / "elsewhere")

    with pytest.raises(StorageError, match="no directory of this user's own"):
        checkpoint.to_directory()

    assert not [*(root / "elsewhere").iterdir()]


def test_download_is_not_shared_with_what_another_user_has_begun(root: Path, monkeypatch: Any) -> None:
    (root / "target.part").mkdir()
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # it is not ours to remove

    with (
        pytest.raises(CheckpointError, match=r"target\.part is no directory of this user's own"),
        shared_directory(root / "target", fill),
    ):
        pass


def kill_a_holder(target: Path, *options: str) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_FOR_EVER, str(target), *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        holder.kill()


def test_directory_of_a_dead_reader_is_used_and_removed_by_the_next(root: Path) -> None:
    kill_a_holder(root / "shared")

    with shared_directory(root / "shared", fill):
        assert (root / "shared" / "a").read_text() == "filled by the dead"

    assert list(root.iterdir()) == []


def test_half_filled_directory_of_a_dead_process_is_filled_again(root: Path) -> None:
    kill_a_holder(root / "shared", "--in-the-middle")
    assert (root / "shared.part").exists()

    with shared_directory(root / "shared", fill):
        assert (root / "shared" / "a").read_text() == "filled"

    assert list(root.iterdir()) == []


def test_directory_is_private(root: Path) -> None:
    with shared_directory(root / "shared", fill):
        assert (root / "shared").stat().st_mode & 0o077 == 0


def test_failed_fill_leaves_nothing_and_the_next_one_tries_again(root: Path) -> None:
    def fail(path: Path) -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError), shared_directory(root / "shared", fail):
        pass
    assert list(root.iterdir()) == []

    with shared_directory(root / "shared", fill):
        assert (root / "shared" / "a").exists()


def test_fill_once_fills_again_for_a_later_caller(root: Path) -> None:
    calls: list[int] = []

    def count() -> None:
        calls.append(1)
        (root / "target").mkdir(exist_ok=True)

    fill_once(root / "target", count)
    fill_once(root / "target", count)

    assert len(calls) == 2
    assert [path.name for path in root.iterdir()] == ["target"]


def test_fill_once_that_fails_leaves_no_lock(root: Path) -> None:
    def fail() -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        fill_once(root / "target", fail)

    assert list(root.iterdir()) == []

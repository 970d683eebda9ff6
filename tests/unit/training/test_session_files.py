"""The working directory of a trial, and which of its files are copied."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from tests.support.fake_uplink import FakeUplink
from tests.support.sessions import a_session, an_attempt
from tune_core.errors import StorageError
from tune_core.storage.checkpoint import Checkpoint
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.training.attempt_spec import working_directory


def test_files_of_the_working_directory_are_copied_when_they_have_changed(
    local: ExperimentStorage, uplink: FakeUplink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = a_session(local, uplink)
    session.trial_dir = str(tmp_path / "work")
    (tmp_path / "work" / "plots").mkdir(parents=True)
    (tmp_path / "work" / "plots" / "a.txt").write_text("1")
    (tmp_path / "work" / "b.txt").write_text("1")
    uploaded: list[str] = []
    upload = local.upload
    monkeypatch.setattr(local, "upload", lambda path, name: (uploaded.append(name), upload(path, name)))

    session.keep_artifacts()
    (tmp_path / "work" / "b.txt").write_text("22")
    session.keep_artifacts()

    assert uploaded == ["trial_0/b.txt", "trial_0/plots/a.txt", "trial_0/b.txt"]
    assert local.read("trial_0/b.txt") == b"22"


@pytest.mark.parametrize(("keeps", "expected"), [("always", True), ("at_end", False), ("never", False)])
def test_files_go_along_with_a_checkpoint_if_they_are_asked_to(
    keeps: str,
    expected: bool,
    local: ExperimentStorage,
    uplink: FakeUplink,
    checkpoint: Checkpoint,
    tmp_path: Path,
) -> None:
    session = a_session(local, uplink, keeps_artifacts=keeps)
    session.trial_dir = str(tmp_path / "work")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "plot.txt").write_text("x")

    session.report({})
    assert not local.exists("trial_0/plot.txt")

    session.report({}, checkpoint)
    assert local.exists("trial_0/plot.txt") is expected


def test_working_directory_is_the_users_own_and_one_per_trial(
    local: ExperimentStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    path = Path(working_directory(an_attempt(local)))

    assert path.parts[-2:] == ("experiment", "trial_0")
    assert path.parts[-3] == f"prefect-tune-{os.getuid()}"


def test_working_directory_is_not_where_a_link_of_another_user_leads(
    local: ExperimentStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"prefect-tune-{os.getuid()}").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(StorageError, match="set TMPDIR to a directory of your own"):
        working_directory(an_attempt(local))

"""What `prefect-tune doctor` looks at without Prefect and Ray: versions, storage rights, clocks."""

from __future__ import annotations

import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from prefect.settings import PREFECT_API_URL, temporary_settings

from tests.unit.command_line import CommandLine
from tune_core.cli import checks
from tune_core.cli.checks import Check, check_server, check_storage, check_versions, clock_check, skew, worst
from tune_core.engine.settings import require_server
from tune_core.errors import TuneError


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Versions that seem to be installed instead of the real ones."""
    changed: dict[str, str] = {}
    real = metadata.version

    def version(name: str) -> str:
        return changed.get(name) or real(name)

    monkeypatch.setattr(metadata, "version", version)
    return changed


def only(found: list[Check], outcome: str) -> list[Check]:
    return [check for check in found if check.outcome == outcome]


def test_what_is_installed_here_fits_together() -> None:
    (found,) = check_versions()

    assert found.outcome == "ok"
    assert f"prefect {metadata.version('prefect')}" in found.found
    assert found.remedy == ""


def test_the_fastapi_that_breaks_the_server_is_named_with_its_remedy(versions: dict[str, str]) -> None:
    versions.update(fastapi="0.155.1", prefect="3.8.8")

    failed = only(check_versions(), "fail")

    assert any("dies at start" in check.remedy and "fastapi<0.151" in check.remedy for check in failed)
    assert failed[0].found == "fastapi 0.155.1 with prefect 3.8.8"


def test_a_prefect_that_knows_of_fastapi_is_not_blamed_for_it(versions: dict[str, str]) -> None:
    versions.update(fastapi="0.155.1", prefect="3.9.1")

    assert not any("dies at start" in check.remedy for check in check_versions())


@pytest.mark.parametrize(
    ("package", "version", "told"),
    [
        ("prefect", "3.4.7", "nothing here was tested with it"),
        ("fsspec", "2020.1.0", "s3fs needs fsspec"),
        ("botocore", "1.0.0", "aiobotocore needs botocore"),
        ("ray", "2.9.0", "prefect-tune needs ray"),
    ],
)
def test_a_version_that_another_package_cannot_work_with_fails(
    versions: dict[str, str], package: str, version: str, told: str
) -> None:
    versions[package] = version

    failed = only(check_versions(), "fail")

    assert any(told in f"{check.found} {check.remedy}" for check in failed)
    assert all("pip install" in check.remedy for check in failed)


def test_an_extra_of_the_wrong_version_is_a_warning(versions: dict[str, str]) -> None:
    versions["optuna"] = "4.0.0"

    (warned,) = only(check_versions(), "warn")

    assert "optuna 4.0.0, but prefect-tune needs optuna" in warned.found


def test_a_python_that_nothing_was_tested_with_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    class Version(tuple[Any, ...]):
        major, minor, micro = 3, 14, 0

    monkeypatch.setattr(sys, "version_info", Version((3, 14, 0)))

    assert any("3.11 to 3.13" in check.remedy for check in only(check_versions(), "warn"))


# Storage.


class Crippled(MemoryFileSystem):
    """A storage that refuses what its `refuses` names."""

    protocol = "crippled"
    store: dict[str, Any] = {}  # noqa: RUF012 - as the class above has it
    pseudo_dirs = [""]  # noqa: RUF012
    refuses = ""
    cachable = False

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        if self.refuses == "write":
            raise PermissionError("Access Denied")
        if self.refuses == "create-only":
            mode = "overwrite"  # as a server that does not know the condition
        super().pipe_file(path, value, mode=mode, **kwargs)

    def cat_file(self, path: str, *args: Any, **kwargs: Any) -> bytes:
        if self.refuses == "read":
            raise PermissionError("Access Denied")
        return bytes(super().cat_file(path, *args, **kwargs))

    def rm(self, path: Any, *args: Any, **kwargs: Any) -> None:
        self._refuse_delete()
        super().rm(path, *args, **kwargs)

    def rm_file(self, path: str) -> None:
        self._refuse_delete()
        super().rm_file(path)

    def _rm(self, path: str) -> None:
        self._refuse_delete()
        super()._rm(path)

    def _refuse_delete(self) -> None:
        if self.refuses == "delete":
            raise PermissionError("Access Denied")


@pytest.fixture
def crippled(monkeypatch: pytest.MonkeyPatch) -> type[Crippled]:
    fsspec.register_implementation("crippled", Crippled, clobber=True)
    monkeypatch.setattr(Crippled, "store", {})
    monkeypatch.setattr(Crippled, "refuses", "")
    return Crippled


def outcomes(found: list[Check]) -> dict[str, str]:
    return {check.name.removeprefix("storage: "): check.outcome for check in found}


def test_a_good_storage_passes_right_by_right_and_keeps_nothing(tmp_path: Path) -> None:
    found = check_storage(str(tmp_path), None)

    assert outcomes(found) == dict.fromkeys(("write", "read", "list", "create-only writes", "delete"), "ok")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_not_there_is_not_there_afterwards(tmp_path: Path) -> None:
    found = check_storage(str(tmp_path / "new" / "tuning"), None)

    assert set(outcomes(found).values()) == {"ok"}
    assert list(tmp_path.iterdir()) == []


def test_a_clock_that_cannot_be_looked_at_leaves_nothing_behind(
    crippled: type[Crippled], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Any) -> float:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(checks, "changed_at", refuse)

    found = check_storage("crippled://bucket/x", None)

    assert outcomes(found)["clock"] == "skip"
    assert crippled.store == {}


def test_where_nothing_can_be_deleted_only_the_probe_itself_stays(crippled: type[Crippled]) -> None:
    crippled.refuses = "delete"

    check_storage("crippled://bucket/x", None)

    assert [path.rpartition("/")[2] for path in crippled.store] == ["object"]


def test_a_remote_storage_has_its_clock_looked_at(crippled: type[Crippled]) -> None:
    found = check_storage("crippled://bucket/x", None)

    assert outcomes(found)["clock"] == "ok"
    assert set(outcomes(found).values()) == {"ok"}
    assert crippled.store == {}


def test_without_the_right_to_write_nothing_else_is_tried(crippled: type[Crippled]) -> None:
    crippled.refuses = "write"

    found = check_storage("crippled://bucket/x", None)

    assert outcomes(found)["write"] == "fail"
    assert found[1] == Check("storage: read", "skip", "after write failed")
    assert {check.outcome for check in found[1:]} == {"skip"}
    assert "check the credentials and their right to read, write, list and delete" in found[0].remedy


@pytest.mark.parametrize("right", ["read", "delete"])
def test_each_missing_right_fails_its_own_check(crippled: type[Crippled], right: str) -> None:
    crippled.refuses = right

    found = outcomes(check_storage("crippled://bucket/x", None))

    assert found["write"] == "ok"
    assert found[right] == "fail"


def test_a_storage_that_takes_the_second_of_two_writes_fails(crippled: type[Crippled]) -> None:
    crippled.refuses = "create-only"

    found = check_storage("crippled://bucket/x", None)

    (failed,) = only(found, "fail")
    assert failed.name == "storage: create-only writes"
    assert "Use a bucket without versioning" in failed.remedy + failed.found


def test_a_path_that_cannot_be_used_is_told_without_its_credentials() -> None:
    (found,) = check_storage("nosuch://key:S3CRET@bucket", None)

    assert found.outcome == "fail"
    assert "S3CRET" not in found.found


def test_a_server_whose_url_is_none_fails_its_check() -> None:
    """Such as one that was copied from a page, with PORT in it."""
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:PORT/api"}):
        (found,) = check_server()
        with pytest.raises(TuneError, match=r"does not answer .*Invalid port"):
            require_server()

    assert found.outcome == "fail"
    assert "Invalid port" in found.found


# Clocks.


@pytest.mark.parametrize(
    ("off_s", "outcome", "told"),
    [
        (0.0, "ok", "within 5 s"),
        (-60.0, "warn", "60 s behind"),
        (60.0, "warn", "60 s ahead of"),
        (-1000.0, "fail", ""),
    ],
)
def test_a_clock_warns_and_then_fails(off_s: float, outcome: str, told: str) -> None:
    found = clock_check("clock", off_s, fails_at_s=900.0)

    assert found.outcome == outcome
    assert told in found.found


def test_a_slow_answer_is_no_skew() -> None:
    assert skew(100.0, 150.0, 160.0) == 0.0
    assert skew(100.0, 99.5, 160.0, resolution_s=1.0) == 0.0
    assert skew(100.0, 90.0, 160.0) == -10.0


def test_the_clock_of_a_storage_is_told(crippled: type[Crippled], monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time
    monkeypatch.setattr(checks, "changed_at", lambda info: real() - 3600)

    (failed,) = only(check_storage("crippled://bucket/x", None), "fail")

    assert failed.name == "storage: clock"
    assert "behind" in failed.found


def test_the_worst_outcome_counts() -> None:
    assert worst([]) == "ok"
    assert worst([Check("a", "warn", ""), Check("b", "fail", ""), Check("c", "ok", "")]) == "fail"


def test_doctor_fails_by_its_exit_code_alone_if_a_check_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prefect_tune = CommandLine(capsys)
    found = [Check("server", "warn", "none is configured", "prefect server start")]
    monkeypatch.setattr(checks, "check_server", lambda: found)

    warned = prefect_tune("doctor", "--no-ray", "--storage", tmp_path)
    found.append(Check("crash detection", "fail", "gone", "install it"))
    failed = prefect_tune("doctor", "--no-ray", "--storage", tmp_path, "--json")

    assert (warned.code, failed.code) == (0, 1)
    assert "→ prefect server start" in warned.out
    assert failed.json["outcome"] == "fail"
    assert {
        "name": "crash detection",
        "outcome": "fail",
        "found": "gone",
        "remedy": "install it",
    } in failed.json["checks"]

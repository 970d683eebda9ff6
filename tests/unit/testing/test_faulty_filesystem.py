from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from tune_core.testing.faults import Fault, FaultyFileSystem, InjectedFault


def a_filesystem(**kwargs: Any) -> FaultyFileSystem:
    return FaultyFileSystem(MemoryFileSystem(global_store=False, skip_instance_cache=True), **kwargs)


@pytest.mark.parametrize(
    ("fault", "left"), [(Fault.BEFORE, None), (Fault.PARTIAL, b"12"), (Fault.LOST_REPLY, b"1234")]
)
def test_chosen_write_fails_as_asked_and_others_pass(
    fault: Fault, left: bytes | None, tmp_path: Path
) -> None:
    (tmp_path / "source").write_bytes(b"1234")
    writes: list[Callable[[FaultyFileSystem], None]] = [
        lambda faulty: faulty.pipe_file("/a", b"1234"),
        lambda faulty: faulty.put_file(str(tmp_path / "source"), "/a"),
    ]
    for write in writes:
        faulty = a_filesystem(fail_at=2, fault=fault)
        faulty.pipe_file("/first", b"-")

        with pytest.raises(InjectedFault, match=rf"write 2 \(p\w+_file /a\) fails: {fault}"):
            write(faulty)

        assert (faulty.cat_file("/a") if faulty.isfile("/a") else None) == left
        write(faulty)
        assert faulty.cat_file("/a") == b"1234"


def test_dead_writer_writes_nothing_more() -> None:
    faulty = a_filesystem(fail_at=1, is_fatal=True)
    with pytest.raises(InjectedFault):
        faulty.pipe_file("/a", b"1")

    for write in (
        lambda: faulty.pipe_file("/b", b"1"),
        lambda: faulty.open("/b", "wb"),
        lambda: faulty.makedirs("/c"),
        lambda: faulty.rmdir("/c"),
    ):
        with pytest.raises(InjectedFault):
            write()

    assert faulty.find("/") == []


def test_every_kind_of_write_is_counted_and_reads_are_not(tmp_path: Path) -> None:
    faulty = FaultyFileSystem(LocalFileSystem())
    path = str(tmp_path / "x")

    faulty.makedirs(path)
    faulty.pipe_file(f"{path}/a", b"1")
    faulty.cp_file(f"{path}/a", f"{path}/b")
    faulty.link(f"{path}/a", f"{path}/c")
    faulty.mv(f"{path}/c", f"{path}/d")
    with faulty.open(f"{path}/e", "wb") as file:
        file.write(b"2")
    with faulty.open(f"{path}/e") as file:
        assert file.read() == b"2"
    assert sorted(faulty.ls(path, detail=False)) == [f"{path}/{name}" for name in "abde"]
    assert faulty.info(f"{path}/a")["size"] == 1
    faulty.rm_file(f"{path}/a")
    faulty.rm(path, recursive=True)

    operations = [operation for operation, _ in faulty.writes]
    assert operations == ["pipe_file", "cp_file", "link", "mv", "open", "rm_file", "rm"]

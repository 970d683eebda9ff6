"""What a checkpoint on S3 costs: prefect-tune, `ray.tune` and the raw clients, on one SeaweedFS in one run.

    python -m benchmarks.storage [--rounds 5]

prefect-tune commits and reads checkpoints as a trial does, digests, marker and verification included; `ray.tune` copies
a directory by pyarrow, as its storage context does. The raw clients read and write the same objects, and nothing else.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a checkout that is not installed will do

from examples.seaweedfs import S3Server, start_seaweedfs  # noqa: E402
from tune_core.storage.experiment_storage import ExperimentStorage  # noqa: E402

MB = 10**6
PART = 8 * 2**20


@dataclass(frozen=True)
class Load:
    """What a checkpoint consists of.

    Attributes:
        title: In the table.
        files: How many files.
        size: Bytes of each.
        unit: "MB/s" or "ms".
    """

    title: str
    files: int
    size: int
    unit: str

    def shown(self, seconds: float) -> float:
        """Return a time in the load's unit."""
        return seconds * 1000 if self.unit == "ms" else self.files * self.size / MB / seconds


LOADS = (
    Load("1 x 256 MB", 1, 256 * MB, "MB/s"),
    Load("200 x 64 KB", 200, 64_000, "MB/s"),
    Load("100 KB", 1, 100_000, "ms"),
)

#: Called with a source directory and a name: brings it there. Called with a name and a destination: fetches it.
Side = tuple[Callable[[Path, str], Any], Callable[[Any, Path], None]]


def ours(server: S3Server) -> Side:
    """Commit a checkpoint and read it back."""
    storage = ExperimentStorage.open(f"s3://{server.bucket}", "ours", storage_options=server.storage_options)

    def up(source: Path, name: str) -> str:
        storage.commit_checkpoint(
            name, source, index=0, attempt_number=1, iteration=1, rows=[], metrics={"loss": 1.0}
        )
        return name

    def down(name: str, destination: Path) -> None:
        storage.checkpoint(name, 0).to_directory(destination)

    return up, down


def peer(server: S3Server) -> Side:
    """Copy a directory as the storage context of `ray.tune` does."""
    from pyarrow import fs
    from ray.train._internal import storage as ray_storage

    filesystem = fs.S3FileSystem(
        access_key=server.key, secret_key=server.secret, endpoint_override=server.url, region="us-east-1"
    )

    def up(source: Path, name: str) -> str:
        ray_storage._pyarrow_fs_copy_files(
            str(source), f"{server.bucket}/{name}", destination_filesystem=filesystem
        )
        return f"{server.bucket}/{name}"

    def down(path: str, destination: Path) -> None:
        ray_storage._download_from_fs_path(filesystem, path, str(destination))

    return up, down


def raw_s3fs(server: S3Server) -> Side:
    """Write and read the objects by s3fs alone."""
    import s3fs

    filesystem = s3fs.S3FileSystem(**server.storage_options, use_listings_cache=False)

    def up(source: Path, name: str) -> str:
        filesystem.put(str(source), f"{server.bucket}/{name}", recursive=True)
        return f"{server.bucket}/{name}"

    def down(path: str, destination: Path) -> None:
        filesystem.get(path, str(destination), recursive=True)

    return up, down


def raw_obstore(server: S3Server) -> Side:
    """Write and read the objects by obstore alone, in eight threads, large ones in ranges."""
    import obstore
    from obstore.store import S3Store

    store = S3Store(
        server.bucket,
        endpoint=server.url,
        access_key_id=server.key,
        secret_access_key=server.secret,
        region="us-east-1",
        client_options={"allow_http": True},
    )

    def up(source: Path, name: str) -> list[tuple[str, int]]:
        paths = list(source.iterdir())
        with ThreadPoolExecutor(8) as pool:
            list(
                pool.map(lambda path: obstore.put(store, f"{name}/{path.name}", path, chunk_size=PART), paths)
            )
        return [(f"{name}/{path.name}", path.stat().st_size) for path in paths]

    def down(objects: list[tuple[str, int]], destination: Path) -> None:
        destination.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(8) as pool:
            for key, size in objects:
                target = destination / key.rpartition("/")[2]
                if size <= PART:
                    pool.submit(
                        lambda key=key, target=target: target.write_bytes(obstore.get(store, key).bytes())
                    )
                    continue
                with target.open("wb") as file, ThreadPoolExecutor(4) as ranges:
                    list(
                        ranges.map(
                            lambda start, key=key, size=size, file=file: os.pwrite(
                                file.fileno(),
                                memoryview(
                                    obstore.get_range(store, key, start=start, length=min(PART, size - start))
                                ),
                                start,
                            ),
                            range(0, size, PART),
                        )
                    )

    return up, down


SIDES = {"s3fs, raw": raw_s3fs, "ray.tune": peer, "prefect-tune": ours, "obstore, raw": raw_obstore}


def measure(side: Side, source: Path, directory: Path) -> tuple[float, float]:
    """Return how long it takes to bring a directory there and to fetch it, in seconds."""
    up, down = side
    name, destination = uuid.uuid4().hex, directory / uuid.uuid4().hex
    began = time.perf_counter()
    handle = up(source, name)
    uploaded = time.perf_counter()
    down(handle, destination)
    fetched = time.perf_counter()
    for path in source.iterdir():
        assert (destination / path.name).stat().st_size == path.stat().st_size, (
            f"{path.name} came back changed"
        )
    shutil.rmtree(destination)
    return uploaded - began, fetched - uploaded


def main() -> None:
    """Measure every side in turn, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--without-peer", action="store_true", help="leave ray.tune out")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        server = start_seaweedfs(directory / "s3")
        try:
            chosen = {
                key: make for key, make in SIDES.items() if not (given.without_peer and key == "ray.tune")
            }
            sides = {key: make(server) for key, make in chosen.items()}
            print("| | | " + " | ".join(sides) + " |\n" + "|---" * (len(sides) + 2) + "|")
            for load in LOADS:
                _print(load, sides, directory, given.rounds)
        finally:
            server.stop()


def _print(load: Load, sides: dict[str, Side], directory: Path, rounds: int) -> None:
    source = directory / "source"
    source.mkdir()
    for number in range(load.files):
        (source / f"file_{number:03d}.bin").write_bytes(os.urandom(load.size))
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    repeats = rounds if load.size > MB else 4 * rounds
    for turn in range(repeats + 1):
        for name, side in sides.items():
            spent = measure(side, source, directory)
            if turn:  # the first one warms up
                times[name].append(spent)
    for place, way in enumerate(("up", "down")):
        cells = [
            f"{load.shown(statistics.median(pair[place] for pair in times[name])):.3g}" for name in sides
        ]
        print(f"| {load.title} {way} | {load.unit} | " + " | ".join(cells) + " |", flush=True)
    shutil.rmtree(source)


if __name__ == "__main__":
    main()

"""Records what Ray Tune does: `python -m tests.differential.record [script or module] …`, all by default.

Needs the extra `bench`. Read the difference of the recorded files before you commit it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.differential.case import Case, Script, all_scripts, plain

RECORDED = Path(__file__).parent / "recorded"
#: What both clusters have.
CLUSTER: dict[str, Any] = {
    "num_cpus": 4,
    "num_gpus": 2,
    "resources": {"special": 2},
    "include_dashboard": False,
    "log_to_driver": False,
    "logging_level": "ERROR",
    "object_store_memory": 300_000_000,
}
#: How long a script may take, in seconds, before it counts as hanging.
PATIENCE_S = 150


def read_recorded(script: Script) -> dict[str, Any] | None:
    """Return what was recorded of a script: its `digest` then, the peer's `version` and `outcome`."""
    file = _file_of(script)
    recorded = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    found: dict[str, Any] | None = recorded.get(script.name)
    return found


def run(script: Script, tune: Any, directory: Path) -> Any:
    """Run a script on one side; return its outcome, as JSON would give it back."""
    directory.mkdir(parents=True, exist_ok=True)
    before = Path.cwd()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcome = script.run(tune, Case(tune, directory))
    finally:
        os.chdir(before)
    return json.loads(json.dumps(plain(outcome)))


def main(wanted: list[str]) -> int:
    """Record the scripts that are named, or all."""
    scripts = [script for script in all_scripts().values() if _is_wanted(script, wanted)]
    if not scripts:
        print(f"no script is called {' or '.join(wanted)}", file=sys.stderr)
        return 2
    failed = []
    with tempfile.TemporaryDirectory(prefix="differential-") as home, _peer(Path(home)) as (tune, version):
        for script in scripts:
            start = time.monotonic()
            try:
                with _limited(PATIENCE_S):
                    outcome = run(script, tune, Path(home) / script.name)
            except Exception as error:  # noqa: BLE001 - the others are recorded all the same
                failed.append(script.name)
                print(f"{script.name}: {type(error).__name__}: {error}", flush=True)
                continue
            _write(script, {"digest": script.digest(), "version": version, "outcome": outcome})
            print(f"{script.name}: {time.monotonic() - start:.1f} s", flush=True)
    print(f"{len(scripts) - len(failed)} recorded", f"failed: {failed}" if failed else "")
    return 1 if failed else 0


@contextlib.contextmanager
def _peer(home: Path) -> Iterator[tuple[Any, str]]:
    os.environ.update(HOME=str(home), RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS="0", RAY_AIR_NEW_OUTPUT="1")
    ray = importlib.import_module("ray")
    tune = importlib.import_module("ray.tune")
    ray.init(**CLUSTER)
    try:
        yield tune, ray.__version__
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _limited(seconds: int) -> Iterator[None]:
    def give_up(*_: Any) -> None:
        raise TimeoutError(f"no end after {seconds} s")

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def _is_wanted(script: Script, wanted: list[str]) -> bool:
    return not wanted or script.name in wanted or script.name.partition(".")[0] in wanted


def _file_of(script: Script) -> Path:
    return RECORDED / f"{script.name.partition('.')[0]}.json"


def _write(script: Script, entry: dict[str, Any]) -> None:
    file = _file_of(script)
    recorded = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    recorded[script.name] = entry
    known = all_scripts()
    kept = {name: recorded[name] for name in sorted(recorded) if name in known}
    file.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What is killed: a script that runs or restores one experiment whose results are known beforehand.

`python -m tests.chaos.training given.json`; `given.json` holds the fields of `Given`.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tune_core as tune

STEPS, TRIALS = 10, 4
#: Between two steps, in seconds: long enough to be hit by a kill.
PAUSE_S = 0.25


@dataclass
class Given:
    """What a script is told.

    Attributes:
        url: The experiment's place.
        options: For the filesystem.
        out: File that the results are written to.
        doom: Where a trial meets its end: which trial, step and kind, and a file that says that it has been there.
        restore: "" for a new experiment, "yes", or "takeover".
        scheduler: "fifo", or "asha", which runs one trial at a time.
        bundles: CPUs of each trial, spread over nodes if there are several.
        journal_patience_s: How long the journal is tried again; None for the usual time.
        flow_retries: Runs it inside a flow that is tried again so often.
        ray: Arguments of `ray.init` for a Ray of its own; None for the one in RAY_ADDRESS.
        pause_s: Seconds that each step takes.
        run: More of `RunConfig`.
    """

    url: str
    options: dict[str, Any]
    out: str
    doom: dict[str, Any] = field(default_factory=dict)
    restore: str = ""
    scheduler: str = "fifo"
    bundles: list[int] = field(default_factory=lambda: [1])
    journal_patience_s: float | None = None
    flow_retries: int = 0
    ray: dict[str, Any] | None = None
    pause_s: float = PAUSE_S
    run: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))


def value_after(x: int, step: int) -> int:
    """What trial x has reached after a step: it depends on every step before."""
    value = x
    for number in range(1, step + 1):
        value = (value * 31 + number) % 1_000_003
    return value


def train(config: dict[str, Any], doom: dict[str, Any], pause_s: float) -> None:
    """Compute step after step; save every second one."""
    x, step, value = config["x"], 0, config["x"]
    Path("filler").unlink(missing_ok=True)
    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as directory:
            step, value = json.loads(Path(directory, "state.json").read_text())
    pause = threading.Event()
    while step < STEPS:
        pause.wait(pause_s)
        if doom and (doom["x"], doom["step"]) == (x, step + 1) and not Path(doom["mark"]).exists():
            Path(doom["mark"]).touch()
            _meet(doom["kind"])
        step, value = step + 1, (value * 31 + step + 1) % 1_000_003
        row = {"value": value, "score": (x + 1) * step}
        with tempfile.TemporaryDirectory() as directory:
            saved = None
            if step % 2 == 0:
                Path(directory, "state.json").write_text(json.dumps([step, value]))
                saved = tune.Checkpoint.from_directory(directory)
            tune.report(row, checkpoint=saved)


def _meet(kind: str) -> None:
    if kind == "exception":
        raise RuntimeError("a step went wrong")
    if kind == "exit":
        os._exit(7)
    if kind == "memory":
        held = [bytearray(os.urandom(1 << 20) * 64) for _ in range(64)]  # 4 GiB, touched
        threading.Event().wait(60)
        raise AssertionError(f"nobody minded {len(held)} blocks of memory")
    if kind == "hang":
        ctypes.PyDLL(None).sleep(600)  # in C, with the interpreter's lock held
    if kind == "full":
        with Path("filler").open("wb") as file:
            while True:
                file.write(bytes(1 << 16))
                file.flush()


def _tuner(given: Given) -> tune.Tuner:
    shape = tune.PlacementGroupFactory([{"CPU": cpus} for cpus in given.bundles], strategy="SPREAD")
    trainable = tune.with_resources(
        tune.with_parameters(train, doom=given.doom, pause_s=given.pause_s), shape
    )
    if given.restore:
        return tune.Tuner.restore(
            given.url, trainable, storage_options=given.options, takeover=given.restore == "takeover"
        )
    parent, _, name = given.url.rpartition("/")
    scheduler = None
    if given.scheduler == "asha":
        from tune_core.schedulers import ASHAScheduler

        scheduler = ASHAScheduler(max_t=STEPS, grace_period=2, reduction_factor=2)
    return tune.Tuner(
        trainable,
        param_space={"x": tune.grid_search([3, 0, 2, 1])},
        tune_config=tune.TuneConfig(
            metric="score",
            mode="max",
            max_concurrent_trials=1 if given.scheduler == "asha" else 2,
            scheduler=scheduler,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=parent,
            storage_options=given.options,
            failure_config=tune.FailureConfig(max_failures=3),
            verbose=0,
            **given.run,
        ),
    )


def _run(given: Given) -> None:
    results = _tuner(given).fit()
    trials = [
        {
            "x": result.config["x"] if result.config else None,
            "status": str(result.status),
            "error": str(result.error) if result.error else None,
            "rows": [[row["training_iteration"], row["value"]] for row in result.rows],
        }
        for result in results
    ]
    best = None if results.num_errors == len(results) else results.get_best_result().config["x"]  # type: ignore[index]
    Path(given.out).write_text(json.dumps({"trials": trials, "best": best}))


def main() -> None:
    """Do what `given.json` says."""
    given = Given(**json.loads(Path(sys.argv[1]).read_text()))
    if given.journal_patience_s is not None:
        from tune_core.control import journal

        journal.RETRY_FOR_S = given.journal_patience_s
    if given.ray is not None:
        import ray

        ray.init(
            "local",
            namespace="prefect",
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            **given.ray,
        )
    if given.flow_retries:
        from prefect import flow

        flow(name="nightly", retries=given.flow_retries, retry_delay_seconds=1)(_run)(given)
    else:
        _run(given)


if __name__ == "__main__":
    main()

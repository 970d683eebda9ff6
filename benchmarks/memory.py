"""How much memory the driver of an experiment holds, as trials end: without Ray and Prefect, in this process.

What decides, journals and writes files is the real thing (`tune_core.testing.local_runtime`). Prints the
resident memory after so many trials; fails if it grows by more than the limit from the first of
these to the last: what a finished trial reported must be on the storage only.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a checkout that is not installed will do

import tune_core as tune  # noqa: E402 - see above
from tune_core.testing.local_runtime import LocalRuntime  # noqa: E402

PAGE_BYTES = 4096
#: 25 numbers with their names, and what is filled in, make a row of about 1 kB.
NUM_METRICS = 25


def resident_mb() -> float:
    """Return the resident memory of this process."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES / 1e6


class Watch(tune.Callback):
    """Notes the resident memory after some numbers of trials."""

    def __init__(self, marks: list[int]) -> None:
        self.marks, self.found = marks, dict[int, float]()
        self.num_ended = 0

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Count the trial."""
        self.num_ended += 1
        if self.num_ended in self.marks:
            self.found[self.num_ended] = resident_mb()
            print(f"{self.num_ended:6d} trials  {self.found[self.num_ended]:7.1f} MB", flush=True)


def measure(marks: list[int], rows: int) -> dict[int, float]:
    """Run as many trials as the last mark says; return the resident memory at each, in MB."""

    def train(config: dict[str, Any]) -> None:
        for step in range(rows):
            tune.report(
                {f"metric_{number:02d}": config["x"] * step / (number + 7) for number in range(NUM_METRICS)}
            )

    watch = Watch(marks)
    with tempfile.TemporaryDirectory(prefix="prefect-tune-memory-") as place:
        experiment = tune.Tuner(
            train,
            param_space={"x": tune.uniform(0, 1)},
            tune_config=tune.TuneConfig("min", "metric_01", num_samples=marks[-1]),
            run_config=tune.RunConfig(name="memory", storage_path=place, callbacks=[watch], verbose=0),
        ).experiment()
        LocalRuntime().run(experiment)
        size = sum(file.stat().st_size for file in Path(place).rglob("result.json"))
        print(f"{marks[-1] * rows} rows of {size / (marks[-1] * rows):.0f} bytes")
    return watch.found


def main() -> int:
    """Measure, print, and return 1 if memory grows too much."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 500, 1000, 1500, 2000])
    parser.add_argument("--rows", type=int, default=100, help="reports of each trial, of about 1 kB")
    parser.add_argument("--limit-mb", type=float, default=20.0)
    arguments = parser.parse_args()
    found = measure(sorted(arguments.trials), arguments.rows)
    first, last = min(found), max(found)
    growth = found[last] - found[first]
    print(f"{growth:+.1f} MB from {first} to {last} trials; the limit is {arguments.limit_mb:g} MB")
    return int(growth > arguments.limit_mb)


if __name__ == "__main__":
    sys.exit(main())

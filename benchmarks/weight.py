"""What large experiments take of their driver: a configuration of many small dicts, and many reports of one trial.

With a real driver: a Ray of 2 logical CPUs and a Prefect server of its own. Each case has a process of its own, in
which a small experiment comes first. Prints seconds, CPU seconds of the driver, and the memory that it held at most;
fails if that is more than the small experiment's and the limit.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a checkout that is not installed will do

CASES = ("config", "reports")


def peak_mb() -> float:
    """Return the most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def fit(space: dict[str, Any], reports: int, trials: int, storage: str) -> tuple[float, float]:
    """Run an experiment; return its seconds, and those of this process's CPUs."""
    import tune_core as tune

    def train(config: dict[str, Any]) -> None:
        for step in range(reports):
            tune.report({"loss": 1.0 / (step + 1), "items": len(config.get("data", ()))})

    began, used = time.monotonic(), time.process_time()
    results = tune.Tuner(
        train,
        param_space=space,
        tune_config=tune.TuneConfig("min", "loss", num_samples=trials),
        run_config=tune.RunConfig(storage_path=storage, verbose=0),
    ).fit()
    took = time.monotonic() - began, time.process_time() - used
    for result in results:
        metrics = result.metrics or {}
        if (metrics.get("training_iteration"), metrics.get("items")) != (
            reports,
            len(space.get("data", ())),
        ):
            raise RuntimeError(f"expected {reports} reports of {space.keys()}, got {metrics}")
    return took


def measure(case: str, number: int, limit_mb: float) -> int:
    """Measure one case in this process; return 1 if it takes too much."""
    import ray

    import tune_core as tune

    space: dict[str, Any] = {"x": tune.uniform(0, 1)}
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    with tempfile.TemporaryDirectory(prefix="prefect-tune-bench-") as storage:
        fit(space, 1, 1, storage)
        before = peak_mb()
        if case == "config":
            space["data"] = [{"id": item, "weight": item / 7} for item in range(number)]
            seconds, cpu = fit(space, 1, 2, storage)
        else:
            seconds, cpu = fit(space, number, 1, storage)
    ray.shutdown()
    peak = peak_mb()
    title = f"2 trials, {number:,} dicts in each config" if case == "config" else f"{number:,} reports"
    print(
        f"{title}: {seconds:.1f} s, {cpu:.1f} s of the driver's CPU; {before:.0f} MB before, {peak:.0f} MB at most; "
        f"the limit is {before + limit_mb:.0f} MB"
    )
    return int(peak > before + limit_mb)


def main() -> int:
    """Measure each case in a process of its own; return 1 if one takes too much memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=CASES, help="one of them, in this process")
    parser.add_argument("--number", type=int, default=200_000, help="dicts, and reports")
    parser.add_argument("--limit-mb", type=float, default=400.0)
    arguments = parser.parse_args()
    if arguments.case:
        return measure(arguments.case, arguments.number, arguments.limit_mb)
    with tempfile.TemporaryDirectory(prefix="prefect-tune-bench-") as home:
        os.environ["PREFECT_HOME"] = home
        os.environ.pop("PREFECT_API_URL", None)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        numbers = ("--number", str(arguments.number), "--limit-mb", str(arguments.limit_mb))
        commands = [[sys.executable, __file__, "--case", case, *numbers] for case in CASES]
        return max(subprocess.run(command, check=False).returncode for command in commands)


if __name__ == "__main__":
    sys.exit(main())

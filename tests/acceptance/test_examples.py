"""What a new user runs first: the demo and the example on the README's first screen."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(arguments: list[str], home: Path, timeout_s: float = 280) -> str:
    """Run Python as a user would, with a Prefect home of its own; return what it printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**environment, "PREFECT_HOME": str(home), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_the_demo_tunes_on_s3_and_loads_the_best_checkpoint_back(tmp_path: Path) -> None:
    printed = run(
        ["examples/digits.py", "--num-samples", "2", "--epochs", "3", "--max-concurrent", "2"], tmp_path
    )

    assert "2 trials: 2 terminated" in printed
    assert re.search(r"Best checkpoint +s3://prefect-tune/demo/digits-\S+/checkpoint_00000\d", printed)
    accuracy = re.search(r"Loaded from there +([\d.]+)% of 360 held-out images are right", printed)
    assert accuracy is not None
    assert float(accuracy.group(1)) > 50
    assert "server start" in printed


def test_the_first_example_of_the_readme_runs(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    example = re.search(r"```python\n(.*?)```", readme, re.DOTALL)
    assert example is not None
    script = tmp_path / "example.py"
    script.write_text(example.group(1).replace("s3://my-bucket/tuning", str(tmp_path / "results")))

    printed = run([str(script)], tmp_path / "prefect")

    assert "8 trials: 8 terminated" in printed
    config = re.search(r"^\{'x': ([\d.]+)\}$", printed, re.MULTILINE)
    assert config is not None
    assert abs(float(config.group(1)) - 3) < 3

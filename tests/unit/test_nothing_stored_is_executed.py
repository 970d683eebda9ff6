"""Reading, listing and resuming an experiment runs nothing that somebody has put into its directory."""

from __future__ import annotations

import contextlib
import json
import pickle
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from tune_core.cli import main
from tune_core.config.spec import rebuild_param_space, rebuild_run_config, rebuild_tune_config
from tune_core.control import segments
from tune_core.control.resume import read_spec, reports
from tune_core.control.segments import read_journal
from tune_core.errors import TuneError
from tune_core.results.analysis import ExperimentAnalysis
from tune_core.results.result_grid import Result
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.testing.local_runtime import LocalRuntime

#: What Ray Tune, Prefect and others keep as pickles, by the names under which they would look for them.
PICKLES = (
    "tuner.pkl",
    "trainable.pkl",
    "experiment.pkl",
    "searcher-state-2026-01-01_00-00-00.pkl",
    "search_gen_state-2026-01-01_00-00-00.json",
    "experiment_state-2026-01-01_00-00-00.json",
    "scheduler.pkl",
    "params.pkl",
    ".tune_metadata",
    ".metadata.pkl",
    "dict_checkpoint.pkl",
    "_dict_checkpoint.pkl",
    "error.pkl",
    "result.pkl",
    "state",
)
#: Audit events of what an unpickled object, or an `eval`, would be made to do.
WATCHED = (
    "pickle.find_class",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "subprocess.Popen",
    "os.fork",
    "socket.connect",
)

_seen: list[str] | None = None


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _seen is not None and event in WATCHED:
        _seen.append(f"{event} {arguments!r}")


sys.addaudithook(_watch)  # there is no way to take one away: it looks only while a test asks it to


@pytest.fixture
def executed() -> Iterator[list[str]]:
    """What happens from here on that no reader has a reason to do."""
    global _seen
    _seen = []
    yield _seen
    _seen = None


class Bomb:
    """Unpickling one makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


def train(config: dict[str, Any]) -> None:
    for step in range(2):
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, "state").write_text(str(step))
            tune.report({"loss": step}, checkpoint=tune.Checkpoint.from_directory(directory))


@pytest.fixture
def mined(tmp_path: Path) -> Path:
    """A finished experiment whose directory was full of bombs before anybody looked at it."""
    tuner = tune.Tuner(
        train,
        param_space={"x": tune.grid_search([1, 2]), "y": tune.uniform(0, 1)},
        tune_config=tune.TuneConfig(metric="loss", mode="min"),
        run_config=tune.RunConfig(name="mined", storage_path=str(tmp_path / "results")),
    )
    LocalRuntime().run(tuner.experiment())
    path = tmp_path / "results" / "mined"
    bomb = pickle.dumps(Bomb(tmp_path / "exploded"))
    for directory in [path, *(each for each in path.rglob("*") if each.is_dir())]:
        for name in PICKLES:
            if not (directory / name).exists():
                (directory / name).write_bytes(bomb)
    for file in [*path.rglob("*.json"), *path.rglob("*.jsonl")]:
        if not file.name.startswith((".writer", "COMMIT", "search_gen", "experiment_state")):
            mined = _mine(file.read_bytes(), bomb)
            file.write_bytes(_sealed_again(mined) if file.suffix == ".jsonl" else mined)
    return path


def _sealed_again(segment: bytes) -> bytes:
    """Whoever can write a segment can give it the right digest."""
    header, _, lines = segment.partition(b"\n")
    values = json.loads(header)
    del values["digest"]
    return segments._sealed(json.dumps(values).encode(), lines)


def _mine(data: bytes, bomb: bytes) -> bytes:
    """Put into JSON what other libraries' decoders turn into calls; the values that were there stay."""
    forged = {
        "_type": "CLOUDPICKLE_FALLBACK",  # Ray Tune's
        "value": bomb.hex(),
        "py/reduce": [{"py/function": "os.system"}, {"py/tuple": ["true"]}],  # jsonpickle's
        "py/object": "subprocess.Popen",
        "__class__": "subprocess.Popen",
        "$pickle": bomb.hex(),
    }
    lines = []
    for line in data.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            return data  # params.json has one value on many lines
        for name in ("config", "param_space", "row"):
            if isinstance(value.get(name), dict):
                value[name]["forged"] = forged
        lines.append(json.dumps(value).encode())
    return b"\n".join(lines) + b"\n"


def open_storage(path: Path) -> ExperimentStorage:
    return ExperimentStorage.open(path.parent, path.name)


def trial_directories(path: Path) -> list[Path]:
    return sorted(each for each in path.iterdir() if (each / "result.json").exists())


def read_the_journal(path: Path) -> None:
    assert sum(1 for _ in read_journal(open_storage(path))) > 8
    assert sum(1 for _ in reports(open_storage(path))) == 4


def read_the_results(path: Path) -> None:
    for trial in trial_directories(path):
        result = Result.from_path(trial)
        assert len(result.rows) == 2
        assert len(result.metrics_dataframe) == 2
        assert result.config is not None


def read_the_analysis(path: Path) -> None:
    analysis = ExperimentAnalysis(str(path), default_metric="loss", default_mode="min")
    assert analysis.best_config is not None
    assert len(analysis.dataframe()) == 2
    assert len(analysis.get_all_configs()) == 2


def read_the_checkpoints(path: Path) -> None:
    storage = open_storage(path)
    for trial in trial_directories(path):
        for marker in storage.committed(trial.name):
            checkpoint = storage.checkpoint(trial.name, marker.index)
            checkpoint.get_metadata()
            with checkpoint.as_directory() as directory:
                assert Path(directory, "state").read_text() == str(marker.index)
            assert storage.sweep(trial.name, keep=[0, 1], attempt_number=9) == []


def read_the_description(path: Path) -> None:
    data = json.loads((path / "experiment.json").read_bytes())
    for attempt in (
        lambda: rebuild_param_space(data),
        lambda: rebuild_tune_config(data),
        lambda: rebuild_run_config(data),
        lambda: read_spec(open_storage(path)),
    ):
        with contextlib.suppress(TuneError):  # what it cannot rebuild it may refuse
            attempt()


def restore_it(path: Path) -> None:
    assert tune.Tuner.can_restore(str(path))
    tuner = tune.Tuner.restore(str(path), train, num_samples=2)
    assert len(tuner.get_results()) == 2
    assert len(LocalRuntime().run(tuner.experiment())) == 4


def call_the_command_line(path: Path) -> None:
    exported = path.parent.parent
    for arguments in (
        ["ls", path.parent],
        ["show", path],
        ["show", path, "0", "--json"],
        ["compare", path, path],
        ["export", path, "--to", exported / "trials.csv"],
        ["export", path, "--rows", "--to", exported / "rows.csv"],
        ["export", path, "--format", "parquet", "--to", exported / "trials.parquet"],
        ["export", path, "--format", "optuna", "--to", exported / "study.log"],
    ):
        assert main([str(each) for each in arguments]) == 0
    assert main(["resume", str(path)]) == 2  # it does not import the trainable whose name is stored


@pytest.mark.parametrize(
    "read",
    [
        restore_it,
        call_the_command_line,
        read_the_journal,
        read_the_results,
        read_the_analysis,
        read_the_checkpoints,
        read_the_description,
    ],
)
def test_reading_runs_nothing(
    read: Callable[[Path], None], mined: Path, executed: list[str], tmp_path: Path
) -> None:
    read(mined)

    assert executed == []
    assert not (tmp_path / "exploded").exists()


def test_a_bomb_that_is_unpickled_would_be_seen(mined: Path, executed: list[str], tmp_path: Path) -> None:
    pickle.loads((mined / "tuner.pkl").read_bytes())

    assert any("pickle.find_class" in event for event in executed)
    assert (tmp_path / "exploded").exists()

"""What users read back: `Result` and `ResultGrid`."""

from __future__ import annotations

import json
import math
import pickle
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tune_core.errors import ConfigError, TrialError
from tune_core.logger.callbacks import TrialFiles, default_loggers
from tune_core.ranking import Objective
from tune_core.results.result_grid import Result, ResultGrid
from tune_core.storage.checkpoint import Checkpoint
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.trial import CheckpointRecord, Status, Trial

NAN, INF = math.nan, math.inf


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.mkdir(parents=True, exist_ok=True)
    (path / "result.json").write_text("".join(json.dumps(row) + "\n" for row in rows))


def a_result(path: Path, values: Sequence[float | None] = (), name: str = "m", **config: Any) -> Result:
    """A result whose trial reported these values of a metric; None: a row without it."""
    rows: list[dict[str, Any]] = []
    for iteration, value in enumerate(values, 1):
        row: dict[str, Any] = {"training_iteration": iteration, "attempt_number": 1, "config": config}
        rows.append(row if value is None else {**row, name: value, "n": {name: value}})
    write_rows(path, rows)
    return Result(dict(rows[-1]) if rows else {"config": config}, None, None, str(path))


def a_grid(tmp_path: Path, *values: Sequence[float | None], **options: Any) -> ResultGrid:
    results = [a_result(tmp_path / f"trial_{n}", numbers, i=n) for n, numbers in enumerate(values)]
    return ResultGrid(results, str(tmp_path), **options)


def number_of(result: Result) -> int:
    config = result.config
    assert config is not None
    number: int = config["i"]
    return number


def a_trial(**values: Any) -> Trial:
    known: dict[str, Any] = {
        "trial_id": "abcde_00000",
        "number": 0,
        "config": {"lr": 0.1},
        "dirname": "train_abcde_00000",
        "experiment_tag": "1_lr=0.1",
        "status": Status.TERMINATED,
        "attempt_number": 1,
        "worker": {"pid": 7, "hostname": "vm", "node_ip": "10.0.0.1"},
    }
    return Trial(**known | values)


@pytest.fixture
def storage(tmp_path: Path) -> ExperimentStorage:
    return ExperimentStorage.open(tmp_path, "experiment")


# Rows and frames.


def test_rows_show_the_newest_attempt_of_each_iteration(tmp_path: Path) -> None:
    write_rows(
        tmp_path,
        [
            {"training_iteration": n, "attempt_number": attempt_number, "loss": n}
            for n, attempt_number in ((1, 1), (2, 1), (2, 2), (3, 2))
        ],
    )

    rows = Result({}, None, None, str(tmp_path)).rows

    assert [(row["training_iteration"], row["attempt_number"]) for row in rows] == [(1, 1), (2, 2), (3, 2)]


def test_a_trial_without_reports_has_no_rows_and_an_empty_frame(tmp_path: Path) -> None:
    result = Result({}, None, None, str(tmp_path))

    assert result.rows == []
    assert result.metrics_dataframe.empty


def test_half_a_row_is_a_warning_not_an_error(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"loss": 1}\n{"lo')

    with pytest.warns(UserWarning, match="skipped 1 of 2 rows"):
        rows = Result({}, None, None, str(tmp_path)).rows

    assert rows == [{"loss": 1}]


def test_a_frame_is_flat_and_has_every_column(tmp_path: Path) -> None:
    write_rows(tmp_path, [{"a": {"b": 1}, "trial_id": "12345"}, {"a": {"c": NAN}, "config": {"lr": 0.1}}])

    frame = Result({}, None, None, str(tmp_path)).metrics_dataframe

    assert list(frame.columns) == ["a/b", "trial_id", "a/c", "config/lr"]
    assert frame["a/b"].tolist()[0] == 1
    assert frame["trial_id"].tolist()[0] == "12345"


def test_a_frame_is_read_once_and_only_when_asked_for(tmp_path: Path) -> None:
    result = a_result(tmp_path, [1, 2])
    first = result.metrics_dataframe
    (tmp_path / "result.json").unlink()

    assert result.metrics_dataframe is first
    assert result.rows == []


def test_frames_without_pandas_name_the_extra_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    grid = a_grid(tmp_path, [1], [2])

    with pytest.raises(ImportError, match=r"pip install 'prefect-tune\[pandas\]'"):
        _ = grid[0].metrics_dataframe
    with pytest.raises(ImportError, match=r"pip install 'prefect-tune\[pandas\]'"):
        grid.get_dataframe()
    assert grid.get_best_result("m", "max", "avg") is grid[1]


# One result.


def test_a_result_is_small_to_print(tmp_path: Path) -> None:
    metrics = {"loss": 0.5, "config": {"lr": 0.1}, "hostname": "vm", "pid": 7}
    result = Result(metrics, None, TrialError("ValueError: boom", "long\n" * 100), "/t", status=Status.ERROR)

    assert repr(result) == (
        "Result(status=ERROR, error=TrialError('ValueError: boom'), metrics={'loss': 0.5}, path='/t', "
        "filesystem='file', checkpoint=None)"
    )


def test_a_result_can_be_pickled(tmp_path: Path) -> None:
    result = a_result(tmp_path, [1, 2])

    copy = pickle.loads(pickle.dumps(result))

    assert copy.metrics == result.metrics
    assert copy.rows == result.rows


def checkpoints(*metrics: dict[str, Any]) -> list[tuple[Checkpoint, dict[str, Any]]]:
    return [(Checkpoint(f"/t/checkpoint_{n:06d}"), row) for n, row in enumerate(metrics)]


@pytest.mark.parametrize(("mode", "index"), [("min", 1), ("max", 2)])
def test_the_best_checkpoint_goes_by_a_nested_metric(mode: str, index: int) -> None:
    best = checkpoints({"eval": {"loss": 2}}, {"eval": {"loss": 1}}, {"eval": {"loss": 3}}, {"other": 0})
    result = Result({}, best[-1][0], None, "/t", best)

    assert result.get_best_checkpoint("eval/loss", mode) is best[index][0]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_checkpoint_with_nan_is_never_the_best(mode: str) -> None:
    best = checkpoints({"loss": NAN}, {"loss": 1}, {"loss": NAN})

    assert Result({}, None, None, "/t", best).get_best_checkpoint("loss", mode) is best[1][0]


def test_asking_for_the_best_checkpoint_where_there_is_none_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="the trial at /t has no checkpoint"):
        Result({}, None, None, "/t").get_best_checkpoint("loss", "min")


def test_asking_for_the_best_checkpoint_by_an_unknown_metric_names_the_known_ones() -> None:
    result = Result({}, None, None, "/t", checkpoints({"loss": 1, "acc": 2, "pid": 3}))

    with pytest.raises(RuntimeError, match="'los'; reported: loss, acc; did you mean 'loss'"):
        result.get_best_checkpoint("los", "min")


def test_asking_for_the_best_checkpoint_in_an_unknown_mode_is_a_value_error() -> None:
    with pytest.raises(ValueError, match=r"mode='up'.*'min' or 'max'"):
        Result({}, None, None, "/t", checkpoints({"loss": 1})).get_best_checkpoint("loss", "up")


# Results made of trials.


def test_the_result_of_a_trial_has_what_its_record_has(storage: ExperimentStorage) -> None:
    trial = a_trial(
        last_row={"loss": 1, "timestamp": 0, "training_iteration": 3},
        checkpoints=[CheckpointRecord(4, 2, {"loss": 2}), CheckpointRecord(5, 3, {"loss": 1})],
    )

    result = Result.from_trial(trial, storage)

    assert result.metrics == trial.last_result
    assert result.config == {"lr": 0.1}
    assert result.path == f"{storage.path}/train_abcde_00000"
    assert result.checkpoint == storage.checkpoint("train_abcde_00000", 5)
    assert result.best_checkpoints == [
        (storage.checkpoint("train_abcde_00000", 4), {"loss": 2}),
        (storage.checkpoint("train_abcde_00000", 5), {"loss": 1}),
    ]
    assert result.error is None
    assert result.status is Status.TERMINATED


def test_a_trial_that_never_reported_still_has_its_configuration(storage: ExperimentStorage) -> None:
    result = Result.from_trial(a_trial(), storage)

    assert result.config == {"lr": 0.1}
    assert result.metrics is not None
    assert result.metrics["done"] is True
    assert "training_iteration" not in result.metrics
    assert result.checkpoint is None


def test_a_failed_trial_has_its_error_with_the_remote_traceback(storage: ExperimentStorage) -> None:
    trial = a_trial(status=Status.ERROR, error="ValueError: boom", traceback="Traceback\n  …")

    error = Result.from_trial(trial, storage).error

    assert isinstance(error, TrialError)
    assert str(error) == "ValueError: boom"
    assert error.traceback == "Traceback\n  …"


def test_the_report_of_a_checkpoint_has_its_auto_filled_keys(storage: ExperimentStorage) -> None:
    trial = a_trial(checkpoints=[CheckpointRecord(0, 1, {"loss": 1, "timestamp": 0})])

    result = Result.from_trial(trial, storage)

    assert result.best_checkpoints is not None
    assert result.best_checkpoints[0][1] == trial.result_of({"loss": 1, "timestamp": 0})


def test_the_best_checkpoints_are_as_many_as_are_kept(storage: ExperimentStorage) -> None:
    records = [CheckpointRecord(n, n, {"acc": acc}) for n, acc in enumerate((5, 9, 7, 1))]

    result = Result.from_trial(
        a_trial(checkpoints=records), storage, num_to_keep=2, rank=lambda record: record.metrics["acc"]
    )

    assert result.best_checkpoints is not None
    assert [metrics["acc"] for _, metrics in result.best_checkpoints] == [7, 9]
    assert result.checkpoint == storage.checkpoint("train_abcde_00000", 3)


def test_results_come_in_the_order_in_which_trials_were_created(storage: ExperimentStorage) -> None:
    trials = [a_trial(number=n, config={"i": n}) for n in (2, 0, 1)]

    grid = ResultGrid.from_trials(trials, storage, Objective("loss", "min"))

    assert [number_of(result) for result in grid] == [0, 1, 2]
    assert grid.experiment_path == storage.path
    assert grid.filesystem is storage.fs


# Results read back from a directory.


@pytest.mark.parametrize("where", ["local", "memory"])
def test_a_result_is_read_back_from_its_directory(tmp_path: Path, where: str) -> None:
    root = str(tmp_path) if where == "local" else f"memory://{uuid.uuid4().hex}"
    storage = ExperimentStorage.open(root, "experiment")
    trial = a_trial(error="ValueError: boom", traceback="Traceback", num_failures=1)
    source = tmp_path / "source"
    source.mkdir()
    (source / "model").write_text("weights")
    with_files(
        storage, tmp_path, trial, [{"loss": 2, "config": trial.config}, {"loss": 1, "config": trial.config}]
    )
    for index in (3, 7):
        storage.commit_checkpoint(
            trial.dirname,
            source,
            index=index,
            attempt_number=1,
            iteration=index,
            rows=[],
            metrics={"loss": index},
        )

    result = Result.from_path(f"{storage.url}/{trial.dirname}")

    assert result.metrics == {"loss": 1, "training_iteration": 2, "config": {"lr": 0.1}}
    assert [row["loss"] for row in result.rows] == [2, 1]
    assert result.checkpoint == storage.checkpoint(trial.dirname, 7)
    assert result.get_best_checkpoint("loss", "min") == storage.checkpoint(trial.dirname, 3)
    assert str(result.error) == "ValueError: boom"
    assert result.path == storage.absolute(trial.dirname)


def with_files(
    storage: ExperimentStorage,
    tmp_path: Path,
    trial: Trial,
    rows: list[dict[str, Any]],
    *,
    failed: bool = True,
) -> None:
    """Have the loggers write what they write for a trial."""
    files = TrialFiles(storage, tmp_path / "staging")
    for logger in default_loggers(files):
        logger.on_trial_start(0, [], trial)
        for iteration, row in enumerate(rows, 1):
            logger.on_trial_result(0, [], trial, {**row, "training_iteration": iteration})
        if failed:
            logger.on_trial_error(0, [], trial)
        else:
            logger.on_trial_recover(0, [], trial)
            logger.on_trial_complete(0, [], trial)
    files.close()


def test_a_path_inside_a_filesystem_is_read_with_it(tmp_path: Path) -> None:
    storage = ExperimentStorage.open(f"memory://{uuid.uuid4().hex}", "experiment")
    with_files(storage, tmp_path, a_trial(), [{"loss": 1}], failed=False)

    result = Result.from_path(storage.absolute("train_abcde_00000"), fsspec.filesystem("memory"))

    assert result.metrics is not None
    assert result.metrics["loss"] == 1


def test_a_failure_from_which_the_trial_recovered_is_no_error(
    storage: ExperimentStorage, tmp_path: Path
) -> None:
    trial = a_trial(num_failures=1, error="ValueError: boom", traceback="Traceback")
    with_files(storage, tmp_path, trial, [{"loss": 1}], failed=False)

    assert Result.from_path(f"{storage.path}/{trial.dirname}").error is None


def test_a_trial_that_failed_before_its_first_report_can_be_read(
    storage: ExperimentStorage, tmp_path: Path
) -> None:
    trial = a_trial(num_failures=1, error="ValueError: boom")
    with_files(storage, tmp_path, trial, [])

    result = Result.from_path(f"{storage.path}/{trial.dirname}")

    assert result.metrics == {"config": {"lr": 0.1}}
    assert result.rows == []
    assert str(result.error) == "ValueError: boom"


@pytest.mark.parametrize("name", ["", "missing"])
def test_a_directory_of_something_else_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RuntimeError, match=r"is no trial's directory.*result.json.*<experiment>/<trial>"):
        Result.from_path(tmp_path / name)


def test_reading_executes_no_pickle(storage: ExperimentStorage, tmp_path: Path) -> None:
    class Boom:
        def __reduce__(self) -> Any:
            return exec, ("raise SystemExit('executed')",)

    trial = a_trial(num_failures=1, error="ValueError: boom")
    with_files(storage, tmp_path, trial, [{"loss": 1}])
    for name in ("error.pkl", "params.pkl", "tuner.pkl"):
        storage.write(f"{trial.dirname}/{name}", pickle.dumps(Boom()))

    result = Result.from_path(f"{storage.path}/{trial.dirname}")

    assert str(result.error) == "ValueError: boom"
    assert not result.metrics_dataframe.empty


# The best of several.

#: What seven trials reported; the answers below are those of Ray Tune 2.60.
REPORTED: tuple[tuple[float | None, ...], ...] = (
    (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12),
    (30, NAN, 5),
    (7, 20, NAN),
    (NAN, NAN),
    (8, INF, 9),
    (None, 6, None),
    (None, None, 4, 4, 10),
)


@pytest.mark.parametrize(
    ("scope", "mode", "number"),
    [
        ("last", "min", 1),
        ("last", "max", 0),
        ("all", "min", 0),
        ("avg", "max", 0),
        ("last-5-avg", "min", 5),
        ("last-5-avg", "max", 0),
        ("last-10-avg", "min", 5),
        ("last-10-avg", "max", 0),
    ],
)
def test_scopes_choose_the_trial_that_ray_tune_chooses(
    tmp_path: Path, scope: str, mode: str, number: int
) -> None:
    grid = a_grid(tmp_path, *REPORTED)

    assert number_of(grid.get_best_result("m", mode, scope)) == number


def test_a_nan_does_not_hide_the_values_before_it(tmp_path: Path) -> None:
    grid = a_grid(tmp_path, *REPORTED)

    assert number_of(grid.get_best_result("m", "max", "all")) == 1  # Ray Tune forgets the 30 of this trial


def test_an_average_is_over_the_rows_that_have_the_metric(tmp_path: Path) -> None:
    grid = a_grid(tmp_path, (None, None, 4, 4, 10), (5.9,))

    assert number_of(grid.get_best_result("m", "max", "avg")) == 0  # Ray Tune says 5.2


@pytest.mark.parametrize("scope", ["last", "all", "avg"])
def test_a_trial_whose_score_is_not_finite_is_left_out(tmp_path: Path, scope: str) -> None:
    grid = a_grid(tmp_path, (INF,), (1,), (NAN,), (-INF,))

    assert number_of(grid.get_best_result("m", "max", scope)) == 1
    assert number_of(grid.get_best_result("m", "min", scope)) == 1


def test_without_the_filter_infinity_counts_and_nan_is_worst(tmp_path: Path) -> None:
    grid = a_grid(tmp_path, (NAN,), (1,), (INF,))

    assert number_of(grid.get_best_result("m", "max", filter_nan_and_inf=False)) == 2
    assert number_of(grid.get_best_result("m", "min", filter_nan_and_inf=False)) == 1


def test_without_the_filter_nan_is_better_than_nothing(tmp_path: Path) -> None:
    grid = a_grid(tmp_path, (), (NAN,))

    assert number_of(grid.get_best_result("m", "min", filter_nan_and_inf=False)) == 1


def test_of_equal_trials_the_first_is_the_best(tmp_path: Path) -> None:
    grid = a_grid(tmp_path, (2,), (1,), (1,))

    assert number_of(grid.get_best_result("m", "min")) == 1


def test_nested_metrics_and_defaults_are_understood(tmp_path: Path) -> None:
    grid = a_grid(tmp_path, (2,), (1,), metric="n/m", mode="min")

    assert number_of(grid.get_best_result()) == 1
    assert number_of(grid.get_best_result(mode="max")) == 0


def test_the_scope_chooses_the_trial_and_not_the_row(tmp_path: Path) -> None:
    grid = a_grid(tmp_path, (1, 50), (2, 3))

    best = grid.get_best_result("m", "min", "all")

    assert best.metrics is not None
    assert best.metrics["m"] == 50


def test_the_only_trial_is_the_best_whatever_it_reported(tmp_path: Path) -> None:
    grid = a_grid(tmp_path, ())

    assert grid.get_best_result() is grid[0]


def test_the_last_scope_reads_no_files(tmp_path: Path) -> None:
    grid = a_grid(tmp_path, (1,), (2,))
    for path in tmp_path.rglob("result.json"):
        path.write_bytes(b"\xff")

    assert number_of(grid.get_best_result("m", "max")) == 1


def test_rows_on_other_storage_are_read_at_once(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    root = f"/{uuid.uuid4().hex}"
    results = []
    for number in range(20):
        memory.pipe_file(f"{root}/{number}/result.json", b'{"m": %d}\n{"m": 0}\n' % number)
        results.append(Result({"config": {"i": number}}, None, None, f"{root}/{number}", filesystem=memory))
    grid = ResultGrid(results, root, memory, "m", "max")

    assert number_of(grid.get_best_result(scope="all")) == 19


def test_unknown_metrics_are_named_beside_the_known_ones(tmp_path: Path) -> None:
    grid = a_grid(tmp_path, (1,), (2,))

    with pytest.raises(RuntimeError, match=r"no trial has reported a number of that name; reported: .*'n/m'"):
        grid.get_best_result("n/mm", "min")


def test_metrics_without_a_finite_value_are_an_error_that_says_so(tmp_path: Path) -> None:
    grid = a_grid(tmp_path, (NAN,), (INF,))

    with pytest.raises(RuntimeError, match="NaN or infinite; pass filter_nan_and_inf=False"):
        grid.get_best_result("m", "min")


def test_an_experiment_without_trials_has_no_best_one() -> None:
    with pytest.raises(RuntimeError, match="the experiment has no trials"):
        ResultGrid([], "/tmp").get_best_result("m", "min")


def test_every_fault_of_a_question_is_named_at_once(tmp_path: Path) -> None:
    grid = a_grid(tmp_path, (1,), (2,))

    with pytest.raises(ConfigError, match=r"3 faults: .*No metric is provided.*mode='up'.*scope='first'"):
        grid.get_best_result(mode="up", scope="first")
    with pytest.raises(ValueError, match="No mode is provided"):
        grid.get_best_result("m")


# Frames of all trials.


def test_a_frame_of_all_trials_has_the_last_report_of_each(tmp_path: Path) -> None:
    frame = a_grid(tmp_path, (3, 1), (2,)).get_dataframe()

    assert frame["m"].tolist() == [1, 2]
    assert frame["n/m"].tolist() == [1, 2]
    assert frame["config/i"].tolist() == [0, 1]
    assert frame["logdir"].tolist() == [str(tmp_path / "trial_0"), str(tmp_path / "trial_1")]
    assert "trial_error" not in frame


@pytest.mark.parametrize("filters", [(), ("m", "max")])
def test_a_frame_has_a_row_for_a_trial_that_never_reported_and_says_why_it_failed(
    tmp_path: Path, filters: Any
) -> None:
    grid = a_grid(tmp_path, (3, 1), (), (2,))
    grid[1].error = TrialError("ValueError: boom", "Traceback …")

    frame = grid.get_dataframe(*filters)

    assert frame["config/i"].tolist() == [0, 1, 2]
    assert frame["logdir"].tolist() == [result.path for result in grid]
    assert frame["m"].isna().tolist() == [False, True, False]
    assert frame["trial_error"].isna().tolist() == [True, False, True]
    assert frame["trial_error"][1] == "ValueError: boom"


@pytest.mark.parametrize(("mode", "expected"), [("min", [1, 2, 7]), ("max", [30, 4, 7])])
def test_a_frame_of_the_best_rows_goes_by_metric_and_mode(
    tmp_path: Path, mode: str, expected: list[float]
) -> None:
    grid = a_grid(tmp_path, (3, 1, 30, NAN, 5), (2, 4), (7, None))

    assert grid.get_dataframe("m", mode)["m"].tolist() == expected


def test_trials_without_the_metric_have_their_last_row(tmp_path: Path) -> None:
    grid = a_grid(tmp_path, (1, 2), (NAN, NAN))

    assert grid.get_dataframe("other", "min")["training_iteration"].tolist() == [2, 2]
    assert grid.get_dataframe("m", "min")["training_iteration"].tolist() == [1, 2]
    assert grid.get_dataframe("m")["training_iteration"].tolist() == [2, 2]


def test_frames_of_nothing_are_empty() -> None:
    assert ResultGrid([], "/tmp").get_dataframe().empty


@pytest.mark.parametrize(
    ("arguments", "text"), [((None, "min"), "needs filter_metric="), (("m", "up"), "expected 'min' or 'max'")]
)
def test_faulty_filters_are_value_errors(arguments: tuple[Any, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ResultGrid([], "/tmp").get_dataframe(*arguments)


# The grid.


def test_a_grid_counts_trials_by_how_they_ended() -> None:
    error = TrialError("ValueError: boom")
    results = [
        Result({}, None, None, "/a", status=Status.TERMINATED),
        Result({}, None, error, "/b", status=Status.ERROR),
        Result({}, None, error, "/c", status=Status.PAUSED),  # failed, was to be tried again, was interrupted
        Result({}, None, None, "/d", status=Status.RUNNING),
        Result({}, None, None, "/e"),
    ]

    grid = ResultGrid(results, "/tmp")

    assert (len(grid), grid.num_errors, grid.num_terminated) == (5, 1, 2)
    assert grid.errors == [error, error]
    assert repr(grid) == (
        "ResultGrid(5 trials: 2 terminated, 1 errors, 2 unfinished; experiment_path='/tmp')"
    )


def test_a_grid_is_a_sequence(tmp_path: Path) -> None:
    grid = a_grid(tmp_path, (1,), (2,), (3,))

    assert list(grid) == [grid[0], grid[1], grid[-1]]
    assert grid[1:] == [grid[1], grid[2]]
    with pytest.raises(IndexError):
        grid[3]

"""What the loggers write next to each trial."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from tune_core.callback import CallbackList
from tune_core.errors import StorageError
from tune_core.logger.callbacks import (
    CSVLoggerCallback,
    ErrorLoggerCallback,
    JsonLoggerCallback,
    LoggerCallback,
    TrialFiles,
    default_loggers,
)
from tune_core.logger.rows import last_failure, parse_rows, with_configs
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.trial import Trial


def a_trial(**values: Any) -> Trial:
    known: dict[str, Any] = {
        "trial_id": "abcde_00000",
        "number": 0,
        "config": {"lr": 0.1, "a": {"width": 64}},
        "dirname": "train_abcde_00000",
        "attempt_number": 1,
    }
    return Trial(**known | values)


def a_result(iteration: int, **metrics: Any) -> dict[str, Any]:
    return {**metrics, "training_iteration": iteration, "config": {"lr": 0.1}}


@pytest.fixture
def storage(tmp_path: Path) -> ExperimentStorage:
    return ExperimentStorage.open(tmp_path, "experiment")


@pytest.fixture
def files(storage: ExperimentStorage, tmp_path: Path) -> TrialFiles:
    return TrialFiles(storage, tmp_path / "staging")


def run(logger: LoggerCallback, trial: Trial, *results: dict[str, Any]) -> None:
    logger.on_trial_start(iteration=1, trials=[trial], trial=trial)
    for result in results:
        logger.on_trial_result(iteration=1, trials=[trial], trial=trial, result=result)


def end(logger: LoggerCallback, trial: Trial) -> None:
    logger.on_trial_complete(iteration=1, trials=[trial], trial=trial)


def text_of(storage: ExperimentStorage, name: str) -> str:
    return storage.read(f"train_abcde_00000/{name}").decode()


def json_rows(storage: ExperimentStorage) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text_of(storage, "result.json").splitlines()]


def csv_rows(storage: ExperimentStorage) -> list[dict[str, str]]:
    return list(csv.DictReader(text_of(storage, "progress.csv").splitlines()))


# The hooks.


def test_each_event_reaches_its_method_with_ray_tunes_arguments() -> None:
    calls: list[Any] = []

    class Recorder(LoggerCallback):
        def log_trial_start(self, trial: Trial) -> None:
            calls.append("start")

        def log_trial_restore(self, trial: Trial) -> None:
            calls.append("restore")

        def log_trial_save(self, trial: Trial) -> None:
            calls.append("save")

        def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
            calls.append((iteration, result))

        def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
            calls.append(failed)

    trial = a_trial()
    callbacks = CallbackList([Recorder()])

    callbacks.on_trial_start(1, [trial], trial)
    callbacks.on_trial_restore(1, [trial], trial)
    callbacks.on_trial_save(1, [trial], trial)
    callbacks.on_trial_result(7, [trial], trial, {"loss": 1})
    callbacks.on_trial_complete(1, [trial], trial)
    callbacks.on_trial_error(1, [trial], trial)

    assert calls == ["start", "restore", "save", (7, {"loss": 1}), False, True]


def test_a_logger_that_overrides_nothing_does_nothing() -> None:
    run(LoggerCallback(), a_trial(), {"loss": 1})
    end(LoggerCallback(), a_trial())


@pytest.mark.parametrize("logger", [JsonLoggerCallback(), CSVLoggerCallback(), ErrorLoggerCallback()])
def test_a_logger_without_files_says_what_it_needs(logger: LoggerCallback) -> None:
    with pytest.raises(StorageError, match=f"{type(logger).__name__} has no files.*TrialFiles"):
        logger.log_trial_start(a_trial())


def test_setup_gives_files_to_a_logger_that_a_user_made(
    storage: ExperimentStorage, files: TrialFiles
) -> None:
    logger = JsonLoggerCallback()

    CallbackList([logger]).setup(num_samples=1, files=files)
    run(logger, a_trial(), a_result(1))
    end(logger, a_trial())

    assert len(json_rows(storage)) == 1


def test_setup_leaves_files_alone_that_the_logger_has(files: TrialFiles) -> None:
    logger = JsonLoggerCallback(files)

    logger.setup(files="others")

    assert logger.files is files


def test_a_kind_of_logger_that_the_user_gave_is_not_added_again(files: TrialFiles) -> None:
    class Mine(CSVLoggerCallback):
        pass

    kinds = [type(logger) for logger in default_loggers(files, [Mine(), LoggerCallback()])]

    assert kinds == [ErrorLoggerCallback, JsonLoggerCallback]


# result.json and params.json.


def test_a_report_is_one_line_with_the_number_of_its_attempt(
    storage: ExperimentStorage, files: TrialFiles
) -> None:
    logger = JsonLoggerCallback(files)

    run(logger, a_trial(), a_result(1, loss=0.5, eval={"acc": [1, 2]}), a_result(2, loss=0.25))
    end(logger, a_trial())

    assert json_rows(storage) == [
        {
            "loss": 0.5,
            "eval": {"acc": [1, 2]},
            "training_iteration": 1,
            "config": {"lr": 0.1},
            "attempt_number": 1,
        },
        {"loss": 0.25, "training_iteration": 2, "config": {"lr": 0.1}, "attempt_number": 1},
    ]


def test_configuration_is_in_the_first_report_of_each_attempt_alone(
    storage: ExperimentStorage, files: TrialFiles
) -> None:
    logger, config = JsonLoggerCallback(files), {"text": "x" * 1000}

    for attempt_number, lr in ((1, 0.1), (2, 0.2)):
        rows = (
            {
                "iterations_since_restore": number,
                "config": {**config, "lr": lr},
                "attempt_number": attempt_number,
            }
            for number in (1, 2, 3)
        )
        run(logger, a_trial(attempt_number=attempt_number, config={**config, "lr": lr}), *rows)
    end(logger, a_trial())

    text = text_of(storage, "result.json")
    assert text.count("x" * 1000) == 2
    rows = with_configs(parse_rows(text.encode(), ""), None)
    assert [row["config"]["lr"] for row in rows] == [0.1] * 3 + [0.2] * 3
    assert rows[1]["config"] is rows[0]["config"]


def test_values_that_json_lacks_are_written_all_the_same(
    storage: ExperimentStorage, files: TrialFiles
) -> None:
    logger = JsonLoggerCallback(files)

    run(logger, a_trial(), a_result(1, loss=math.nan, best=-math.inf, what={1, 2}))
    end(logger, a_trial())

    (row,) = json_rows(storage)
    assert math.isnan(row["loss"])
    assert row["best"] == -math.inf
    assert row["what"] == "{1, 2}"


def test_rows_survive_a_retry(storage: ExperimentStorage, files: TrialFiles, tmp_path: Path) -> None:
    run(JsonLoggerCallback(files), a_trial(attempt_number=1), a_result(1), a_result(2))
    files.close()

    later = TrialFiles(storage, tmp_path / "staging")
    logger = JsonLoggerCallback(later)
    run(logger, a_trial(attempt_number=2), a_result(2), a_result(3))
    end(logger, a_trial(attempt_number=2))

    assert [(row["training_iteration"], row["attempt_number"]) for row in json_rows(storage)] == [
        (1, 1),
        (2, 1),
        (2, 2),
        (3, 2),
    ]


def test_the_report_itself_is_not_changed(files: TrialFiles) -> None:
    result = a_result(1, nested={"a": 1})

    for logger in default_loggers(files):
        run(logger, a_trial(), result)

    assert result == a_result(1, nested={"a": 1})


def test_the_configuration_is_written_sorted(storage: ExperimentStorage, files: TrialFiles) -> None:
    logger = JsonLoggerCallback(files)

    run(logger, a_trial(config={"b": {1, 2}, "a": {"d": math.inf, "c": 0}}))
    end(logger, a_trial())

    assert text_of(storage, "params.json") == (
        '{\n  "a": {\n    "c": 0,\n    "d": Infinity\n  },\n  "b": "{1, 2}"\n}'
    )


def test_a_configuration_that_changed_is_written_again(storage: ExperimentStorage, files: TrialFiles) -> None:
    logger = JsonLoggerCallback(files)

    run(logger, a_trial(config={"lr": 0.1}))
    run(logger, a_trial(config={"lr": 0.2}, attempt_number=2))
    end(logger, a_trial())

    assert json.loads(text_of(storage, "params.json")) == {"lr": 0.2}


# progress.csv.


def test_text_that_spreadsheets_would_run_is_text(storage: ExperimentStorage, files: TrialFiles) -> None:
    logger = CSVLoggerCallback(files)
    texts = [
        '=HYPERLINK("http://a")',
        "+1+cmd|' /C calc'!A0",
        "-2+3",
        "@SUM(A1)",
        "\t=1",
        "a=b",
        "-0.5",
        "-inf",
    ]

    for text in texts:
        run(logger, a_trial(), a_result(1, note=text, change=-0.5, **{"=metric": -1}))
    run(logger, a_trial(), a_result(1, note="=1", **{"@later": -2}))
    end(logger, a_trial())

    rows = csv_rows(storage)
    assert [row["note"] for row in rows] == [*(f"'{text}" for text in texts[:5]), *texts[5:], "'=1"]
    assert [row["change"] for row in rows] == ["-0.5"] * 8 + [""]
    assert [row["'=metric"] for row in rows] == ["-1"] * 8 + [""]
    assert [row["'@later"] for row in rows] == [""] * 8 + ["-2"]


def test_column_with_the_name_of_a_formula_goes_on_in_a_new_process(
    storage: ExperimentStorage, files: TrialFiles, tmp_path: Path
) -> None:
    for number in (1, 2):
        files = TrialFiles(storage, tmp_path)
        run(CSVLoggerCallback(files), a_trial(), a_result(number, **{"=metric": number}))
        files.close()

    assert [row["'=metric"] for row in csv_rows(storage)] == ["1", "2"]
    assert text_of(storage, "progress.csv").count("=metric") == 1


def test_records_are_flat_and_have_no_configuration(storage: ExperimentStorage, files: TrialFiles) -> None:
    logger = CSVLoggerCallback(files)

    run(logger, a_trial(), a_result(1, eval={"loss": 0.5, "deep": {"acc": 1}}))
    end(logger, a_trial())

    assert csv_rows(storage) == [
        {"eval/loss": "0.5", "eval/deep/acc": "1", "training_iteration": "1", "attempt_number": "1"}
    ]


def test_a_metric_that_is_reported_later_is_not_lost(storage: ExperimentStorage, files: TrialFiles) -> None:
    logger = CSVLoggerCallback(files)

    run(logger, a_trial(), a_result(1, loss=0.5))
    files.flush("train_abcde_00000")
    run(logger, a_trial(attempt_number=2), a_result(2, loss=0.4, acc=0.9), a_result(3, loss=0.3))
    end(logger, a_trial())

    assert [(row["loss"], row["acc"], row["attempt_number"]) for row in csv_rows(storage)] == [
        ("0.5", "", "1"),
        ("0.4", "0.9", "2"),
        ("0.3", "", "2"),
    ]


# error.txt.


def test_each_failure_is_appended(storage: ExperimentStorage, files: TrialFiles) -> None:
    logger = ErrorLoggerCallback(files)
    trial = a_trial(num_failures=1, error="ValueError: one", traceback="Traceback\n  one\n")

    run(logger, trial)
    logger.on_trial_recover(iteration=1, trials=[trial], trial=trial)
    trial.num_failures, trial.error, trial.traceback = 2, "KeyError: two", ""
    logger.on_trial_error(iteration=1, trials=[trial], trial=trial)

    lines = text_of(storage, "error.txt").splitlines()
    assert [line.partition(" (occurred at ")[0] for line in lines] == [
        "Failure # 1",
        "ValueError: one",
        "Traceback",
        "  one",
        "Failure # 2",
        "KeyError: two",
    ]


def test_the_last_failure_can_be_read_back(storage: ExperimentStorage, files: TrialFiles) -> None:
    logger = ErrorLoggerCallback(files)
    trial = a_trial(num_failures=1, error="ValueError: two\nlines", traceback="Traceback\n  here")

    logger.on_trial_error(iteration=1, trials=[trial], trial=trial)

    failure = last_failure(text_of(storage, "error.txt"))
    assert failure is not None
    assert str(failure) == "ValueError: two lines"
    assert failure.traceback == "Traceback\n  here"


def test_a_trial_that_recovered_says_so(storage: ExperimentStorage, files: TrialFiles) -> None:
    logger = ErrorLoggerCallback(files)
    trial = a_trial(num_failures=1, error="ValueError: one", traceback="Traceback")

    logger.on_trial_recover(iteration=1, trials=[trial], trial=trial)
    end(logger, trial)

    text = text_of(storage, "error.txt")
    assert text.splitlines()[-1].startswith("Ended without error (at 2")
    assert last_failure(text) is None


def test_a_trial_without_failures_has_no_error_file(storage: ExperimentStorage, files: TrialFiles) -> None:
    for logger in default_loggers(files):
        run(logger, a_trial(), a_result(1))
        end(logger, a_trial())

    assert storage.list("train_abcde_00000") == ["params.json", "progress.csv", "result.json"]


def test_nothing_is_remembered_of_trials_that_ended(files: TrialFiles) -> None:
    callbacks = CallbackList(default_loggers(files))

    for number in range(20):
        trial = a_trial(dirname=f"trial_{number}", num_failures=1, error="ValueError: one")
        callbacks.on_trial_start(1, [trial], trial)
        callbacks.on_trial_result(1, [trial], trial, a_result(1))
        callbacks.on_trial_error(1, [trial], trial)

    assert files.num_open == 0


def test_loggers_of_rays_own_are_left_out_where_the_environment_says_so(
    files: TrialFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")

    assert [type(logger) for logger in default_loggers(files)] == [ErrorLoggerCallback]
    monkeypatch.setenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "0")
    assert len(default_loggers(files)) == 3

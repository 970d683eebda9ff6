"""Bad input on real servers: a clear error, and nothing is lost. What needs no server is in the unit tier."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

import tune_core as tune
from examples.seaweedfs import S3Server
from tests.flows.conftest import Recorded
from tests.support.prefect_server import free_port
from tests.support.waiting import wait_for
from tune_core.engine import cluster as ray_cluster
from tune_core.errors import ExperimentConflict, PlacementError, StorageError, TuneError


def test_a_metric_that_is_never_reported_fails_its_trial_after_the_row_was_kept(
    run_config: Callable[..., tune.RunConfig],
) -> None:
    def train(config: dict[str, Any]) -> None:
        tune.report({"accuracy": 0.5, "loss": 1.0})

    results = tune.Tuner(
        train,
        tune_config=tune.TuneConfig(metric="acuracy", mode="max"),
        run_config=run_config(failure_config=tune.FailureConfig(max_failures=3)),
    ).fit()

    assert "reported: accuracy, " in str(results[0].error)
    assert "did you mean 'accuracy'?" in str(results[0].error)
    assert [row["loss"] for row in results[0].rows] == [1.0]
    assert [row["attempt_number"] for row in results[0].rows] == [1]


class Tensor:
    """Stands for torch's: only module and `detach` are looked at."""

    __module__ = "torch"

    def detach(self) -> Tensor:
        return self


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        (3, "report expects a dict of metrics"),
        ({"loss": Tensor()}, "metric 'loss' is a torch tensor"),
        ({"loss": 10**400}, "metric 'loss'"),
    ],
)
def test_a_report_that_is_no_dict_of_numbers_fails_the_trial(
    reported: Any, expected: str, run_config: Callable[..., tune.RunConfig]
) -> None:
    def train(config: dict[str, Any]) -> None:
        tune.report({"step": 1})
        tune.report(reported)

    results = tune.Tuner(train, run_config=run_config()).fit()

    assert expected in str(results[0].error)
    assert [row["step"] for row in results[0].rows] == [1]


def test_nan_and_infinity_are_kept_and_shown_safely(
    run_config: Callable[..., tune.RunConfig], recorded: Callable[[str], Recorded]
) -> None:
    config = run_config()

    def train(config: dict[str, Any]) -> None:
        for value in (float("nan"), float("inf"), float("-inf"), 1.0):
            tune.report({"loss": value})

    results = tune.Tuner(
        train, tune_config=tune.TuneConfig(metric="loss", mode="min"), run_config=config
    ).fit()

    assert [str(row["loss"]) for row in results[0].rows] == ["nan", "inf", "-inf", "1.0"]
    assert [row["loss"] for row in recorded(config.name).reports()] == ["nan", "inf", "-inf", 1.0]


def test_a_checkpoint_directory_that_does_not_exist_is_named(
    run_config: Callable[..., tune.RunConfig],
) -> None:
    def train(config: dict[str, Any]) -> None:
        tune.report({"step": 1})
        tune.report({"step": 2}, checkpoint=tune.Checkpoint.from_directory("/no/such/directory"))

    results = tune.Tuner(train, run_config=run_config()).fit()

    assert "/no/such/directory" in str(results[0].error)
    assert [row["step"] for row in results[0].rows] == [1]
    assert results[0].checkpoint is None


@pytest.mark.parametrize(
    "fault", ["wrong secret", "missing bucket", pytest.param("nobody there", marks=pytest.mark.slow)]
)
def test_storage_that_cannot_be_used_fails_at_the_start_and_is_named(
    fault: str, s3: S3Server, run_config: Callable[..., tune.RunConfig], tmp_path: Path
) -> None:
    options = dict(s3.storage_options)
    bucket = s3.bucket
    if fault == "wrong secret":
        options["secret"] = "not-the-secret"
    elif fault == "missing bucket":
        bucket = "no-such-bucket"
    else:
        options["endpoint_url"] = f"http://127.0.0.1:{free_port()}"
    config = run_config(storage_path=f"s3://{bucket}/bad", storage_options=options)

    def train(config: dict[str, Any]) -> None:
        (tmp_path / "ran").touch()

    begun = time.monotonic()
    with pytest.raises(StorageError, match=f"s3://{bucket}/bad") as raised:
        tune.Tuner(train, run_config=config).fit()

    assert time.monotonic() - begun < 30
    assert "not-the-secret" not in str(raised.value)
    assert s3.secret not in str(raised.value)
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray is not there yet, and what would start it, or a server, fails the test."""

    def start(*_: Any, **__: Any) -> None:
        raise AssertionError("something is started")

    monkeypatch.setattr(ray_cluster.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_cluster.ray, "init", start)
    monkeypatch.setattr("tune_core.engine.server.server.start_own_server", start)


@pytest.mark.usefixtures("nothing_is_started")
def test_wrong_credentials_are_found_out_before_anything_is_started(
    run_config: Callable[..., tune.RunConfig], s3: S3Server
) -> None:
    wrong = {**s3.storage_options, "secret": "wrong"}
    config = run_config(storage_path=f"s3://{s3.bucket}/x", storage_options=wrong)

    with pytest.raises(StorageError, match="check the credentials"):
        tune.Tuner(lambda config: {"x": 1}, run_config=config).fit()


@pytest.mark.usefixtures("nothing_is_started")
def test_ray_address_where_nothing_answers_is_named_with_what_to_do(
    run_config: Callable[..., tune.RunConfig],
) -> None:
    address = f"127.0.0.1:{free_port()}"

    with pytest.raises(TuneError, match=f"{address}': nothing answers there .*refused.*ray start --head"):
        tune.Tuner(lambda config: {"x": 1}, run_config=run_config(ray_address=address)).fit()


class Page(BaseHTTPRequestHandler):
    """A server of pages, such as Prefect's own without /api: whatever is asked for, there is the UI."""

    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("Content-Type", "text/html")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class NotThere(Page):
    status = 404


class Away(Page):
    status = 503


@pytest.mark.usefixtures("nothing_is_started")
@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (None, r"does not answer \(.*refused"),
        (Page, "no Prefect API at .*: what answers is a page"),
        (NotThere, "no Prefect API at .*: it has no "),
        (Away, "does not answer"),
    ],
    ids=["nobody", "page", "not there", "away"],
)
def test_prefect_server_that_does_not_answer_is_named_with_what_to_do(
    run_config: Callable[..., tune.RunConfig],
    handler: type[Page] | None,
    reason: str,
) -> None:
    with ExitStack() as stack:
        port = free_port()
        if handler is not None:
            server = stack.enter_context(HTTPServer(("127.0.0.1", port), handler))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
        stack.enter_context(temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}"}))

        with pytest.raises(TuneError, match=rf"{reason}.*prefect server start") as raised:
            tune.Tuner(lambda config: {"x": 1}, run_config=run_config()).fit()

    assert len(str(raised.value)) < 500


def test_a_local_directory_that_cannot_be_written_fails_at_the_start_and_is_named(
    run_config: Callable[..., tune.RunConfig],
) -> None:
    config = run_config(storage_path="/proc/runs")  # where not even root may write

    with pytest.raises(StorageError, match="/proc/runs"):
        tune.Tuner(lambda config: None, run_config=config).fit()


def test_the_second_of_two_experiments_of_one_name_is_refused_and_the_first_unharmed(
    run_config: Callable[..., tune.RunConfig],
) -> None:
    config = run_config()
    marks = Path(tempfile.mkdtemp())

    def slow(config: dict[str, Any]) -> None:
        (marks / "running").touch()
        while not (marks / "finish").exists():
            time.sleep(0.05)
        tune.report({"x": 1})

    first: list[tune.ResultGrid] = []
    thread = threading.Thread(target=lambda: first.append(tune.Tuner(slow, run_config=config).fit()))
    thread.start()
    try:
        wait_for((marks / "running").exists, what="the first experiment")
        with pytest.raises(ExperimentConflict, match="is running now"):
            tune.Tuner(slow, run_config=config).fit()
    finally:
        (marks / "finish").touch()
        thread.join(60)
    again = tune.Tuner(slow, run_config=config).fit()

    assert [row["x"] for row in first[0][0].rows] == [1]
    assert again.num_errors == 0
    assert again[0].path != first[0][0].path


def test_a_local_path_is_refused_when_ray_has_other_hosts(
    run_config: Callable[..., tune.RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "has_other_hosts", lambda: True)

    with pytest.raises(PlacementError, match="is a local directory, but Ray has nodes on other machines"):
        tune.Tuner(lambda config: None, run_config=run_config()).fit()


def test_a_returned_text_fails_the_trial_and_names_what_is_expected(
    run_config: Callable[..., tune.RunConfig],
) -> None:
    results = tune.Tuner(lambda config: "text", run_config=run_config()).fit()

    assert "return a dict of metrics or a single number" in str(results[0].error)

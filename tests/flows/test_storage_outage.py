"""S3 is away for a minute in the middle of an experiment: nobody but who needs it notices."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tune_core as tune
from examples.seaweedfs import S3Server
from tests.flows.conftest import Recorded
from tests.support.fault_proxy import FaultProxy, Kind, Rule
from tests.support.trials import report_step, running_session, step_of
from tests.support.waiting import wait_for
from tune_core.training.send_queue import SendQueue

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

OUTAGE_S = 60.0


class Heard(tune.Callback):
    """Takes note of when the driver heard what."""

    def __init__(self) -> None:
        self.reports: list[tuple[float, str]] = []

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        self.reports.append((time.monotonic(), trial.config["role"]))


def train(config: dict[str, Any]) -> None:
    marks = Path(config["marks"])
    if config["role"] == "goes on":
        while not (marks / "back").exists():
            tune.report({"step": 0})
            time.sleep(0.2)
        tune.report({"step": 1})
        return
    first = step_of(tune.get_checkpoint()) + 1
    if first == 1:
        running_session()._send_queue = SendQueue(lambda report: None)  # only the commit marker knows of it
    for step in range(first, 4):
        report_step(step)
        if first == 1:
            (marks / "committed").touch()
            wait_for((marks / "away").exists, what="the storage to go", timeout_s=120)
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def proxy(s3: S3Server) -> Iterator[FaultProxy]:
    """The way to S3; it stays open until the journals are replayed, after the test."""
    with FaultProxy(s3.url) as opened:
        yield opened


@pytest.mark.parametrize("kind", ["reset", "status"])
def test_trial_that_dies_while_the_storage_is_away_loses_nothing_and_the_others_go_on(
    kind: Kind,
    run_config: Callable[..., tune.RunConfig],
    recorded: Callable[[str], Recorded],
    s3: S3Server,
    proxy: FaultProxy,
    tmp_path: Path,
) -> None:
    heard, outage = Heard(), []

    def lose_the_storage() -> None:
        wait_for((tmp_path / "committed").exists, what="a checkpoint", timeout_s=120)
        rule = proxy.add(Rule(kind, status=503, code="ServiceUnavailable"))
        (tmp_path / "away").touch()
        began = time.monotonic()
        time.sleep(OUTAGE_S)  # what is tested is how long it is away
        proxy.rules.remove(rule)
        outage.extend([began, time.monotonic()])
        (tmp_path / "back").touch()

    breaker = threading.Thread(target=lose_the_storage)
    breaker.start()
    config = run_config(
        storage_path=f"s3://{s3.bucket}/outage",
        storage_options={**s3.storage_options, "endpoint_url": proxy.url},
        failure_config=tune.FailureConfig(max_failures=1),
        callbacks=[heard],
    )
    space = {"marks": str(tmp_path), "role": tune.grid_search(["dies", "goes on"])}

    dies, goes_on = tune.Tuner(train, param_space=space, run_config=config).fit()

    breaker.join()
    assert dies.error is None
    assert goes_on.error is None
    # The row of the first attempt came by its commit marker, when the storage could be asked again.
    assert [(row["attempt_number"], row["step"]) for row in dies.rows] == [(1, 1), (2, 2), (2, 3)]
    assert step_of(dies.checkpoint) == 3
    began, ended = outage
    in_between = [at for at, role in heard.reports if role == "goes on" and began + 5 < at < ended - 5]
    longest_s = max(b - a for a, b in zip([began + 5, *in_between], [*in_between, ended - 5], strict=True))
    assert longest_s < 5  # the loop never waited for the storage
    assert min(at for at, role in heard.reports if role == "dies") > ended
    states = [run.state_name for run in recorded(config.name).task_runs(3)]
    assert states == ["Crashed", "Completed", "Completed"]

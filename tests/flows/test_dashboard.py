"""The pages and the events of an experiment, as the server has them."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun

import tune_core as tune
from tests.flows.conftest import Recorded
from tests.support.counting import FailAt
from tests.support.waiting import wait_for
from tune_core.control.controller import Controller
from tune_core.control.controller_config import ControllerConfig
from tune_core.engine.artifacts.artifacts import CLOSE_TIMEOUT_S
from tune_core.engine.events import Events
from tune_core.engine.server.contact import Contact
from tune_core.ranking import Objective, Standings
from tune_core.storage.experiment_storage import ExperimentStorage
from tune_core.views.notifications import Notification, Notifier
from tune_core.views.overview import ExperimentSnapshot, Overview

PREFIX = "prefect-tune."


def events_of(client: SyncPrefectClient, run: FlowRun, last: str) -> list[dict[str, Any]]:
    """What was announced in a flow run, oldest first, once `last` is among it."""

    def arrived() -> list[dict[str, Any]]:
        wanted = {
            "event": {"prefix": [PREFIX]},
            "related": {"id": [f"prefect.flow-run.{run.id}"]},
            "order": "ASC",
        }
        answer = client.request("POST", "/events/filter", json={"filter": wanted, "limit": 50})
        found: list[dict[str, Any]] = answer.json()["events"]
        return found if any(event["event"] == PREFIX + last for event in found) else []

    found: list[dict[str, Any]] = wait_for(arrived, what=last)
    return found


def kinds(events: list[dict[str, Any]]) -> Counter[str]:
    return Counter(event["event"].removeprefix(PREFIX) for event in events)


def learn(config: dict[str, Any]) -> None:
    for step in range(1, 4):
        tune.report({"loss": config["x"] / step})
    if config["x"] == 3:
        raise ValueError("made | up")


def test_experiment_has_charts_and_a_summary_and_announces_its_turns(
    run_config: Callable[..., tune.RunConfig],
    recorded: Callable[[str], Recorded],
    client: SyncPrefectClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tune_core.engine.events.HOLD_BEGINNINGS_S", 60.0)
    config = run_config(tags=["nightly"])
    space = {"x": tune.grid_search([2, 1, 3])}
    tune_config = tune.TuneConfig(metric="loss", mode="min", max_concurrent_trials=1)

    results = tune.Tuner(learn, param_space=space, tune_config=tune_config, run_config=config).fit()

    best = results.get_best_result().metrics["trial_id"]  # type: ignore[index]
    seen = recorded(config.name)
    shown = seen.artifacts()
    assert len(re.findall(r"!\[[^\]]*\]\(data:image/svg", str(shown["charts"].data))) == 4
    summary = str(shown["summary"].data)
    assert f"`{best}`: loss **0.333333** (last report, iteration 3, min)" in summary
    failed = re.search(r"\| 1 \| ValueError: made \\\| up \| \S+test\\_dashboard.py:\d+ \|", summary)
    assert failed is not None, summary
    message = str(seen.flow_run.state and seen.flow_run.state.message)
    assert message.startswith("3 trials, 1 failed: ")
    *_, failed_with, first, trace = message.splitlines()
    assert failed_with == "1 trial failed: ValueError: made | up"
    assert re.fullmatch(r"  first: \w+ at \S+test_dashboard\.py:\d+", first)
    assert Path(trace.removeprefix("  traceback: ")).is_file()
    assert f"`{tmp_path}/{config.name}`" in summary
    runs = {run.name: run for run in seen.task_runs(3)}
    page = shown[f"trial-{best.replace('_', '-')}-chart"]
    assert page.task_run_id == runs[f"trial-{best}"].id
    assert len(seen.versions("charts")) == len(seen.versions("summary")) == 1
    # Trials are found from their flow run and by their names: each tag would cost every attempt two requests.
    assert set(seen.flow_run.tags) == {"nightly", best.partition("_")[0]}
    assert {*runs[f"trial-{best}"].tags} == {"nightly"}

    announced = events_of(client, seen.flow_run, "experiment.finished")

    bests = [event["payload"]["value"] for event in announced if event["event"].endswith("new-best")]
    assert (bests[0], bests[-1]) == (2.0, pytest.approx(1 / 3))
    assert bests == sorted({*bests}, reverse=True)
    assert kinds(announced) == {
        "experiment.started": 1,
        "experiment.new-best": len(bests),
        "trial.ended": 3,
        "experiment.finished": 1,
    }
    ids = {
        event["event"]: event["resource"]["prefect.resource.id"] for event in announced if best in str(event)
    }
    experiment_id = best.partition("_")[0]
    assert ids[f"{PREFIX}trial.ended"] == f"{PREFIX}trial.{experiment_id}.{best}"
    assert ids[f"{PREFIX}experiment.new-best"] == f"{PREFIX}experiment.{experiment_id}"
    assert announced[-1]["payload"]["trials"] == {"TERMINATED": 2, "ERROR": 1}

    snapshot = Overview.read(ExperimentStorage.open(str(tmp_path), config.name)).snapshot()
    assert snapshot.held is not None
    assert snapshot.held["CPU"] >= snapshot.used["CPU"] > 0
    assert f"| CPU | {snapshot.used['CPU']:.3g} s |" in summary


@pytest.mark.slow
def test_page_that_cannot_be_made_is_left_out_and_nothing_waits_for_it(
    run_config: Callable[..., tune.RunConfig],
    recorded: Callable[[str], Recorded],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(snapshot: ExperimentSnapshot) -> str:
        raise ZeroDivisionError("made up")

    monkeypatch.setattr("tune_core.engine.artifacts.experiment_pages.charts_page", broken)
    config = run_config()
    began = time.monotonic()

    tune.Tuner(learn, param_space={"x": 1}, run_config=config).fit()

    assert time.monotonic() - began < CLOSE_TIMEOUT_S / 2
    assert {"summary", "leaderboard"} <= {*recorded(config.name).artifacts()}
    assert "charts" not in recorded(config.name).artifacts()
    assert "cannot be made, training goes on" in caplog.text


class Heard(Events):
    """Events that are not sent, but noted."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str | None, int]] = []
        notifier = Notifier(Controller(ControllerConfig("a1b2c")), "e", "file:///e", Standings(Objective()))
        super().__init__(notifier, "a1b2c", "e", Contact(None))

    def hear(self, kind: str, trial_id: str | None = None, attempt: int = 1) -> None:
        self._put([Notification(kind, 0.0, trial_id, {"attempt": attempt})])

    async def _send(self, announcement: Notification, stack: AsyncExitStack) -> None:
        self.sent.append((announcement.kind, announcement.trial_id, announcement.payload["attempt"]))


def test_beginning_of_an_attempt_that_has_ended_meanwhile_is_not_announced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tune_core.engine.events.HOLD_BEGINNINGS_S", 60.0)
    events = Heard()

    events.hear("trial.started", "t1", 1)
    events.hear("trial.started", "t2", 1)
    events.hear("trial.ended", "t1", 1)
    events.hear("trial.started", "t1", 2)
    events.close()

    assert events.sent == [("trial.ended", "t1", 1), ("trial.started", "t2", 1), ("trial.started", "t1", 2)]


def test_beginning_of_an_attempt_that_goes_on_is_announced_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tune_core.engine.events.HOLD_BEGINNINGS_S", 0.05)
    events = Heard()

    events.hear("trial.started", "t1", 1)

    wait_for(lambda: events.sent, what="the beginning")
    events.hear("trial.ended", "t1", 1)
    events.close()
    assert events.sent == [("trial.started", "t1", 1), ("trial.ended", "t1", 1)]


@pytest.mark.slow
def test_experiment_that_goes_on_announces_nothing_twice(
    run_config: Callable[..., tune.RunConfig],
    recorded: Callable[[str], Recorded],
    client: SyncPrefectClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tune_core.engine.events.HOLD_BEGINNINGS_S", 60.0)
    config = run_config(callbacks=[FailAt(5)])
    space = {"x": tune.grid_search([2, 1])}
    tune_config = tune.TuneConfig(metric="loss", mode="min", max_concurrent_trials=1)
    with pytest.raises(RuntimeError, match="the driver broke"):
        tune.Tuner(learn, param_space=space, tune_config=tune_config, run_config=config).fit()
    broken = recorded(config.name).flow_run

    without_callback = replace(config, callbacks=None)
    tune.Tuner.restore(f"{tmp_path}/{config.name}", learn, run_config=without_callback).fit()

    runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(name={"any_": [config.name]}))
    (resumed,) = [run for run in runs if run.id != broken.id]
    after = events_of(client, resumed, "experiment.finished")
    before = events_of(client, broken, "trial.ended")
    assert Counter(event["event"] for event in before if "trial" in event["event"]) == {
        f"{PREFIX}trial.started": 1,  # of the one that had not ended
        f"{PREFIX}trial.ended": 1,
    }
    assert [event["payload"]["resumed"] for event in (before[0], after[0])] == [False, True]
    ended = [
        event["payload"]["trial_id"] for event in [*before, *after] if event["event"].endswith("trial.ended")
    ]
    assert len(ended) == len({*ended}) == 2
    attempts = [event["payload"]["attempt"] for event in after if event["event"].endswith("trial.ended")]
    assert attempts == [2]

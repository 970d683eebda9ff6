"""What trials of tests do, and what is looked up in what they leave."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tune_core as tune
from tune_core.training.session import Session
from tune_core.training.session_binding import current_session

if TYPE_CHECKING:  # trials import this: without Prefect, as users' do
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import TaskRun


def step_of(checkpoint: tune.Checkpoint | None) -> int:
    if checkpoint is None:
        return 0
    with checkpoint.as_directory() as directory:
        return int(Path(directory, "step").read_text())


def report_step(step: int, *, save: bool = True, **metrics: Any) -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "step").write_text(str(step))
        checkpoint = tune.Checkpoint.from_directory(directory) if save else None
        tune.report({"step": step, **metrics}, checkpoint=checkpoint)


def running_session() -> Session:
    session = current_session()
    assert session is not None
    return session


def wait_until_acknowledged(iteration: int) -> None:
    """Return once the rows up to this iteration are in the journal."""
    running_session()._uplink.wait_for_journal(iteration)


def rows_of(result: tune.Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(result.path, "result.json").read_text().splitlines()]


def state_history(client: SyncPrefectClient, run: TaskRun) -> list[str]:
    response = client.request("GET", "/task_run_states/", params={"task_run_id": str(run.id)})
    return [state["name"] for state in sorted(response.json(), key=lambda state: state["timestamp"])]

"""The form of the `steer` deployment, filled in in both of Prefect's UIs while an experiment runs."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.deployments.runner import EntrypointType
from prefect.flow_engine import run_flow

import tune_core as tune
from tests.support.forms import browser_page, choose, in_browser, snapshot, submit, write
from tests.support.requests import RUNNING, TERMINATED, path_of, running, train, tuned
from tune_core.engine.steer import steer
from tune_core.steering.inbox import StopExperiment

pytestmark = in_browser


@pytest.mark.parametrize("ui", ["v1", "v2"])
def test_a_trial_is_stopped_from_the_form_after_one_that_is_not_there_was_refused(
    ui: str,
    api: str,
    client: SyncPrefectClient,
    run_config: Callable[..., tune.RunConfig],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = run_config()
    monkeypatch.setenv("PREFECT_INTEGRATIONS_TUNE_STORAGE_PATH", str(config.storage_path))
    deployment: UUID = steer.to_deployment(f"steer-{ui}", entrypoint_type=EntrypointType.MODULE_PATH).apply()
    root = api.removesuffix("/api") + ("/v2" if ui == "v2" else "")
    assert config.name is not None

    def ask_to_stop(trial: str) -> FlowRun:
        """Fill the form in, and run what it makes."""
        with browser_page() as page:
            page.goto(f"{root}/deployments/deployment/{deployment}/run", wait_until="commit")
            whole = page.locator("body")
            write(whole, "experiment", str(config.name))
            choose(whole, "request", "stop trial")
            write(whole, "Trial id", trial)
            snapshot(page, f"steer-form-{ui}")
            made = submit(page)
        run_flow(steer, flow_run=client.read_flow_run(made), return_type="state")
        return client.read_flow_run(made)

    def look(run: FlowRun, text: str, name: str) -> None:
        with browser_page() as page:
            page.goto(f"{root}/runs/flow-run/{run.id}", wait_until="commit")
            page.get_by_text(text).first.wait_for()
            snapshot(page, f"{name}-{ui}")

    with running(tuned(train, [0, 1], config), path_of(config)) as experiment:
        experiment.wait_for(RUNNING, RUNNING)

        refused = ask_to_stop("5")
        assert refused.state_name == "Failed"
        look(refused, "Failed", "steer-refused")
        accepted = ask_to_stop("1")
        assert accepted.state_name == "Completed"
        look(accepted, f"stop trial · {config.name}", "steer-accepted")

        experiment.wait_for(RUNNING, TERMINATED)
        assert experiment.ask(StopExperiment("enough")).accepted
        experiment.end()

    assert refused.state is not None
    assert str(refused.state.message).startswith("there is no trial '5'")
    assert refused.parameters["request"] == {"stop trial": {"trial_id": "5"}}

"""The form of a deployment's run, filled in in both of Prefect's UIs as somebody without Python would."""

from __future__ import annotations

import re
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.deployments.runner import EntrypointType
from prefect.flow_engine import run_flow

import tune_core as tune
from flows.experiment import experiment
from flows.form import ExperimentForm
from tests.flows.conftest import wait_for
from tests.support.forms import box, browser_page, choose, in_browser, picture, playwright, select, write

pytestmark = in_browser


def fill_in(page: playwright.Page, ui: str, storage: Path) -> None:
    """Describe an experiment with one wrong value."""
    whole = page.locator("body")
    write(whole, "trainable", "tests.flows.test_resume:count")
    space = box(whole, "param_space")
    add = space.get_by_role("button", name=re.compile("^add item$", re.IGNORECASE)).last
    add.click()
    write(space, "Name", "x")
    choose(space, "Sampler", "grid_search")
    write(space, "Values", "1, 2")
    add.click()
    write(space, "Name", "optimizer/lr", 1)
    choose(space, "Sampler", "loguniform", 1)
    write(space, "Lower", "0.001")
    write(space, "Upper", "0.1")
    space.scroll_into_view_if_needed()
    picture(page, f"form-space-{ui}")
    write(whole, "Metric", "score")
    choose(whole, "Scheduler", "median_stopping_rule")
    write(whole, "Storage", str(storage))
    write(whole, "Number of samples", "0")


@pytest.mark.parametrize("ui", ["v1", "v2"])
def test_an_experiment_is_started_from_the_form_after_a_wrong_value_was_refused(
    ui: str, api: str, client: SyncPrefectClient, tmp_path: Path
) -> None:
    made = experiment.to_deployment(f"form-{ui}", entrypoint_type=EntrypointType.MODULE_PATH)
    deployment: UUID = made.apply()
    of_this = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment]))
    root = api.removesuffix("/api") + ("/v2" if ui == "v2" else "")

    with browser_page() as page:
        page.goto(f"{root}/deployments/deployment/{deployment}/run", wait_until="commit")
        fill_in(page, ui, tmp_path)
        page.get_by_role("button", name="Submit").click()
        page.get_by_text("0 is less than the minimum of 1").first.wait_for()
        samples = box(page.locator("body"), "Number of samples")
        samples.scroll_into_view_if_needed()
        picture(page, f"form-refused-{ui}")
        assert client.read_flow_runs(flow_run_filter=of_this) == []

        write(page.locator("body"), "Number of samples", "1")
        select(page, "Mode", "max", ui)
        page.get_by_role("button", name="Submit").click()
        (run,) = wait_for(
            lambda: client.read_flow_runs(flow_run_filter=of_this), what="the flow run", timeout_s=15
        )

    form = ExperimentForm.read(run.parameters)
    tuned = form.tune_config.make()
    assert form.space() == {"x": tune.grid_search([1, 2]), "optimizer": {"lr": tune.loguniform(0.001, 0.1)}}
    assert (tuned.metric, tuned.mode, tuned.num_samples) == ("score", "max", 1)
    assert type(tuned.scheduler).__name__ == "MedianStoppingRule"
    run_flow(experiment, flow_run=run, return_type="state")
    ended = client.read_flow_run(run.id)
    assert ended.state_name == "Completed"
    assert len(tune.Tuner.restore(tmp_path / ended.name, form.trainable).get_results()) == 2

"""The form of a deployment's run, filled in in both of Prefect's UIs as somebody without Python would."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.deployments.runner import EntrypointType
from prefect.flow_engine import run_flow

import tune_core as tune
from tests.support.forms import (
    box,
    browser_page,
    choose,
    in_browser,
    playwright,
    select,
    snapshot,
    submit,
    write,
)
from tune_core.engine.experiment import experiment
from tune_core.engine.form.form import ExperimentForm
from tune_core.engine.steer import steer

pytestmark = in_browser

ROOT = Path(__file__).resolve().parents[2]
#: Every kind of value, in the form that both UIs draw as fields, and as the mappings that a file may have.
WRITTEN = """
in-lists:
  trainable: examples.digits:train_digits
  param_space:
    - { name: a, sampler: { uniform: { lower: 0, upper: 1 } } }
    - { name: opt/b, sampler: { loguniform: { lower: 1.0e-6, upper: 0.01, q: 1.0e-6 } } }
    - { name: c, sampler: { choice: { categories: [16, 32.5, relu, true, null, [8, 8], { d: { e: 2 } }, {}, []] } } }
    - { name: f, sampler: { grid_search: { values: "16, 32" } } }
    - { name: g, sampler: { constant: { value: { a: 1, b: { c: [2] } } } } }
    - { name: h, sampler: { constant: { value: null } } }
    - { name: i, sampler: { constant: { value: [] } } }
    - { name: j, sampler: { constant: { value: false } } }
    - { name: k, sampler: { constant: { value: "" } } }
  tune_config:
    metric: loss
    mode: min
    num_samples: -1
    max_concurrent_trials: 0
    scheduler: { median_stopping_rule: { hard_stop: false } }
    search_alg: { optuna: { points_to_evaluate: [{ a: 1, opt: { b: 2 } }] } }
  run_config:
    stop: [{ metric: training_iteration, at_least: 20 }, { metric: a/b, at_least: 0 }]
    stop_timeout_s: 0
    checkpoint_config: { num_to_keep: 2, checkpoint_at_end: false, async_upload: true }
    sync_config: { sync_artifacts: true, sync_artifacts_on_checkpoint: false }
    tags: [a, b]
    verbose: 0
  resources: { bundles: [{ GPU: 1 }, { CPU: 2, special: 1 }], strategy: SPREAD }
in-mappings:
  trainable: examples.digits:train_digits
  param_space:
    lr: { type: loguniform, lower: 1.0e-4, upper: 1.0e-1 }
    optimizer: { name: adam, beta: { uniform: { lower: 0.8, upper: 0.99 } } }
    name: { choice: [1, null, {}] }
    sampler: 2
  run_config: { stop: { training_iteration: 20, metric: 2 } }
several-metrics:
  trainable: examples.digits:train_digits
  param_space: { lr: { type: loguniform, lower: 1.0e-4, upper: 1.0e-1 } }
  tune_config: { metric: [accuracy, eval/latency_ms, mb], mode: [max, min, min], search_alg: { optuna: {} } }
"""


def fill_in(page: playwright.Page, ui: str, storage: Path) -> None:
    """Describe an experiment with one wrong value."""
    whole = page.locator("body")
    write(whole, "trainable", "tests.support.counting:count")
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
    snapshot(page, f"form-space-{ui}")
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
        snapshot(page, f"form-refused-{ui}")
        assert client.read_flow_runs(flow_run_filter=of_this) == []

        write(page.locator("body"), "Number of samples", "1")
        select(page, "Mode", "max", ui)
        page.get_by_text("0 is less than the minimum of 1").first.wait_for(state="hidden")
        run = client.read_flow_run(submit(page))

    form = ExperimentForm.read(run.parameters)
    tuned = form.tune_config.make()
    assert form.space() == {"x": tune.grid_search([1, 2]), "optimizer": {"lr": tune.loguniform(0.001, 0.1)}}
    assert (tuned.metric, tuned.mode, tuned.num_samples) == ("score", "max", 1)
    assert type(tuned.scheduler).__name__ == "MedianStoppingRule"
    run_flow(experiment, flow_run=run, return_type="state")
    ended = client.read_flow_run(run.id)
    assert ended.state_name == "Completed"
    assert len(tune.Tuner.restore(tmp_path / ended.name, form.trainable).get_results()) == 2


def deployed() -> dict[str, dict[str, Any]]:
    """The experiments' parameters, by the names of their deployments: those of prefect.yaml, and ours."""
    described = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    given = {
        each["name"]: each["parameters"]
        for each in described
        if each["entrypoint"] == "flows/experiment.py:experiment"
    }
    assert [each["name"] for each in described if each["name"] not in given] == ["on-demand", "steer"]
    return given | yaml.safe_load(WRITTEN)


def changed(given: Any, returned: Any, where: str = "") -> list[str]:
    """What is not there any more as it was given; what is there besides does not count."""
    if isinstance(given, dict) and isinstance(returned, dict):
        return [
            fault
            for name, value in given.items()
            for fault in changed(value, returned.get(name, "nothing"), f"{where}.{name}")
        ]
    if isinstance(given, list) and isinstance(returned, list) and len(given) == len(returned):
        pairs = enumerate(zip(given, returned, strict=True))
        return [fault for number, pair in pairs for fault in changed(*pair, f"{where}[{number}]")]
    return [] if given == returned else [f"{where}: {given!r} became {returned!r}"]


def with_first_choices(given: dict[str, Any]) -> ExperimentForm:
    """The form, with the scheduler and the searcher that both UIs send where none is given; they do as none does."""
    chosen = {"scheduler": {"fifo": {}}, "search_alg": {"random": {}}, **given.get("tune_config", {})}
    return ExperimentForm.read({**given, "tune_config": chosen})


@pytest.mark.parametrize("ui", ["v1", "v2"])
def test_a_form_that_nobody_has_touched_sends_what_its_deployment_holds(
    ui: str, api: str, client: SyncPrefectClient
) -> None:
    root = api.removesuffix("/api") + ("/v2" if ui == "v2" else "")
    module = EntrypointType.MODULE_PATH
    deployments: dict[str, UUID] = {
        name: experiment.to_deployment(f"{name}-{ui}", parameters=given, entrypoint_type=module).apply()
        for name, given in deployed().items()
    }
    empty = steer.to_deployment(f"steer-{ui}", entrypoint_type=module).apply()

    sent: dict[str, dict[str, Any]] = {}
    with browser_page() as page:
        for name, deployment in deployments.items():
            page.goto(f"{root}/deployments/deployment/{deployment}/run", wait_until="commit")
            box(page.locator("body"), "Verbosity").wait_for()
            snapshot(page, f"form-{name}-{ui}")
            sent[name] = client.read_flow_run(submit(page)).parameters
        page.goto(f"{root}/deployments/deployment/{empty}/run", wait_until="commit")
        page.get_by_role("button", name="Submit").click()
        page.get_by_text("'experiment' is a required property").first.wait_for()

    for name, given in deployed().items():
        assert changed(given, sent[name]) == [], name
        assert ExperimentForm.read(sent[name]) == with_first_choices(given), name

"""What Prefect shows of an experiment with several metrics, on real servers."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient

import tune_core as tune
from tests.flows.conftest import Recorded
from tests.flows.test_dashboard import events_of, kinds
from tests.support.forms import browser_page, in_browser, snapshot
from tune_core.results.result_grid import ResultGrid
from tune_core.search.optuna import OptunaSearch

#: Of each trial its (acc, ms): two trades, one that is dominated, and one that is best by one and has no other number.
ENDS = ((0.8, 5.0), (0.9, 20.0), (0.7, 9.0), (float("nan"), 1.0))


def learn(config: dict[str, Any]) -> None:
    acc, ms = ENDS[config["trial"]]
    with tempfile.TemporaryDirectory() as directory:
        tune.report({"acc": 0.1, "ms": 50.0})
        tune.report({"acc": acc, "ms": ms}, checkpoint=tune.Checkpoint.from_directory(directory))


def tuned(run_config: tune.RunConfig) -> ResultGrid:
    return tune.Tuner(
        learn,
        param_space={"trial": tune.grid_search([0, 1, 2, 3])},
        tune_config=tune.TuneConfig(metric=["acc", "ms"], mode=["max", "min"], max_concurrent_trials=1),
        run_config=run_config,
    ).fit()


def test_front_is_in_the_artifacts_the_state_message_and_the_events(
    run_config: Callable[..., tune.RunConfig], recorded: Callable[[str], Recorded], client: SyncPrefectClient
) -> None:
    config = run_config()

    results = tuned(config)

    ids = [str((result.metrics or {})["trial_id"]) for result in results]
    assert [(result.config or {})["trial"] for result in results.pareto_front()] == [1, 0]
    seen = recorded(config.name)
    message = str(seen.flow_run.state and seen.flow_run.state.message)
    assert message.splitlines()[1] == (
        "Pareto front: 2 of 4 trials, 1 without a finite number for each metric; "
        f"best acc {ids[1]}=0.9, ms {ids[3]}=1 (last report)"
    )
    shown = seen.artifacts()
    leaders = json.loads(str(shown["leaderboard"].data))
    assert [(row["trial"], row["front"], row["ms"]) for row in leaders] == [
        (ids[1], 1, 20.0),
        (ids[0], 1, 5.0),
        (ids[2], 2, 9.0),
        (ids[3], "", 1.0),
    ]
    assert "front 1 is what no other trial dominates" in str(shown["leaderboard"].description)
    summary = str(shown["summary"].data)
    assert "## Pareto front\n\n2 trials of 4" in summary
    assert "![Pareto front](data:image/svg" in summary
    assert "1 trial has no finite number for each metric: it is on no front, and comes last." in summary
    assert "## Pareto front: acc, ms (last report)\n\n![" in str(shown["charts"].data)
    links = str(shown["best-checkpoint"].data)
    assert links.count("**Best checkpoint**") == 2
    for metric, best in (("acc", results[1]), ("ms", results[3])):
        assert f"by {metric} (last report)" in links
        assert str(best.checkpoint and best.checkpoint.path) in links

    announced = events_of(client, seen.flow_run, "experiment.finished")
    assert kinds(announced)["experiment.front-changed"] >= 1
    assert kinds(announced)["experiment.new-best"] == 0
    finished = announced[-1]["payload"]
    assert [each["trial_id"] for each in finished["front"]] == [ids[1], ids[0]]
    assert (finished["best"], finished["best_checkpoint"]) == (None, None)
    assert finished["best_by_metric"]["ms"]["trial_id"] == ids[3]


def test_sampler_for_several_metrics_searches_on_real_servers(
    run_config: Callable[..., tune.RunConfig],
) -> None:
    optuna = pytest.importorskip("optuna")

    def train(config: dict[str, Any]) -> None:
        tune.report({"acc": config["width"], "ms": config["width"] ** 2 + config["depth"]})

    results = tune.Tuner(
        train,
        param_space={"width": tune.uniform(0, 1), "depth": tune.uniform(0, 1)},
        tune_config=tune.TuneConfig(
            metric=["acc", "ms"],
            mode=["max", "min"],
            num_samples=8,
            search_alg=OptunaSearch(sampler=optuna.samplers.NSGAIISampler(population_size=4, seed=1)),
        ),
        run_config=run_config(),
    ).fit()

    assert (len(results), results.num_errors) == (8, 0)
    assert 1 <= len(results.pareto_front()) <= 8


@pytest.mark.parametrize("ui", ["v1", "v2"])
class TestInABrowser:
    pytestmark = in_browser

    def test_the_front_is_drawn(
        self,
        ui: str,
        run_config: Callable[..., tune.RunConfig],
        recorded: Callable[[str], Recorded],
        api: str,
    ) -> None:
        config = run_config()
        tuned(config)
        root = api.removesuffix("/api") + ("/v2" if ui == "v2" else "")

        for key in ("charts", "summary"):
            artifact = recorded(config.name).artifacts()[key]
            for colours in ("light", "dark"):
                with browser_page() as page:
                    page.emulate_media(color_scheme=colours)
                    page.goto(f"{root}/artifacts/artifact/{artifact.id}", wait_until="commit")
                    drawn = page.locator("img[alt^='Pareto front']").first
                    drawn.wait_for()
                    drawn.scroll_into_view_if_needed()
                    assert drawn.evaluate("image => image.complete && image.naturalWidth") == 760
                    snapshot(page, f"front-{key}-{ui}-{colours}")

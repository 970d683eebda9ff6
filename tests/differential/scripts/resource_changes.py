"""Trials that get other resources on the way: one alone, so that nothing depends on who is faster."""

from __future__ import annotations

from typing import Any

from tests.differential.case import Case, load, save, script


def saving(tune: Any, steps: int = 4) -> Any:
    """A function that saves after each step, and reports its bundles."""

    def train(config: dict[str, Any]) -> None:
        start = int(load(tune, "step") or 0)
        for step in range(start, steps):
            resources = tune.get_context().get_trial_resources()
            bundles = [dict(bundle) for bundle in resources.bundles]
            save(tune, {"step": step, "from": start, "bundles": bundles, "loss": 1.0}, step=step + 1)

    return train


def changes(case: Case, trainable: Any, function: Any, base: Any = None, **tuning: Any) -> Any:
    """The step, the step that its attempt began at, and the bundles, of each report."""
    scheduler = case.module("schedulers").ResourceChangingScheduler(base, function)
    told = case.fit(trainable, {"x": 1}, tuning={"scheduler": scheduler, **tuning})
    if "fit" in told:
        return told["fit"]
    return [[row["step"], row["from"], row["bundles"]] for row in told["results"]["0"]["rows"]]


def functions(case: Case) -> Any:
    return case.module("schedulers.resource_changing_scheduler")


@script("d")
def who_is_alone_gets_what_is_free(tune: Any, case: Case) -> Any:
    share = functions(case).DistributeResources
    return {
        "all": changes(case, saving(tune), share()),
        "but for some": changes(case, saving(tune), share(reserve_resources={"CPU": 1})),
        "in units": changes(case, saving(tune), share(increase_by={"CPU": 2})),
        "at most": changes(case, saving(tune), share(increase_by={"CPU": 1}, increase_by_times=2)),
        "nothing": changes(case, saving(tune), share(reserve_resources={"CPU": 3})),
    }


@script("d")
def gpus_and_bundles_of_their_own(tune: Any, case: Case) -> Any:
    share, factory = functions(case).DistributeResources, tune.PlacementGroupFactory
    with_gpu = tune.with_resources(saving(tune), {"cpu": 1, "gpu": 1})
    in_groups = tune.with_resources(saving(tune), factory([{"CPU": 1}, {"CPU": 1}]))
    return {
        "gpu": changes(case, with_gpu, share()),
        "bundles": changes(case, in_groups, share(add_bundles=True)),
    }


@script("d")
def the_best_job_gets_what_is_free(tune: Any, case: Case) -> Any:
    best = functions(case).DistributeResourcesToTopJob
    asha = case.module("schedulers").ASHAScheduler(max_t=10, grace_period=9)
    return {
        "of the tuner": changes(case, saving(tune), best(), asha, metric="loss", mode="min"),
        "of its own": changes(case, saving(tune), best(metric="loss", mode="max")),
    }


@script("d")
def classes_get_them_too(tune: Any, case: Case) -> Any:
    from pathlib import Path

    class Steps(tune.Trainable):  # type: ignore[misc,name-defined]
        def setup(self, config: dict[str, Any]) -> None:
            self.steps = self.start = 0

        def step(self) -> dict[str, Any]:
            self.steps += 1
            bundles = [dict(bundle) for bundle in self.trial_resources.bundles]
            row = {"step": self.steps - 1, "from": self.start, "bundles": bundles}
            return {**row, "done": self.steps == 4}

        def save_checkpoint(self, directory: str) -> None:
            Path(directory, "steps").write_text(str(self.steps))

        def load_checkpoint(self, directory: Any) -> None:
            self.steps = self.start = int(Path(directory, "steps").read_text())

    return changes(case, Steps, functions(case).DistributeResources())


@script("d")
def functions_of_ones_own(tune: Any, case: Case) -> Any:
    def three(controller: Any, trial: Any, result: dict[str, Any], scheduler: Any) -> Any:
        assert [each.trial_id for each in controller.get_live_trials()] == [trial.trial_id]
        assert len(controller.get_trials()) == 1
        return tune.PlacementGroupFactory([{"CPU": 3 if result["training_iteration"] == 2 else 1}])

    def none(*args: Any) -> None:
        return None

    return {"some": changes(case, saving(tune), three), "none": changes(case, saving(tune), none)}

"""Population based training where every draw has one outcome: who takes over from whom, and with what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.differential.case import Case, Difference, load, save, script

STEP_OF_THE_CHECKPOINT = Difference(
    "`pbt_global.txt` and `pbt_policy_<trial id>.txt`",
    "hold the iteration and the configuration of the checkpoint that was taken over",
    "there those that the donor had last reported, which may be later",
)

OWN_ROWS = Difference(
    "trials that take over under `PopulationBasedTraining(synch=True)`",
    "keep every row that they have reported, and their last one is what their result is",
    "there `result.json` may lack rows, and the result of a trial that took over last is its donor's",
)
_STEPS = {"lines.*.steps.*": STEP_OF_THE_CHECKPOINT}
#: What the population has filled in is in the tag as well.
_FILLED_IN = Difference(
    "the tag of a trial whose parameters `PopulationBasedTraining` fills in",
    "shows them",
    "there it shows what the search space chose alone",
)
_DIFFERS = {
    **_STEPS,
    "trials.*.rows": OWN_ROWS,
    "trials.*.total": OWN_ROWS,
    "trials.*.config.lr": OWN_ROWS,
}


def _trainable(tune: Any) -> Any:
    def train(config: dict[str, Any]) -> None:
        total = float(load(tune, "total") or 0)
        begun = int(load(tune, "step") or 0)
        for step in range(begun + 1, 7):
            total += config["lr"]
            save(tune, {"total": total, "lr": config["lr"]}, total=total, step=step)

    return train


def _told(results: Any) -> Any:
    """The rows that count, the last configurations, and the policy files."""
    trials = []
    for result in sorted(results, key=lambda each: each.metrics["trial_id"]):
        rows = json.loads(f"[{','.join(Path(result.path, 'result.json').read_text().splitlines())}]")
        newest = {row["training_iteration"]: (row["total"], row["lr"]) for row in rows}
        trials.append(
            {"config": result.config, "rows": sorted(newest.items()), "total": result.metrics["total"]}
        )
    policies = [
        [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted(Path(results.experiment_path).glob("pbt_*.txt"))
    ]
    lines = [
        {"tags": line[:2], "steps": line[2:4], "from": line[4], "to": line[5]}
        for lines in policies
        for line in lines
    ]
    return {"trials": trials, "lines": lines, "files": len(policies)}


def _population(
    tune: Any, case: Case, mutations: dict[str, Any], space: dict[str, Any], **options: Any
) -> Any:
    scheduler = case.module("schedulers").PopulationBasedTraining(
        time_attr="training_iteration",
        metric="total",
        mode="max",
        perturbation_interval=2,
        hyperparam_mutations=mutations,
        resample_probability=0.0,
        perturbation_factors=(2.0, 2.0),
        synch=True,
        **options,
    )
    return _told(case.results(_trainable(tune), space, tuning={"scheduler": scheduler}))


@script("c", differs=_DIFFERS)
def worst_takes_over_from_best(tune: Any, case: Case) -> Any:
    space = {"lr": tune.grid_search([1.0, 2.0, 4.0]), "width": 3, "flag": True, "kept": "x"}
    mutations = {"lr": lambda: -1.0, "width": tune.randint(0, 9), "flag": tune.choice([True, False])}
    return _population(tune, case, mutations, space)


@script("c", differs=_DIFFERS)
def half_of_the_trials_take_over(tune: Any, case: Case) -> Any:
    space = {"lr": tune.grid_search([1.0, 2.0])}
    return _population(tune, case, {"lr": lambda: -1.0}, space, quantile_fraction=0.5)


@script("c", differs={**_STEPS, "lines.*.tags.*": _FILLED_IN})
def parameters_that_the_space_leaves_out(tune: Any, case: Case) -> Any:
    space = {"lr": tune.grid_search([1.0, 2.0])}
    return _population(tune, case, {"lr": [8.0], "net": {"width": [16]}}, space)


@script("c")
def nobody_takes_over(tune: Any, case: Case) -> Any:
    space = {"lr": tune.grid_search([1.0, 2.0])}
    return _population(tune, case, {"lr": [1.0, 2.0]}, space, quantile_fraction=0)


@script("c", differs=_DIFFERS)
def custom_function_decides(tune: Any, case: Case) -> Any:
    space = {"lr": tune.grid_search([1.0, 2.0])}
    return _population(tune, case, {}, space, custom_explore_fn=lambda config: {**config, "lr": 5.0})


@script("c")
def arguments_that_are_refused(tune: Any, case: Case) -> Any:
    kind = case.module("schedulers").PopulationBasedTraining
    given: list[dict[str, Any]] = [
        {"hyperparam_mutations": {}},
        {"hyperparam_mutations": {"a": 1}},
        {"hyperparam_mutations": {"a": [1]}, "quantile_fraction": 0.6},
        {"hyperparam_mutations": {"a": [1]}, "perturbation_interval": 0},
        {"hyperparam_mutations": {"a": tune.sample_from(lambda spec: 1)}},
    ]

    def is_refused(options: dict[str, Any]) -> bool:
        try:
            kind(**options)
        except Exception:  # noqa: BLE001 - the type is another one
            return True
        return False

    return [is_refused(options) for options in given]

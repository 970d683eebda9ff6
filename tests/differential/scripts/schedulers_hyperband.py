"""HyperBand: which trials train how far, where every curve is known."""

from __future__ import annotations

from typing import Any

from tests.differential.case import Case, load, save, script


def ends(
    tune: Any, case: Case, scores: list[float], *, steps: int, mode: str = "max", **options: Any
) -> dict[str, int]:
    """Train trials with these scores, which shrink with each step; return the last iteration of each."""

    def train(config: dict[str, Any]) -> None:
        for step in range(int(load(tune, "step") or 0) + 1, config.get("ends_at", steps) + 1):
            if step == config.get("fails_at"):
                raise ValueError("made up")
            save(tune, {"score": scores[config["number"]] / (step + 1)}, step=step)

    scheduler = case.module("schedulers").HyperBandScheduler(**options.pop("scheduler"))
    space = {"number": tune.grid_search(list(range(len(scores))))} | options.pop("space", {})
    results = case.results(
        train, space, tuning={"metric": "score", "mode": mode, "scheduler": scheduler}, **options
    )
    return {
        str(result.config["number"]): result.metrics.get("training_iteration", 0)
        for result in sorted(results, key=lambda result: result.config["number"])
    }


@script("h")
def hyperband_one_round_of_brackets(tune: Any, case: Case) -> Any:
    """Brackets of 3, 5 and 9 trials."""
    scores = [5, 3, 9, 1, 7, 2, 8, 4, 6, 15, 11, 17, 13, 10, 16, 12, 14]
    return ends(tune, case, scores, steps=20, scheduler={"max_t": 9})


@script("h")
def hyperband_with_less_for_better(tune: Any, case: Case) -> Any:
    """Brackets of 3, 3 and 4 trials."""
    scores = [5, 3, 9, 1, 7, 2, 8, 4, 6, 0.5]
    scheduler = {"max_t": 4, "reduction_factor": 2}
    return ends(tune, case, scores, steps=20, mode="min", scheduler=scheduler)


@script("h")
def hyperband_bracket_that_is_not_full(tune: Any, case: Case) -> Any:
    """Three trials of a bracket for five."""
    return ends(tune, case, [1, 2, 3, 6, 4, 5], steps=20, scheduler={"max_t": 9})


@script("h")
def hyperband_last_trials_may_go_on(tune: Any, case: Case) -> Any:
    scheduler = {"max_t": 3, "stop_last_trials": False}
    return ends(tune, case, [1, 2, 4, 5, 3], steps=6, scheduler=scheduler)


@script("h")
def hyperband_trials_of_equal_scores(tune: Any, case: Case) -> Any:
    return ends(tune, case, [1, 1, 2, 2, 2], steps=20, scheduler={"max_t": 3})


@script("h")
def hyperband_trials_that_end_before_the_milestone(tune: Any, case: Case) -> Any:
    ends_at = tune.sample_from(lambda spec: 2 if spec.config.number == 5 else 20)
    scores = [1, 2, 3, 6, 4, 9, 5, 7]
    return ends(tune, case, scores, steps=20, scheduler={"max_t": 9}, space={"ends_at": ends_at})


@script("h", fails=True)
def hyperband_trial_that_fails_before_the_milestone(tune: Any, case: Case) -> Any:
    fails_at = tune.sample_from(lambda spec: 3 if spec.config.number == 7 else None)
    scores = [1, 2, 3, 6, 4, 9, 5, 7]
    return ends(tune, case, scores, steps=20, scheduler={"max_t": 9}, space={"fails_at": fails_at})


@script("h")
def hyperband_by_its_names(tune: Any, case: Case) -> Any:
    made = {name: tune.create_scheduler(name) for name in ("hyperband", "hb_bohb")}
    return {name: type(each).__name__ for name, each in made.items()}

"""Which configurations trials get, in which order, and what the space may hold."""

from __future__ import annotations

from typing import Any

from tests.differential.case import Case, Difference, plain, script

NOT_EVALUATED = Difference(
    '`{"eval": "…"}` in a search space', "refused", "text is no code; `sample_from` does the same"
)
CHOICE_OF_TEXT = Difference(
    '`tune.choice("abc")`', "refused", "more often than not, a list was meant; there a character is chosen"
)
SAMPLING_FAILS = Difference(
    "a function of `sample_from` that raises",
    "the error names the parameter and what was raised",
    "there the cause is lost",
)
CIRCLE = Difference(
    "parameters that are sampled from each other in a circle",
    "refused, before the first trial",
    "there trials run with placeholders in their configuration",
)


def echo(config: dict[str, Any]) -> dict[str, Any]:
    return {"score": 1}


def configs(case: Case, space: dict[str, Any], **tuning: Any) -> list[Any]:
    """The configurations of an experiment's trials, in order of their creation, without running any."""
    basic = case.module("search.basic_variant" if case.tune.__name__ == "ray.tune" else "search")
    searcher = basic.BasicVariantGenerator(**tuning.pop("searcher", {}))
    results = case.results(echo, space, tuning={**tuning, "search_alg": searcher})
    numbered = sorted((result.metrics["trial_id"].rpartition("_")[2], result) for result in results)
    return [plain(result.config) for _, result in numbered]


@script("f")
def grid_varies_its_first_key_fastest(tune: Any, case: Case) -> Any:
    return configs(
        case,
        {
            "b": tune.grid_search([1, 2]),
            "a": tune.grid_search(["x", "y"]),
            "c": {"d": tune.grid_search([True])},
        },
    )


@script("f")
def samples_repeat_the_grid(tune: Any, case: Case) -> Any:
    return configs(case, {"a": tune.grid_search([1, 2]), "fixed": [1, (2, 3)]}, num_samples=2)


@script("f")
def samples_from_functions(tune: Any, case: Case) -> Any:
    functions: dict[str, Any] = {
        "nothing": lambda: 7,
        "attribute": lambda spec: spec.config.a * 2,
        "item": lambda spec: spec["config"]["a"] * 3,
        "config": lambda config: config["a"] * 4,
    }
    return {
        name: case.attempt(lambda function=function: configs(case, {"a": 3, "b": tune.sample_from(function)}))
        for name, function in functions.items()
    }


@script("f")
def samples_from_what_was_sampled(tune: Any, case: Case) -> Any:
    space = {
        "a": tune.choice([3]),
        "b": tune.sample_from(lambda spec: spec.config.a * 2),
        "c": tune.sample_from(lambda spec: spec.config.b + 1),
    }
    first = {name: space[name] for name in ("a", "b")}
    return {"of a sampler": configs(case, first), "of a function": case.attempt(lambda: configs(case, space))}


@script("f")
def spaces_may_nest(tune: Any, case: Case) -> Any:
    return configs(
        case,
        {
            "model": {
                "layers": [tune.choice([8]), tune.choice([16])],
                "deep": {"er": tune.grid_search([1, 2])},
            },
            "pair": (tune.choice(["x"]), 5),
        },
    )


@script("f", fails=True, differs={"": NOT_EVALUATED})
def text_that_is_evaluated(tune: Any, case: Case) -> Any:
    return case.attempt(lambda: configs(case, {"a": 1, "b": {"eval": "spec.config.a + 1"}}))


@script("f", fails=True, differs={"": CHOICE_OF_TEXT})
def choice_of_text(tune: Any, case: Case) -> Any:
    return case.attempt(lambda: tune.choice("ab").sample() in "ab")


@script("f")
def samples_stay_within_their_bounds(tune: Any, case: Case) -> Any:
    def check(
        domain: Any, low: float, high: float, *, whole: bool = False, step: float | None = None
    ) -> list[bool]:
        values = [domain.sample() for _ in range(200)]
        return [
            all(low <= value <= high for value in values),
            all(isinstance(value, int) or float(value).is_integer() for value in values) == whole,
            step is None or all(abs(value / step - round(value / step)) < 1e-6 for value in values),
            len(set(values)) > 1,
        ]

    return {
        "uniform": check(tune.uniform(-1, 2), -1, 2),
        "quniform": check(tune.quniform(-1, 2, 0.25), -1, 2, step=0.25),
        "loguniform": check(tune.loguniform(1e-4, 1), 1e-4, 1),
        "qloguniform": check(tune.qloguniform(0.5, 8, 0.25), 0.5, 8, step=0.25),
        "randint": check(tune.randint(0, 4), 0, 3, whole=True),
        "qrandint": check(tune.qrandint(0, 12, 3), 0, 12, whole=True, step=3),
        "qrandint 1": check(tune.qrandint(0, 4, 1), 0, 3, whole=True),
        "lograndint": check(tune.lograndint(1, 100), 1, 99, whole=True),
        "qlograndint": check(tune.qlograndint(4, 100, 4), 4, 100, whole=True, step=4),
        "randn": check(tune.randn(0, 1), -9, 9),
        "qrandn": check(tune.qrandn(0, 1, 0.5), -9, 9, step=0.5),
        "choice": [tune.choice([5]).sample(), sorted({tune.choice(["a", "b"]).sample() for _ in range(50)})],
    }


@script("f", fails=True)
def domains_that_are_refused(tune: Any, case: Case) -> Any:
    return {
        "log of 0": case.attempt(lambda: tune.loguniform(0, 1).sample() and None),
        "log of a negative": case.attempt(lambda: tune.loguniform(-1, 1)),
        "log int of 0": case.attempt(lambda: tune.lograndint(0, 10)),
        "step does not divide": case.attempt(lambda: tune.quniform(0, 1, 0.3).sample() and None),
        "step does not divide log": case.attempt(lambda: tune.qloguniform(0.1, 1, 0.3).sample() and None),
    }


@script("f")
def names_show_what_varies(tune: Any, case: Case) -> Any:
    told = case.fit(
        echo,
        {
            "lr": tune.grid_search([0.123456, 1e-7]),
            "name": tune.grid_search(["a b/c"]),
            "deep": {"er": tune.grid_search([3])},
            "fixed": 5,
        },
    )
    return {
        number: [one["dirname"], one["metrics"]["experiment_tag"]] for number, one in told["results"].items()
    }


@script("f")
def points_come_first(tune: Any, case: Case) -> Any:
    points = [{"a": 100, "b": "p"}, {"b": "q"}]
    return configs(
        case,
        {"a": tune.grid_search([1, 2]), "b": tune.choice(["r"])},
        num_samples=3,
        searcher={"points_to_evaluate": points},
    )


@script("f")
def random_values_may_be_constant_over_the_grid(tune: Any, case: Case) -> Any:
    space = {"a": tune.grid_search([1, 2, 3]), "b": tune.uniform(0, 1)}
    constant = configs(case, dict(space), searcher={"constant_grid_search": True})
    drawn = configs(case, dict(space))
    return {"constant": len({one["b"] for one in constant}), "drawn": len({one["b"] for one in drawn})}


@script("f")
def seed_repeats_the_configurations(tune: Any, case: Case) -> Any:
    space = {"a": tune.uniform(0, 1), "b": tune.randint(0, 1000), "c": tune.choice(range(1000))}
    first, second, other = (
        configs(case, dict(space), num_samples=2, searcher={"random_state": seed}) for seed in (7, 7, 8)
    )
    return {"same": first == second, "other": first == other, "distinct": first[0] != first[1]}


@script("f")
def values_of_any_kind(tune: Any, case: Case) -> Any:
    def train(config: dict[str, Any]) -> dict[str, Any]:
        return {"kinds": [type(config[name]).__name__ for name in sorted(config)]}

    told = case.fit(
        train,
        {
            "chosen": tune.choice([{"nested": 1}]),
            "function": len,
            "list": [1, 2],
            "none": None,
            "object": complex(1, 2),
            "tuple": (1, 2),
        },
    )
    return told["results"]["0"]["metrics"]["kinds"]


@script("f", fails=True, differs={"raises.fit.text": SAMPLING_FAILS, "circle": CIRCLE})
def function_that_fails_to_sample(tune: Any, case: Case) -> Any:
    def fail(spec: Any) -> None:
        raise ValueError("made up")

    circle = {
        "a": tune.sample_from(lambda spec: spec.config.b),
        "b": tune.sample_from(lambda spec: spec.config.a),
    }
    return {
        "raises": case.fit(echo, {"a": tune.sample_from(fail)}),
        "circle": case.attempt(lambda: case.results(echo, dict(circle)).num_errors),
    }


@script("f")
def space_without_anything_to_search(tune: Any, case: Case) -> Any:
    return {"fixed": configs(case, {"a": 1}, num_samples=2), "empty": configs(case, {})}

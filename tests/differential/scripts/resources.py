"""What trials ask of the cluster, and what their own tasks and actors get."""

from __future__ import annotations

from typing import Any

from tests.differential.case import Case, Difference, script

IS_A_WRAPPER = Difference("`with_resources`", "returns a wrapper", "there it changes your function")
GROUPS_THAT_CANNOT_WORK = Difference(
    "`PlacementGroupFactory` of empty bundles only, or with an unknown option",
    "a `ConfigError` that names every fault",
    "there two empty bundles are taken, and the option is a `RuntimeError`",
)
EACH_CHILD_IS_CHECKED = Difference(
    "a task or an actor that only the trial's own bundle has room for",
    "is refused each time",
    "there only the first of each size is, and the next one waits for ever",
)


def bundles_of(tune: Any) -> Any:
    """A function that reports which bundles it has."""

    def train(config: dict[str, Any]) -> dict[str, Any]:
        import ray

        resources = tune.get_context().get_trial_resources()
        group = ray.util.get_current_placement_group()
        return {
            "asked": resources.required_resources,
            "bundles": group.bundle_specs,
            "head": [resources.head_cpus, resources.head_bundle_is_empty],
            "gpus": len(ray.get_gpu_ids()),
        }

    return train


def got(case: Case, trainable: Any, space: dict[str, Any] | None = None) -> Any:
    told = case.fit(trainable, space)
    if "fit" in told:
        return told["fit"]
    keys = ("asked", "bundles", "head", "gpus")
    return [
        one["error"] or {key: one["metrics"][key] for key in keys}
        for _, one in sorted(told["results"].items())
    ]


@script("d")
def requests_of_every_form(tune: Any, case: Case) -> Any:
    factory = tune.PlacementGroupFactory
    requests: dict[str, Any] = {
        "dict": {"cpu": 2},
        "capitals": {"CPU": 1, "GPU": 1},
        "gpu only": {"gpu": 1},
        "custom": {"cpu": 1, "special": 1},
        "fraction": {"cpu": 0.5, "gpu": 0.5},
        "group": factory([{"CPU": 1}, {"CPU": 1}]),
        "empty head": factory([{}, {"CPU": 1}]),
        "empty": {},
    }
    told = {name: got(case, tune.with_resources(bundles_of(tune), one)) for name, one in requests.items()}
    return told | {"default": got(case, bundles_of(tune))}


@script("d")
def requests_by_configuration(tune: Any, case: Case) -> Any:
    factory = tune.PlacementGroupFactory
    shaped = tune.with_resources(bundles_of(tune), lambda config: factory([{"CPU": 1}] * config["bundles"]))
    return got(case, shaped, {"bundles": tune.grid_search([1, 2, 3])})


@script("d")
def groups_as_values(tune: Any, case: Case) -> Any:
    factory = tune.PlacementGroupFactory
    zeros = factory([{"CPU": 1, "GPU": 0}, {"GPU": 2}, {}])
    empty = factory([{}, {"CPU": 2}], strategy="SPREAD")
    return {
        "bundles": zeros.bundles,
        "sum": zeros.required_resources,
        "head": [zeros.head_cpus, zeros.head_bundle_is_empty],
        "strategy": [zeros.strategy, empty.strategy],
        "empty head": [empty.bundles, empty.required_resources, empty.head_cpus, empty.head_bundle_is_empty],
        "equal": factory([{"CPU": 1}]) == factory([{"CPU": 1.0}]),
        "other strategy": factory([{"CPU": 1}]) == factory([{"CPU": 1}], strategy="SPREAD"),
        "hash": hash(factory([{"CPU": 1}])) == hash(factory([{"CPU": 1}])),
    }


@script(
    "d",
    fails=True,
    differs={"two empty": GROUPS_THAT_CANNOT_WORK, "unknown option.$raised": GROUPS_THAT_CANNOT_WORK},
)
def groups_that_are_refused(tune: Any, case: Case) -> Any:
    factory = tune.PlacementGroupFactory
    return {
        "no bundles": case.attempt(lambda: factory([])),
        "all empty": case.attempt(lambda: factory([{}])),
        "two empty": case.attempt(lambda: factory([{}, {}]).bundles),
        "unknown option": case.attempt(lambda: factory([{"CPU": 1}], surprise=1)),
    }


@script("d", fails=True)
def requests_that_are_refused(tune: Any, case: Case) -> Any:
    def train(config: dict[str, Any]) -> None: ...

    return {
        "number": case.attempt(lambda: tune.with_resources(train, 3)),
        "no callable": case.attempt(lambda: tune.with_resources("train", {"cpu": 1})),
        "another class": case.attempt(lambda: tune.with_resources(dict, {"cpu": 1})),
    }


@script("d", differs={"same object": IS_A_WRAPPER})
def request_changes_the_function(tune: Any, case: Case) -> Any:
    def train(config: dict[str, Any]) -> None: ...

    wrapped = tune.with_resources(train, {"cpu": 2})
    return {"same object": wrapped is train, "name": wrapped.__name__}


@script("d")
def request_of_a_class(tune: Any, case: Case) -> Any:
    def make(request: Any) -> Any:
        class Asks(tune.Trainable):  # type: ignore[misc]
            @classmethod
            def default_resource_request(cls, config: dict[str, Any]) -> Any:
                return request(config)

            def step(self) -> dict[str, Any]:
                return {"asked": self.trial_resources.required_resources, "done": True}

        return Asks

    def asked(trainable: Any, space: dict[str, Any] | None = None) -> Any:
        results = case.results(trainable, space, checkpoint_config=case.no_checkpoints())
        return [result.error or result.metrics["asked"] for result in results]

    factory = tune.PlacementGroupFactory
    by_config = make(lambda config: factory([{"CPU": config["n"]}]))
    return {
        "factory": asked(by_config, {"n": tune.grid_search([1, 2])}),
        "dict": asked(make(lambda config: {"cpu": 2})),
        "none": asked(make(lambda config: None)),
        "overridden": asked(tune.with_resources(by_config, {"cpu": 3}), {"n": 1}),
        "name": tune.with_resources(by_config, {"cpu": 3}).__name__,
    }


@script("d")
def children_are_in_the_bundles(tune: Any, case: Case) -> Any:
    def train(config: dict[str, Any]) -> dict[str, Any]:
        import ray
        from ray.util import get_current_placement_group

        def group() -> str | None:
            found = get_current_placement_group()
            return found.id.hex() if found else None

        class Child:
            def group(self) -> str | None:
                return group()

        own = group()
        task = ray.remote(num_cpus=1)(group).remote()
        actor = ray.remote(num_cpus=0, num_gpus=1)(Child).remote()
        outside = ray.remote(num_cpus=1)(group).options(scheduling_strategy="DEFAULT").remote()
        return {
            "task": ray.get(task) == own,
            "actor": ray.get(actor.group.remote()) == own,
            "outside": ray.get(outside) is None,
        }

    shaped = tune.with_resources(train, tune.PlacementGroupFactory([{"CPU": 1}, {"CPU": 1}, {"GPU": 1}]))
    return case.fit(shaped)


@script("d", fails=True, differs={"**.actor": EACH_CHILD_IS_CHECKED})
def child_that_fits_no_bundle(tune: Any, case: Case) -> Any:
    def train(config: dict[str, Any]) -> dict[str, Any]:
        import ray

        class Child: ...

        def refused(launch: Any) -> list[Any]:
            try:
                launch()
            except Exception as error:  # noqa: BLE001 - it is the outcome
                says = "No trial resources are available for launching the"
                return [isinstance(error, RuntimeError), isinstance(error, ValueError), says in str(error)]
            return []

        return {
            "task": refused(lambda: ray.remote(num_cpus=1)(lambda: 1).remote()),
            "actor": refused(lambda: ray.remote(num_cpus=1)(Child).remote()),
            "too wide": refused(lambda: ray.remote(num_cpus=9)(lambda: 1).remote()),
            "fits": refused(lambda: ray.remote(num_cpus=0, num_gpus=1)(Child).remote()),
        }

    return case.fit(tune.with_resources(train, tune.PlacementGroupFactory([{"CPU": 1}, {"GPU": 1}])))

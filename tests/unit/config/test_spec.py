"""What is written of an experiment is enough to make it again, executes nothing and shows no secret."""

from __future__ import annotations

import datetime
import enum
import importlib
import inspect
import json
import math
import pkgutil
import random
import tempfile
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tune_core as tune
from tune_core.config import spec
from tune_core.encoding import dumps, loads
from tune_core.errors import ConfigError, SpecError
from tune_core.init_args import RecordsArguments, arguments_of, make
from tune_core.logger.callbacks import (
    CSVLoggerCallback,
    ErrorLoggerCallback,
    JsonLoggerCallback,
    LoggerCallback,
)
from tune_core.schedulers import (
    PB2,
    AsyncHyperBandScheduler,
    DistributeResources,
    DistributeResourcesToTopJob,
    FIFOScheduler,
    HyperBandForBOHB,
    HyperBandScheduler,
    MedianStoppingRule,
    MultiObjectiveASHAScheduler,
    OptunaPruner,
    PopulationBasedTraining,
    PopulationBasedTrainingReplay,
    ResourceChangingScheduler,
    TrialScheduler,
)
from tune_core.search import (
    BasicVariantGenerator,
    Categorical,
    ConcurrencyLimiter,
    Domain,
    Float,
    Function,
    Integer,
    Repeater,
    Searcher,
)
from tune_core.search.bayesopt import BayesOptSearch
from tune_core.search.bohb import TuneBOHB
from tune_core.search.hyperopt import HyperOptSearch
from tune_core.search.nevergrad import NevergradSearch
from tune_core.search.optuna import OptunaSearch
from tune_core.stopper import (
    CombinedStopper,
    DictStopper,
    ExperimentPlateauStopper,
    FunctionStopper,
    MaximumIterationStopper,
    NoopStopper,
    Stopper,
    TimeoutStopper,
    TrialPlateauStopper,
)
from tune_core.testing.simulator import SimulatedRun, simulate

SECRET = "s3cr3t"


def described(
    space: dict[str, Any] | None = None,
    tune_config: tune.TuneConfig | None = None,
    run_config: tune.RunConfig | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A description that has been to a file and back."""
    data = spec.describe(
        name="digits",
        experiment_id="a1b2c",
        trainable_name="train",
        param_space=space or {},
        tune_config=tune_config or tune.TuneConfig(),
        run_config=run_config or tune.RunConfig(),
        **more,
    )
    plain: dict[str, Any] = json.loads(json.dumps(data, allow_nan=False))
    assert plain == data, "not plain JSON"
    assert loads(dumps(data)) == data
    return plain


def again(data: dict[str, Any]) -> dict[str, Any]:
    """The description of what was rebuilt from a description."""
    return described(
        spec.rebuild_param_space(data), spec.rebuild_tune_config(data), spec.rebuild_run_config(data)
    )


# Every class of ours can be described.


def an_empty_file() -> str:
    """A policy file in which nothing ever changed."""
    path = Path(tempfile.mkdtemp(), "pbt_policy_a1b2c_00000.txt")
    path.touch()
    return str(path)


#: One object of each class, made with every argument that can be described, and with no default.
OBJECTS: list[RecordsArguments] = [
    BasicVariantGenerator([{"lr": 0.5}], 3, True, 7, dedupe=True),
    ConcurrencyLimiter(BasicVariantGenerator(random_state=1), 2, batch=True),
    Repeater(ConcurrencyLimiter(BasicVariantGenerator(), 2), repeat=3, set_index=False),
    OptunaSearch(
        {"net": {"lr": tune.uniform(0.0, 1.0), "act": tune.choice(["relu", "tanh"])}},
        "loss",
        "min",
        points_to_evaluate=[{"net": {"lr": 0.5, "act": "relu"}}],
        study_name="mine",
        seed=3,
        evaluated_rewards=[0.25],
    ),
    OptunaSearch(
        sampler="random", sampler_options={}, constraints={"latency_ms": ("<=", 20)}, dedupe=False, seed=1
    ),
    OptunaSearch({"lr": optuna.distributions.FloatDistribution(1e-5, 0.1, log=True)}, "loss", "min", seed=1),
    TuneBOHB(
        {"net": {"lr": tune.uniform(0.0, 1.0)}},
        {"min_points_in_model": 5, "random_fraction": 0.5},
        "loss",
        "min",
        points_to_evaluate=[{"net": {"lr": 0.5}}],
        seed=3,
        max_concurrent=4,
    ),
    HyperOptSearch({"x": tune.uniform(0, 1)}, "loss", "min", [{"x": 0.5}], 5, 3, 0.3),
    BayesOptSearch(
        {"x": tune.uniform(0, 1)}, "loss", "min", [{"x": 0.5}], {"kind": "ei", "xi": 0.1}, 3, 5, 0, 4, False
    ),
    NevergradSearch("OnePlusOne", {"budget": 9}, {"x": tune.uniform(0, 1)}, "loss", "min", [{"x": 0.5}], 3),
    FIFOScheduler(),
    AsyncHyperBandScheduler("steps", "loss", "min", 90, 2, 3, 2, False, seed=5, type="promotion"),
    MultiObjectiveASHAScheduler(
        "steps", ["loss", "size"], ["min", "max"], 90, 2, 3, 2, False, seed=5, type="promotion"
    ),
    OptunaPruner("wilcoxon", {"p_threshold": 0.2}, "fold", "loss", "min"),
    OptunaPruner(optuna.pruners.PercentilePruner(25.0, n_warmup_steps=2), metric="loss", mode="min"),
    HyperBandForBOHB("steps", "loss", "min", 9, 2, False),
    HyperBandScheduler("steps", "loss", "max", 27, 2.5, False),
    MedianStoppingRule("steps", "loss", "max", 1, 2, 3, False),
    PopulationBasedTraining(
        "steps",
        "loss",
        "max",
        5,
        6,
        {
            "lr": tune.uniform(0.0, 1.0),
            "net": {"width": [8, 16], "depth": {"type": "randint", "lower": 1, "upper": 3}},
        },
        0.5,
        0.1,
        (2.0, 0.5),
        "math:sqrt",
        False,
        False,
        True,
        seed=7,
    ),
    PopulationBasedTrainingReplay(an_empty_file()),
    PB2(
        "steps",
        "loss",
        "max",
        5,
        {"lr": [0.0, 1.0], "net": {"width": (1, 3)}},
        0.5,
        False,
        False,
        True,
        "math:sqrt",
        seed=7,
    ),
    DistributeResources(False, {"CPU": 2}, 3, {"CPU": 1}),
    DistributeResourcesToTopJob(True, {"GPU": 1}, 2, {"CPU": 1}, "loss", "min"),
    ResourceChangingScheduler(AsyncHyperBandScheduler(seed=1), DistributeResources(True, {"CPU": 2})),
    NoopStopper(),
    DictStopper({"loss": 0.5, "eval/accuracy": math.pi}),
    CombinedStopper(MaximumIterationStopper(3), TimeoutStopper(60)),
    MaximumIterationStopper(3),
    TimeoutStopper(datetime.timedelta(minutes=3)),
    TrialPlateauStopper("loss", 0.1, 2, 3, 0.5, "min"),
    ExperimentPlateauStopper("loss", 0.1, 4, "max", 2),
    LoggerCallback(),
    JsonLoggerCallback(),
    CSVLoggerCallback(),
    ErrorLoggerCallback(),
    tune.CLIReporter(
        metric_columns={"loss": "error"},
        parameter_columns=["lr"],
        total_samples=4,
        max_progress_rows=5,
        max_error_rows=6,
        max_column_length=7,
        max_report_frequency=8,
        infer_limit=9,
        print_intermediate_tables=False,
        metric="loss",
        mode="min",
        sort_by_metric=True,
    ),
    tune.JupyterNotebookReporter(overwrite=False, metric_columns=["loss"]),
]
#: Arguments that only the user can give again.
ONLY_BY_THE_USER = {
    "OptunaSearch": {"storage"},
    "TimeoutStopper": {"clock"},
    "FunctionStopper": {"function"},
    "JsonLoggerCallback": {"files"},
    "CSVLoggerCallback": {"files"},
    "ErrorLoggerCallback": {"files"},
}


def subclasses(cls: type) -> Iterator[type]:
    for each in cls.__subclasses__():
        yield each
        yield from subclasses(each)


def classes_of_ours() -> set[type]:
    """Every class of the library that a user may put into a configuration."""
    for module in pkgutil.walk_packages(importlib.import_module("tune_core").__path__, "tune_core."):
        if not module.name.startswith(("tune_core.testing", "tune_core.engine", "tune_core.cli")):
            importlib.import_module(module.name)
    bases = (RecordsArguments, Domain)
    return {
        cls
        for base in bases
        for cls in subclasses(base)
        if cls.__module__.startswith("tune_core.") and ".testing" not in cls.__module__
        # What derives directly from the recording itself is there to be derived from.
        if not inspect.isabstract(cls) and not cls.__name__.startswith("_") and base not in cls.__bases__[:1]
    } | set(Domain.__subclasses__())


def test_every_class_that_a_configuration_may_hold_is_described() -> None:
    ours = {cls for cls in classes_of_ours() if cls.__module__.startswith("tune_core.")}

    assert {Float, FIFOScheduler, OptunaSearch, TimeoutStopper, CSVLoggerCallback, tune.CLIReporter} < ours
    assert ours == {type(each) for each in OBJECTS} | {FunctionStopper, Float, Integer, Categorical, Function}
    assert set(spec.REBUILDABLE.values()) == {cls for cls in ours if not issubclass(cls, Domain)}


def test_every_argument_of_every_class_is_tried() -> None:
    tried: dict[str, set[str]] = {}
    for each in OBJECTS:
        tried.setdefault(type(each).__name__, set()).update(arguments_of(each))
    for name, cls in spec.REBUILDABLE.items():
        arguments = set(inspect.signature(cls).parameters) if "__init__" in dir(cls) else set()
        left = arguments - tried.get(name, set()) - ONLY_BY_THE_USER.get(name, set()) - {"args", "kwargs"}
        if issubclass(cls, tune.JupyterNotebookReporter):
            left -= tried["CLIReporter"]
        assert not left, f"{name}: {left}"


@pytest.mark.parametrize("given", OBJECTS, ids=lambda each: type(each).__name__)
def test_object_is_made_again_with_its_arguments(given: RecordsArguments) -> None:
    data = described({"object": given})

    made = spec.rebuild_param_space(data)["object"]

    assert type(made) is type(given)
    assert made is not given
    assert described({"object": made}) == data
    assert arguments_of(made).keys() == arguments_of(given).keys()


def test_every_sampler_is_described() -> None:
    from tune_core.search import space

    assert set(spec.SAMPLERS.values()) == set(space.SAMPLERS) - {tune.grid_search}


@pytest.mark.parametrize(
    "sampler",
    [
        tune.uniform(-1, 2.5),
        tune.quniform(0, 0.3, 0.1),
        tune.loguniform(1e-300, 1e300),
        tune.qloguniform(0.5, 8, 0.5),
        tune.randn(),
        tune.randn(10, 2),
        tune.qrandn(10, 2, 0.2),
        tune.randint(0, 2**70),
        tune.qrandint(1, 12, 4),
        tune.qrandint(1, 12, 1),
        tune.lograndint(1, 1000),
        tune.qlograndint(2, 6, 2),
        tune.choice([1, "a", None, (1, 2), {"a": tune.uniform(0, 1)}, float("inf"), b"raw"]),
    ],
    ids=repr,
)
def test_sampler_is_made_again_as_it_was(sampler: Domain) -> None:
    assert spec.rebuild_param_space(described({"a": {"b": [sampler]}})) == {"a": {"b": [sampler]}}


# Properties.

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)


@st.composite
def samplers(draw: Callable[..., Any]) -> Domain:
    low, high = sorted((draw(NUMBERS), draw(NUMBERS)))
    start, size = draw(st.integers(1, 50)), draw(st.integers(1, 50))
    kind = draw(st.sampled_from(("uniform", "randn", "randint", "lograndint", "qrandint", "loguniform")))
    match kind:
        case "uniform":
            return tune.uniform(low, high)
        case "randn":
            return tune.randn(low, abs(high) + 1)
        case "loguniform":
            return tune.loguniform(abs(low) + 1, abs(low) + abs(high) + 2)
        case "qrandint":
            return tune.qrandint(start, start * (size + 1), start)
    return getattr(tune, kind)(start, start + size)  # type: ignore[no-any-return]


CONSTANTS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5)
    | st.sampled_from([np.float64(0.5), np.int32(3), np.bool_(True), datetime.timedelta(seconds=0.25)])
)
KEYS = st.text(max_size=3) | st.sampled_from(
    ["$float", "$tuple", "$undescribed", "arguments", "$object", "$"]
)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=3)
        | st.lists(inner, min_size=1, max_size=3).map(tune.choice)
        | st.lists(inner, min_size=1, max_size=2).map(tune.grid_search)
    )


SPACES = st.dictionaries(
    KEYS, st.recursive(CONSTANTS | samplers(), containers, max_leaves=6), min_size=1, max_size=4
)


def first_configs(space: dict[str, Any], seed: int, count: int = 5) -> list[bytes]:
    searcher = BasicVariantGenerator(random_state=seed)
    searcher.set_search_properties(None, None, space, num_samples=count)
    answers = (searcher.suggest(str(number)) for number in range(count))
    return [dumps(each.config) for each in answers if not isinstance(each, str)]


@given(SPACES, st.integers(0, 1000))
def test_rebuilt_space_gives_the_same_configurations(space: dict[str, Any], seed: int) -> None:
    data = described(space)

    rebuilt = spec.rebuild_param_space(data)

    assert spec.missing(data) == []
    assert first_configs(rebuilt, seed) == first_configs(space, seed)
    assert described(rebuilt) == data


@given(
    st.sampled_from(["min", "max"]),
    st.integers(1, 5) | st.just(-1),
    st.none() | st.integers(0, 3),
    st.none() | st.integers(1, 10**6).map(lambda seconds: datetime.timedelta(seconds=seconds / 7)),
    st.none() | st.integers(1, 9).map(lambda limit: ConcurrencyLimiter(BasicVariantGenerator(), limit)),
    st.none() | st.integers(1, 99).map(lambda most: AsyncHyperBandScheduler(max_t=most)),
    st.booleans(),
)
def test_rebuilt_tune_config_is_described_the_same(
    mode: Any, samples: int, limit: Any, budget: Any, searcher: Any, scheduler: Any, reuse: bool
) -> None:
    config = tune.TuneConfig(
        mode,
        "eval/loss",
        searcher,
        scheduler,
        samples,
        limit,
        budget,
        reuse,
        max_reuses=3 if reuse else None,
        max_reuse_memory=10**9 if reuse else None,
    )
    data = described(tune_config=config)

    assert described(tune_config=config) == data, "describing changes nothing"
    assert again(data) == data
    rebuilt = spec.rebuild_tune_config(data)
    assert (rebuilt.time_budget_s, rebuilt.num_samples) == (budget, samples)


@given(
    st.none()
    | st.dictionaries(st.sampled_from(["loss", "a/b"]), NUMBERS)
    | st.integers(1, 9).map(MaximumIterationStopper)
    | st.lists(st.integers(1, 9).map(TimeoutStopper), max_size=2),
    st.integers(-1, 5),
    st.none() | st.integers(1, 5),
    st.booleans() | st.just("out.txt") | st.just(("out", "err")),
    st.none() | st.sets(st.text(min_size=1, max_size=3), max_size=3),
)
def test_rebuilt_run_config_is_described_the_same(
    stop: Any, failures: int, keep: Any, log: Any, tags: Any
) -> None:
    config = tune.RunConfig(
        name="mine",
        failure_config=tune.FailureConfig(failures),
        checkpoint_config=tune.CheckpointConfig(keep, "loss", "min", checkpoint_frequency=2),
        sync_config=tune.SyncConfig(sync_artifacts=True),
        stop=stop,
        log_to_file=log,
        tags=tags,
        callbacks=[CSVLoggerCallback()],
        progress_reporter=tune.CLIReporter(metric="loss", mode="min"),
        stop_timeout_s=3.5,
    )
    data = described(run_config=config)

    assert again(data) == data
    rebuilt = spec.rebuild_run_config(data, name="other", storage_path="/elsewhere")
    assert (rebuilt.name, rebuilt.storage_path, rebuilt.log_to_file) == ("other", "/elsewhere", log)
    assert rebuilt.checkpoint_config == config.checkpoint_config
    assert rebuilt.sync_config == config.sync_config


# What is rebuilt does what the original does.


def run_of(space: dict[str, Any], tune_config: tune.TuneConfig, run_config: tune.RunConfig) -> SimulatedRun:
    def curve(config: dict[str, Any], iteration: int) -> tuple[dict[str, Any], float]:
        return {"loss": config["x"] / iteration, "steps": iteration}, 1.0 + config["x"]

    return simulate(
        curve, param_space=space, tune_config=tune_config, run_config=run_config, iterations=9, slots=2
    )


SEARCHERS: list[Callable[[], Searcher | None]] = [
    lambda: BasicVariantGenerator(random_state=3),
    lambda: Repeater(ConcurrencyLimiter(BasicVariantGenerator([{"x": 0.5}], random_state=1), 1), 2),
    lambda: OptunaSearch(seed=1),
    lambda: ConcurrencyLimiter(OptunaSearch({"x": tune.uniform(0, 1)}, "loss", "min", seed=1), 2),
]


@pytest.mark.parametrize("searcher", SEARCHERS)
@pytest.mark.parametrize(
    "scheduler",
    [
        FIFOScheduler,
        lambda: AsyncHyperBandScheduler(max_t=9, brackets=2, seed=1),
        lambda: MedianStoppingRule("steps", grace_period=1, min_samples_required=1),
    ],
)
def test_rebuilt_experiment_runs_as_the_original(
    searcher: Callable[[], Searcher], scheduler: Callable[[], TrialScheduler]
) -> None:
    alg = searcher()
    has_own_space = isinstance(alg, ConcurrencyLimiter)
    space = {"fixed": (1, b"2"), **({} if has_own_space else {"x": tune.uniform(0, 1)})}
    config = tune.TuneConfig("min", "loss", alg, scheduler(), num_samples=6)
    run_config = tune.RunConfig(stop=[MaximumIterationStopper(7), TrialPlateauStopper("loss", 0.001)])
    data = described(space, config, run_config)

    original = run_of(space, config, run_config)
    rebuilt = run_of(
        spec.rebuild_param_space(data), spec.rebuild_tune_config(data), spec.rebuild_run_config(data)
    )

    assert len(original.rows) > 6
    assert rebuilt.records == original.records


@pytest.mark.parametrize(
    "generator",
    [random.Random(1), np.random.RandomState(1), np.random.default_rng(1)],
    ids=lambda generator: type(generator).__name__,
)
def test_seed_that_was_drawn_from_a_generator_is_kept(generator: Any) -> None:
    config = tune.TuneConfig(search_alg=BasicVariantGenerator(random_state=generator))
    rebuilt = spec.rebuild_tune_config(described(tune_config=config)).search_alg

    for searcher in (config.search_alg, rebuilt):
        assert searcher is not None
        searcher.set_search_properties(None, None, {"x": tune.uniform(0, 1)})
    assert rebuilt is not None
    assert config.search_alg is not None
    assert rebuilt.suggest("t0") == config.search_alg.suggest("t0")


# What cannot be described.


class Secretive:
    """Shows in its repr what must not be written down."""

    def __repr__(self) -> str:
        return SECRET

    def __call__(self, *_: Any) -> bool:
        return False


class MySearcher(Searcher):
    def suggest(self, trial_id: str) -> dict[str, Any]:
        return {}


class MyScheduler(AsyncHyperBandScheduler):
    pass


class MyStopper(Stopper):
    pass


class MyCallback(tune.Callback):
    pass


Point = namedtuple("Point", "x y")


class Colour(enum.IntEnum):
    RED = 1
    BLUE = 2


def test_what_is_missing_is_named_with_its_path_and_text() -> None:
    here = Secretive.__module__
    space = {
        "fixed": 1,
        "act": tune.choice([1, {"of": Secretive}]),
        "width": tune.sample_from(lambda: 1),
        "grid": tune.grid_search([Secretive(), 2]),
        "point": Point(1, 2),
        "colour": Colour.RED,
        "array": np.zeros(3),
        "$odd": [Secretive()],
    }
    config = tune.TuneConfig(
        search_alg=ConcurrencyLimiter(
            OptunaSearch({"x": tune.uniform(0, 1)}, sampler=optuna.samplers.RandomSampler()), 2
        ),
        scheduler=MyScheduler(metric="loss", mode="min"),
        trial_name_creator=str,
    )
    run = tune.RunConfig(
        stop=[MyStopper(), FunctionStopper(Secretive())],
        callbacks=[JsonLoggerCallback(), MyCallback()],
        runtime_env={"env_vars": {"TOKEN": SECRET}},
    )
    data = described(space, config, run)

    assert sorted(spec.missing(data)) == sorted(
        [
            f"param_space.act[1].of: class {here}.Secretive",
            "param_space.width: function "
            f"{here}.test_what_is_missing_is_named_with_its_path_and_text.<locals>.<lambda>",
            f"param_space.grid.grid_search[0]: an object of {here}.Secretive",
            f"param_space.point: an object of {here}.Point",
            f"param_space.colour: an object of {here}.Colour",
            "param_space.array: an object of numpy.ndarray",
            f"param_space.$odd[0]: an object of {here}.Secretive",
            "tune_config.search_alg.searcher.sampler: an object of optuna.samplers._random.RandomSampler",
            f"tune_config.scheduler: an object of {here}.MyScheduler",
            "tune_config.trial_name_creator: class builtins.str",
            f"run_config.stop[0]: an object of {here}.MyStopper",
            f"run_config.stop[1].function: an object of {here}.Secretive",
            f"run_config.callbacks[1]: an object of {here}.MyCallback",
            "run_config.runtime_env: runtime_env, which may hold secrets",
        ]
    )
    for rebuild in (spec.rebuild_param_space, spec.rebuild_tune_config, spec.rebuild_run_config):
        part = rebuild.__name__.removeprefix("rebuild_")
        with pytest.raises(SpecError, match=rf"'digits'.* lacks {part}.*: pass {part}=… to Tuner.restore"):
            rebuild(data)  # type: ignore[operator]


def test_what_is_given_anew_need_not_be_described() -> None:
    config = tune.TuneConfig(search_alg=MySearcher(), scheduler=FIFOScheduler(), num_samples=4)
    run = tune.RunConfig(stop=MyStopper(), runtime_env={"pip": ["x"]}, verbose=2)
    data, searcher = described({}, config, run), MySearcher()

    rebuilt = spec.rebuild_tune_config(data, search_alg=searcher, num_samples=9)
    rebuilt_run = spec.rebuild_run_config(data, stop={"loss": 1}, runtime_env=None)

    assert (rebuilt.search_alg, rebuilt.num_samples) == (searcher, 9)
    assert type(rebuilt.scheduler) is FIFOScheduler
    assert (rebuilt_run.stop, rebuilt_run.verbose) == ({"loss": 1}, 2)


def test_changes_that_cannot_work_are_faults_of_the_caller() -> None:
    with pytest.raises(ConfigError, match="num_samples=0"):
        spec.rebuild_tune_config(described(), num_samples=0)


def test_no_secret_is_described() -> None:
    class Filesystem:
        def __init__(self) -> None:
            self.token = SECRET

    secretive = Secretive()
    secretive.key = SECRET  # type: ignore[attr-defined]
    storage = optuna.storages.InMemoryStorage()
    storage.url = f"sqlite://user:{SECRET}@host"  # type: ignore[attr-defined]
    runs = [
        tune.RunConfig(
            storage_path=f"s3://key:{SECRET}@bucket/runs?secret={SECRET}",
            storage_options={"secret": SECRET},
            runtime_env={"env_vars": {"AWS_SECRET_ACCESS_KEY": SECRET}},
            callbacks=[MyCallback()],
            stop=secretive,
        ),
        tune.RunConfig(storage_filesystem=Filesystem()),
    ]
    config = tune.TuneConfig(
        search_alg=OptunaSearch(storage=storage), trial_dirname_creator=secretive, metric="loss", mode="min"
    )
    space = {"client": secretive, "one_of": tune.choice([secretive]), "from": tune.sample_from(secretive)}

    for run in runs:
        assert SECRET not in json.dumps(described(space, config, run))


# What was not written by this version.


@pytest.mark.parametrize("found", [None, 0, 2, "1", True])
def test_other_formats_are_refused(found: Any) -> None:
    data = described() | {"format": found}

    for read in (spec.missing, spec.rebuild_param_space, spec.rebuild_tune_config, spec.rebuild_run_config):
        with pytest.raises(SpecError, match=r"format .*reads format 1"):
            read(data)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("node", "fault"),
    [
        ({"$object": "os.system", "arguments": {"command": "true"}}, "is a os.system"),
        ({"$object": "Popen", "arguments": {"args": "true"}}, "is a Popen"),
        ({"$object": "MaximumIterationStopper", "arguments": {"max_iter": 0}}, "max_iter=0"),
        ({"$object": "MaximumIterationStopper", "arguments": {"most": 1}}, "has no argument most"),
        ({"$object": "MaximumIterationStopper", "arguments": {}}, "max_iter"),
        ({"$object": ["MaximumIterationStopper"], "arguments": {}}, "cannot be made again"),
        ({"$sampler": "eval", "arguments": ["1"]}, r"is eval\(…\)"),
        ({"$sampler": "uniform", "arguments": ["a", 1]}, "lower='a'"),
        ({"$sampler": "uniform"}, "missing 2 required"),
        ({"$pickle": "gASVAA=="}, r"is \$pickle"),
        ({"$float": "nan", "more": 1}, r"is \$float"),
        ({"$float": "x"}, "could not convert"),
        ({"$bytes": "§"}, "cannot be made again"),
        ({"$seconds": "x"}, "cannot be made again"),
        ({"$dict": [1]}, "cannot be made again"),
        ({"$dict": [[[], 1]]}, "cannot be made again"),
        ({"$distribution": "{"}, "cannot be made again"),
        ({"$distribution": '{"name": "os.system", "attributes": {}}'}, "cannot be made again"),
    ],
    ids=str,
)
def test_damaged_and_hostile_descriptions_are_refused(node: Any, fault: str) -> None:
    data = described() | {"param_space": {"x": [node]}}

    with pytest.raises(SpecError, match=rf"param_space\.x\[0\].*{fault}"):
        spec.rebuild_param_space(data)


@pytest.mark.parametrize(
    "change",
    [
        {"tune_config": {"samples": 1}},
        {"run_config": {"storage": 1}},
        {"run_config": {"failure_config": {"retries": 1}}},
        {"param_space": [1]},
        {"tune_config": None},
    ],
    ids=str,
)
def test_unknown_fields_are_refused(change: dict[str, Any]) -> None:
    data = described() | change

    with pytest.raises(SpecError, match=r"retries|samples|storage|is not there"):
        spec.rebuild_run_config(data), spec.rebuild_tune_config(data)


def test_arguments_are_those_of_the_outermost_constructor() -> None:
    class Inner(RecordsArguments):
        def __init__(self, a: int, *rest: int, b: int = 2) -> None:
            self.values = (a, rest, b)

    class Outer(Inner):
        def __init__(self, c: int) -> None:
            super().__init__(c, b=3)

    inner = Inner(1, 2, 3, b=4)
    assert arguments_of(inner) == {"a": 1, "rest": (2, 3), "b": 4}
    assert make(Inner, arguments_of(inner)).values == inner.values
    assert arguments_of(Outer(7)) == {"c": 7}
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'c'"):
        Outer()  # type: ignore[call-arg]

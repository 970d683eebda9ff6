"""An experiment as plain values: what a deployment's parameters, Prefect's form and a file hold.

One model for all of them. Names and defaults are those of `Tuner`, `TuneConfig` and `RunConfig`; samplers,
schedulers and searchers appear by their names, with the arguments of their constructors. What only Python
can say (functions, objects) is not here. Validator are found when a form is made, all of them together, with
the names of their fields; what only the worker knows (the trainable, the storage) when `tuner` is called.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from tune_core import search
from tune_core.config.run_config import CheckpointConfig, RunConfig, SyncConfig, TuneConfig
from tune_core.config.spec import SAMPLERS
from tune_core.config.warm_start import WarmStart
from tune_core.engine.form.failures import FailureForm
from tune_core.engine.form.fields import AnyValue, Entries, FormModel, OneOf, OneOrSeveral, OptionForm, tagged
from tune_core.engine.form.yaml12 import read_yaml
from tune_core.engine.settings import storage_of
from tune_core.errors import ConfigError
from tune_core.registry import find_trainable
from tune_core.resources import PlacementGroupFactory
from tune_core.schedulers.by_name import allocation_functions, base_schedulers, schedulers
from tune_core.schedulers.resource_changing_scheduler import AllocationFunction
from tune_core.schedulers.scheduler import TrialScheduler
from tune_core.search.create import searchers
from tune_core.search.sample import GRID_KEY
from tune_core.training.resource_requests import with_resources
from tune_core.tuner import Tuner
from tune_core.validation import suggestion

#: Of the experiment, or only of use from Python: no option of a scheduler or searcher.
_NO_OPTIONS = ("metric", "mode", "max_concurrent", "space", "study_name", "storage")
_ABOVE_0 = {"gt": 0}
_AT_LEAST_1 = {"ge": 1}
_LIMITS: dict[str, dict[str, Any]] = {
    "loguniform": {"lower": _ABOVE_0},
    "randn": {"sd": _ABOVE_0},
    "lograndint": {"lower": _AT_LEAST_1},
}
#: What a scheduler around another one is made of.
_INSIDE = (
    (TrialScheduler, OneOf(base_schedulers, _NO_OPTIONS)),
    (AllocationFunction, OneOf(allocation_functions, _NO_OPTIONS)),
)
#: `package.module:name`, which both UIs and the server check.
IMPORT_STRING = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$"


def _samplers() -> dict[str, Callable[..., Any]]:
    """Return the samplers by name; `uniform` and `quniform` are one, with and without a step."""
    stepped = {
        name: _stepped(plain, SAMPLERS[f"q{name}"])
        for name, plain in SAMPLERS.items()
        if f"q{name}" in SAMPLERS
    }
    both = stepped | {f"q{name}": sampler for name, sampler in stepped.items()}
    return {**SAMPLERS, GRID_KEY: search.grid_search, **both}


def _stepped(plain: Callable[..., Any], quantized: Callable[..., Any]) -> Callable[..., Any]:
    """Return one function for two samplers, since both UIs have a tab for each and little room."""

    @functools.wraps(plain)
    def sampler(q: float | None = None, **bounds: Any) -> Any:
        return plain(**bounds) if q is None else quantized(**bounds, q=q)

    step = inspect.signature(quantized).parameters["q"].replace(default=None)
    plain_signature = inspect.signature(plain)
    bounds = [each for each in plain_signature.parameters.values() if each.name != "base"]
    sampler.__signature__ = plain_signature.replace(parameters=[*bounds, step])  # type: ignore[attr-defined]
    return sampler


class _Constant(OptionForm):
    """The same value in every trial."""

    model_config = ConfigDict(title="constant")
    option_kind: Literal["constant"] = Field(default="constant", title="Kind")
    value: Annotated[Any, AnyValue()] = Field(title="Value")

    def make(self) -> Any:
        return self.value


class Parameter(FormModel):
    """A parameter of the search space: its name, and where its values come from."""

    name: str = Field(
        title="Name",
        description="As the trainable reads it; optimizer/lr is config['optimizer']['lr'].",
        pattern=r"^[^/]+(/[^/]+)*$",
    )
    sampler: Annotated[OptionForm, OneOf(_samplers, also=(_Constant,), limits=_LIMITS)] = Field(
        title="Sampler", description="How each trial gets its value."
    )

    @field_validator("sampler", mode="before")
    @classmethod
    def _has_a_step(cls, sampler: Any) -> Any:
        kind, options = tagged(sampler)
        if kind is not None and kind in SAMPLERS and f"q{kind[1:]}" == kind and "q" not in options:
            raise ConfigError(
                f"{kind} needs q, the distance between neighbours; without it, {kind[1:]} is meant"
            )
        return sampler


def _parameters(space: Mapping[str, Any], parent: str = "") -> list[dict[str, Any]]:
    """Return the parameters of a space that is written as a mapping: of samplers, plain values, and mappings.

    Raises:
        ConfigError: The name of a sampler seems to be misspelt.
    """
    found: list[dict[str, Any]] = []
    samplers = {*_samplers(), "constant"}
    for key, value in space.items():
        name = f"{parent}{key}"
        if not isinstance(value, Mapping) or not value:
            found.append({"name": name, "sampler": {"type": "constant", "value": value}})
            continue
        kind, options = tagged(value)
        if kind in samplers or isinstance(value.get("type"), str):
            found.append({"name": name, "sampler": value})
        elif kind is not None and isinstance(options, Mapping) and (hint := suggestion(kind, samplers)):
            raise ConfigError(
                f"{name}: {kind!r} is no sampler{hint} A parameter of that name goes into the list form."
            )
        else:
            found += _parameters(value, f"{name}/")
    return found


class Bound(FormModel):
    """A metric, and the value at which a trial that reports it is ended."""

    metric: str = Field(
        title="Metric", description="A reported metric; training_iteration counts reports.", min_length=1
    )
    at_least: float = Field(
        title="At least",
        description="Trials end when the metric has reached this, also for metrics to minimise.",
    )


def _bounds(stop: Mapping[str, Any]) -> list[Any]:
    return [{"metric": metric, "at_least": bound} for metric, bound in stop.items()]


class CostForm(FormModel):
    """How much an experiment may cost, in resource hours."""

    CPU: float | None = Field(default=None, title="CPU hours", gt=0, description="Empty: no limit.")
    GPU: float | None = Field(default=None, title="GPU hours", gt=0, description="Empty: no limit.")

    @model_validator(mode="before")
    @classmethod
    def _may_be_a_number(cls, given: Any) -> Any:
        return {"CPU": given} if isinstance(given, (int, float)) else {} if given is None else given


class WarmStartForm(FormModel):
    """Earlier experiments to learn from. Without a source: none."""

    makes: ClassVar[Any] = WarmStart
    sources: list[str] = Field(
        default_factory=list,
        title="Earlier experiments",
        description="Paths or URLs, also with *; names below the storage; or deployment:FLOW/NAME for its latest runs.",
    )
    max_points: int = Field(
        default=0,
        title="Best configurations to run first",
        ge=0,
        description="They count as samples.",
    )
    metric: str | None = Field(
        default=None, title="Their metric", description="If it had another name there."
    )
    last_runs: int = Field(default=5, title="Runs of a deployment", ge=1)
    allow_running: bool = Field(default=False, title="Also from experiments that still run")

    @model_validator(mode="before")
    @classmethod
    def _may_be_sources(cls, given: Any) -> Any:
        if isinstance(given, str):
            return {"sources": [given]}
        if isinstance(given, Mapping) and isinstance(given.get("sources"), str):
            return {**given, "sources": [given["sources"]]}
        return {"sources": given} if isinstance(given, list) else given

    def make(self) -> WarmStart | None:
        """Return it; None without a source.

        Raises:
            ConfigError: A source cannot be one.
        """
        return WarmStart(**self.given()) if self.sources else None


class TuneForm(FormModel):
    """How to search: what to optimise, how often, and with what."""

    makes: ClassVar[Any] = TuneConfig
    metric: Annotated[str | list[str], OneOrSeveral()] | None = Field(
        default=None,
        title="Metric",
        description="The reported number to optimise, such as accuracy; a/b for a nested one. Needs a mode. Or "
        "several, which are compared together.",
    )
    mode: Annotated[Literal["min", "max"] | list[Literal["min", "max"]], OneOrSeveral()] | None = Field(
        default=None,
        title="Mode",
        description="Which values are the better ones; of several metrics, of each.",
    )
    num_samples: int = Field(
        default=1,
        title="Number of samples",
        ge=-1,
        json_schema_extra={"if": {"not": {"const": -1}}, "then": {"minimum": 1}},
        description="How many configurations to try; with a grid, how often the whole of it. -1: until something "
        "stops the experiment.",
    )
    max_concurrent_trials: int | None = Field(
        default=None, title="Trials at once", ge=0, description="Empty or 0: as many as fit."
    )
    time_budget_s: float | None = Field(
        default=None,
        title="Time budget",
        gt=0,
        description="Seconds after which the experiment is stopped. Empty: no limit.",
    )
    max_cost: CostForm = Field(
        default=CostForm(),
        title="Cost",
        description="Resource hours after which the experiment is stopped; a number is CPU hours.",
    )
    scheduler: Annotated[OptionForm, OneOf(schedulers, _NO_OPTIONS, inside=_INSIDE)] | None = Field(
        default=None, title="Scheduler", description="Ends bad trials early; fifo ends none."
    )
    search_alg: Annotated[OptionForm, OneOf(searchers, _NO_OPTIONS)] | None = Field(
        default=None,
        title="Search algorithm",
        description="Chooses the configurations; random walks grids, too.",
    )
    best_scope: Literal["last", "all", "avg", "last-5-avg", "last-10-avg"] = Field(
        default="last",
        title="Best by",
        description="Which of a trial's reports count when trials are ranked.",
    )
    warm_start: WarmStartForm = Field(
        default=WarmStartForm(),
        title="Warm start",
        description="Earlier experiments that the search algorithm learns from.",
    )
    reuse_actors: bool = Field(
        default=False,
        title="Reuse processes",
        description=("Whether a process goes on to the next trial instead of ending with its own."),
    )

    def make(self) -> TuneConfig:
        """Return the TuneConfig of these values, with a new scheduler and a new searcher.

        Raises:
            ConfigError: They do not go together.
            ImportError: What the searcher needs is not installed.
        """
        given = self.given()
        given["warm_start"] = self.warm_start.make()
        for name in ("scheduler", "search_alg"):
            if name in given:
                given[name] = given[name].make()
        return TuneConfig(**{**given, "max_cost": self.max_cost.given() or None})


class CheckpointForm(FormModel):
    """Which checkpoints are made, and which are kept."""

    makes: ClassVar[Any] = CheckpointConfig
    num_to_keep: int | None = Field(
        default=None,
        title="Checkpoints to keep",
        ge=1,
        description="The best ones of each trial. Empty: all.",
    )
    checkpoint_score_attribute: str | None = Field(
        default=None, title="Score", description="The metric that says which are best. Empty: the latest are."
    )
    checkpoint_score_order: Literal["max", "min"] = Field(default="max", title="Best score")
    checkpoint_frequency: int = Field(default=0, title="Checkpoint frequency", ge=0)
    checkpoint_at_end: bool | None = Field(default=None, title="Checkpoint at the end")
    async_upload: bool = Field(
        default=False,
        title="Upload in the background",
        description="Whether a trial goes on while its checkpoint is uploaded.",
    )


class SyncForm(FormModel):
    """Which files of the trials' working directories are kept."""

    makes: ClassVar[Any] = SyncConfig
    sync_artifacts: bool = Field(default=False, title="Keep files")
    sync_artifacts_on_checkpoint: bool = Field(default=True, title="Keep files with each checkpoint")


class RunForm(FormModel):
    """How to run: where results are kept, when to stop, what to retry."""

    makes: ClassVar[Any] = RunConfig
    name: str | None = Field(
        default=None,
        title="Name",
        description="What the experiment is called; a deployment adds the date, so that each run has its own. "
        "Empty: the trainable's name.",
        json_schema_extra={"pattern": r"^(?!.*::)[^/\\*?\[\]\x00-\x1f\x7f]*$", "maxLength": 160},
    )
    storage_path: str | None = Field(
        default=None,
        title="Storage",
        json_schema_extra={"pattern": r"^(?!\w+:/[^/])(?!.*://([^/]*|.*:.*)@)(?!s3a?://[^/]*:)"},
        description="Where results and checkpoints are kept: s3://bucket/path, or a path in the store. No "
        "credentials. Empty: as the worker is set up.",
    )
    store: str | None = Field(
        default=None,
        title="Store",
        description="Name of an Experiment Store block, which has a place and its credentials.",
    )
    stop: Annotated[list[Bound], Entries(_bounds, {"type": "number"})] = Field(
        default_factory=list, title="Stop", description="When a trial has done enough."
    )
    trial_timeout_s: float | None = Field(
        default=None,
        title="Time limit of a trial",
        gt=0,
        description="Seconds after which an attempt at a trial is killed. Empty: no limit.",
    )
    report_timeout_s: float | None = Field(
        default=None,
        title="Time limit between reports",
        gt=0,
        description="Seconds without a report after which an attempt is killed. Empty: no limit.",
    )
    stop_timeout_s: float = Field(default=10.0, title="Time to stop", ge=0)
    placement_timeout_s: float | None = Field(default=None, title="Time to wait for nodes", ge=0)
    failure_config: FailureForm = Field(default=FailureForm(), title="Failures")
    checkpoint_config: CheckpointForm = Field(default=CheckpointForm(), title="Checkpoints")
    sync_config: SyncForm = Field(default=SyncForm(), title="Files")
    tags: list[str] | None = Field(
        default=None, title="Tags", description="Of the flow run and its task runs."
    )
    log_to_file: bool = Field(
        default=False, title="Keep output", description="Whether each trial's output is kept in files."
    )
    every_report: bool = Field(default=False, title="Show every report at once")
    verbose: int = Field(default=1, title="Verbosity", ge=0, le=3)
    ray_address: str | None = Field(
        default=None, title="Ray address", description="auto or host:port. Empty: as the worker is set up."
    )

    def make(self, **place: Any) -> RunConfig:
        """Return the RunConfig of these values.

        Args:
            **place: What only the machine that runs it knows: `storage_path`, `storage_options`, `ray_address`.

        Raises:
            ConfigError: They do not go together.
        """
        given = self.given()
        given.pop("store", None)
        given["stop"] = {bound.metric: bound.at_least for bound in self.stop} or None
        for name in ("failure_config", "checkpoint_config", "sync_config"):
            part: FormModel = given[name]
            given[name] = part.make()
        return RunConfig(**{**given, **place})

    @field_validator("stop")
    @classmethod
    def _names_each_metric_once(cls, stop: list[Bound]) -> list[Bound]:
        _refuse_twice([bound.metric for bound in stop])
        return stop


class Bundle(FormModel):
    """Resources of one node; what else a cluster has, such as a kind of GPU, by its name."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"additionalProperties": {"type": "number"}})
    __pydantic_extra__: dict[str, float] = Field(init=False)
    CPU: float | None = Field(default=None, title="CPUs", ge=0, description="Empty: none.")
    GPU: float | None = Field(
        default=None, title="GPUs", ge=0, description="A share, such as 0.5, or whole ones."
    )
    memory: float | None = Field(default=None, title="Memory", ge=0, description="Bytes.")

    @model_validator(mode="before")
    @classmethod
    def _spelt_as_ray_does(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        return {key.upper() if key in ("cpu", "gpu") else key: value for key, value in given.items()}

    def resources(self) -> dict[str, float]:
        """Return the bundle as Ray has it."""
        return {**self.given(), **(self.__pydantic_extra__ or {})}


class ResourcesForm(FormModel):
    """What each trial gets of the cluster. Without a bundle: what the trainable asks for itself, else 1 CPU."""

    makes: ClassVar[Any] = PlacementGroupFactory
    bundles: list[Bundle] = Field(
        default_factory=list,
        title="Bundles",
        description="The trial runs in the first one; what it starts runs in the others.",
    )
    strategy: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = Field(
        default="PACK",
        title="Strategy",
        description="PACK: few nodes, SPREAD: many, STRICT_…: exactly one, or each its own.",
    )

    @model_validator(mode="before")
    @classmethod
    def _may_be_one_bundle(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given and not given.keys() & {"bundles", "strategy"}:
            return {"bundles": [given]}
        return {"bundles": given} if isinstance(given, list) else given

    def make(self) -> PlacementGroupFactory | None:
        """Return the bundles as a placement group; None if there are none.

        Raises:
            ConfigError: No cluster can give them.
        """
        if not self.bundles:
            return None
        return PlacementGroupFactory([bundle.resources() for bundle in self.bundles], self.strategy)


def _listed_once(parameters: list[Parameter]) -> list[Parameter]:
    names = [parameter.name for parameter in parameters]
    _refuse_twice(names)
    for name in names:
        inner = next((other for other in names if other.startswith(f"{name}/")), None)
        if inner is not None:
            raise ConfigError(
                f"{name!r} and {inner!r}: a parameter has a value, or parameters below it; choose one"
            )
    return parameters


def _refuse_twice(names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{', '.join(map(repr, twice))}: given more than once")


#: The search space: a list of parameters as a form has it, or a mapping as one writes it.
ParamSpace = Annotated[list[Parameter], AfterValidator(_listed_once), Entries(_parameters, {})]


class ExperimentForm(FormModel):
    """An experiment: what is tuned, in which space, how to search and how to run.

    Attributes:
        trainable: Import string of a function or class, found where the experiment runs.
        param_space: Parameters with their samplers. Written as a mapping, `lr: {type: loguniform, lower: 1e-4,
            upper: 0.1}` is a sampler, any other mapping holds parameters of its own, and a plain value is constant.
        tune_config: As `tune_core.TuneConfig`.
        run_config: As `tune_core.RunConfig`, and the name of an ExperimentStore block.
        resources: Bundles of each trial; without any, the trainable's own.

    Raises:
        pydantic.ValidationError: Every fault with the name of its field; a ValueError. `read` and `load` raise
            a ConfigError instead.

    Example:
        >>> form = ExperimentForm.read({
        ...     "trainable": "math:sqrt",
        ...     "param_space": {"lr": {"type": "loguniform", "lower": 1e-4, "upper": 0.1}, "net": {"width": 16}},
        ...     "tune_config": {"metric": "loss", "mode": "min", "scheduler": "asha"},
        ... })
        >>> form.space()
        {'lr': loguniform(0.0001, 0.1), 'net': {'width': 16}}
    """

    trainable: str = Field(json_schema_extra={"pattern": IMPORT_STRING})
    param_space: ParamSpace = Field(default_factory=list)
    tune_config: TuneForm = Field(default=TuneForm())
    run_config: RunForm = Field(default=RunForm())
    resources: ResourcesForm = Field(default=ResourcesForm())

    @classmethod
    def read(cls, values: Any) -> ExperimentForm:
        """Return the form of values as JSON or YAML have them.

        Raises:
            ConfigError: Every fault with the name of its field.
        """
        if not isinstance(values, Mapping):
            expected = "trainable, param_space, tune_config, run_config and resources"
            raise ConfigError(f"expected a mapping with {expected}, got {type(values).__name__}")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(_faults_of(error)) from None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ExperimentForm:
        """Return the form of a YAML or JSON file.

        Args:
            path: A local file.

        Raises:
            ConfigError: It cannot be read, or is no such form; every fault is named.

        Example:
            >>> form = ExperimentForm.load("nightly.yaml")  # doctest: +SKIP
            >>> results = form.tuner().fit()  # doctest: +SKIP
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{os.fspath(path)} cannot be read: {error}") from None
        return cls.read(read_yaml(text, os.fspath(path)))

    def space(self) -> dict[str, Any]:
        """Return the search space as a `Tuner` takes it; parameters named a/b are nested."""
        space: dict[str, Any] = {}
        for parameter in self.param_space:
            *parents, key = parameter.name.split("/")
            holder = space
            for parent in parents:
                holder = holder.setdefault(parent, {})
            holder[key] = parameter.sampler.make()
        return space

    def tuner(self, name: str | None = None) -> Tuner:
        """Return the Tuner, with what this machine knows: the trainable, the place of the storage, its credentials.

        Args:
            name: The experiment's name, instead of that of `run_config`.

        Raises:
            ConfigError: The trainable cannot be imported, the store is not there, or values do not go
                together; all faults are named.
            ImportError: What the searcher needs is not installed.
        """
        run, faults = self.run_config, []
        try:
            trainable = find_trainable(self.trainable)
        except ConfigError as error:
            faults += error.faults
        try:
            place = storage_of(run.storage_path, run.store)
        except ConfigError as error:
            faults += error.faults
        if faults:
            raise ConfigError(faults)
        factory = self.resources.make()
        here = {"storage_path": place.url, "storage_options": place.options}
        return Tuner(
            self.trainable if factory is None else with_resources(trainable, factory),
            param_space=self.space(),
            tune_config=self.tune_config.make(),
            run_config=run.make(**here, **({} if name is None else {"name": name})),
        )


def _faults_of(error: ValidationError) -> list[str]:
    return [
        f"{'.'.join(map(str, fault['loc'])) or 'the form'}: {fault['msg'].removeprefix('Value error, ')}"
        for fault in error.errors(include_url=False, include_context=False, include_input=False)
    ]

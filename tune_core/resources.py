"""What a trial asks of the cluster: bundles, and how they are attached to a trainable.

Owns `PlacementGroupFactory`, `with_resources`, and the rule by which a trial's bundles are
found. Never talks to Ray: the runtime turns a factory into a placement group, so
`to_placement_group()` does not exist here. Factories are immutable and compare by value.
"""

from __future__ import annotations

import copy
import functools
import inspect
import json
import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from tune_core.errors import ConfigError
from tune_core.validation import Validator, is_number, ray_origin, shorten, suggestion

Bundle = dict[str, float]
AnyTrainable = TypeVar("AnyTrainable", bound=Callable[..., Any])

STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
#: Parameters of `ray.util.placement_group` after `bundles` and `strategy`, in its order (Ray 2.60).
PLACEMENT_OPTIONS = ("name", "lifetime", "_soft_target_node_id", "bundle_label_selector", "topology_strategy")

_SPELLINGS = {"cpu": "CPU", "gpu": "GPU", "memory": "memory"}
_EXPECTED = "a dict of resources, PlacementGroupFactory([...]), a ScalingConfig or a function of the config"


class PlacementGroupFactory:
    """The bundles that each attempt at a trial gets, all of them or none.

    The trial itself runs in the first bundle and may use all of it; tasks and actors that it
    starts go into the others by default. An empty first bundle takes nothing for the trial.

    Args:
        bundles: One dict of resources for each bundle, such as `{"CPU": 1, "GPU": 0.5}`. Keys
            are "CPU", "GPU", "memory" (bytes) or the name of a custom resource; above 1, GPUs
            are whole. Zeros are dropped. Later empty bundles are kept as `{}`.
        strategy: "PACK" (few nodes), "SPREAD" (many nodes), "STRICT_PACK" (one node) or
            "STRICT_SPREAD" (a node each). None only together with `topology_strategy`.
        *args: Further arguments of `ray.util.placement_group`, by position.
        **kwargs: The same by name: see `PLACEMENT_OPTIONS`.

    Raises:
        ConfigError: A bundle or an argument cannot work; every fault is named.

    Example:
        >>> factory = PlacementGroupFactory([{"CPU": 1, "GPU": 1}, {"GPU": 1}, {"GPU": 1}])
        >>> factory.head_bundle, factory.required_resources
        ({'CPU': 1.0, 'GPU': 1.0}, {'CPU': 1.0, 'GPU': 3.0})

    Source: as Ray Tune 2.60. Differs: faults are found here, not when the group is made;
        two empty bundles and nothing else are refused; there is no `to_placement_group()`.
    """

    __slots__ = ("_bundles", "_head_bundle_is_empty", "_key", "_options", "_strategy")

    def __init__(
        self, bundles: Sequence[Mapping[str, float]], strategy: str | None = "PACK", *args: Any, **kwargs: Any
    ) -> None:
        validator = Validator("PlacementGroupFactory")
        parsed = _parse_bundles(bundles, validator)
        self._head_bundle_is_empty = bool(parsed) and not parsed[0]
        self._bundles = parsed[1:] if self._head_bundle_is_empty else parsed
        self._strategy = strategy
        self._options = _parse_options(args, kwargs, validator)
        _check_options(self._options, strategy, len(self._bundles), validator)
        validator.raise_any()
        self._key = json.dumps(self.to_dict(), sort_keys=True)

    @property
    def bundles(self) -> list[Bundle]:
        """Every bundle but an empty first one, as copies."""
        return [dict(bundle) for bundle in self._bundles]

    @property
    def head_bundle(self) -> Bundle:
        """What the trial itself gets; {} if the first bundle is empty."""
        return {} if self._head_bundle_is_empty else dict(self._bundles[0])

    @property
    def child_bundles(self) -> list[Bundle]:
        """What is left for tasks and actors that the trial starts."""
        return self.bundles if self._head_bundle_is_empty else self.bundles[1:]

    @property
    def head_bundle_is_empty(self) -> bool:
        """Whether the trial itself takes no resources."""
        return self._head_bundle_is_empty

    @property
    def head_cpus(self) -> float:
        """CPUs of the bundle that the trial itself runs in."""
        return 0.0 if self._head_bundle_is_empty else self._bundles[0].get("CPU", 0.0)

    @property
    def required_resources(self) -> Bundle:
        """The sum of all bundles."""
        total: Bundle = {}
        for bundle in self._bundles:
            for key, amount in bundle.items():
                total[key] = total.get(key, 0.0) + amount
        return total

    @property
    def strategy(self) -> str | None:
        """How the bundles are spread over nodes; None if `topology_strategy` says it."""
        return self._strategy

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of `ray.util.placement_group` beyond bundles and strategy, as a copy."""
        return copy.deepcopy(self._options)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object from which `from_dict` makes an equal factory."""
        head: list[Bundle] = [{}] if self._head_bundle_is_empty else []
        return {"bundles": head + self.bundles, "strategy": self._strategy, "options": self.options}

    @classmethod
    def from_dict(cls, data: object) -> PlacementGroupFactory:
        """Return the factory that `to_dict` described.

        Raises:
            ConfigError: `data` is not such a description.

        Example:
            >>> factory = PlacementGroupFactory([{}, {"CPU": 2}], strategy="SPREAD")
            >>> PlacementGroupFactory.from_dict(factory.to_dict()) == factory
            True
        """
        if not isinstance(data, Mapping) or "bundles" not in data:
            raise ConfigError(
                f"{shorten(data)} does not describe a PlacementGroupFactory: 'bundles' is missing"
            )
        return cls(data["bundles"], data.get("strategy", "PACK"), **data.get("options", {}))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlacementGroupFactory) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __reduce__(self) -> tuple[Callable[..., PlacementGroupFactory], tuple[dict[str, Any]]]:
        return type(self).from_dict, (self.to_dict(),)

    def __repr__(self) -> str:
        data = self.to_dict()
        options = "".join(f", {name}={value!r}" for name, value in data["options"].items())
        return f"PlacementGroupFactory({data['bundles']}, strategy={self._strategy!r}{options})"


@dataclass(frozen=True, slots=True)
class _PerConfig:
    """Resources that depend on the trial's configuration."""

    function: Callable[[dict[str, Any]], object]


_Request = PlacementGroupFactory | _PerConfig


def with_resources(trainable: AnyTrainable, resources: object) -> AnyTrainable:
    """Return the trainable with the resources that each of its trials gets.

    The object that was given stays as it is. What is returned has its name and signature and
    can be given to `with_parameters`, as can the other way round. Resources that the
    trainable asks for itself no longer count.

    Args:
        trainable: A function, method, partial, callable object, or Trainable class.
        resources: One of
            a dict: "cpu", "gpu" (any case), "memory" (bytes); other keys, and those below
            "custom_resources", are custom. {} is 1 CPU; {"gpu": 1} is no CPU;
            a `PlacementGroupFactory`;
            a `ScalingConfig`, as anything with `as_placement_group_factory()`;
            a function of the trial's config that returns one of these.

    Raises:
        ConfigError: Either argument is of another kind, or the resources cannot work.

    Example:
        >>> def train(config):
        ...     return {"loss": config["x"]}
        >>> wide = with_resources(train, lambda config: {"cpu": config["workers"]})
        >>> wide.__name__, resources_of(wide, {"workers": 4}).head_cpus
        ('train', 4.0)

    Source: as Ray Tune 2.60. Differs: functions are not changed in place, and
        "custom_resources" does not displace other custom keys.
    """
    request = _request_of(resources)
    if inspect.isclass(trainable):
        return cast("AnyTrainable", _subclass(trainable, request))
    if not callable(trainable):
        raise ConfigError(
            f"with_resources: trainable={shorten(trainable)}: expected a function, a callable object or a "
            "class derived from tune_core.Trainable"
        )
    return cast("AnyTrainable", _wrap(trainable, request))


def resources_of(trainable: object, config: dict[str, Any]) -> PlacementGroupFactory:
    """Return the bundles that a trial of this configuration gets.

    `with_resources` counts before the class's own `default_resource_request`; without either,
    or where they return None or {}, it is 1 CPU.

    Args:
        trainable: What the Tuner was given.
        config: The trial's configuration, without any search space left in it.

    Raises:
        ConfigError: The function of the config, or the class, returned what is no resources.

    Example:
        >>> resources_of(print, {}).bundles
        [{'CPU': 1.0}]

    Source: as Ray Tune 2.60. Differs: the spelling `default_resource_requests`, which Ray's
        guide uses in one place, counts too.
    """
    if inspect.isclass(trainable):
        return _class_resources(trainable, config)
    return _evaluate(_attached(trainable), config)


def as_resources(given: object, where: str) -> PlacementGroupFactory:
    """Return resources in any of the forms that `with_resources` takes, but for a function, as a factory.

    Args:
        given: A dict, a `PlacementGroupFactory` or a `ScalingConfig`.
        where: What an error begins with.

    Raises:
        ConfigError: It is nothing of that kind, or cannot work.

    Example:
        >>> as_resources({"cpu": 2}, "it returned ").bundles
        [{'CPU': 2.0}]
    """
    return _as_factory(given, where)


def is_fixed(trainable: object) -> bool:
    """Return whether every configuration of this trainable gets the same bundles.

    Example:
        >>> is_fixed(print), is_fixed(with_resources(print, lambda config: {"cpu": 2}))
        (True, False)
    """
    attached = _attached(_class_request(trainable) if inspect.isclass(trainable) else trainable)
    if attached is not None:
        return not isinstance(attached, _PerConfig)
    return not requests_resources(trainable)


def requests_resources(trainable: object) -> bool:
    """Return whether a trainable says by itself what its trials need.

    Example:
        >>> requests_resources(print), requests_resources(with_resources(print, {"cpu": 2}))
        (False, True)
    """
    if not inspect.isclass(trainable):
        return _attached(trainable) is not None
    function = _class_request(trainable)
    is_inherited = function is None or getattr(function, "__module__", "") == "tune_core.training.trainable"
    return not is_inherited or hasattr(trainable, "default_resource_requests")


def _class_request(trainable: type) -> object:
    method = getattr(trainable, "default_resource_request", None)
    return getattr(method, "__func__", method)


def _parse_bundles(bundles: object, validator: Validator) -> list[Bundle]:
    if not isinstance(bundles, (list, tuple)):
        validator.add("bundles", bundles, 'expected a list with a dict for each bundle, such as [{"CPU": 1}]')
        return []
    parsed: list[Bundle] = [{} for _ in bundles]
    for number, bundle in enumerate(bundles):
        if not isinstance(bundle, Mapping):
            validator.add(f"bundles[{number}]", bundle, "expected a dict of resources")
            continue
        for key, amount in bundle.items():
            fault = _fault_of(key, amount)
            if fault:
                validator.add(f"bundles[{number}]", {key: amount}, fault)
            elif amount != 0:
                parsed[number][key] = float(amount)
    if not validator.found and not any(parsed):
        validator.add("bundles", bundles, 'at least one bundle must ask for something, such as {"CPU": 1}')
    return parsed


def _fault_of(key: object, amount: object) -> str | None:
    if not isinstance(key, str) or not key:
        return "a resource has a non-empty string as its name"
    spelling = _SPELLINGS.get(key.lower(), key)
    if spelling != key:
        return f"Ray knows no resource {key!r}: write {spelling!r}"
    if not is_number(amount) or amount < 0:
        return "expected a finite number of at least 0"
    if key == "GPU" and amount > 1 and amount != math.floor(amount):
        return "a GPU is shared as a fraction below 1, or taken whole: above 1, use a whole number"
    return None


def _parse_options(args: tuple[Any, ...], kwargs: dict[str, Any], validator: Validator) -> dict[str, Any]:
    known = f"placement_group takes {', '.join(PLACEMENT_OPTIONS)}"
    if len(args) > len(PLACEMENT_OPTIONS):
        validator.note(f"{len(args)} arguments after strategy; {known}")
    given = dict(zip(PLACEMENT_OPTIONS, args, strict=False))
    for name, value in kwargs.items():
        if name in given:
            validator.add(name, value, "given by position too: give it once")
        elif name not in PLACEMENT_OPTIONS:
            validator.add(name, value, f"unknown argument; {known}{suggestion(name, PLACEMENT_OPTIONS)}")
        given[name] = value
    # An option that is given as its default is the same request: they must compare equal.
    # Guarded by test_option_given_as_its_default_does_not_change_the_request.
    return {
        name: copy.deepcopy(given[name]) for name in PLACEMENT_OPTIONS if given.get(name) not in (None, "")
    }


def _check_options(options: dict[str, Any], strategy: object, num_bundles: int, validator: Validator) -> None:
    for name in {"name", "_soft_target_node_id"} & options.keys():
        if not isinstance(options[name], str):
            validator.add(name, options[name], "expected a string")
    if options.get("lifetime", "detached") != "detached":
        validator.add("lifetime", options["lifetime"], "expected None or 'detached'")
    topology = options.get("topology_strategy")
    if topology is None:
        validator.check_choice("strategy", strategy, STRATEGIES)
    elif strategy is not None:
        validator.add("strategy", strategy, "topology_strategy says it already: pass strategy=None with it")
    elif not _is_labels(topology):
        validator.add("topology_strategy", topology, "expected a dict from label to strategy")
    labels = options.get("bundle_label_selector", [{}] * num_bundles)
    if not isinstance(labels, list) or len(labels) != num_bundles or not all(map(_is_labels, labels)):
        expected = f"expected {num_bundles} dicts of labels, one for each bundle but an empty first one"
        validator.add("bundle_label_selector", labels, expected)


def _is_labels(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(part, str) for pair in value.items() for part in pair)


def _request_of(resources: object) -> _Request:
    """Return resources as a request, evaluated already unless they are a function of the config."""
    if resources is None:
        raise ConfigError(f"with_resources: resources=None: expected {_EXPECTED}")
    if callable(resources) and not isinstance(resources, type) and not ray_origin(resources):
        return _PerConfig(resources)
    return _as_factory(resources, "with_resources: resources=")


def _as_factory(given: object, where: str) -> PlacementGroupFactory:
    """Return resources in any of their forms as a factory; `where` begins the text of an error."""
    if isinstance(given, PlacementGroupFactory):
        return given
    if given is None or given == {}:
        return ONE_CPU
    try:
        if isinstance(given, Mapping):
            return PlacementGroupFactory([_as_bundle(given)])
        convert = getattr(given, "as_placement_group_factory", None)
        if convert is not None and not isinstance(given, type):
            return _adopt(convert())
    except ConfigError as error:
        raise ConfigError([f"{where}{shorten(given)}: {fault}" for fault in error.faults]) from error
    origin = ray_origin(given)
    hint = f"; given {origin}: use the class of that name in tune_core" if origin else ""
    raise ConfigError(f"{where}{shorten(given)}: expected {_EXPECTED}{hint}")


def _adopt(foreign: Any) -> PlacementGroupFactory:
    """Return Ray's own factory, which its ScalingConfig makes, as ours."""
    if isinstance(foreign, PlacementGroupFactory):
        return foreign
    if not all(hasattr(foreign, name) for name in ("bundles", "strategy", "head_bundle_is_empty")):
        raise ConfigError(f"as_placement_group_factory() returned {shorten(foreign)}: no such factory")
    head: list[Bundle] = [{}] if foreign.head_bundle_is_empty else []
    return PlacementGroupFactory(head + list(foreign.bundles), foreign.strategy)


def _as_bundle(spec: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return {"cpu": 1, "custom_resources": {...}} as a bundle: names in Ray's spelling, one level."""
    custom = spec.get("custom_resources") or {}
    if not isinstance(custom, Mapping):
        raise ConfigError("'custom_resources' must be a dict of resources")
    bundle: dict[Any, Any] = {}
    items = [item for item in spec.items() if item[0] != "custom_resources"]
    for key, amount in [*items, *custom.items()]:
        name = _SPELLINGS.get(key.lower(), key) if isinstance(key, str) else key
        if name in bundle:
            raise ConfigError(f"{name!r} is given twice; give it once")
        bundle[name] = amount
    return bundle


def _evaluate(request: _Request | None, config: dict[str, Any]) -> PlacementGroupFactory:
    if not isinstance(request, _PerConfig):
        return request or ONE_CPU
    name = getattr(request.function, "__qualname__", type(request.function).__name__)
    return _as_factory(request.function(config), f"with_resources: {name}(config) returned ")


def _attached(trainable: object) -> _Request | None:
    """Return what `with_resources` attached to a callable, or to what that wraps."""
    node = trainable
    for _ in range(64):  # a chain of wrappers ends; a proxy that makes up attributes need not
        attached = getattr(node, "_resources", None)
        if isinstance(attached, _Request):
            return attached
        node = node.func if isinstance(node, functools.partial) else getattr(node, "__wrapped__", None)
        if node is None:
            break
    return None


def _wrap(function: Callable[..., Any], request: _Request) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    # An object's attributes are its state, not metadata: only a function's are copied.
    # Guarded by test_state_of_a_callable_object_is_not_copied_to_its_wrapper.
    updated = ("__dict__",) if isinstance(function, types.FunctionType) else ()
    functools.update_wrapper(call, function, updated=updated)
    if not hasattr(function, "__name__"):
        call.__name__ = call.__qualname__ = _name_of(function)
    call._resources = request  # type: ignore[attr-defined]
    return call


def _name_of(function: Callable[..., Any]) -> str:
    if isinstance(function, functools.partial):
        return _name_of(function.func)
    return getattr(function, "__name__", type(function).__name__)


def _subclass(trainable: type, request: _Request) -> type:
    origin = ray_origin(trainable)
    if origin is not None or not callable(getattr(trainable, "default_resource_request", None)):
        given = f"derived from {origin}" if origin else "a class of its own"
        raise ConfigError(
            f"with_resources: {shorten(trainable)} is {given}; derive it from tune_core.Trainable "
            "(`import tune_core as tune`)"
        )

    def default_resource_request(cls: type, config: dict[str, Any]) -> PlacementGroupFactory:
        return _evaluate(request, config)

    default_resource_request._resources = request  # type: ignore[attr-defined]
    body = {
        "default_resource_request": classmethod(default_resource_request),
        "__module__": trainable.__module__,
        "__qualname__": trainable.__qualname__,
        "__doc__": trainable.__doc__,
    }
    return types.new_class(trainable.__name__, (trainable,), exec_body=lambda names: names.update(body))


def _class_resources(trainable: type, config: dict[str, Any]) -> PlacementGroupFactory:
    for name in ("default_resource_request", "default_resource_requests"):
        method = getattr(trainable, name, lambda config: None)
        where = f"{trainable.__qualname__}.{name}"
        if inspect.isfunction(inspect.getattr_static(trainable, name, None)):
            raise ConfigError(f"{where} is called before there is an object: make it a @classmethod")
        returned = method(config)
        if returned is not None:
            return _as_factory(returned, f"{where}(config) returned ")
    return ONE_CPU


#: What a trial gets for which nothing else is asked.
ONE_CPU = PlacementGroupFactory([{"CPU": 1}])

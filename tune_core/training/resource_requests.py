"""Which resources a trainable asks for: what `with_resources` attached to it, or its class says."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from tune_core.errors import ConfigError
from tune_core.resources import EXPECTED, ONE_CPU, PlacementGroupFactory, as_factory
from tune_core.training.wrapping import AnyTrainable, attached, check_trainable, subclass, wrap
from tune_core.validation import ray_origin

_ATTRIBUTE = "_resources"


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
    check_trainable("with_resources", trainable, "default_resource_request")
    if inspect.isclass(trainable):
        return cast("AnyTrainable", _subclass(trainable, request))

    def call(*args: Any, **kwargs: Any) -> Any:
        return trainable(*args, **kwargs)

    return cast("AnyTrainable", wrap(trainable, call, _ATTRIBUTE, request))


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


def _request_of(resources: object) -> _Request:
    """Return resources as a request, evaluated already unless they are a function of the config."""
    if resources is None:
        raise ConfigError(f"with_resources: resources=None: expected {EXPECTED}")
    if callable(resources) and not isinstance(resources, type) and not ray_origin(resources):
        return _PerConfig(resources)
    return as_factory(resources, "with_resources: resources=")


def _evaluate(request: _Request | None, config: dict[str, Any]) -> PlacementGroupFactory:
    if not isinstance(request, _PerConfig):
        return request or ONE_CPU
    name = getattr(request.function, "__qualname__", type(request.function).__name__)
    return as_factory(request.function(config), f"with_resources: {name}(config) returned ")


def _attached(trainable: object) -> _Request | None:
    """Return what `with_resources` attached to a callable, or to what that wraps."""
    return next(attached(trainable, _ATTRIBUTE, PlacementGroupFactory, _PerConfig), None)


def _subclass(trainable: type, request: _Request) -> type:
    def default_resource_request(cls: type, config: dict[str, Any]) -> PlacementGroupFactory:
        return _evaluate(request, config)

    setattr(default_resource_request, _ATTRIBUTE, request)
    return subclass(trainable, default_resource_request=classmethod(default_resource_request))


def _class_resources(trainable: type, config: dict[str, Any]) -> PlacementGroupFactory:
    for name in ("default_resource_request", "default_resource_requests"):
        method = getattr(trainable, name, lambda config: None)
        where = f"{trainable.__qualname__}.{name}"
        if inspect.isfunction(inspect.getattr_static(trainable, name, None)):
            raise ConfigError(f"{where} is called before there is an object: make it a @classmethod")
        returned = method(config)
        if returned is not None:
            return as_factory(returned, f"{where}(config) returned ")
    return ONE_CPU

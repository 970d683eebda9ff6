"""Trainables, and environments, by name.

Owns the names that were registered in this process, and how `"package.module:name"` becomes an
object. Never remembers anything for another process: a trainable travels as itself, whatever
name it was given by.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from tune_core.errors import ConfigError
from tune_core.validation import is_name, shorten, suggestion

_trainables: dict[str, Callable[..., Any]] = {}
_environments: dict[str, Callable[..., Any]] = {}

_EXPECTED = "expected 'package.module:name', or a name of tune.register_trainable"


def register_trainable(name: str, trainable: Callable[..., Any], warn: bool = True) -> None:
    """Give a trainable a name, which a `Tuner` takes in its place.

    Trials and their directories are called by that name. A second trainable of the same name
    takes the place of the first.

    Args:
        name: Not empty, and without ":", which import strings have.
        trainable: A function of the config, or a class derived from Trainable.
        warn: Accepted for Ray Tune's sake.

    Raises:
        ConfigError: Either argument is of another kind.

    Example:
        >>> register_trainable("double", lambda config: {"y": 2 * config["x"]})
        >>> find_trainable("double")({"x": 2})
        {'y': 4}

    Source: as Ray Tune 2.60. Differs: names are of this process, there of the whole cluster.
    """
    if not is_name(name) or ":" in name:
        raise ConfigError(f"register_trainable(name={shorten(name)}): expected a string without ':'")
    if not callable(trainable):
        raise ConfigError(
            f"register_trainable({name!r}, {shorten(trainable)}): expected a function of the config, "
            "or a class derived from tune_core.Trainable"
        )
    _trainables[name] = trainable


def register_env(name: str, env_creator: Callable[..., Any]) -> None:
    """Give a function that makes environments a name, by which `find_env` returns it.

    Args:
        name: Not empty.
        env_creator: Called with the environment's configuration.

    Raises:
        ConfigError: Either argument is of another kind.

    Example:
        >>> register_env("corridor", lambda config: ("corridor", config["length"]))
        >>> find_env("corridor")({"length": 5})
        ('corridor', 5)

    Source: as Ray Tune 2.60. Differs: names are of this process; RLlib keeps its own list.
    """
    if not is_name(name):
        raise ConfigError(f"register_env(name={shorten(name)}): expected a string that is not empty")
    if not callable(env_creator):
        raise ConfigError(f"register_env({name!r}, {shorten(env_creator)}): expected a function")
    _environments[name] = env_creator


def find_env(name: str) -> Callable[..., Any]:
    """Return the function that was registered under this name.

    Raises:
        ConfigError: None was, in this process.
    """
    if name not in _environments:
        raise ConfigError(
            f"no environment {name!r} is registered in this process{suggestion(name, _environments)}; "
            "call tune.register_env in the process that uses it"
        )
    return _environments[name]


def is_registered(name: str) -> bool:
    """Return whether a trainable has been registered under this name."""
    return name in _trainables


def find_trainable(path: str) -> Callable[..., Any]:
    """Return the trainable of a registered name, or of an import string `"package.module:name"`.

    Args:
        path: The name may have dots: `"package.module:Class.method"`.

    Raises:
        ConfigError: It leads nowhere. The message says whether the module or the attribute is
            missing, or what went wrong within the module, and which names come near.

    Example:
        >>> find_trainable("math:sqrt")(9)
        3.0
    """
    if path in _trainables:
        return _trainables[path]
    module_name, colon, attribute = path.partition(":")
    if not colon or not module_name or not attribute:
        hint = suggestion(path, _trainables)
        if not hint and "." in path.strip("."):
            hint = f"; did you mean {':'.join(path.rsplit('.', 1))!r}?"
        raise _refusal(path, "it is no registered name and no import string", hint)
    found: Any = _import_module(path, module_name)
    place = module_name
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise _refusal(path, f"{place} has no {part!r}", suggestion(part, dir(found)))
        found = getattr(found, part)
        place = f"{place}.{part}"
    if not callable(found):
        raise _refusal(path, f"{place} is {shorten(found)}, which is no function and no class", "")
    trainable: Callable[..., Any] = found
    return trainable


def import_string(trainable: Callable[..., Any]) -> str | None:
    """Return the import string by which another process finds this very trainable; None if it has none.

    What a script defines has none, since its module is called `__main__` in its own process only.

    Example:
        >>> import_string(find_trainable), import_string(lambda config: None)
        ('tune_core.registry:find_trainable', None)
    """
    module, name = getattr(trainable, "__module__", None), getattr(trainable, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or module == "__main__":
        return None
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return f"{module}:{name}" if found is trainable else None


def _import_module(path: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Of `a.b.c`, the part that is missing may be `a`, `a.b` or `a.b.c`; else a module of ours imports it.
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            parent, _, last = error.name.rpartition(".")
            hint = suggestion(last, _modules_of(parent))
            where = f"in {parent}" if parent else "on sys.path"
            raise _refusal(path, f"there is no module {last!r} {where}", hint) from error
        raise _refusal(path, f"{name} itself imports what is not there: {error}", "") from error
    except Exception as error:  # whatever the user's module does when it is imported
        raise _refusal(path, f"importing {name} failed with {type(error).__name__}: {error}", "") from error


def _modules_of(package: str) -> Iterable[str]:
    if not package:
        return [module.name for module in pkgutil.iter_modules()]
    paths = getattr(importlib.import_module(package), "__path__", ())  # a plain module has none
    return [module.name for module in pkgutil.iter_modules(list(paths))]


def _refusal(path: str, reason: str, hint: str) -> ConfigError:
    return ConfigError(f"trainable={path!r} cannot be imported: {reason}{hint} ({_EXPECTED})")

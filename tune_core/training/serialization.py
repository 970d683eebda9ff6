"""How a trainable travels to the processes that run it.

By reference where its modules can be imported there, else by value: code of the user's own
modules that only the driver can import goes along. What cannot be pickled is named.
"""

from __future__ import annotations

import functools
import inspect
import io
import pickle
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import cloudpickle

from tune_core.errors import NotPicklable, TrainableError
from tune_core.references import is_reference

#: In the path of every module of an installed package.
_INSTALLED = re.compile(r"[/\\](site|dist)-packages[/\\]")
_OWN_PACKAGES = frozenset({"tune_core"})


@dataclass(frozen=True, slots=True)
class PickledTrainable:
    """A trainable as bytes, twice: as its importable name, and with its code.

    Attributes:
        by_reference: What Python's pickling rules give: importable functions by name.
        by_value: The same with the code of the user's modules; None if nothing would differ.
        references: Those of Ray that it holds: Ray is to send them, beside it.
    """

    by_reference: bytes
    by_value: bytes | None
    references: tuple[Any, ...] = ()

    def load(self) -> Callable[..., Any]:
        """Return the trainable; its own modules need not be importable here.

        Raises:
            TrainableError: Something that it needs cannot be imported in this process.
        """
        try:
            return self._loads(self.by_reference)
        except (ImportError, AttributeError) as error:
            if self.by_value is None:
                raise _missing_import(error) from error
        try:
            return self._loads(self.by_value)
        except (ImportError, AttributeError) as error:
            raise _missing_import(error) from error

    def _loads(self, data: bytes) -> Callable[..., Any]:
        loaded: Callable[..., Any] = loads_apart(data, self.references)
        return loaded


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc] # it has no types
    """Leaves Ray's references out: pickled by anybody but Ray, nobody would answer for them, and `ray.get` waits on."""

    def __init__(self, file: io.BytesIO, references: list[Any]) -> None:
        super().__init__(file)
        self._references = references

    def persistent_id(self, value: Any) -> int | None:
        if not is_reference(value):
            return None
        self._references.append(value)
        return len(self._references) - 1


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, references: Sequence[Any]) -> None:
        super().__init__(file)
        self._references = references

    def persistent_load(self, number: int) -> Any:
        return self._references[number]


def dumps_apart(value: Any, references: list[Any]) -> bytes:
    """Pickle a value without the references of Ray in it, which are added to a list that Ray is to send."""
    file = io.BytesIO()
    _Pickler(file, references).dump(value)
    return file.getvalue()


def loads_apart(data: bytes, references: Sequence[Any]) -> Any:
    """Return what `dumps_apart` has pickled; to be called for what comes from our own flow alone."""
    return _Unpickler(io.BytesIO(data), references).load()


def pickle_trainable(trainable: Callable[..., Any]) -> PickledTrainable:
    """Pickle a trainable for other processes.

    Raises:
        NotPicklable: A TypeError: it cannot be pickled; the message names the variables that stand in the way.
    """
    references: list[Any] = []
    try:
        by_reference = dumps_apart(trainable, references)
    except Exception as error:
        raise NotPicklable(_blame(trainable, error)) from error
    modules = _user_modules(trainable)
    if not modules:
        return PickledTrainable(by_reference, None, tuple(references))
    try:
        with _by_value(modules):
            by_value = dumps_apart(trainable, references)
    except Exception:  # noqa: BLE001 - a module with state that cannot travel: by reference has to do
        by_value = None
    return PickledTrainable(by_reference, by_value, tuple(references))


def _missing_import(error: Exception) -> TrainableError:
    return TrainableError(
        f"the trainable cannot be loaded in this process: {error}. Install what it imports on every Ray node, "
        "or ship it with RunConfig(runtime_env={'working_dir': …, 'pip': […]})"
    )


class Variable(NamedTuple):
    """Something that a trainable takes along.

    Attributes:
        kind: Where from: "closure variable", "global variable", "attribute" or "argument" (of a partial).
        name: Its name, or its position.
        value: What it is.
    """

    kind: str
    name: str
    value: Any


def variables_of(trainable: Any) -> Iterator[Variable]:
    """Yield what is pickled along with a trainable, one level deep."""
    while isinstance(trainable, functools.partial):
        bound = [*enumerate(trainable.args), *trainable.keywords.items()]
        yield from (Variable("argument", str(name), value) for name, value in bound)
        trainable = trainable.func
    if inspect.isclass(trainable):
        # What Python puts into every class cannot be pickled by itself, and need not.
        for name, value in vars(trainable).items():
            if inspect.isfunction(function := getattr(value, "__func__", value)):
                yield from variables_of(function)
            elif not name.startswith("__") and not inspect.isdatadescriptor(value):
                yield Variable("attribute", name, value)
        return
    function = inspect.unwrap(getattr(trainable, "__func__", trainable))
    if inspect.ismethod(trainable) or not inspect.isfunction(function):
        attributes = getattr(getattr(trainable, "__self__", trainable), "__dict__", {})
        yield from (Variable("attribute", name, value) for name, value in attributes.items())
    if not inspect.isfunction(function):
        return
    variables = inspect.getclosurevars(function)
    for kind, found in (("closure variable", variables.nonlocals), ("global variable", variables.globals)):
        yield from (Variable(kind, name, value) for name, value in found.items())


def pickling_fault(value: Any) -> Exception | None:
    """Return what pickling a value raises; None if it can be pickled."""
    try:
        cloudpickle.dumps(value)
    except Exception as error:  # noqa: BLE001 - any failure is the answer
        return error
    return None


def _blame(trainable: Callable[..., Any], error: Exception) -> str:
    culprits = [
        f"{variable.kind} {variable.name!r} ({type(variable.value).__name__})"
        for variable in variables_of(trainable)
        if pickling_fault(variable.value) is not None
    ]
    cause = f"because of {', '.join(culprits)}" if culprits else "because of an object that it refers to"
    return (
        f"the trainable {trainable!r} cannot be pickled {cause}: {error}. "
        "Create such objects inside the trainable, or pass what they are made from through the config"
    )


def _user_modules(trainable: Any) -> list[ModuleType]:
    """The loaded modules that lie beside the trainable's own and are no installed package."""
    while isinstance(trainable, functools.partial):
        trainable = trainable.func
    name = getattr(inspect.unwrap(trainable), "__module__", None) or type(trainable).__module__
    top = sys.modules.get(str(name).partition(".")[0])
    place = _source(top) or _namespace(top)
    if top is None or place is None or not _is_users(top.__name__, place):
        return []
    root = place.parent.parent if place.name == "__init__.py" else place.parent
    beside = []
    for other, module in list(sys.modules.items()):
        if _INSTALLED.search(getattr(module, "__file__", None) or ""):
            continue  # nearly all are: to resolve their paths would take longer than everything else here
        path = _source(module)
        if path is not None and root in path.parents and other != "__main__" and _is_users(other, path):
            beside.append(module)
    return beside


def _source(module: ModuleType | None) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if isinstance(file, str) else None


def _namespace(module: ModuleType | None) -> Path | None:
    """The directory of a package that has no `__init__.py`."""
    return next((Path(place).resolve() for place in getattr(module, "__path__", ())), None)


def _is_users(name: str, source: Path) -> bool:
    if name.partition(".")[0] in _OWN_PACKAGES or _INSTALLED.search(str(source)):
        return False
    return not source.is_relative_to(sysconfig.get_path("stdlib"))


@contextmanager
def _by_value(modules: list[ModuleType]) -> Iterator[None]:
    registered = [
        module for module in modules if module.__name__ not in cloudpickle.list_registry_pickle_by_value()
    ]
    for module in registered:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in registered:
            cloudpickle.unregister_pickle_by_value(module)

"""Acts after somebody else's import of a package, which is not imported for that."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType


def after_import(
    name: str, act: Callable[[ModuleType], None], *, failed: Callable[[ImportError], None] | None = None
) -> None:
    """Call `act` with a module once it has been imported: now, if it has been already.

    `from name import thing` binds what `act` has left in the module.

    Args:
        name: The module.
        act: Called once.
        failed: Called each time that the import fails for something that is missing; what it raises takes the
            place of the error.
    """
    if (module := sys.modules.get(name)) is not None:
        act(module)
    else:
        sys.meta_path.insert(0, _AfterImport(name, act, failed))


class _AfterImport(importlib.abc.MetaPathFinder):
    """Finds one module as others do, and has its loader act when it is done."""

    def __init__(
        self, name: str, act: Callable[[ModuleType], None], failed: Callable[[ImportError], None] | None
    ) -> None:
        self._name, self._act, self._failed = name, act, failed

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self._name:
            return None
        # It stays among the finders until the module is there: some only ask whether it could be imported.
        others = sys.meta_path[sys.meta_path.index(self) + 1 :]
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        loader = spec.loader if spec is not None else None
        if loader is not None:
            run = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                try:
                    run(module)
                except ImportError as error:
                    if self._failed is not None:
                        self._failed(error)
                    raise
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                    self._act(module)

            loader.exec_module = exec_module  # type: ignore[method-assign] # this module's own loader
        return spec

"""What a `sample_from` function sees: the configuration as far as it is decided.

Owns the reading of values that other values depend on. Never decides or changes one.
Invariant: a function that reads something undecided is noticed, even if it swallows the exception,
so that nothing is ever computed from a value that is not there yet.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping, Sequence, ValuesView
from typing import Any

from tune_core.search.sample import Path, children, is_unresolved, path_text, with_children


class NotDecidedYet(Exception):
    """A `sample_from` function read a value that is decided later; it will be called again."""


class _Undecided:
    """Stands in a view for a value that is not decided yet."""

    def __init__(self, path: Path, waits: list[str]) -> None:
        self.path, self.waits = path, waits

    def refuse(self) -> NotDecidedYet:
        self.waits.append(path_text(self.path))
        return NotDecidedYet(f"{path_text(self.path)!r} is not decided yet")


class ConfigView(dict[str, Any]):
    """A dict whose values can also be read as attributes, and which refuses to show undecided ones.

    The value that is being made is left out, so that a function may walk over all the others.
    """

    # Class attributes, as `__getattr__` is called for whatever an instance lacks.
    _own: _Undecided | None = None
    _is_root = False

    def __getitem__(self, key: str) -> Any:
        return _decided(super().__getitem__(key))

    def __missing__(self, key: str) -> Any:
        if self._own is not None and self._own.path[-1] == key:
            return self._own
        if self._is_root and key == "config":  # Ray's older form: lambda spec: spec.config.lr
            return self
        raise KeyError(key)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the configuration has no {name!r}", name=name, obj=self) from None

    # dict(view), {**view} and json.dumps(view) take the values as they are stored, unless
    # iteration is redefined. Guarded by test_undecided_values_do_not_leak_through_copies.
    def __iter__(self) -> Iterator[str]:
        return super().__iter__()

    def get(self, key: str, default: Any = None) -> Any:
        """As of a dict."""
        try:
            return self[key]
        except KeyError:
            return default

    def items(self) -> Any:
        """As of a dict."""
        return ItemsView(self)

    def values(self) -> Any:
        """As of a dict."""
        return ValuesView(self)

    def copy(self) -> dict[str, Any]:
        """As of a dict; it is one, with everything decided."""
        return dict(self)


class _ListView(Sequence[Any]):
    """A list or tuple that holds undecided values, and refuses to show those."""

    def __init__(self, values: list[Any]) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [_decided(value) for value in self._values[index]]
        return _decided(self._values[index])


def view_of(space: Mapping[str, Any], values: Mapping[Path, Any], own: Path, waits: list[str]) -> ConfigView:
    """Return what the function at `own` sees.

    Args:
        space: The search space.
        values: What has been decided, by path.
        own: The path of the value that the function makes.
        waits: Gets the path of each undecided value that is read.
    """
    view: ConfigView = _view(space, (), values, own, waits)
    view._is_root = True
    return view


def without_views(value: Any) -> Any:
    """Return what a function returned with plain dicts and lists in the place of views.

    Raises:
        NotDecidedYet: It holds an undecided value.
    """
    value = _decided(value)
    if isinstance(value, ConfigView):
        return {key: without_views(child) for key, child in value.items()}
    if isinstance(value, _ListView):
        return [without_views(child) for child in value]
    if is_unresolved(value):
        return value
    return with_children(value, [without_views(child) for _, child in children(value)])


def _view(node: Any, path: Path, values: Mapping[Path, Any], own: Path, waits: list[str]) -> Any:
    node = values.get(path, node)
    if is_unresolved(node):
        return _Undecided(path, waits)
    items = {key: _view(child, (*path, key), values, own, waits) for key, child in children(node)}
    if isinstance(node, dict):
        view = ConfigView({str(key): child for key, child in items.items() if (*path, key) != own})
        if path == own[:-1]:
            view._own = _Undecided(own, waits)
        return view
    if any(isinstance(child, _Undecided | _ListView) for child in items.values()):
        return _ListView(list(items.values()))
    return with_children(node, list(items.values()))


def _decided(value: Any) -> Any:
    if isinstance(value, _Undecided):
        raise value.refuse()
    return value

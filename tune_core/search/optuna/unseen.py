"""Which configurations of a search space have not been suggested yet.

Owns what two configurations are told apart by, and the walk over all of a finite space. Never talks to a study.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from tune_core.encoding import dumps
from tune_core.search.optuna.conversion import MISSING, Parameter, part
from tune_core.search.sample import Categorical, Function, Path, children, grid_values

#: Spaces with more configurations than this are never walked to find one that is left.
MOST_WALKED: Final = 20_000


class Seen:
    """What has been suggested, of one search space.

    Args:
        parameters: What Optuna decides.
        space: The search space, whose `sample_from` functions may tell configurations apart.
    """

    def __init__(self, parameters: Sequence[Parameter], space: Mapping[str, Any]) -> None:
        self._parameters = parameters
        self._functions = list(_function_paths(space, ()))
        self._keys: set[bytes] = set()
        self._num_params: set[bytes] = set()
        self._size: int | None = None
        self._is_sized = False

    def note(self, params: Mapping[str, Any], config: Any) -> bool:
        """Note a configuration; return whether it is new.

        Args:
            params: What Optuna has decided of it.
            config: All of it.
        """
        made = [part(config, Parameter(path, None)) for path in self._functions]  # type: ignore[arg-type]
        own = dumps(dict(sorted(params.items())))
        key = own + dumps([None if value is MISSING else value for value in made])
        is_new = key not in self._keys
        self._keys.add(key)
        self._num_params.add(own)
        return is_new

    @property
    def count(self) -> int:
        """How many have been noted."""
        return len(self._keys)

    @property
    def size(self) -> int | None:
        """How many configurations there are; None: more than anybody walks, or what functions make."""
        if not self._is_sized:
            self._is_sized = True
            count = 0
            if (
                self._parameters
                and not self._functions
                and all(_values(p) is not None for p in self._parameters)
            ):
                for _ in _walk(self._parameters, 0, {}):
                    count += 1
                    if count > MOST_WALKED:
                        break
                self._size = count if count <= MOST_WALKED else None
        return self._size

    @property
    def is_exhausted(self) -> bool:
        """Whether every configuration has been suggested."""
        return len(self._num_params) >= 1 and self.size is not None and len(self._num_params) >= self.size

    def left(self) -> list[dict[str, Any]]:
        """Return what Optuna would decide of each configuration that is left; [] if the space is not walked."""
        if self.size is None:
            return []
        every = _walk(self._parameters, 0, {})
        return [params for params in every if dumps(dict(sorted(params.items()))) not in self._num_params]


def _walk(parameters: Sequence[Parameter], place: int, params: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if place == len(parameters):
        yield dict(params)
        return
    each = parameters[place]
    if not each.is_active(params):
        yield from _walk(parameters, place + 1, params)
        return
    for value in _values(each) or ():
        yield from _walk(parameters, place + 1, {**params, each.name: value})


def _values(parameter: Parameter) -> Sequence[Any] | None:
    """What Optuna may choose; None: without end."""
    from optuna import distributions as to

    drawn = parameter.distribution
    if isinstance(drawn, to.CategoricalDistribution):
        return drawn.choices
    if isinstance(drawn, to.IntDistribution):
        return range(drawn.low, drawn.high + 1, drawn.step)
    if isinstance(drawn, to.FloatDistribution) and drawn.step is not None:
        count = round((drawn.high - drawn.low) / drawn.step) + 1
        return range(count) if count > MOST_WALKED else [drawn.low + i * drawn.step for i in range(count)]
    if isinstance(drawn, to.FloatDistribution) and drawn.single():
        return [drawn.low]
    return None


def _function_paths(node: Any, path: Path) -> Iterator[Path]:
    if isinstance(node, Function):
        yield path
    elif isinstance(node, Categorical):
        for category in node.categories:
            yield from _function_paths(category, path)
    elif grid_values(node) is None:
        for key, child in children(node):
            yield from _function_paths(child, (*path, key))

"""From a search space to configurations, one after the other, and the names that they go by.

Owns the order of a grid, the resolution of `sample_from` values that read each other, and
experiment tags and directory names. Never keeps more than one configuration: a grid of any size
is walked, not built. Invariant: no two configurations share a container, and none shares one
with the space; what is no dict, list or tuple is passed on as it is.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from tune_core.errors import ConfigError
from tune_core.search.config_view import ConfigView, view_of, without_views
from tune_core.search.sample import (
    Categorical,
    Domain,
    Function,
    Path,
    children,
    could_be,
    grid_values,
    inner_children,
    inner_nodes,
    is_among,
    is_unresolved,
    path_text,
    with_children,
)
from tune_core.search.space import validate_space
from tune_core.validation import shorten, suggestion

#: Values by the path at which they replace a node of the space.
Values: TypeAlias = dict[Path, Any]

#: The longest part of a directory's name before the date, in bytes (Ray: TUNE_MAX_LEN_IDENTIFIER).
MAX_LEN_IDENTIFIER: Final = 130

_UNSAFE_IN_NAMES: Final = frozenset('/()<>:"\\|?*[]{}')


@dataclass(frozen=True)
class Variant:
    """One configuration made from a space.

    Attributes:
        config: The space with every sampler and grid replaced by a value.
        varied: What replaced them, by path (`net/width`), sorted by path.
    """

    config: dict[str, Any]
    varied: dict[str, Any]


def generate_variants(
    space: dict[str, Any],
    rng: random.Random,
    *,
    constant_grid_search: bool = False,
    point: Mapping[str, Any] | None = None,
) -> Iterator[Variant]:
    """Return the configurations of one sample of a space, lazily: one per point of its grid.

    Grids are combined with the first path, in alphabetical order, varying fastest. What is
    random is drawn again for each point of the grid, in alphabetical order of the paths, so that
    the order of the space's keys changes nothing. Values may themselves hold samplers and grids.

    Args:
        space: The search space.
        rng: Consumed while the iterator is walked.
        constant_grid_search: Draw what is random once, and use it for all points of the grid.
        point: Values that are given, as in `points_to_evaluate`; the rest is drawn.

    Raises:
        ConfigError: At once, for a faulty space or point. While walking: a `sample_from` function
            failed, or some of them wait for each other.

    Example:
        >>> from tune_core.search import grid_search, sample_from
        >>> space = {
        ...     "b": grid_search([1, 2]),
        ...     "a": grid_search([10, 20]),
        ...     "c": sample_from(lambda config: config["a"] + config["b"]),
        ... }
        >>> for variant in generate_variants(space, random.Random(0)):
        ...     print(variant.config)
        {'b': 1, 'a': 10, 'c': 11}
        {'b': 1, 'a': 20, 'c': 21}
        {'b': 2, 'a': 10, 'c': 12}
        {'b': 2, 'a': 20, 'c': 22}

    Source: as Ray Tune 2.60; differs: reading an undecided value with `config["a"]` waits for it,
        as `spec.config.a` does there; a point's values count as varied.
    """
    validate_space(space)
    given = {} if point is None else read_point(space, point)
    return walk_sample(space, rng, given, constant_grid_search=constant_grid_search)


def walk_sample(
    space: dict[str, Any], rng: random.Random, given: Values, *, constant_grid_search: bool = False
) -> Iterator[Variant]:
    """Yield what `generate_variants` returns, of a space that is known to be valid.

    Args:
        space: The search space.
        rng: As there.
        given: Values by path, as `read_point` returns them.
        constant_grid_search: As there.
    """
    fixed = {path for path in given if not _is_open(space, path)}
    for values in _decide(space, dict(given), rng, constant=constant_grid_search):
        changed = {path[:depth] for path in values for depth in range(len(path) + 1)}
        varied = {
            path_text(path): _fresh(None, path, values, changed)
            for path in sorted(values)
            if path not in fixed
        }
        yield Variant(_fresh(space, (), values, changed), varied)


def grid_size(node: Any, given: Values | None = None, path: Path = ()) -> int:
    """Return how many configurations one sample makes; a grid inside of a `choice` counts as one.

    Example:
        >>> grid_size({"a": {"grid_search": [1, 2]}, "b": [{"grid_search": [3, 4, 5]}]})
        6
    """
    if given and path in given:
        return 1
    values = grid_values(node)
    if values is not None:
        # A grid may have millions of values: leaves are counted without looking at each.
        return len(values) + sum(grid_size(value) - 1 for _, value in inner_nodes(values))
    return math.prod(grid_size(child, given, (*path, key)) for key, child in inner_children(node))


def read_point(space: Mapping[str, Any], point: Mapping[str, Any], name: str = "point") -> Values:
    """Return the values of a point by their paths in the space.

    Args:
        space: The search space.
        point: A configuration, or a part of one; dicts are merged, anything else replaces.
        name: What errors call it.

    Raises:
        ConfigError: The space has no such key, or the point holds a sampler or a grid.
    """
    faults: list[str] = []
    values = dict(_read_point(space, point, (), name, faults))
    if faults:
        raise ConfigError(faults)
    return values


def outside_values(space: Mapping[str, Any], values: Values) -> Iterator[tuple[Path, Any, Any]]:
    """Yield (path, value, sampler or grid) for each value of a point that the space would never make."""
    for path, value in values.items():
        node = _node_at(space, path)
        grid = grid_values(node)
        if not (node.is_valid(value) if isinstance(node, Domain) else grid is None or is_among(value, grid)):
            yield path, value, node


def added_variant(space: Mapping[str, Any], point: Mapping[str, Any]) -> Variant:
    """Return the configuration that somebody chose instead of a searcher.

    Args:
        space: The search space.
        point: A value for each sampler and grid; what `sample_from` makes, and what is fixed, may be left out.

    Raises:
        ConfigError: The space has no such key, or would never make such a value, or something is missing.

    Example:
        >>> from tune_core.search import uniform
        >>> added_variant({"lr": uniform(0, 1), "epochs": 3}, {"lr": 0.5})
        Variant(config={'lr': 0.5, 'epochs': 3}, varied={'lr': 0.5})
    """
    given = read_point(space, point, "config")
    faults = [
        f"config: {path_text(path)}={shorten(value)}: expected a value of {node!r}"
        for path, value, node in outside_values(space, given)
        if not (isinstance(node, Categorical) and any(could_be(value, each) for each in node.categories))
    ]
    grids, domains, _ = _undecided(space, given)
    missing = sorted(map(path_text, (*grids, *domains)))
    if missing:
        faults.append(f"config: {', '.join(missing)} is missing: the search space leaves it open")
    if faults:
        raise ConfigError(faults)
    return next(walk_sample(dict(space), random.Random(0), given))


def experiment_tag(number: int, varied: Mapping[str, Any]) -> str:
    """Return the text by which people tell trials apart: its number, and what varied.

    Args:
        number: The trial's number.
        varied: Values by path; the last name of each path is shown.

    Example:
        >>> experiment_tag(3, {"net/width": 64, "lr": 0.01, "act": "re/lu"})
        '3_act=re_lu,lr=0.0100,width=64'

    Source: as Ray Tune 2.60.
    """
    shown = _tag_values(varied)
    return f"{number}_{shown}" if shown else str(number)


def _tag_values(values: Mapping[str, Any]) -> str:
    return ",".join(
        f"{_tag_text(path.rpartition('/')[2])}={_tag_text(values[path])}"
        for path in sorted(values, key=_natural)
    )


def exploit_tag(tag: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Return the tag of a trial that goes on with another configuration.

    Args:
        tag: The trial's tag so far; what an earlier exploit added to it is replaced.
        before: The configuration so far, by path.
        after: The new one.

    Example:
        >>> exploit_tag("3_lr=0.0100", {"lr": 0.01, "act": "relu"}, {"lr": 0.02, "act": "relu"})
        '3_lr=0.0100@perturbed[lr=0.0200]'

    Source: as Ray Tune 2.60.
    """
    same = {path for path in before if path in after and is_among(after[path], (before[path],))}
    changed = _tag_values({path: value for path, value in after.items() if path not in same})
    return f"{tag.partition('@perturbed')[0]}@perturbed[{changed}]"


def trial_dirname(trainable_name: str, trial_id: str, tag: str, date: str) -> str:
    """Return the name of a trial's directory: one safe path component, unique by its trial id.

    Args:
        trainable_name: Shortened if the trial id would not fit behind it.
        trial_id: Always kept.
        tag: See `experiment_tag`; cut so that what stands before the date has at most
            `MAX_LEN_IDENTIFIER` bytes.
        date: When the trial was made, as `2026-01-31_23-59-59`.

    Returns:
        Without separators, control characters, leading dot, `..`, and what globs take as patterns.

    Example:
        >>> trial_dirname("train", "a1b2c_00000", "1_lr=0.0100", "2026-01-31_23-59-59")
        'train_a1b2c_00000_1_lr=0.0100_2026-01-31_23-59-59'

    Source: as Ray Tune 2.60; differs: a long name of the trainable does not cut off the trial id,
        and more characters are replaced.
    """
    identity = f"_{_safe(trial_id)}"
    head = _cut(_safe(trainable_name), max(MAX_LEN_IDENTIFIER - len(identity.encode()), 0)) + identity
    name = _cut(f"{head}_{_safe(tag)}", max(MAX_LEN_IDENTIFIER, len(head.encode())))
    return re.sub(r"^\.|\.\.+", "_", f"{name}_{_safe(date)}")


def _decide(space: Any, values: Values, rng: random.Random, *, constant: bool) -> Iterator[Values]:
    """Yield `values`, completed, for every point of the grids that are not decided in them."""
    while True:
        grids, domains, functions = _undecided(space, values)
        if grids and not constant:
            break
        if domains:
            for path in sorted(domains):
                values[path] = domains[path].sample(rng)
        elif functions:
            waiting = _call_functions(space, functions, values)
            if len(waiting) == len(functions):
                if grids:
                    break
                raise ConfigError(_circle_text(waiting))
        elif grids:
            break
        else:
            yield values
            return
    paths = sorted(grids, reverse=True)
    # itertools.product varies its last argument fastest, Ray Tune the first path.
    for point in itertools.product(*(grids[path] for path in paths)):
        yield from _decide(space, {**values, **dict(zip(paths, point, strict=True))}, rng, constant=constant)


def _undecided(space: Any, values: Values) -> tuple[Values, Values, dict[Path, Function]]:
    """Return the values of the grids, the domains and the functions that are still to be decided."""
    grids: Values = {}
    domains: Values = {}
    functions: dict[Path, Function] = {}

    def walk(node: Any, path: Path) -> None:
        node = values.get(path, node)
        grid = grid_values(node)
        if grid is not None:
            grids[path] = grid
        elif isinstance(node, Function):
            functions[path] = node
        elif isinstance(node, Domain):
            domains[path] = node
        else:
            for key, child in inner_children(node):
                walk(child, (*path, key))

    walk(space, ())
    return grids, domains, functions


def _call_functions(space: Any, functions: dict[Path, Function], values: Values) -> dict[Path, str]:
    """Put the results of the functions into `values`; return what the others are waiting for."""
    waiting: dict[Path, str] = {}
    for path, function in functions.items():
        waits: list[str] = []
        view = view_of(space, values, path, waits)
        try:
            value = without_views(_call(function, view))
        except Exception as error:
            if waits:  # it read what is not decided yet, whatever it made of that
                waiting[path] = waits[0]
                continue
            name = (
                error.args[0] if isinstance(error, KeyError) and error.args else getattr(error, "name", None)
            )
            raise ConfigError(
                f"param_space: the function of sample_from at {path_text(path)!r} raised "
                f"{type(error).__name__}: {error}{suggestion(name, view)}"
            ) from error
        if waits:
            waiting[path] = waits[0]
        else:
            values[path] = value
    return waiting


def _call(function: Function, view: ConfigView) -> Any:
    try:
        return function.sample(config=view)
    except (KeyError, AttributeError):
        # A space with a key "config" of its own hides the `spec.config` of Ray's older form.
        if not function.takes_config or "config" not in view:
            raise
        return function.sample(config=ConfigView({"config": view}))


def _circle_text(waiting: Mapping[Path, str]) -> str:
    reads = ", ".join(f"{path_text(path)!r} reads {other!r}" for path, other in waiting.items())
    return f"param_space: values of sample_from wait for each other: {reads}; decide one without the others"


def _fresh(node: Any, path: Path, values: Values, changed: Set[Path]) -> Any:
    """Return what stands at `path` once `values` are put in, in containers of its own.

    Args:
        node: What stands there in the space.
        path: Where.
        values: What replaces nodes, by path.
        changed: The paths of those, and of all around them.
    """
    node = values.get(path, node)
    inner = (((*path, key), child) for key, child in children(node))
    new = [_fresh(child, at, values, changed) if at in changed else _copied(child) for at, child in inner]
    return with_children(node, new)


def _copied(node: Any) -> Any:
    return with_children(node, [_copied(child) for _, child in children(node)])


def _read_point(
    space: Any, point: Any, path: Path, name: str, faults: list[str]
) -> Iterator[tuple[Path, Any]]:
    for key, value in point.items():
        place = (*path, key)
        if key not in space:
            near = suggestion(key, space)
            faults.append(f"{name}: the search space has no {path_text(place)!r}{near}")
        elif isinstance(value, dict) and isinstance(space[key], dict) and not is_unresolved(space[key]):
            yield from _read_point(space[key], value, place, name, faults)
        elif _holds_unresolved(value):
            faults.append(f"{name}: {path_text(place)!r} is {shorten(value)}: expected a value")
        else:
            yield place, value


def _holds_unresolved(node: Any) -> bool:
    return is_unresolved(node) or any(_holds_unresolved(child) for _, child in inner_children(node))


def _is_open(space: Any, path: Path) -> bool:
    """Whether the space leaves open what stands at a path, which may lead into a choice."""
    for key in path:
        if is_unresolved(space):
            return True
        space = space[key]
    return _holds_unresolved(space)


def _node_at(space: Any, path: Path) -> Any:
    for key in path:
        space = space[key]
    return space


def _natural(path: str) -> list[tuple[int, int, str]]:
    """Sort key of a path: the items of a list go by number, names by the alphabet."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in path.split("/")]


def _tag_text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return re.sub(r"[^a-zA-Z0-9_-]+", "_", str(value)).strip("_")


def _safe(text: str) -> str:
    return "".join("_" if char in _UNSAFE_IN_NAMES or not char.isprintable() else char for char in text)


def _cut(text: str, size_bytes: int) -> str:
    return text.encode()[:size_bytes].decode(errors="ignore")

"""Who imports whom, read from the code: for the rank table, and for the drawing in docs/architecture.md.

`python -m tests.support.import_graph` writes the drawing.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- packages: begin -->\n", "<!-- packages: end -->\n"

#: Modules of `tune_core` that are in no package, and belong to no drawing of their own.
DOOR = frozenset({"tune_core", "tune_core.flow", "tune_core.tune", "tune_core.tuner"})
APART = frozenset({"tune_core.callback", "tune_core.runtime"})


def source_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in source_files("tune_core")}


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported_names(path: Path) -> Iterator[str]:
    """Dotted names of every import, inside functions and `if TYPE_CHECKING` too."""
    for node in ast.walk(parse(path)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=0):
                yield from (f"{module}.{alias.name}" for alias in names)
            case ast.ImportFrom():
                raise AssertionError(f"{path}:{node.lineno}: relative import; write the absolute name")
            case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name)), *_]):
                yield name


def imported_modules(path: Path) -> set[str]:
    """Modules of this project that a file imports: `from package import module` means the module."""
    candidates = {name: name.rpartition(".")[0] for name in imported_names(path)}
    return {name if name in MODULES else package for name, package in candidates.items()} & MODULES.keys()


def package_of(module: str) -> str:
    """The node of the drawing that a module is part of; packages of the engine are nodes of their own."""
    names = module.split(".")
    if module in DOOR:
        return "tune"
    if module in APART:
        return names[1]
    if len(names) == 2 and MODULES[module].name != "__init__.py":
        return "values"
    if names[1] == "engine":
        return ".".join(names[1:3]) if len(names) > 3 or MODULES[module].name == "__init__.py" else "engine"
    return names[1]


def package_graph(package: Mapping[str, str]) -> dict[str, set[str]]:
    """For each package, those that it imports, but for what it has through others."""
    graph: dict[str, set[str]] = {name: set() for name in package.values()}
    for module, path in MODULES.items():
        for target in imported_modules(path):
            if package[target] != package[module]:
                graph[package[module]].add(package[target])
    return graph


def reduced(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Leave out the edges that follow from others. Raises `graphlib.CycleError` if the graph has a circle."""
    below: dict[str, set[str]] = {}
    for name in TopologicalSorter(graph).static_order():
        below[name] = set(graph[name]).union(*(below[each] for each in graph[name]))
    return {
        name: {each for each in direct if not any(each in below[other] for other in direct - {each})}
        for name, direct in graph.items()
    }


def drawing() -> str:
    """The packages as a Mermaid graph: each arrow is an import that no other arrows imply."""
    graph = package_graph({module: package_of(module).partition(".")[0] for module in MODULES})
    lines = [
        f"    {name} --> {target}"
        for name, targets in sorted(reduced(graph).items())
        for target in sorted(targets)
    ]
    return "\n".join(["```mermaid", "graph TD", *lines, "```", ""])


def page_with(drawn: str) -> str:
    text = PAGE.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    return head + BEGIN + drawn + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page_with(drawing()), encoding="utf-8")

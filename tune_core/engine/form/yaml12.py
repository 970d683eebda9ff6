"""YAML read as a superset of JSON: what looks like a number is one, and `no` is a word.

PyYAML follows YAML 1.1, in which `1e-3` is a text, `no` is False, `1:30` is 90 and `2026-01-01` is no
text: each of them would change a search space without a word. Here it is the core schema of YAML 1.2.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

import yaml

from tune_core.errors import ConfigError

_RESOLVERS = (
    ("merge", r"<<", ["<"]),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with another idea of what a plain word is."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Construct what is inside first: so an alias to what it stands in is an error, and no circle."""
        return super().construct_object(node, deep=True)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that is given twice, of which PyYAML takes the last one; `<<` may be overridden."""
        own = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((key for position, key in enumerate(own) if key in own[:position]), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(
                "while reading a mapping",
                node.start_mark,
                f"{twice!r} is given more than once",
                node.start_mark,
            )
        return super().construct_mapping(node, deep)


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))  # PyYAML's own reads 017 as octal


def _construct_str(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
    text = loader.construct_scalar(node)
    # JSON writes what is beyond 16 bits as two escapes, which PyYAML does not put together.
    return text.encode("utf-16", "surrogatepass").decode("utf-16")


for _tag, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:str", _construct_str)


def read_yaml(text: str, source: str) -> Any:
    """Return the value of a YAML or JSON document; nothing in it is executed.

    Args:
        text: The document.
        source: Where it is from, for messages.

    Raises:
        ConfigError: It is no YAML, with line and column; or a key stands twice in it, or something in itself.

    Example:
        >>> read_yaml("{lr: 1e-3, activation: no, width: [16, 32]}", "an example")
        {'lr': 0.001, 'activation': 'no', 'width': [16, 32]}
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - derived from SafeLoader
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        # PyYAML's constructors raise whatever they meet: of values that their tags do not fit, or too deep.
        raise ConfigError(f"{source} is neither YAML nor JSON: {' '.join(str(error).split())}") from None


def read_list(text: str, source: str) -> list[Any]:
    """Return the values of a text such as `16, 32, 64` or `relu, tanh`; in brackets or not.

    Raises:
        ConfigError: It is no list.

    Example:
        >>> read_list("16, 1e-3, relu, true, [64, 64], '8'", "an example")
        [16, 0.001, 'relu', True, [64, 64], '8']
    """
    inner = read_yaml(f"[{text}]", source)
    is_bracketed = len(inner) == 1 and isinstance(inner[0], list) and text.strip().startswith("[")
    values: list[Any] = inner[0] if is_bracketed else inner
    return values

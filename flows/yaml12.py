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


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))  # PyYAML's own reads 017 as octal


for _tag, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def read_yaml(text: str, source: str) -> Any:
    """Return the value of a YAML or JSON document; nothing in it is executed.

    Args:
        text: The document.
        source: Where it is from, for messages.

    Raises:
        ConfigError: It is no YAML; the message has line and column.

    Example:
        >>> read_yaml("{lr: 1e-3, activation: no, width: [16, 32]}", "an example")
        {'lr': 0.001, 'activation': 'no', 'width': [16, 32]}
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - derived from SafeLoader
    except yaml.YAMLError as error:
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

"""JSON for everything that prefect-tune writes: lossless inside, friendly outside.

`dumps`/`loads` is the internal form (journal, markers, report channel): what JSON lacks
is tagged, so it comes back as it was. `dumps_row` is the form that users read (`result.json`).
Neither ever pickles: reading an experiment executes nothing that is stored in it.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any

import orjson

from tune_core.references import is_reference, reference_text

#: Keys of one-entry objects that stand for values that JSON lacks.
_FLOAT, _INT, _BYTES, _REPR, _TUPLE, _ESCAPED = "$float", "$int", "$bytes", "$repr", "$tuple", "$escaped"
_TAGS = frozenset((_FLOAT, _INT, _BYTES, _REPR, _TUPLE, _ESCAPED))
_SCALARS = frozenset((str, bool, type(None)))
_LEAVES = frozenset((*_SCALARS, int, float))
_CONTAINERS, _STR = frozenset((dict, list)), frozenset((str,))
_INT64 = 2**63


def dumps(value: Any) -> bytes:
    """Encode a value as one line of JSON from which `loads` rebuilds it.

    NaN, infinities, integers of any size, bytes and tuples survive; numpy scalars become
    Python's own; numpy arrays become lists; any other object is kept as its `repr` (see `Opaque`).

    Args:
        value: Nested dicts, lists and scalars. Keys that are not strings are written as `str(key)`.

    Returns:
        UTF-8 JSON without a newline. Only half a surrogate pair, which UTF-8 lacks, is written
        all the same (Python calls it "surrogatepass").

    Example:
        >>> loads(dumps({"loss": float("nan"), "raw": b"x"}))
        {'loss': nan, 'raw': b'x'}
    """
    tagged = value if _is_json(value) else _tagged(value)
    try:
        return orjson.dumps(tagged)
    except TypeError:  # half a surrogate pair, as in the name of a file that is no UTF-8
        # Not escaped: two halves that lie side by side would come back as one character.
        return json.dumps(tagged, ensure_ascii=False).encode("utf-8", "surrogatepass")


def loads(data: bytes | str) -> Any:
    """Rebuild what `dumps` encoded; objects it could not encode come back as `Opaque`.

    Raises:
        ValueError: The data is no JSON, for example the half of a line; or it is nested too deeply.
    """
    try:
        try:
            decoded = orjson.loads(data)
        except orjson.JSONDecodeError:
            decoded = json.loads(data if isinstance(data, str) else data.decode("utf-8", "surrogatepass"))
        has_tags = '"$' in data if isinstance(data, str) else b'"$' in data
        return _untagged(decoded) if has_tags else decoded
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply to be read") from error


def holds_opaque(value: Any) -> bool:
    """Return whether what `loads` returned has an object in it of which only the text is left.

    Example:
        >>> holds_opaque(loads(dumps({"a": [object]}))), holds_opaque({"a": [1]})
        (True, False)
    """
    return any(True for _ in opaque_texts(value))


def opaque_texts(value: Any) -> Iterator[str]:
    """Yield the texts of the objects in what `loads` returned.

    Example:
        >>> [*opaque_texts(loads(dumps({"a": [object, 1]})))]
        ["<class 'object'>"]
    """
    if isinstance(value, Opaque):
        yield value.text
    elif isinstance(value, (Mapping, list, tuple)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from opaque_texts(item)


def dumps_row(row: Mapping[str, Any]) -> bytes:
    """Encode one report as users read it: NaN and Infinity as Ray Tune writes them, objects as text.

    Returns:
        One line of JSON without a newline; `json.loads` and pandas read it back.

    Example:
        >>> dumps_row({"loss": float("nan")})
        b'{"loss": NaN}'
    """
    plain, is_special = (row, False) if _is_json(row) else _plain(row)
    if is_special:
        return json.dumps(plain).encode()
    try:
        return orjson.dumps(plain)
    except TypeError:  # half a surrogate pair
        return json.dumps(plain).encode()


class Opaque:
    """Stands for an object that was stored as its `repr`: it can be shown, not used."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Opaque) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)


def as_plain(value: Any) -> Any:
    """Return the value with numpy scalars and arrays as Python's own, containers copied."""
    if type(value) in _LEAVES:
        return value
    if isinstance(value, Mapping):
        return {key: as_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(as_plain, value)) if type(value) in (list, tuple) else [*map(as_plain, value)]
    converted = _from_numpy(value)
    return value if converted is None else converted


def _from_numpy(value: Any) -> Any | None:
    # Recognised by its module: numpy is optional and must not be imported for this.
    if type(value).__module__.partition(".")[0] != "numpy" or not hasattr(value, "tolist"):
        return None
    converted = value.tolist()
    if type(converted) is type(value):  # a long double has no equal in Python and returns itself
        return float(value) if isinstance(value, Real) else None
    return converted


def _is_json(value: Any) -> bool:
    """Whether orjson writes the value as it is, and nothing in it looks like a tag: most rows are so."""
    kind = type(value)
    if kind is dict:
        if not _STR.issuperset(map(type, value)) or (len(value) == 1 and not _TAGS.isdisjoint(value)):
            return False
        items = value.values()
    elif kind is list:
        items = value
    else:
        items = (value,)
    for item in items:  # all in one loop: this is where the time of a report goes
        kind = type(item)
        if kind is float:
            if not math.isfinite(item):
                return False
        elif kind is int:
            if not -_INT64 <= item < _INT64:
                return False
        elif kind not in _SCALARS and not (kind in _CONTAINERS and _is_json(item)):
            return False
    return True


def _tagged(value: Any) -> Any:
    kind = type(value)
    if kind is float:
        return value if math.isfinite(value) else {_FLOAT: repr(value)}
    if kind in _SCALARS:
        return value
    if kind is int:
        return value if -_INT64 <= value < _INT64 else {_INT: hex(value)}
    if isinstance(value, Mapping):
        tagged = {key if type(key) is str else str(key): _tagged(item) for key, item in value.items()}
        return {_ESCAPED: tagged} if len(tagged) == 1 and not _TAGS.isdisjoint(tagged) else tagged
    if isinstance(value, list):
        return [_tagged(item) for item in value]
    if isinstance(value, tuple):
        return {_TUPLE: [_tagged(item) for item in value]}
    if isinstance(value, (bytes, bytearray)):
        return {_BYTES: base64.b64encode(value).decode()}
    return _tagged_other(value)


def _tagged_other(value: Any) -> Any:
    if isinstance(value, Opaque):
        return {_REPR: value.text}
    converted = _from_numpy(value)
    if converted is not None:
        return _tagged(converted)
    for kind in (bool, int, float, str):  # subclasses, such as an IntEnum
        if isinstance(value, kind):
            return _tagged(kind(value))
    return {_REPR: reference_text(value) if is_reference(value) else repr(value)}


def _untagged(value: Any) -> Any:
    if isinstance(value, dict):
        if len(value) == 1:
            ((tag, inner),) = value.items()
            if tag == _FLOAT:
                return float(inner)
            if tag == _INT:
                return int(inner, 16)
            if tag == _BYTES:
                return base64.b64decode(inner)
            if tag == _TUPLE:
                return tuple(_untagged(item) for item in inner)
            if tag == _REPR:
                return Opaque(inner)
            if tag == _ESCAPED:
                return {key: _untagged(item) for key, item in inner.items()}
        return {key: _untagged(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_untagged(item) for item in value]
    return value


def _plain(value: Any) -> tuple[Any, bool]:
    """The value in JSON's types, and whether something is in it that orjson cannot write."""
    kind = type(value)
    if kind is float:
        return value, not math.isfinite(value)
    if kind in _SCALARS:
        return value, False
    if kind is int:
        return value, not -_INT64 <= value < _INT64
    if isinstance(value, Mapping):
        found = False
        plain = {}
        for key, item in value.items():
            plain[key if type(key) is str else str(key)], special = _plain(item)
            found = found or special
        return plain, found
    if isinstance(value, (list, tuple)):
        items = [_plain(item) for item in value]
        return [item for item, _ in items], any(special for _, special in items)
    converted = _from_numpy(value)
    if converted is not None:
        return _plain(converted)
    for base in (bool, int, float):
        if isinstance(value, base):
            return _plain(base(value))
    return str(value), False

"""What is written comes back as it was; what users read is JSON that others can read."""

from __future__ import annotations

import datetime
import enum
import json
import math
from collections import OrderedDict, UserDict, namedtuple
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune_core.encoding import Opaque, as_plain, dumps, dumps_row, loads

Point = namedtuple("Point", "x y")


class Level(enum.IntEnum):
    HIGH = 3


class Color(enum.StrEnum):
    RED = "red"


class Plain:
    def __repr__(self) -> str:
        return "<plain>"


LOSSLESS = [
    None,
    True,
    0,
    -(2**63),
    2**63 - 1,
    2**63,
    -(2**63) - 1,
    10**6000,
    1.5,
    -0.0,
    math.inf,
    -math.inf,
    "",
    "ünïcode \u2028\n",
    "\udcff half a surrogate pair",
    "\ud800\udc00",
    {"\ud800\udc00": "\ud800\udc00"},
    b"",
    b"\x00\xff",
    [],
    [1, [2.0, "x"]],
    (),
    (1, (2, [3])),
    {},
    {"a": {"b": math.inf}},
    {"\udcff": 1},
    {"$float": "nan"},
    {"$int": "0x1"},
    {"$bytes": "AA=="},
    {"$tuple": [1]},
    {"$repr": "x"},
    {"$escaped": {"$float": "inf"}},
    {"$escaped": {"$escaped": {}}},
    {"$float": 1, "other": 2},
]


@pytest.mark.parametrize(
    "value", LOSSLESS, ids=lambda value: repr(value)[:30] if value != 10**6000 else "big"
)
def test_value_comes_back_as_it_was(value: Any) -> None:
    back = loads(dumps(value))

    assert back == value
    assert type(back) is type(value)


def test_nan_comes_back() -> None:
    assert math.isnan(loads(dumps(math.nan)))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.text(st.characters(categories=["Cs", "Lu"])),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.sampled_from(["$float", "$int", "$repr", "$escaped"]), inner)
    ),
    max_leaves=10,
)


@given(json_values)
def test_nested_values_come_back_as_they_were(value: Any) -> None:
    assert loads(dumps(value)) == value


@given(json_values)
def test_encoded_value_is_one_line(value: Any) -> None:
    assert b"\n" not in dumps(value)


@given(json_values)
def test_row_is_one_line_of_json_whatever_is_in_it(value: Any) -> None:
    line = dumps_row({"value": value})

    assert b"\n" not in line
    assert "value" in json.loads(line)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (np.float64(0.5), 0.5),
        (np.float32(0.5), 0.5),
        (np.longdouble(0.5), 0.5),
        (np.float64("inf"), math.inf),
        (np.int64(3), 3),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (np.bool_(True), True),
        (np.str_("x"), "x"),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.array([0.5], dtype=np.longdouble), [0.5]),
        (np.array(7), 7),
        (Level.HIGH, 3),
        (Color.RED, "red"),
        (bytearray(b"x"), b"x"),
        (Point(1, 2), (1, 2)),
        (OrderedDict(a=1), {"a": 1}),
        (UserDict(a=1), {"a": 1}),
        ({1: "a", None: "b"}, {"1": "a", "None": "b"}),
    ],
    ids=repr,
)
def test_relatives_of_plain_types_become_plain(given: Any, expected: Any) -> None:
    back = loads(dumps(given))

    assert back == expected
    assert type(back) is type(expected)


@pytest.mark.parametrize(
    "value",
    [Plain(), {1, 2}, 1j, np.clongdouble(1j), np.complex128(1j), datetime.date(2026, 11, 23), len, Plain],
    ids=repr,
)
def test_other_objects_come_back_as_their_repr(value: Any) -> None:
    back = loads(dumps({"value": value}))["value"]

    assert isinstance(back, Opaque)
    assert repr(back).replace("np.", "") in repr(value)


@pytest.mark.parametrize("text", ["12", "--5", "²", "x"])
def test_opaque_objects_survive_any_number_of_passes(text: str) -> None:
    once = loads(dumps(Opaque(text)))

    assert once == loads(dumps(once)) == Opaque(text)
    assert hash(once) == hash(Opaque(text))
    assert once != text


@pytest.mark.parametrize("damaged", [b"", b'{"a": 1', b"nonsense", b'{"a": 1}\n{"b"'])
def test_half_a_line_is_refused(damaged: bytes) -> None:
    with pytest.raises(ValueError, match=r"(?i)expect|extra|unexpected"):
        loads(damaged)


def test_row_has_the_literals_that_ray_tune_writes() -> None:
    row = {"a": math.nan, "b": math.inf, "c": [-math.inf]}

    assert dumps_row(row) == b'{"a": NaN, "b": Infinity, "c": [-Infinity]}'


def test_row_without_special_values_is_compact() -> None:
    assert dumps_row({"a": 1, "b": {"c": [1.5, None]}}) == b'{"a":1,"b":{"c":[1.5,null]}}'


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (Plain(), "<plain>"),
        (b"x", "b'x'"),
        (Color.RED, "red"),
        (Level.HIGH, 3),
        ((1, 2), [1, 2]),
        (np.float32(0.5), 0.5),
        (np.array([1, 2]), [1, 2]),
        (2**70, 2**70),
        (UserDict(a=Plain()), {"a": "<plain>"}),
        ({1: 2}, {"1": 2}),
        (datetime.date(2026, 11, 23), "2026-11-23"),
    ],
    ids=repr,
)
def test_row_shows_objects_as_users_would_write_them(given: Any, expected: Any) -> None:
    assert json.loads(dumps_row({"value": given})) == {"value": expected}


def test_as_plain_copies_containers_and_keeps_other_objects() -> None:
    kept, inner = Plain(), {"x": np.float32(1.5)}
    value = {"list": [np.int64(1), (np.bool_(True), 2)], "inner": inner, "kept": kept, "point": Point(1, 2)}

    plain = as_plain(value)

    assert plain == {"list": [1, (True, 2)], "inner": {"x": 1.5}, "kept": kept, "point": [1, 2]}
    assert type(plain["inner"]["x"]) is float
    assert plain["inner"] is not inner
    assert plain["kept"] is kept

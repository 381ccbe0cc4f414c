"""Payloads and results: what goes in comes out, as the same type (R14)."""

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from taskflow import InvalidArgument
from taskflow._messages import payloads

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
VALUES = JSON | st.binary()


def there_and_back(value: Any) -> Any:
    return payloads.decode(*payloads.encode(value))


@pytest.mark.feature("R14")
@given(VALUES.filter(lambda v: not _has_surrogates(v)))
def test_a_value_arrives_as_the_type_it_was_sent_as(value: Any) -> None:
    arrived = there_and_back(value)

    assert arrived == value
    assert type(arrived) is type(value)


def _has_surrogates(value: Any) -> bool:
    return any("\ud800" <= c <= "\udfff" for c in repr(value)) or "\\ud" in repr(value)


def test_null_is_no_bytes() -> None:
    assert payloads.encode(None) == (b"", payloads.JSON)
    assert there_and_back("") == ""
    assert there_and_back(b"") == b""


@dataclass
class Point:
    x: int
    y: int


class Order(BaseModel):
    id: int
    points: list[Point]


def test_dataclasses_and_models_are_sent_as_objects() -> None:
    assert there_and_back({"at": Point(1, 2)}) == {"at": {"x": 1, "y": 2}}
    assert there_and_back(Order(id=7, points=[Point(1, 2)])) == {"id": 7, "points": [{"x": 1, "y": 2}]}


def _holding_itself() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def _deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


@pytest.mark.parametrize(
    "wrong",
    [
        object(),
        {1, 2},
        {1: "a"},
        {"a": [{2: 3}]},
        float("nan"),
        [float("inf")],
        "half \ud800 pair",
        ["\udfff"],
        {"f": lambda: 0},
        Point,
        _holding_itself(),
        _deep(),
    ],
    ids=lambda v: type(v).__name__,
)
def test_what_is_no_value_is_refused_with_what_would_be_right(wrong: object) -> None:
    with pytest.raises(InvalidArgument, match=r"^payload: ") as refused:
        payloads.encode(wrong)

    assert refused.value.field == "payload"


def test_a_value_over_the_limit_is_refused_with_its_size() -> None:
    with pytest.raises(InvalidArgument, match="1,048,577 bytes are over the limit of 1,048,576"):
        payloads.encode(b"x" * (payloads.MAX_BYTES + 1))

    assert payloads.encode(b"x" * payloads.MAX_BYTES)

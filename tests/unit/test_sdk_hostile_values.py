"""Verdicts of hostile objects: whatever their own code raises, there is one, it names the cause, and it can be sent."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskflow import Cancelled, Fail, InvalidArgument, Retry, Snooze
from taskflow._handlers.outcomes import FAILED, MAX_MESSAGE, Verdict, of_exception, of_value
from taskflow._messages import payloads
from taskflow._messages.texts import MAX_TYPE, text
from taskflow.v1 import jobs_pb2

RAISED = (
    ValueError, AttributeError, RecursionError, MemoryError, StopIteration, SystemExit, KeyboardInterrupt,
    GeneratorExit, asyncio.CancelledError, InvalidArgument, Snooze,
)  # fmt: skip
METHODS = (
    "__str__", "__repr__", "__reduce__", "__reduce_ex__", "__eq__", "__hash__", "__len__", "__iter__", "__bool__",
    "__getattribute__", "__int__", "__index__", "__float__", "__bytes__", "__dict__", "__class__", "__name__", "args",
    "keys", "items", "model_dump", "encode", "bit_length", "delay", "with_traceback", "__traceback__",
)  # fmt: skip
VALUES = (object, dict, list, tuple, str, int, float, bytes)
EXCEPTIONS = (Exception, KeyError, OSError, Retry, Fail, Snooze, Cancelled, SystemExit, KeyboardInterrupt)


def hostile(base: type, methods: frozenset[str], kind: type[BaseException], meta: bool) -> Any:
    """An object of a subclass of `base` whose `methods`, and those of its metaclass, raise `kind`."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise kind(1) if kind is Snooze else kind("hostile")

    def body() -> dict[str, Any]:
        return {name: refuse if name.startswith("__") and name[2:5] != "cla" else property(refuse) for name in methods}

    metaclass = type("Meta", (type,), {"__getattribute__": refuse, "__instancecheck__": refuse}) if meta else type
    made = metaclass("Hostile", (base,), body() | {"__init__": lambda self, *_: None})
    return base.__new__(made)


Spec = tuple[type, frozenset[str], type[BaseException], bool]


def specs(bases: tuple[type, ...]) -> st.SearchStrategy[Spec]:
    """Recipes of hostile objects, made inside the tests: code that reports on tests would run their methods."""
    methods = st.frozensets(st.sampled_from(METHODS), max_size=4)
    return st.tuples(st.sampled_from(bases), methods, st.sampled_from(RAISED), st.booleans())


def verdict_of(judge: Callable[[], Verdict]) -> Verdict:
    try:
        return judge()
    except BaseException as error:
        where = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        raise AssertionError(f"{type(error)!r} in {where}") from None


def check(verdict: Verdict) -> None:
    assert jobs_pb2.Outcome.Name(verdict.outcome)  # type: ignore[arg-type]
    assert isinstance(verdict.result, bytes)
    assert verdict.delay_ms is None or type(verdict.delay_ms) is int
    if verdict.failure is None:
        return
    assert 0 < len(verdict.failure.type) <= MAX_TYPE + 100
    assert len(verdict.failure.message) <= MAX_MESSAGE + 100
    failure = verdict.failure
    jobs_pb2.Error(type=failure.type, message=failure.message, traceback=failure.traceback, final=failure.final)


@pytest.mark.feature("R14")
@settings(max_examples=400, deadline=None)
@given(specs(VALUES), st.sampled_from(["alone", "in a list", "in a dict", "as a key"]))
def test_a_hostile_result_has_a_verdict(spec: Spec, where: str) -> None:
    def judge() -> Verdict:
        value = hostile(*spec)
        if where == "as a key":
            try:
                value = {value: 1}
            except BaseException:
                return of_value(None)  # it cannot be one
        return of_value({"in a list": [value], "in a dict": {"a": value}}.get(where, value))

    check(verdict_of(judge))


@pytest.mark.feature("R3")
@settings(max_examples=400, deadline=None)
@given(specs(EXCEPTIONS), specs(EXCEPTIONS))
def test_a_hostile_exception_has_a_verdict(spec: Spec, of_cause: Spec) -> None:
    def judge() -> Verdict:
        error = hostile(*spec)
        BaseException.__cause__.__set__(error, hostile(*of_cause))  # type: ignore[attr-defined]
        return of_exception(error)

    check(verdict_of(judge))


class Late(Retry):
    def __init__(self) -> None:
        pass


class Never(Snooze):
    def __init__(self) -> None:
        pass


@pytest.mark.parametrize("delay", ["soon", float("nan"), float("inf"), -1, 1e300, object(), b"1"])
@pytest.mark.parametrize("signal", [Retry, lambda: Snooze(1)])
def test_a_delay_set_to_something_else_fails_the_attempt_and_says_so(signal: Any, delay: Any) -> None:
    error = signal()
    error.delay = delay

    verdict = of_exception(error)

    assert (verdict.outcome, verdict.delay_ms) == (FAILED, None)
    assert verdict.failure is not None and "is not a number of seconds" in verdict.failure.message


def test_signals_that_do_not_call_their_base_fail_the_attempt() -> None:
    late, never = of_exception(Late()), of_exception(Never())

    assert (late.outcome, late.delay_ms, never.outcome) == (FAILED, None, FAILED)
    assert late.failure is not None and never.failure is not None
    assert (late.failure.type, late.failure.final, never.failure.type) == ("Late", False, "Never")
    assert "has no delay" in never.failure.message


class Endless(list[int]):
    def __iter__(self) -> Any:
        while True:
            yield 0


class Unfolding:
    def model_dump(self, mode: str) -> Any:
        return {"next": Unfolding(), "other": Unfolding()}


def _many_times(power: int) -> list[Any]:
    value: list[Any] = [0]
    for _ in range(power):
        value = [value] * 10
    return value


@pytest.mark.feature("R14")
@pytest.mark.parametrize(
    ("value", "why"),
    [
        (Endless(), "over the limit of 1,048,576 bytes"),
        (Unfolding(), "more than 500 levels deep"),
        (_many_times(40), "over the limit of 1,048,576 bytes"),
        (range(10**18), "range is not a JSON value"),
        (10 ** (10**6), "over the limit of 1,048,576 bytes|4300 digits"),
    ],
    ids=["endless", "unfolding", "many times", "range", "number"],
)
def test_a_result_without_end_is_refused_in_bounded_time(value: Any, why: str) -> None:
    begun = time.process_time()
    with pytest.raises(InvalidArgument, match=why):
        payloads.encode(value)

    assert time.process_time() - begun < 10  # of a machine under load; without a bound it is days


def test_values_up_to_the_limits_are_taken() -> None:
    deep: Any = 0
    for _ in range(payloads.MAX_DEPTH):
        deep = [deep]
    exactly = [0] * (payloads.MAX_BYTES // 2 - 2) + [10]  # each digit with its comma or bracket

    assert payloads.decode(*payloads.encode(deep)) == deep
    assert len(payloads.encode(exactly)[0]) == payloads.MAX_BYTES


def test_an_error_that_the_value_itself_raised_is_the_cause() -> None:
    class Dumped:
        def model_dump(self, mode: str) -> Any:
            raise LookupError("no such page")

    with pytest.raises(InvalidArgument, match="LookupError: no such page") as refused:
        payloads.encode(Dumped())
    verdict = of_value(Dumped())

    assert isinstance(refused.value.__cause__, LookupError)
    assert verdict.failure is not None and verdict.failure.type == "LookupError"
    assert "in model_dump" in verdict.failure.traceback


@given(st.text(), st.integers(4, 100))
def test_a_text_keeps_to_its_limit(value: str, limit: int) -> None:
    kept = text(value * 5, limit)

    assert len(kept.partition("\n… ")[0]) <= limit and "\x00" not in kept
    kept.encode()

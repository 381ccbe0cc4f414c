"""The outcome of an attempt by its handler's end."""

import pytest

from taskflow import Cancelled, Fail, Retry, Snooze
from taskflow._handlers import outcomes
from taskflow._handlers.outcomes import Failure, Verdict
from taskflow._messages import texts
from taskflow._worker.stopper import merged


def raised(error: BaseException) -> Verdict:
    try:
        raise error
    except BaseException as caught:
        return outcomes.of_exception(caught)


def test_a_value_is_a_success() -> None:
    assert outcomes.of_value(None) == Verdict(outcomes.SUCCEEDED, b"", 1)
    assert outcomes.of_value("x") == Verdict(outcomes.SUCCEEDED, b"x", 2)
    assert outcomes.of_value({"a": 1}) == Verdict(outcomes.SUCCEEDED, b'{"a":1}', 1)


@pytest.mark.feature("R14")
@pytest.mark.parametrize("value", [object(), "x" * (1 << 20) + "x", {1: 2}])
def test_a_result_that_cannot_be_stored_fails_the_attempt_clearly(value: object) -> None:
    verdict = outcomes.of_value(value)

    assert verdict.outcome == outcomes.FAILED
    assert verdict.failure is not None
    assert verdict.failure.type == "InvalidResult"
    assert verdict.failure.message.startswith("result: ")


@pytest.mark.feature("R3")
def test_exceptions_and_signals() -> None:
    assert raised(Snooze(2)) == Verdict(outcomes.SNOOZED, delay_ms=2000)
    assert raised(Cancelled("enough")) == Verdict(outcomes.CANCELLED, failure=Failure("Cancelled", "enough"))
    assert raised(Retry("later", delay=0.5)).delay_ms == 500
    assert raised(Retry()).delay_ms is None
    failed, given_up = raised(KeyError("x")).failure, raised(Fail("no")).failure
    assert failed is not None and (failed.type, failed.message, failed.final) == ("KeyError", "'x'", False)
    assert given_up is not None and (given_up.type, given_up.final) == ("Fail", True)


def test_a_traceback_begins_at_the_handler_and_is_bounded() -> None:
    def recurse(n: int) -> None:
        if n:
            recurse(n - 1)
        raise ValueError("deep " + "x" * 100_000)

    try:
        recurse(500)
    except ValueError as error:
        failure = outcomes.of_exception(error).failure

    assert failure is not None
    assert len(failure.traceback) < outcomes.MAX_TRACEBACK + 100
    assert len(failure.message) < outcomes.MAX_MESSAGE + 100
    assert "characters left out" in failure.traceback


def test_texts_are_made_storable() -> None:
    assert texts.text("a\x00b \ud800", 100) == "a\\x00b \\ud800"


def test_an_exception_whose_text_fails_is_still_reported() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    failure = raised(Broken()).failure

    assert failure is not None and failure.message == "its message could not be written (RuntimeError)"


@pytest.mark.parametrize("outcome", [outcomes.CANCELLED, outcomes.LOST, outcomes.RETURNED])
def test_a_handler_that_was_stopped_and_yet_returned_has_succeeded(outcome: int) -> None:
    stopped, done = Verdict(outcome), Verdict(outcomes.SUCCEEDED)

    assert merged(stopped, done) is done
    assert merged(stopped, Verdict(outcomes.FAILED)) is stopped
    assert merged(None, done) is done


def test_past_its_timeout_nothing_counts() -> None:
    late = Verdict(outcomes.TIMED_OUT)

    assert merged(late, Verdict(outcomes.SUCCEEDED)) is late


def test_a_coroutine_that_a_plain_handler_returns_fails_the_attempt_with_the_cure() -> None:
    async def handler() -> None: ...

    verdict = outcomes.of_value(handler())

    assert verdict.outcome == outcomes.FAILED
    assert verdict.failure is not None
    assert verdict.failure.type == "InvalidResult" and "async def" in verdict.failure.message

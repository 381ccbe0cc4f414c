"""Maps the end of a handler to its attempt's outcome: results, exceptions and signals as one small value."""

from __future__ import annotations

import os
import traceback
from dataclasses import dataclass
from types import CoroutineType, TracebackType

from taskflow import errors
from taskflow._messages import payloads
from taskflow._messages.texts import message_of, text, type_of
from taskflow.v1 import jobs_pb2

SUCCEEDED = jobs_pb2.OUTCOME_SUCCEEDED
FAILED = jobs_pb2.OUTCOME_FAILED
TIMED_OUT = jobs_pb2.OUTCOME_TIMED_OUT
LOST = jobs_pb2.OUTCOME_LOST
CANCELLED = jobs_pb2.OUTCOME_CANCELLED
SNOOZED = jobs_pb2.OUTCOME_SNOOZED
RETURNED = jobs_pb2.OUTCOME_RETURNED

MAX_TRACEBACK = 16 << 10
MAX_MESSAGE = 4 << 10
_NOT_AWAITED = (
    "result: the handler returned a coroutine, which nobody awaits; a decorator around an `async def` handler must be"
    " an `async def` itself, and await it"
)
_OWN_FILES = __file__.removesuffix(os.path.join("_handlers", "outcomes.py"))


@dataclass(slots=True)
class Failure:
    """An attempt's error."""

    type: str
    message: str
    traceback: str = ""
    final: bool = False


@dataclass(slots=True)
class Verdict:
    """`outcome` is a number of the proto enum; `delay_ms` what Retry or Snooze asked for."""

    outcome: int
    result: bytes = b""
    encoding: int = 0
    failure: Failure | None = None
    delay_ms: int | None = None


NOTHING_RETURNED = Verdict(SUCCEEDED, b"", payloads.JSON)


def of_value(value: object) -> Verdict:
    """After a return. A result that cannot be stored fails the attempt, whatever its own code raises (R14).

    Never raises, as `of_exception`: an attempt without a verdict would keep its slot and its lease for ever.
    """
    if value is None:
        return NOTHING_RETURNED
    if type(value) is CoroutineType:
        value.close()
        return Verdict(FAILED, failure=Failure("InvalidResult", _NOT_AWAITED))
    try:
        data, encoding = payloads.encode(value, field="result")
    except errors.InvalidArgument as error:
        cause, message = error.__cause__, text(error.message, MAX_MESSAGE)
        if cause is None:
            return Verdict(FAILED, failure=Failure("InvalidResult", message))
        return Verdict(FAILED, failure=Failure(type_of(cause), message, _trace(cause)))
    except BaseException as error:  # SystemExit and its like, raised by the result's own code
        return of_exception(error)
    return Verdict(SUCCEEDED, data, encoding)


def of_exception(error: BaseException) -> Verdict:
    """After an exception. The type is asked, for an exception may claim any `__class__`."""
    kind = type(error)
    if issubclass(kind, errors.Cancelled):
        return Verdict(CANCELLED, failure=Failure("Cancelled", message_of(error, MAX_MESSAGE)))
    if not issubclass(kind, (errors.Snooze, errors.Retry)):
        return Verdict(FAILED, failure=_failure(error, final=issubclass(kind, errors.Fail)))
    delay_ms, problem = _delay(error)
    if issubclass(kind, errors.Snooze):
        if delay_ms is not None:
            return Verdict(SNOOZED, delay_ms=delay_ms)
        problem = problem or "it has no delay: its __init__ does not call that of Snooze"
    failure = _failure(error)
    if problem:
        failure.message = text(f"{failure.message} ({problem})", MAX_MESSAGE)
    return Verdict(FAILED, failure=failure, delay_ms=delay_ms)


def _failure(error: BaseException, *, final: bool = False) -> Failure:
    return Failure(type_of(error), message_of(error, MAX_MESSAGE), _trace(error), final)


def _delay(error: BaseException) -> tuple[int | None, str]:
    """The milliseconds that a Retry or Snooze asks for; None where it asks for none, or why it cannot be read."""
    try:
        seconds = errors._seconds(getattr(error, "delay", None))
        return (None if seconds is None else round(seconds * 1000)), ""
    except BaseException as fault:  # its delay may have been set later, or be code of its own
        return None, message_of(fault, MAX_MESSAGE)


def _trace(error: BaseException) -> str:
    """Without the frames of this package at its top, which say nothing to the handler's author."""
    try:
        trace: TracebackType | None = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OWN_FILES):
            trace = trace.tb_next
        return text("".join(traceback.format_exception(type(error), error, trace)), MAX_TRACEBACK)
    except BaseException as fault:  # the exception's own code runs here, and that of its causes
        return f"its traceback could not be written ({type_of(fault)})"

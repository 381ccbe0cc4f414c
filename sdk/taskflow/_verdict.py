"""What a handler's end means for its attempt: results, exceptions and signals as one small value."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from types import TracebackType

from taskflow import _values, errors
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
_OWN_FILES = __file__.rpartition("_verdict")[0]


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


NOTHING_RETURNED = Verdict(SUCCEEDED, b"", _values.JSON)


def of_value(value: object) -> Verdict:
    """Of a handler that returned. What cannot be stored fails the attempt, clearly (R14)."""
    if value is None:
        return NOTHING_RETURNED
    try:
        data, encoding = _values.encode(value, field="result")
    except errors.InvalidArgument as error:
        return Verdict(FAILED, failure=Failure("InvalidResult", text(error.message, MAX_MESSAGE)))
    return Verdict(SUCCEEDED, data, encoding)


def of_exception(error: BaseException) -> Verdict:
    """Of a handler that raised."""
    if isinstance(error, errors.Snooze):
        return Verdict(SNOOZED, delay_ms=round(error.delay * 1000))
    if isinstance(error, errors.Cancelled):
        return Verdict(CANCELLED, failure=Failure("Cancelled", _message(error)))
    failure = Failure(type(error).__qualname__, _message(error), _trace(error))
    if isinstance(error, errors.Fail):
        failure.final = True
    elif isinstance(error, errors.Retry):
        return Verdict(FAILED, failure=failure, delay_ms=None if error.delay is None else round(error.delay * 1000))
    return Verdict(FAILED, failure=failure)


def text(value: str, limit: int) -> str:
    """What every store takes: valid UTF-8, without zero bytes, of bounded length (the middle is left out)."""
    clean = value.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")
    if len(clean) <= limit:
        return clean
    head = limit // 4
    return f"{clean[:head]}\n… {len(clean) - limit:,} characters left out …\n{clean[-(limit - head):]}"


def _message(error: BaseException) -> str:
    try:
        return text(str(error), MAX_MESSAGE)
    except Exception:
        return "its message could not be written"


def _trace(error: BaseException) -> str:
    """Without the frames of this package at its top, which say nothing to the handler's author."""
    trace: TracebackType | None = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OWN_FILES):
        trace = trace.tb_next
    try:
        return text("".join(traceback.format_exception(type(error), error, trace)), MAX_TRACEBACK)
    except Exception:
        return ""

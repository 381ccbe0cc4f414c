"""Answers of the gateway to requests that fail: a status, a message, and the details of gRPC's error."""

from __future__ import annotations

from dataclasses import dataclass

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

STATUSES: dict[grpc.StatusCode, int] = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 503,
}


@dataclass(eq=False)
class Failure(Exception):
    """An answer other than the one that was asked for. `code` is gRPC's name for it."""

    status: int
    code: str
    message: str
    field: str = ""
    reason: str = ""
    retry_after: float | None = None  # seconds
    problems: tuple[tuple[str, str], ...] = ()  # all that is wrong with what was sent: path, and why


def of_call(error: grpc.RpcError, address: str) -> Failure:
    """The failure of a call to the service at `address`. Text that the service did not write is not shown."""
    assert isinstance(error, grpc.aio.AioRpcError)
    code, message, field, reason = error.code(), error.details() or "", "", ""
    retry_after: float | None = None
    problems: tuple[tuple[str, str], ...] = ()
    try:
        status = rpc_status.from_call(error)
    except ValueError:  # details that are not those of this status
        status = None
    for detail in status.details if status else ():
        if detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest()
            detail.Unpack(bad)
            problems = tuple((each.field, each.description) for each in bad.field_violations)
            field = problems[0][0] if problems else field
        elif detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            detail.Unpack(info)
            reason = info.reason
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            detail.Unpack(retry)
            retry_after = retry.retry_delay.ToMilliseconds() / 1000
    if status is None and code is grpc.StatusCode.UNAVAILABLE:
        message = f"TaskFlow's service at {address} does not answer"
    elif status is None and code is grpc.StatusCode.DEADLINE_EXCEEDED:
        message = f"TaskFlow's service at {address} has not answered in time; it may still execute the call"
    elif code is grpc.StatusCode.UNIMPLEMENTED:
        message = f"TaskFlow's service at {address} is of another version and cannot do this"
    answered = STATUSES.get(code, 500)
    if answered == 503 and retry_after is None:
        retry_after = 1.0
    return Failure(answered, code.name, message, field, reason, retry_after, problems)

"""Maps TaskFlow's errors to gRPC status codes, with google.rpc details."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from taskflow_server.core import errors
from taskflow_server.runtime import logs, metrics

log = logs.get("rpc")

# Calls that wait on purpose.
_UNTIMED = {"/taskflow.v1.QueueService/Poll", "/taskflow.v1.JobService/AwaitJob", "/grpc.health.v1.Health/Watch"}

CODES: dict[type[errors.TaskFlowFault], int] = {
    errors.InvalidArgument: code_pb2.INVALID_ARGUMENT,
    errors.NotFound: code_pb2.NOT_FOUND,
    errors.AlreadyExists: code_pb2.ALREADY_EXISTS,
    errors.FailedPrecondition: code_pb2.FAILED_PRECONDITION,
    errors.ResourceExhausted: code_pb2.RESOURCE_EXHAUSTED,
    errors.Unavailable: code_pb2.UNAVAILABLE,
    errors.InternalFault: code_pb2.INTERNAL,
}


def status_of(fault: errors.TaskFlowFault) -> status_pb2.Status:
    code = next(CODES[kind] for kind in type(fault).__mro__ if kind in CODES)
    status = status_pb2.Status(code=code, message=fault.message)
    reason = getattr(fault, "reason", "")
    if isinstance(fault, errors.InvalidArgument):
        found = getattr(fault, "problems", ()) or [(fault.field, fault.message)]
        violations = [error_details_pb2.BadRequest.FieldViolation(field=f, description=d) for f, d in found]
        _pack(status, error_details_pb2.BadRequest(field_violations=violations))
    delay = retry_delay(fault)
    if delay is not None:
        _pack(status, error_details_pb2.RetryInfo(retry_delay=delay))
    if reason:
        metadata = getattr(fault, "metadata", None)
        _pack(status, error_details_pb2.ErrorInfo(reason=reason, domain="taskflow", metadata=metadata))
    return status


def retry_delay(fault: errors.TaskFlowFault) -> duration_pb2.Duration | None:
    """When the call may be made again; None where time does not help."""
    seconds = getattr(fault, "retry_after", None)
    if seconds is None:
        return None
    delay = duration_pb2.Duration()
    delay.FromMilliseconds(int(seconds * 1000))
    return delay


def _pack(status: status_pb2.Status, detail: Message) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status.details.append(packed)


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: Exception, method: str) -> NoReturn:
    if isinstance(error, errors.TaskFlowFault):
        answer = rpc_status.to_status(status_of(error))
        metrics.rpc_failures.labels(method, answer.code.name).inc()
        if isinstance(error, errors.InternalFault):
            log.error("a call failed by a fault of TaskFlow's own", method=method, exc_info=error)
        await context.abort(answer.code, answer.details, answer.trailing_metadata)
    metrics.rpc_failures.labels(method, grpc.StatusCode.INTERNAL.name).inc()
    log.error("a call failed", method=method, exc_info=error)
    await context.abort(grpc.StatusCode.INTERNAL, "an error of the server's own; its log has the details")
    raise AssertionError  # abort raises


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Converts TaskFlow's errors to statuses, and any other to INTERNAL, logged, without a trace for the caller."""

    def __init__(self) -> None:
        self._guarded: dict[str, Any] = {}  # by method: gRPC asks at every call

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        method = handler_call_details.method
        known = self._guarded.get(method)
        if known is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            known = self._guarded[method] = _guard(handler, method)
        return known


def _guard(handler: Any, method: str) -> Any:
    if handler.unary_unary:
        inner = handler.unary_unary
        seconds = None if method in _UNTIMED else metrics.rpc_seconds.labels(method)

        async def unary(request: Any, context: Any) -> Any:
            try:
                with seconds.time() if seconds else contextlib.nullcontext():
                    return await inner(request, context)
            except (grpc.aio.AbortError, grpc.RpcError):
                raise
            except Exception as error:
                await _abort(context, error, method)

        return grpc.unary_unary_rpc_method_handler(unary, handler.request_deserializer, handler.response_serializer)
    if handler.stream_stream and method.startswith("/taskflow."):
        inner = handler.stream_stream

        async def stream(requests: Any, context: Any) -> AsyncIterator[Any]:
            try:
                async with contextlib.aclosing(inner(requests, context)) as answers:
                    async for answer in answers:
                        yield answer
            except (grpc.aio.AbortError, grpc.RpcError):
                raise
            except Exception as error:
                await _abort(context, error, method)

        return grpc.stream_stream_rpc_method_handler(stream, handler.request_deserializer, handler.response_serializer)
    return handler

"""Channels, calls with a deadline, and statuses turned into the errors of the tree. Lives on the I/O loop."""

from __future__ import annotations

import asyncio
import ipaddress
import random
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeVar

import grpc
import grpc.aio
from google.rpc import error_details_pb2, status_pb2

from taskflow import errors
from taskflow._policy import addresses
from taskflow._policy.keepalive import client_options, reconnect_options
from taskflow._transport.clock import SYSTEM, is_faked
from taskflow._transport.io_thread import was_closed
from taskflow.v1 import (
    alerts_pb2_grpc,
    cluster_pb2,
    cluster_pb2_grpc,
    jobs_pb2_grpc,
    queues_pb2_grpc,
    schedules_pb2_grpc,
    tasks_pb2_grpc,
    workflows_pb2_grpc,
)

R = TypeVar("R")

MAX_MESSAGE_BYTES = 8 << 20
FIRST_BACKOFF, LONGEST_BACKOFF = 0.05, 1.0  # seconds
AT_ONCE = 100
"""Calls to the scheduler that are under way at the same time; further ones wait. Servers drop calls that come by the
thousand, as CANCELLED."""
AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
"""Nothing was done, or the same call may be made again. Our own cancelling never shows as a status."""
_STATUS_KEY = "grpc-status-details-bin"


def channel_options(address: str, max_backoff_ms: int, keepalive_interval: float) -> list[tuple[str, int]]:
    """`keepalive_interval`: seconds between pings."""
    options = [
        *client_options(keepalive_interval),
        *reconnect_options(max_backoff_ms),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ]
    if _is_private(address):
        options.append(("grpc.enable_http_proxy", 0))
    return options


def _is_private(address: str) -> bool:
    """Loopback, private addresses and names without a dot are never behind a web proxy."""
    try:
        host = addresses.parse(address)[0]
    except ValueError:
        return False
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith((".local", ".internal", ".localhost", ".svc"))
    return ip.is_loopback or ip.is_private


def check_address(address: object, what: str) -> str:
    """`host:port`. InvalidArgument says what is wrong with anything else."""
    try:
        return addresses.join(*addresses.parse(address))
    except ValueError as fault:
        raise errors.InvalidArgument(f"{what}: {fault}", field=what, reason="BAD_ADDRESS") from None


async def ask(method: Callable[..., Awaitable[R]], request: object, seconds: float) -> R:
    """One call; AioRpcError, DEADLINE_EXCEEDED, after so many seconds.

    gRPC makes a timeout a deadline of the day: one of a faked day is over at once, or never. Then it is kept here.
    """
    if not is_faked():
        return await method(request, timeout=seconds)
    try:
        async with asyncio.timeout(seconds):
            return await method(request)
    except TimeoutError:
        nothing = grpc.aio.Metadata()
        late = grpc.StatusCode.DEADLINE_EXCEEDED
        raise grpc.aio.AioRpcError(late, nothing, nothing, details="Deadline Exceeded") from None


class Transport:
    """One channel per address; calls to the scheduler."""

    def __init__(self, scheduler: str, timeout: float, keepalive_interval: float) -> None:
        self.scheduler = scheduler
        self._keepalive_interval = keepalive_interval
        self.timeout = timeout
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._closed = False
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._answered_at = SYSTEM.monotonic()
        channel = self.channel(scheduler, max_backoff_ms=3_000)
        self.jobs = jobs_pb2_grpc.JobServiceStub(channel)
        self.queues = queues_pb2_grpc.QueueAdminServiceStub(channel)
        self.cluster = cluster_pb2_grpc.ClusterServiceStub(channel)
        self.alerts = alerts_pb2_grpc.AlertServiceStub(channel)
        self.namespaces = cluster_pb2_grpc.NamespaceServiceStub(channel)
        self.schedules = schedules_pb2_grpc.ScheduleServiceStub(channel)
        self.tasks = tasks_pb2_grpc.TaskServiceStub(channel)
        self.workflows = workflows_pb2_grpc.WorkflowServiceStub(channel)

    def channel(self, address: str, max_backoff_ms: int = 500) -> grpc.aio.Channel:
        found = self._channels.get(address)
        if found is None:
            if self._closed:
                raise was_closed()
            options = channel_options(address, max_backoff_ms, self._keepalive_interval)
            found = grpc.aio.insecure_channel(address, options=options)
            self._channels[address] = found
        return found

    async def call(
        self, method: Callable[..., Awaitable[R]], request: object, *, timeout: float | None = None
    ) -> R:
        """One call to the scheduler. UNAVAILABLE is repeated, with backoff, within the deadline (seconds).

        The deadline counts from the call's turn, which comes as long as calls before it are answered.
        """
        limit = self.timeout if timeout is None else timeout
        await self._turn(limit)
        try:
            return await self._repeat(method, request, limit)
        finally:
            self._gate.release()

    async def _turn(self, limit: float) -> None:
        while True:
            try:
                async with asyncio.timeout(limit):
                    await self._gate.acquire()
                return
            except TimeoutError:
                if SYSTEM.monotonic() - self._answered_at < limit:
                    continue
            raise errors.Unavailable(
                f"no answer from TaskFlow's scheduler at {self.scheduler} to the calls before this one; it was not made"
            )

    async def _repeat(self, method: Callable[..., Awaitable[R]], request: object, limit: float) -> R:
        deadline = SYSTEM.monotonic() + limit
        backoff = FIRST_BACKOFF
        left = limit
        unreached: grpc.aio.AioRpcError | None = None
        while True:
            try:
                answer = await ask(method, request, max(left, 0.001))
                self._answered_at = SYSTEM.monotonic()
                return answer
            except grpc.aio.UsageError:  # its channel is closed
                raise was_closed() from None
            except grpc.aio.AioRpcError as error:
                failure = error
            if failure.code() in AWAY:
                unreached = failure
            elif unreached is not None and failure.code() is grpc.StatusCode.DEADLINE_EXCEEDED and self._unconnected():
                failure = unreached  # the last try was still connecting: nothing was sent
                left = 0.0
            pause = backoff * random.uniform(0.5, 1.0)
            left = deadline - SYSTEM.monotonic() - pause
            if failure.code() not in AWAY or left <= 0:
                raise to_error(failure, self.scheduler, before=unreached) from None
            await SYSTEM.sleep(pause)
            backoff = min(backoff * 2, LONGEST_BACKOFF)

    def _unconnected(self) -> bool:
        state = self.channel(self.scheduler).get_state()
        return state in (grpc.ChannelConnectivity.CONNECTING, grpc.ChannelConnectivity.TRANSIENT_FAILURE)

    async def topology(self) -> cluster_pb2.Topology:
        return await self.call(self.cluster.GetTopology, cluster_pb2.GetTopologyRequest(), timeout=2.0)

    async def close(self) -> None:
        self._closed = True
        channels, self._channels = list(self._channels.values()), {}
        await asyncio.gather(*(c.close() for c in channels), return_exceptions=True)


_BY_CODE: dict[grpc.StatusCode, type[errors.TaskFlowError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidArgument,
    grpc.StatusCode.OUT_OF_RANGE: errors.InvalidArgument,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.ALREADY_EXISTS: errors.AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: errors.FailedPrecondition,
    grpc.StatusCode.ABORTED: errors.FailedPrecondition,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDenied,
    grpc.StatusCode.UNAUTHENTICATED: errors.PermissionDenied,
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
    grpc.StatusCode.CANCELLED: errors.Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.ResourceExhausted,
}
_BY_NUMBER = {code.value[0]: kind for code, kind in _BY_CODE.items()}


def by_code_number(
    code: int,
    message: str,
    field: str,
    reason: str,
    metadata: Mapping[str, str] = MappingProxyType({}),
    retry_after: float | None = None,
) -> errors.TaskFlowError:
    """The error of a google.rpc.Code with its details. `metadata`: of ErrorInfo; `retry_after`: seconds."""
    kind = _BY_NUMBER.get(code, errors.InternalError)
    if issubclass(kind, errors.InvalidArgument):
        return kind(message, field=field, reason=reason)
    if kind is errors.ResourceExhausted and "quota" in metadata:
        return errors.QuotaExceeded(
            message,
            reason=reason,
            namespace=metadata.get("namespace", ""),
            quota=metadata["quota"],
            used=int(metadata.get("used", 0)),
            limit=int(metadata.get("limit", 0)),
            retry_after=retry_after,
        )
    return kind(message, reason=reason)


def to_error(
    error: grpc.aio.AioRpcError, address: str, *, before: grpc.aio.AioRpcError | None = None
) -> errors.TaskFlowError:
    """The error of the tree for a failed call to `address`. `before`: how a former try of the same call failed."""
    code, message = error.code(), error.details() or ""
    told = _details(error)
    problems, has_details = told.problems, told.found
    if code is grpc.StatusCode.UNAVAILABLE and not has_details:
        message = (
            f"cannot reach TaskFlow's scheduler at {address} ({_cause(message)});"
            " is it running, and is this its address?"
        )
    elif code is grpc.StatusCode.CANCELLED:
        message = f"TaskFlow's scheduler at {address} has dropped the call: it has too many at once; call again later"
    elif code is grpc.StatusCode.DEADLINE_EXCEEDED and not has_details:
        message = f"no answer from TaskFlow's scheduler at {address} in time; it may still execute the call"
        if before is not None and _details(before).found:
            message += f" (before that: {before.details()})"
    elif code is grpc.StatusCode.UNIMPLEMENTED:
        message = (
            f"the server at {address} is not a TaskFlow scheduler of this version ({message});"
            " the scheduler's port is 9003 by default"
        )
    at = problems[0][0] if problems else ""
    failed = by_code_number(code.value[0], message, at, told.reason, told.metadata, told.retry_after)
    if isinstance(failed, errors.InvalidArgument):
        failed.problems = problems
    return failed


def _cause(message: str) -> str:
    """The end of gRPC's chain of words, which holds the reason."""
    if re.search(r"parsing HTTP/2|http1\.x server", message):
        return "the server there speaks HTTP/1, as TaskFlow's gateway does; the scheduler's port is 9003 by default"
    for word in ("Connection refused", "Name or service not known", "Domain name not found", "Connection reset"):
        if word.lower() in message.lower():
            return word.lower()
    return message.strip().splitlines()[-1][:160] if message.strip() else "no connection"


@dataclass(slots=True)
class _Details:
    """The details of an error besides its code and message."""

    problems: list[tuple[str, str]] = field(default_factory=list)  # what is wrong with which fields
    reason: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    retry_after: float | None = None  # seconds
    found: bool = False  # whether it says anything


def _details(error: grpc.aio.AioRpcError) -> _Details:
    told = _Details()
    for key, value in error.trailing_metadata() or ():
        if key != _STATUS_KEY:
            continue
        for detail in status_pb2.Status.FromString(value).details:
            told.found = True
            if detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
                bad = error_details_pb2.BadRequest()
                detail.Unpack(bad)
                told.problems += [(each.field, each.description) for each in bad.field_violations]
            elif detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                info = error_details_pb2.ErrorInfo()
                detail.Unpack(info)
                told.reason, told.metadata = info.reason, dict(info.metadata)
            elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
                retry = error_details_pb2.RetryInfo()
                detail.Unpack(retry)
                told.retry_after = retry.retry_delay.ToMilliseconds() / 1000
    return told

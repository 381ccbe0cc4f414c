"""Making jobs. Callers of one process share calls: what arrives while a call is under way forms the next one.

No timers: a lone call leaves at once. Ids are in the specs already, so repeating a call makes no second job. Calls that
follow each other go on streams, see stream.py.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial
from typing import Any, Protocol

from taskflow import errors
from taskflow._jobs.stream import CreateStream
from taskflow._messages.jobs import warnings_of
from taskflow._messages.texts import named
from taskflow._transport.channels import Transport, by_code_number
from taskflow._transport.clock import SYSTEM
from taskflow._transport.io_thread import IoThread, Mailbox, complain, take_all, was_closed
from taskflow._values.jobs import JobWarning
from taskflow.v1 import jobs_pb2

MAX_JOBS = 5_000
MAX_BYTES = 4 << 20
_IN_FLIGHT = 2

# The id, whether its key named a job that was there already, and why nobody is there to run it.
Created = tuple[bytes, bool, tuple[JobWarning, ...]]
Answer = Created | Exception


class _Waiter(Protocol):
    spec: jobs_pb2.JobSpec

    def settle(
        self, answer: Answer, later: dict[asyncio.AbstractEventLoop, list[tuple[AsyncWaiter, Answer]]]
    ) -> None: ...


class SyncWaiter:
    """A thread that waits for its job to be stored."""

    __slots__ = ("_answer", "_lock", "spec")

    def __init__(self, spec: jobs_pb2.JobSpec) -> None:
        self.spec = spec
        self._answer: Answer | None = None
        self._lock = threading.Lock()
        self._lock.acquire()

    def settle(self, answer: Answer, later: object) -> None:
        self._answer = answer
        self._lock.release()

    def wait(self) -> Created:
        with self._lock:
            answer = self._answer
        if isinstance(answer, Exception):
            raise answer
        assert answer is not None
        return answer


class AsyncWaiter:
    """A coroutine, on whatever loop, that waits for its job to be stored."""

    __slots__ = ("future", "loop", "spec")

    def __init__(self, spec: jobs_pb2.JobSpec) -> None:
        self.spec = spec
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Created] = self.loop.create_future()

    def settle(self, answer: Answer, later: dict[asyncio.AbstractEventLoop, list[tuple[AsyncWaiter, Answer]]]) -> None:
        later.setdefault(self.loop, []).append((self, answer))


def _settle_futures(answers: list[tuple[AsyncWaiter, Answer]]) -> None:
    for waiter, answer in answers:
        if waiter.future.done():
            continue
        if isinstance(answer, Exception):
            waiter.future.set_exception(answer)
        else:
            waiter.future.set_result(answer)


class Creator:
    """Gathers specs on the I/O loop and sends them, at most two calls at a time."""

    def __init__(self, io: IoThread, transport: Callable[[], Transport]) -> None:
        self._io = io
        self._transport = transport
        self._pending: deque[_Waiter] = deque()
        self._in_flight = 0
        self._sending: dict[int, list[_Waiter]] = {}
        self._streams = [CreateStream(self._open_stream, io.spawn) for _ in range(_IN_FLIGHT)]
        self._mailbox: Mailbox[_Waiter] = Mailbox(io.loop, self._gather)
        io.at_end(self._refuse_all)

    def put(self, waiter: _Waiter) -> None:
        """From any thread."""
        try:
            self._mailbox.put(waiter)
        except RuntimeError:  # the loop is closed: the waiter is among those that are refused below
            if not self._io.ended:
                raise
        if self._io.ended:
            self._refuse_all()

    def _refuse_all(self) -> None:
        """Nothing runs on the loop any more, and nobody waits for it. From any thread, and from several."""
        later: dict[asyncio.AbstractEventLoop, list[tuple[AsyncWaiter, Answer]]] = {}
        refuse = partial(_refuse, later=later)
        self._mailbox.take_all(refuse)
        take_all(self._pending, refuse)
        while self._sending:
            try:
                _, batch = self._sending.popitem()
            except KeyError:  # another thread was quicker
                break
            for waiter in batch:
                refuse(waiter)
        _settle_later(later)

    async def close(self) -> None:
        """Ends what is open between calls. On the I/O loop."""
        await asyncio.gather(*(stream.close() for stream in self._streams))

    def _gather(self, arrived: deque[_Waiter]) -> None:
        pending = self._pending
        while arrived:
            pending.append(arrived.popleft())
        self._pump()

    def _pump(self) -> None:
        while self._pending and self._in_flight < _IN_FLIGHT:
            self._in_flight += 1
            self._io.spawn(self._send(self._take()))

    def _take(self) -> list[_Waiter]:
        pending = self._pending
        batch: list[_Waiter] = []
        size = 0
        while pending and len(batch) < MAX_JOBS:
            size += pending[0].spec.ByteSize()
            if batch and size > MAX_BYTES:
                break
            batch.append(pending.popleft())
        return batch

    async def _send(self, batch: list[_Waiter]) -> None:
        self._sending[id(batch)] = batch
        try:
            answers = await self._ask([waiter.spec for waiter in batch])
        except asyncio.CancelledError:
            batch.extend(self._pending)
            self._pending.clear()
            answers = [was_closed()] * len(batch)
        except errors.TaskFlowError as error:
            answers = [error] * len(batch)
        except Exception as error:
            complain("a call that makes jobs failed", error)
            answers = [errors.InternalError(f"the call failed ({named(error, 500)}); the job may exist")] * len(batch)
        self._sending.pop(id(batch), None)
        self._in_flight -= 1
        self._pump()
        later: dict[asyncio.AbstractEventLoop, list[tuple[AsyncWaiter, Answer]]] = {}
        for waiter, answer in zip(batch, answers, strict=True):
            waiter.settle(answer, later)
        _settle_later(later)

    def _open_stream(self) -> Any:
        return self._transport().jobs.StreamCreateJobs()

    async def _ask(self, specs: list[jobs_pb2.JobSpec]) -> list[Answer]:
        transport = self._transport()
        request = jobs_pb2.CreateJobsRequest(jobs=specs, allow_partial=True)
        deadline = SYSTEM.monotonic() + transport.timeout
        stream = self._streams.pop()
        try:
            response = await stream.ask(request, transport.timeout)
        finally:
            self._streams.append(stream)
        if response is None:
            left = max(deadline - SYSTEM.monotonic(), 0.001)
            response = await transport.call(transport.jobs.CreateJobs, request, timeout=left)
        answers: list[Answer] = list(_made(response))
        if len(answers) != len(specs):
            raise errors.InternalError(f"the scheduler answered {len(answers)} of {len(specs)} jobs; any may exist")
        for item in response.errors:
            again = item.retry_delay.ToMilliseconds() / 1000 if item.HasField("retry_delay") else None
            answers[item.index] = by_code_number(
                item.code, item.message, _bare_field(item.field), item.reason, item.metadata, again
            )
        return answers


def _refuse(waiter: _Waiter, later: dict[asyncio.AbstractEventLoop, list[tuple[AsyncWaiter, Answer]]]) -> None:
    waiter.settle(was_closed(), later)


def _settle_later(later: dict[asyncio.AbstractEventLoop, list[tuple[AsyncWaiter, Answer]]]) -> None:
    for loop, settled in later.items():
        try:
            loop.call_soon_threadsafe(_settle_futures, settled)
        except RuntimeError:  # the loop is closed: nobody awaits there any more
            continue


def _bare_field(field: str) -> str:
    """The caller gave one job: `jobs[17].payload` is its `payload`."""
    head, dot, rest = field.partition("].")
    return rest if dot and head.startswith("jobs[") else field


def chunks(specs: Iterable[jobs_pb2.JobSpec]) -> Iterator[list[jobs_pb2.JobSpec]]:
    """Specs in calls of at most 5,000 jobs and 4 MiB."""
    chunk: list[jobs_pb2.JobSpec] = []
    size = 0
    for spec in specs:
        length = spec.ByteSize()
        if chunk and (len(chunk) >= MAX_JOBS or size + length > MAX_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(spec)
        size += length
    if chunk:
        yield chunk


async def create_chunk(transport: Transport, specs: list[jobs_pb2.JobSpec], first: int) -> list[Created]:
    """Stores all of a chunk or nothing. Errors name the place in the caller's list, where it begins at `first`."""
    request = jobs_pb2.CreateJobsRequest(jobs=specs)
    method: Callable[..., Awaitable[jobs_pb2.CreateJobsResponse]] = transport.jobs.CreateJobs
    try:
        response = await transport.call(method, request)
    except errors.InvalidArgument as error:
        raise errors.InvalidArgument(error.message, field=_shifted(error.field, first), reason=error.reason) from None
    return _made(response)


def _made(response: jobs_pb2.CreateJobsResponse) -> list[Created]:
    existing = set(response.existing)
    warnings = {}
    for item in response.warnings:
        warnings.update(dict.fromkeys(item.indexes, warnings_of([item.warning])))
    return [(i, n in existing, warnings.get(n, ())) for n, i in enumerate(response.ids)]


def _shifted(field: str, first: int) -> str:
    head, bracket, rest = field.partition("[")
    number, closing, tail = rest.partition("]")
    if head != "jobs" or not bracket or not closing or not number.isdigit():
        return field
    return f"jobs[{int(number) + first}]{tail}"

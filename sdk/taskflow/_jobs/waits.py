"""The waits of a client: one stream for all of them, opened with the first and ended when none was left for a while.

This side knows all that it waits for: it reopens a broken stream and sends all of it again.
"""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any
from uuid import UUID

import grpc.aio

from taskflow import errors
from taskflow._messages.jobs import job_info
from taskflow._messages.texts import named
from taskflow._transport.channels import AWAY, FIRST_BACKOFF, LONGEST_BACKOFF, Transport, to_error
from taskflow._transport.clock import SYSTEM
from taskflow._transport.io_thread import was_closed
from taskflow._values.jobs import JobInfo
from taskflow.v1 import jobs_pb2 as pb

IDLE = 30.0  # seconds without a wait after which the stream is ended
PATIENCE = 60.0  # seconds, and the client's timeout: so long may the scheduler be away while a wait goes on
_IDS = 10_000  # in one request
_END = 1.0  # seconds that the end of the stream may take

Key = tuple[bytes, bool]  # an id, and whether it is a run's
Future = asyncio.Future[Any]


class Waits:
    """Lives on the I/O loop."""

    def __init__(self, transport: Callable[[], Transport]) -> None:
        self._transport = transport
        self._finals: dict[Key, set[Future]] = {}
        self._looks: dict[Key, set[Future]] = {}
        self._news = asyncio.Event()
        self._add: list[Key] = []
        self._look: list[Key] = []
        self._remove: list[Key] = []
        self._runner: asyncio.Task[None] | None = None
        self._call: Any = None
        self._away_since: float | None = None
        self._failure: grpc.aio.AioRpcError | None = None

    async def job(self, job_id: str, timeout: float | None) -> JobInfo:
        """The job when it is final; when `timeout` seconds have passed, as it is then."""
        key = (UUID(job_id).bytes, False)
        if timeout != 0:
            try:
                final: JobInfo = await self._wait(self._finals, key, timeout)
                return final
            except _Over:
                pass
        try:
            found: JobInfo = await self._wait(self._looks, key, self._transport().timeout)
        except _Over:
            raise self._unanswered() from None
        return found

    async def run(self, run_id: str, timeout: float) -> None:
        """Returns when the run is final, and when `timeout` seconds have passed."""
        try:
            await self._wait(self._finals, (UUID(run_id).bytes, True), timeout)
        except _Over:
            pass

    async def _wait(self, waiting: dict[Key, set[Future]], key: Key, timeout: float | None) -> Any:
        """The stream's next answer. _Over when nothing has come in time."""
        future: Future = asyncio.get_running_loop().create_future()
        if key not in waiting:
            waiting[key] = set()
            (self._add if waiting is self._finals else self._look).append(key)
        waiting[key].add(future)
        self._news.set()
        if self._runner is None or self._runner.done():
            self._runner = asyncio.get_running_loop().create_task(self._run())
        try:
            await asyncio.wait([future], timeout=timeout)
        finally:
            self._leave(waiting, key, future)
        if not future.done():
            raise _Over
        return future.result()

    def _leave(self, waiting: dict[Key, set[Future]], key: Key, future: Future) -> None:
        there = waiting.get(key)
        if there is None:
            return
        there.discard(future)
        if not there:
            del waiting[key]
            if waiting is self._finals:
                self._remove.append(key)
                self._news.set()

    def _unanswered(self) -> errors.TaskFlowError:
        transport = self._transport()
        if self._failure is not None:
            return to_error(self._failure, transport.scheduler)
        said = f"no answer from TaskFlow's scheduler at {transport.scheduler} in time; the job goes on"
        return errors.DeadlineExceeded(said)

    # -- the stream ----------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Keeps a stream open while there are waits."""
        backoff = FIRST_BACKOFF
        try:
            while self._finals or self._looks:
                failure = await self._speak()
                if failure is None:
                    continue
                now = SYSTEM.monotonic()
                if self._away_since is None:
                    self._away_since, backoff = now, FIRST_BACKOFF
                self._failure = failure
                most = PATIENCE + self._transport().timeout
                if failure.code() not in AWAY or now - self._away_since > most:
                    self._fail(to_error(failure, self._transport().scheduler))
                await SYSTEM.sleep(backoff * random.uniform(0.5, 1.0))
                backoff = min(backoff * 2, LONGEST_BACKOFF)
        except grpc.aio.UsageError:  # the channel is closed
            self._fail(was_closed())
        except Exception as error:
            self._fail(errors.InternalError(f"the stream of waits failed ({named(error, 500)})"))
            raise
        finally:
            self._fail(was_closed())

    async def _speak(self) -> grpc.aio.AioRpcError | None:
        """One stream, to its end; None when it was ended from here, else why."""
        call = self._call = self._transport().jobs.StreamAwaitJobs()
        self._add, self._look, self._remove = list(self._finals), list(self._looks), []
        self._news.set()
        writing = asyncio.create_task(self._write(call))
        try:
            while isinstance(answer := await call.read(), pb.StreamAwaitJobsResponse):
                self._away_since = self._failure = None
                self._settle(answer)
        except grpc.aio.AioRpcError as error:
            return error
        finally:
            writing.cancel()
            self._call = None
        if writing.done() and not writing.cancelled():
            return None
        return grpc.aio.AioRpcError(  # it stops, and has ended its streams
            grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), details="the scheduler stops"
        )

    async def _write(self, call: Any) -> None:
        """Whatever there is to say. Ends the stream, and returns, when no wait was left for a while."""
        while True:
            try:
                async with asyncio.timeout(IDLE):
                    await self._news.wait()
            except TimeoutError:
                if self._finals or self._looks:
                    continue
                await call.done_writing()
                return
            self._news.clear()
            try:
                for request in self._requests():
                    await call.write(request)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the reader hears why
                await asyncio.Event().wait()

    def _requests(self) -> list[pb.StreamAwaitJobsRequest]:
        add, look, remove = self._add, self._look, self._remove
        self._add, self._look, self._remove = [], [], []
        # A waiter that came and left since is not added, and one that came back is not removed.
        add = [key for key in dict.fromkeys(add) if key in self._finals]
        look = [key for key in dict.fromkeys(look) if key in self._looks]
        remove = [key for key in dict.fromkeys(remove) if key not in self._finals]
        most = max(len(add), len(look), len(remove))
        return [
            pb.StreamAwaitJobsRequest(
                remove=[id for id, _ in remove[start : start + _IDS]],
                add=[id for id, run in add[start : start + _IDS] if not run],
                add_runs=[id for id, run in add[start : start + _IDS] if run],
                look=[id for id, _ in look[start : start + _IDS]],
            )
            for start in range(0, most, _IDS)
        ]

    def _settle(self, answer: pb.StreamAwaitJobsResponse) -> None:
        for job in answer.jobs:
            key = (UUID(job.id).bytes, False)
            try:
                info = job_info(job)
            except Exception as error:  # a value that SQL has written; the other waits go on
                failed = errors.InternalError(f"job {job.id} cannot be read ({named(error, 500)})")
                _refuse([*self._looks.pop(key, ()), *self._finals.pop(key, ())], failed)
                continue
            _answer(self._looks.pop(key, ()), info)
            if info.state.final:
                _answer(self._finals.pop(key, ()), info)
        for id in answer.unknown:
            missing = errors.NotFound(f"there is no job {UUID(bytes=id)}", reason="JOB_NOT_FOUND")
            _refuse([*self._looks.pop((id, False), ()), *self._finals.pop((id, False), ())], missing)
        for id in answer.final_runs:
            _answer(self._finals.pop((id, True), ()), None)

    def _fail(self, error: errors.TaskFlowError) -> None:
        for waiting in (self._finals, self._looks):
            futures = [future for there in waiting.values() for future in there]
            waiting.clear()
            _refuse(futures, error)

    async def close(self) -> None:
        """Ends the stream. On the I/O loop."""
        runner, call = self._runner, self._call
        self._fail(was_closed())
        if call is not None:  # politely: cancelled streams leak in some versions of gRPC
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError):
                await asyncio.wait_for(call.done_writing(), _END / 2)
        if runner is not None:
            await asyncio.wait([runner], timeout=_END)
            runner.cancel()


class _Over(Exception):
    """The time has passed."""


def _answer(futures: Iterable[Future], value: Any) -> None:
    for future in futures:
        if not future.done():
            future.set_result(value)


def _refuse(futures: Iterable[Future], error: errors.TaskFlowError) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(copy.copy(error))  # each raises its own

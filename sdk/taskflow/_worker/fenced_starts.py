"""Starts that handlers want on disk, so that they can fence transactions (A17): one call for each such attempt."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any

import grpc
import grpc.aio

from taskflow._transport.channels import ask, to_error
from taskflow._transport.clock import SYSTEM
from taskflow._transport.io_thread import IoThread
from taskflow._worker.attempt import Attempt
from taskflow._worker.calls import is_cancelled
from taskflow.errors import StaleAttempt, Unavailable
from taskflow.v1 import worker_pb2, worker_pb2_grpc

PATIENCE = 15.0  # seconds for which a start is sent again: a takeover, or Postgres, may be in the way
_CALL_SECONDS = 5.0
_AGAIN = 0.2
_FOR_GOOD = frozenset({grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT})


class FencedStarts:
    def __init__(
        self,
        io: IoThread,
        owner_of: Callable[[int], str | None],
        channel_of: Callable[[str], Awaitable[grpc.aio.Channel]],
        refresh: Callable[[], None],
    ) -> None:
        """`owner_of` a shard is the coordinator that has announced it; `refresh` asks the scheduler who owns what."""
        self._io = io
        self._owner_of = owner_of
        self._channel_of = channel_of
        self._refresh = refresh

    def record(self, attempt: Attempt) -> Future[bool]:
        """From any thread. Done once the start is on disk. StaleAttempt; Unavailable when nobody answers in time."""
        if attempt.on_disk:
            done: Future[bool] = Future()
            done.set_result(True)
            return done
        return self._io.submit(lambda: self._record(attempt))

    async def _record(self, attempt: Attempt) -> bool:
        until = SYSTEM.monotonic() + PATIENCE
        while not attempt.on_disk:
            if attempt.verdict is not None:
                raise StaleAttempt("this attempt has ended: its outcome is reported")
            fault = await self._try(attempt)
            if fault is None:
                attempt.on_disk = True
            elif SYSTEM.monotonic() >= until:
                raise fault
            else:
                self._refresh()
                await SYSTEM.sleep(_AGAIN)
        return True

    async def _try(self, attempt: Attempt) -> Exception | None:
        """Why it may work later; None once it has."""
        owner = self._owner_of(attempt.shard)
        if owner is None:
            return Unavailable("no coordinator owns the job's queue at the moment", reason="NOT_OWNER")
        request = worker_pb2.StartRequest(
            worker_id=attempt.worker_id, exec_id=attempt.exec_id, job_id=attempt.job_id, fenced=True
        )
        try:
            stub: Any = worker_pb2_grpc.WorkerServiceStub(await self._channel_of(owner))
            await ask(stub.Start, request, _CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() in _FOR_GOOD:
                raise StaleAttempt(f"this attempt is not its job's present one: {error.details()}") from None
            return Unavailable(f"coordinator {owner} cannot record the start: {to_error(error, owner).message}")
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            return Unavailable(f"the connection to coordinator {owner} was closed")  # a channel closed under the call
        return None

"""Coordinators and queue services, for an executor: the owner of a task is found by a query.

Every request here may be repeated, and is, within the time of a call: a takeover is not an error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any, TypeVar

import grpc

from taskflow._transport.topology import Topology
from taskflow.v1 import jobs_pb2, queue_pb2, queue_pb2_grpc, worker_pb2, worker_pb2_grpc
from taskflow_server.gateway.errors import Failure
from taskflow_server.gateway.gateway import Gateway

R = TypeVar("R")

AGAIN = 0.2  # seconds until an unreachable service is queried again
POLL = 20.0  # seconds of one poll; a longer one is several: a queue service that is replaced is found
AWAY_PATIENCE = 2.0  # seconds that a poll which does not wait waits for a queue service that is away
AWAY = 503
_AGAIN = ("NOT_OWNER", "COMMIT_PENDING")  # an outcome is not recorded, and not refused for good


class ClusterCalls:
    def __init__(self, gateway: Gateway) -> None:
        self._upstream = gateway.upstream
        self._now = gateway.clock.real.monotonic
        self._patience = gateway.settings.call_timeout
        self._closing = gateway.closing

    # -- coordinators ------------------------------------------------------------------------
    async def start(self, request: worker_pb2.StartRequest) -> worker_pb2.StartResponse:
        return await self._ask(lambda stub: stub.Start, request, lambda answer: False)

    async def notify(self, request: worker_pb2.NotifyRequest) -> worker_pb2.Prolonged:
        """Sends one notification."""
        answer: worker_pb2.NotifyResponse = await self._ask(
            lambda stub: stub.Notify, request, lambda a: a.prolonged[0].refused == "NOT_OWNER"
        )
        return answer.prolonged[0]

    async def report(self, request: worker_pb2.ReportRequest) -> str:
        """Sends one outcome. Returns why it was refused; empty when it was accepted."""
        answer = await self._ask(
            lambda stub: stub.Report, request, lambda a: bool(a.refused) and a.refused[0].reason in _AGAIN
        )
        return answer.refused[0].reason if answer.refused else ""

    async def give_back(self, executor: worker_pb2.Executor, lanes: Iterable[queue_pb2.LaneTasks]) -> None:
        """Returns tasks that no executor received, to be dispatched again at once and not only after their timeout."""
        back = jobs_pb2.OUTCOME_RETURNED
        for task in (task for lane in lanes for task in lane.tasks):
            told = worker_pb2.AttemptOutcome(exec_id=task.exec_id, job_id=task.job_id, outcome=back)
            with suppress(Failure):
                await self.report(worker_pb2.ReportRequest(outcomes=[told], executor=executor))

    async def _ask(
        self, method: Callable[[Any], Callable[..., Awaitable[R]]], request: Any, elsewhere: Callable[[R], bool]
    ) -> R:
        """The answer of the service that knows."""
        deadline = self._now() + self._patience
        failure = Failure(AWAY, "UNAVAILABLE", "no coordinator can answer for it now", retry_after=1.0)
        while True:
            known = await self._instances()
            for name in known.coordinators:
                left = max(deadline - self._now(), AGAIN)
                try:
                    answer: R = await self._call(
                        known.coordinator(name), lambda c: method(worker_pb2_grpc.WorkerServiceStub(c)), request, left
                    )
                except Failure as error:
                    if error.status != AWAY:
                        raise
                    failure = error
                    continue
                if not elsewhere(answer):
                    return answer
            if self._now() + AGAIN >= deadline:
                raise failure
            await asyncio.sleep(AGAIN)

    async def _instances(self) -> Topology:
        """As last known, while the scheduler is away."""
        known = self._upstream.instances
        try:
            await self._upstream.topology()
        except Failure:
            if not known.coordinators and not known.queues:
                raise
        return known

    async def _call(
        self, find: Awaitable[str], method: Callable[[grpc.aio.Channel], Any], request: Any, timeout: float
    ) -> Any:
        """The answer of one instance. Failure when it does not answer, or not at any of its addresses."""
        try:
            address = await find
        except grpc.aio.AioRpcError as error:
            raise Failure(AWAY, "UNAVAILABLE", error.details() or "", retry_after=1.0) from None
        call = method(self._upstream.channel(address))
        try:
            return await self._upstream.call(call, request, timeout=timeout, address=address)
        except Failure as error:
            if error.status == AWAY:
                self._upstream.instances.look_again()
            raise

    # -- queue services ----------------------------------------------------------------------
    async def poll(self, request: queue_pb2.PollRequest, seconds: float) -> list[queue_pb2.LaneTasks]:
        """Tasks as soon as there is one; none after `seconds`. Failure when no service could be reached."""
        began = self._now()
        while True:
            left = max(began + seconds - self._now(), 0.0)
            lanes, failure = await self._poll_once(request, min(left, POLL))
            spent = self._now() - began
            if lanes or self._closing.is_set() or (failure is None and spent >= seconds):
                return lanes
            if failure is not None:
                if spent >= max(seconds, AWAY_PATIENCE):
                    raise failure
                await asyncio.sleep(AGAIN)

    async def _poll_once(
        self, request: queue_pb2.PollRequest, seconds: float
    ) -> tuple[list[queue_pb2.LaneTasks], Failure | None]:
        failure: Failure | None = Failure(AWAY, "UNAVAILABLE", "no queue service is there", retry_after=1.0)
        asked = queue_pb2.PollRequest()
        asked.CopyFrom(request)
        known = await self._instances()
        asked.timeout_ms = int(seconds * 1000 / max(len(known.queues), 1))
        patience = asked.timeout_ms / 1000 + self._patience
        for name in known.queues:
            try:
                answer = await self._call(known.queue(name), _poll_of, asked, patience)
            except Failure as error:
                if error.status != AWAY:
                    raise
                failure = error
                continue
            failure = None
            if answer.lanes:
                return list(answer.lanes), None
        return [], failure


def _poll_of(channel: grpc.aio.Channel) -> Any:
    return queue_pb2_grpc.QueueServiceStub(channel).Poll

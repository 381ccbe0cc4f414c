"""Coordinators and queue services, for an executor: the owner of a task is found by a query.

Every request here may be repeated, and is, within the time of a call: a takeover is not an error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from taskflow.v1 import cluster_pb2, jobs_pb2, queue_pb2, queue_pb2_grpc, worker_pb2, worker_pb2_grpc
from taskflow_server.gateway.errors import Failure
from taskflow_server.gateway.gateway import Gateway

R = TypeVar("R")

AGAIN = 0.2  # seconds until an unreachable service is queried again
POLL = 20.0  # seconds of one poll; a longer one is several: a queue service that is replaced is found
AWAY_PATIENCE = 2.0  # seconds that a poll which does not wait waits for a queue service that is away
AWAY = 503
_AGAIN = ("NOT_OWNER", "COMMIT_PENDING")  # an outcome is not recorded, and not refused for good


class Cluster:
    def __init__(self, gateway: Gateway) -> None:
        self._upstream = gateway.upstream
        self._now = gateway.clock.real.monotonic
        self._patience = gateway.settings.call_timeout
        self._closing = gateway.closing
        self._known: dict[str, list[str]] = {}  # addresses, by kind

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
            for address in await self._addresses("coordinators"):
                stub = worker_pb2_grpc.WorkerServiceStub(self._upstream.channel(address))
                left = max(deadline - self._now(), AGAIN)
                try:
                    answer = await self._upstream.call(method(stub), request, timeout=left, address=address)
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

    async def _addresses(self, kind: str) -> list[str]:
        """As last known, while the scheduler is away."""
        try:
            topology: cluster_pb2.Topology = await self._upstream.topology()
        except Failure:
            if not self._known.get(kind):
                raise
        else:
            instances: Sequence[cluster_pb2.Instance] = getattr(topology, kind)
            self._known[kind] = [address for instance in instances for address in instance.addresses]
        return self._known[kind]

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
        addresses = await self._addresses("queues")
        asked.timeout_ms = int(seconds * 1000 / max(len(addresses), 1))
        for address in addresses:
            stub = queue_pb2_grpc.QueueServiceStub(self._upstream.channel(address))
            patience = asked.timeout_ms / 1000 + self._patience
            try:
                answer = await self._upstream.call(stub.Poll, asked, timeout=patience, address=address)
            except Failure as error:
                if error.status != AWAY:
                    raise
                failure = error
                continue
            failure = None
            if answer.lanes:
                return list(answer.lanes), None
        return [], failure

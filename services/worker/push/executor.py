"""TaskFlow as a pusher sees it: an executor without a session, over the gRPC that all executors speak.

A call that changes something may be repeated: a start by the executor that made it, a notification, and an outcome
are answered alike the second time. With several coordinators each call goes from one to the next until its owner has
answered it.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

import grpc
import grpc.aio

from taskflow._transport.topology import Topology
from taskflow.v1 import (
    cluster_pb2,
    cluster_pb2_grpc,
    jobs_pb2,
    jobs_pb2_grpc,
    queue_pb2,
    queue_pb2_grpc,
    worker_pb2,
    worker_pb2_grpc,
)
from taskflow_server.rpc.server import channel
from taskflow_server.worker.push.destination import Order, TaskOptions, Ticket

R = TypeVar("R")

CALL_TIMEOUT = 10.0  # seconds of one call
PAGE = 1000  # jobs of one page
MOST = 1000  # notifications or outcomes in one call
AGAIN = ("NOT_OWNER", "COMMIT_PENDING")  # not known there, or not recorded yet: to be sent again
_STALE = (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND)


class Unreachable(Exception):
    """TaskFlow, or a part of it, does not answer now."""


@dataclass(slots=True)
class Note:
    """A report about an attempt; an empty one is a heartbeat."""

    ticket: Ticket
    lines: Sequence[tuple[str, str]] = ()  # level and text
    progress: str = ""


class Executor:
    """`name` is what attempts are started under: the same after a restart."""

    def __init__(self, scheduler: str, name: str, in_progress: float) -> None:
        self.name = name
        self._who = worker_pb2.Executor(name=name, in_progress_timeout_ms=int(in_progress * 1000))
        self._address = scheduler
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._jobs = jobs_pb2_grpc.JobServiceStub(self._channel(scheduler))
        self._cluster = cluster_pb2_grpc.ClusterServiceStub(self._channel(scheduler))
        request = cluster_pb2.GetTopologyRequest()
        # Asked always: refusals of another cluster's coordinator, at an address of ours, would end jobs that go on.
        self._topology = Topology(
            lambda: self._cluster.GetTopology(request, timeout=CALL_TIMEOUT), self._channel, ask_always=True
        )
        self._current = False  # False: query the topology again before use
        self._finding = asyncio.Lock()
        self._turn = 0

    async def close(self) -> None:
        for each in self._channels.values():
            await each.close()

    # -- taking ------------------------------------------------------------------------------------------------------

    async def poll(self, routes: Mapping[str, TaskOptions], most: int, seconds: float) -> list[Order]:
        """Jobs of these tasks, as soon as there is one. They are stale unless they are started at once."""
        queues = (await self._topo()).queues
        self._turn += 1
        where = await self._at(self._topology.queue(queues[self._turn % len(queues)]))
        patience = seconds if len(queues) == 1 else min(seconds, 1.0)
        request = queue_pb2.PollRequest(
            tasks=list(routes), max=min(most, PAGE), timeout_ms=int(patience * 1000), executor=self._who
        )
        answer = await self._heard(queue_pb2_grpc.QueueServiceStub(where).Poll, request, patience + CALL_TIMEOUT)
        return [
            Order(
                Ticket(task.exec_id, task.job_id), lane.queue, lane.task, task.attempt,
                value(task.payload, task.encoding), routes[lane.task], _timeout(task.options),
            )
            for lane in answer.lanes
            for task in lane.tasks
        ]  # fmt: skip

    async def start(self, ticket: Ticket) -> bool:
        """Whether this executor may run the attempt; False when it is stale. Unreachable when it is unknown."""
        request = worker_pb2.StartRequest(exec_id=ticket.exec_id, job_id=ticket.job_id, executor=self._who)
        why = "no coordinator answers"
        for name in (await self._topo()).coordinators:
            try:
                coordinator = self._channel(await self._topology.coordinator(name))
                await worker_pb2_grpc.WorkerServiceStub(coordinator).Start(request, timeout=CALL_TIMEOUT)
                return True
            except grpc.aio.AioRpcError as error:
                if error.code() in _STALE:
                    return False
                why = error.details() or error.code().name
        self._current = False
        raise Unreachable(why)

    # -- telling -----------------------------------------------------------------------------------------------------

    async def notify(self, notes: Sequence[Note]) -> dict[bytes, str]:
        """Prolongs each attempt. By exec_id: empty where it is current, else why it was refused; absent: not known."""
        messages = {note.ticket.exec_id: _notification(note) for note in notes}

        async def ask(stub: Any, batch: list[bytes]) -> dict[bytes, str]:
            request = worker_pb2.NotifyRequest(notifications=[messages[i] for i in batch], executor=self._who)
            answer = await self._heard(stub.Notify, request, CALL_TIMEOUT)
            return {each.exec_id: each.refused for each in answer.prolonged}

        return await self._everywhere(ask, messages)

    async def report(self, outcomes: Sequence[worker_pb2.AttemptOutcome]) -> dict[bytes, str]:
        """By exec_id: empty where it is on disk, else why it was refused, for good; absent: to be reported again."""
        messages = {outcome.exec_id: outcome for outcome in outcomes}

        async def ask(stub: Any, batch: list[bytes]) -> dict[bytes, str]:
            request = worker_pb2.ReportRequest(outcomes=[messages[i] for i in batch], executor=self._who)
            answer = await self._heard(stub.Report, request, CALL_TIMEOUT)
            return dict.fromkeys(batch, "") | {refused.exec_id: refused.reason for refused in answer.refused}

        return await self._everywhere(ask, messages)

    async def _everywhere(
        self, ask: Callable[[Any, list[bytes]], Any], messages: Mapping[bytes, Any]
    ) -> dict[bytes, str]:
        found: dict[bytes, str] = {}
        failed: Unreachable | None = None
        for name in (await self._topo()).coordinators:
            left = [exec_id for exec_id in messages if exec_id not in found]
            try:
                stub = worker_pb2_grpc.WorkerServiceStub(await self._at(self._topology.coordinator(name)))
                for start in range(0, len(left), MOST):
                    answers = await ask(stub, left[start : start + MOST])
                    found.update({exec_id: why for exec_id, why in answers.items() if why not in AGAIN})
            except Unreachable as error:
                failed = error
        if failed is not None or len(found) < len(messages):
            self._current = False
        if failed is not None and not found:
            raise failed
        return found

    # -- asking ------------------------------------------------------------------------------------------------------

    async def knows(self, ticket: Ticket) -> bool:
        """Whether the job exists in this TaskFlow."""
        try:
            await self._jobs.GetJob(jobs_pb2.GetJobRequest(id=ticket.job), timeout=CALL_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return False
            raise Unreachable(error.details() or error.code().name) from None
        return True

    async def running(self, routes: Mapping[str, TaskOptions]) -> list[Order]:
        """The attempts that were started under this executor's name and have not ended."""
        found = []
        for task in routes:
            for listed in await self._listed(task):
                job = await self._heard(self._jobs.GetJob, jobs_pb2.GetJobRequest(id=listed.id), CALL_TIMEOUT)
                if job.state == jobs_pb2.JOB_STATE_RUNNING and job.worker == self.name:
                    ticket = Ticket(UUID(job.exec_id).bytes, UUID(job.id).bytes)
                    found.append(
                        Order(
                            ticket, job.queue, task, job.attempt, value(job.payload, job.encoding), routes[task],
                            _timeout(job.options),
                        )
                    )  # fmt: skip
        return found

    async def _listed(self, task: str) -> list[jobs_pb2.Job]:
        jobs: list[jobs_pb2.Job] = []
        token = ""
        while True:
            request = jobs_pb2.ListJobsRequest(
                task=task, states=[jobs_pb2.JOB_STATE_RUNNING], page_size=PAGE, page_token=token
            )
            page = await self._heard(self._jobs.ListJobs, request, CALL_TIMEOUT)
            jobs += (job for job in page.jobs if job.worker == self.name)
            token = page.next_page_token
            if not token:
                return jobs

    # -- where they are ----------------------------------------------------------------------------------------------

    async def _heard(self, method: Any, request: Any, timeout: float) -> Any:
        return await self._answered(method(request, timeout=timeout))

    async def _at(self, address: Awaitable[str]) -> grpc.aio.Channel:
        return self._channel(await self._answered(address))

    async def _answered(self, call: Awaitable[R]) -> R:
        """Its result. Unreachable when it fails; then the scheduler is asked again who is there."""
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            self._current = False
            raise Unreachable(error.details() or error.code().name) from None

    async def _topo(self) -> Topology:
        async with self._finding:
            if not self._current:
                self._topology.look_again()
                await self._answered(self._topology.refresh())
                known = self._topology.addresses() | {self._address}
                for address in self._channels.keys() - known:
                    await self._channels.pop(address).close()
                if not self._topology.coordinators or not self._topology.queues:
                    raise Unreachable("the scheduler knows of no coordinator or no queue service")
                self._current = True
            return self._topology

    def _channel(self, address: str) -> grpc.aio.Channel:
        """gRPC opens a broken one again by itself."""
        found = self._channels.get(address)
        if found is None:
            found = self._channels[address] = channel(address)
        return found


def _notification(note: Note) -> worker_pb2.Notification:
    message = worker_pb2.Notification(exec_id=note.ticket.exec_id, job_id=note.ticket.job_id)
    for level, text in note.lines:
        message.logs.add(level=level, message=text)
    if note.progress:
        message.progress.message = note.progress
    return message


def _timeout(options: jobs_pb2.JobOptions) -> float | None:
    return options.timeout.ToMilliseconds() / 1000 if options.HasField("timeout") else None


def value(data: bytes, encoding: int) -> Any:
    """A payload as JSON can write it: bytes as base64."""
    if encoding == jobs_pb2.ENCODING_TEXT:
        return data.decode()
    if encoding == jobs_pb2.ENCODING_BYTES:
        return base64.b64encode(data).decode()
    return json.loads(data) if data else None

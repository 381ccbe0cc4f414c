"""ClusterService: the members of the cluster, and the manual clock of tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from taskflow.v1 import cluster_pb2, cluster_pb2_grpc, jobs_pb2
from taskflow_server.core.errors import FailedPrecondition, InvalidArgument
from taskflow_server.rpc.values import seconds, stamp
from taskflow_server.runtime.clock import SystemClock
from taskflow_server.scheduler.coordinators import Coordinators
from taskflow_server.scheduler.job_lists import page_size
from taskflow_server.scheduler.settings import SchedulerSettings
from taskflow_server.scheduler.topology_cache import TopologyCache
from taskflow_server.store.database import Database

CLOCK_STEP_US = 5_000_000  # a third of the default lease: workers renew theirs within each step
CLOCK_PAUSE = 0.02  # seconds of real time after a step
MOST_STEPS = 20_000  # of one call
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


class ClusterServicer(cluster_pb2_grpc.ClusterServiceServicer):
    def __init__(
        self,
        settings: SchedulerSettings,
        db: Database,
        clock: SystemClock,
        topology: TopologyCache,
        coordinators: Coordinators,
        moved: Callable[[], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._db = db
        self._clock = clock
        self._topology = topology
        self._coordinators = coordinators
        self._moved = moved  # awaited after each step of the clock

    async def GetTopology(self, request: cluster_pb2.GetTopologyRequest, context: Any) -> cluster_pb2.Topology:
        cluster = self._topology.cluster
        answer = cluster_pb2.Topology(clock_moved_us=int(self._clock.moved * 1e6))
        for kind in ("coordinators", "queues", "schedulers"):
            for m in getattr(cluster, kind):
                getattr(answer, kind).add(name=m["name"], incarnation=str(m["incarnation"]), addresses=m["addresses"])
        return answer

    async def ListWorkers(
        self, request: cluster_pb2.ListWorkersRequest, context: Any
    ) -> cluster_pb2.ListWorkersResponse:
        size = page_size(request.page_size)
        after = _worker_token(request.page_token)
        rows = await self._db.rows("list_workers", after_time=after[0], after_id=after[1], limit=size + 1)
        started, requested = Counter[str](), Counter[str]()
        jobs, overdue = await self._coordinators.describe_all()
        for job in jobs:
            (requested if job.state == jobs_pb2.JOB_STATE_REQUESTED else started)[job.worker] += 1
        answer = cluster_pb2.ListWorkersResponse()
        for r in rows[:size]:
            has = requested[r["name"]]
            beyond = min(has, max(0, started[r["name"]] + has - r["concurrency"]))
            answer.workers.add(
                id=str(r["worker_id"]),
                name=r["name"],
                host=r["host"],
                pid=r["pid"],
                queues=r["queues"],
                tasks=r["tasks"],
                concurrency=r["concurrency"],
                running=started[r["name"]] + has - beyond,
                requested=beyond,
                start_time=stamp(r["started_at"]),
                coordinator=r["coordinators"][0],
                coordinators=r["coordinators"],
                sdk=r["sdk"],
                draining=r["draining"],
                overdue=overdue[r["worker_id"].bytes],
            )
        if len(rows) > size:
            last = rows[size - 1]
            answer.next_page_token = f"{last['started_at'].isoformat()}~{last['worker_id']}"
        return answer

    async def AdvanceClock(
        self, request: cluster_pb2.AdvanceClockRequest, context: Any
    ) -> cluster_pb2.AdvanceClockResponse:
        if self._settings.clock != "manual":
            raise FailedPrecondition(
                "this cluster runs on the real clock; start it with"
                " `taskflow up --clock=manual`, or its schedulers with TASKFLOW_CLOCK=manual, to move the clock",
                "CLOCK_NOT_MANUAL",
            )
        left = int(seconds(request.by, "by") * 1e6)
        step = int(seconds(request.step, "step", least=0.001) * 1e6) if request.HasField("step") else CLOCK_STEP_US
        pause = seconds(request.pause, "pause") if request.HasField("pause") else CLOCK_PAUSE
        if left > step * MOST_STEPS:
            raise InvalidArgument(
                f"step: {left / 1e6:g} s would take over {MOST_STEPS:,} steps; make them longer, or call again", "step"
            )
        while left > 0:
            by = min(left, step)
            moved_us = (await self._db.rows("move_clock", by=by))[0]["moved_us"]
            self._clock.move(moved_us)
            await self._moved()
            await self._coordinators.move_clock(moved_us)
            await self._clock.real.sleep(pause)
            left -= by
        answer = cluster_pb2.AdvanceClockResponse(clock_moved_us=int(self._clock.moved * 1e6))
        answer.now.FromMicroseconds(self._clock.now_us())
        return answer


def _worker_token(token: str) -> tuple[datetime, UUID]:
    if not token:
        return _BEGINNING, UUID(int=0)
    try:
        time, _, worker = token.partition("~")
        return datetime.fromisoformat(time).astimezone(UTC), UUID(worker)
    except (ValueError, OverflowError):
        raise InvalidArgument("page_token: is not a valid token of this method", "page_token") from None

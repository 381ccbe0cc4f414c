"""Assembles the coordinator and starts its loops."""

from __future__ import annotations

from contextlib import AsyncExitStack

from taskflow._policy import Outcome
from taskflow.v1 import dispatch_pb2, dispatch_pb2_grpc, worker_pb2, worker_pb2_grpc
from taskflow_server.coordinator.api.cancellations import Cancellations
from taskflow_server.coordinator.api.dispatch_servicer import DispatchServicer
from taskflow_server.coordinator.api.external_executors import ExternalExecutors
from taskflow_server.coordinator.api.fenced_starts import FencedStarts
from taskflow_server.coordinator.api.late_outcomes import LateOutcomes
from taskflow_server.coordinator.api.manual_clock import ManualClock
from taskflow_server.coordinator.api.worker_servicer import WorkerServicer
from taskflow_server.coordinator.lanes.blocked import BlockedJobs
from taskflow_server.coordinator.lanes.budget import MemoryBudget
from taskflow_server.coordinator.lanes.deferred import Deferred
from taskflow_server.coordinator.lanes.pager import LanePager
from taskflow_server.coordinator.lanes.start_by import StartByExpiry
from taskflow_server.coordinator.lanes.start_slas import StartSlas
from taskflow_server.coordinator.outcomes.held_ends import HeldEnds
from taskflow_server.coordinator.outcomes.writer import OutcomeWriter
from taskflow_server.coordinator.ownership.leadership import Leadership
from taskflow_server.coordinator.ownership.takeover import Takeover
from taskflow_server.coordinator.perform import Performer
from taskflow_server.coordinator.runs.loop import RunLoop
from taskflow_server.coordinator.settings import CoordinatorSettings
from taskflow_server.coordinator.shared import Shared
from taskflow_server.coordinator.workers.job_logs import JobLogs
from taskflow_server.coordinator.workers.lease_expiry import LeaseExpiry
from taskflow_server.coordinator.workers.lease_rows import LeaseRows
from taskflow_server.coordinator.workers.sessions import WorkerSessions
from taskflow_server.core.errors import Unavailable
from taskflow_server.rpc.server import Server
from taskflow_server.runtime import metrics, step_kinds
from taskflow_server.runtime.clock import SystemClock
from taskflow_server.runtime.lifecycle import Background
from taskflow_server.runtime.settings import refuse
from taskflow_server.store.database import Database
from taskflow_server.store.errors import FAULTS
from taskflow_server.store.lane_reader import LaneReader


async def start(
    settings: CoordinatorSettings, server: Server, clock: SystemClock, stack: AsyncExitStack, tasks: Background
) -> None:
    """Runs the coordinator. It is ready once it owns its shards, and while none of its parts waits for Postgres."""
    server.check_address()  # before the wait for its name
    step_kinds.load(settings.step_kinds)
    db = Database(settings.database_url, timeout=settings.database_timeout)
    try:
        await db.open()
    except Unavailable as error:
        refuse(f"TASKFLOW_DATABASE_URL: {error}")
    stack.push_async_callback(db.close)
    shared = Shared(settings, clock, db)
    outcomes = OutcomeWriter(shared)
    stack.push_async_callback(outcomes.close)
    shared.fail_unreadable = lambda entries: outcomes.end(entries, Outcome.FAILED, "unreadable", final=True)
    performer = Performer(shared, outcomes)
    budget = MemoryBudget(shared, performer)
    pager = LanePager(shared, budget)
    stack.push_async_callback(pager.close)
    due_reader = LaneReader(settings.database_url, settings.database_timeout)
    stack.push_async_callback(due_reader.close)
    deferred = Deferred(shared, budget, due_reader)
    blocked_reader = LaneReader(settings.database_url, settings.database_timeout)
    stack.push_async_callback(blocked_reader.close)
    blocked = BlockedJobs(shared, outcomes, deferred, blocked_reader)
    held_ends = HeldEnds(shared, outcomes)
    stack.push_async_callback(held_ends.close)
    lease_rows = LeaseRows(shared, outcomes)
    takeover = Takeover(shared, outcomes, performer, lease_rows)
    sessions = WorkerSessions(shared, outcomes, performer, server.closing)
    lease_expiry = LeaseExpiry(shared, outcomes, performer, sessions)
    cancellations = Cancellations(shared, outcomes, performer)
    job_logs = JobLogs(shared)
    runs = RunLoop(shared, pager)
    stack.push_async_callback(runs.close)
    start_slas = StartSlas(shared)
    stack.push_async_callback(start_slas.close)
    start_by = StartByExpiry(shared, outcomes, performer, due_reader)
    manual_clock = ManualClock(shared, sessions, deferred, runs)

    leadership = Leadership(
        shared,
        outcomes,
        pager,
        takeover,
        sessions.announce,
        performer.perform,
        manual_clock.follow,
        sessions.recall,
        sessions.dismiss,
    )
    leadership.incarnation = server.incarnation
    executors = ExternalExecutors(shared, outcomes, performer, job_logs)
    late = LateOutcomes(shared, outcomes, performer, lambda: leadership.feed)
    starts = FencedStarts(shared, outcomes, takeover, lease_rows)
    workers = WorkerServicer(shared, outcomes, sessions, takeover, job_logs, executors, late, starts)
    dispatch = DispatchServicer(shared, leadership, pager, deferred, sessions, manual_clock, server.closing)
    name = worker_pb2.DESCRIPTOR.services_by_name["WorkerService"].full_name
    server.add(name, lambda s: worker_pb2_grpc.add_WorkerServiceServicer_to_server(workers, s))
    name = dispatch_pb2.DESCRIPTOR.services_by_name["DispatchService"].full_name
    server.add(name, lambda s: dispatch_pb2_grpc.add_DispatchServiceServicer_to_server(dispatch, s))
    metrics.follow(
        {
            metrics.db_pool_size: lambda: db.pool("pool_size"),
            metrics.db_pool_available: lambda: db.pool("pool_available"),
            metrics.db_pool_waiting: lambda: db.pool("requests_waiting"),
            metrics.shards_owned: lambda: len(shared.table.shards),
            metrics.lanes: lambda: len(shared.table.lanes),
            metrics.lanes_live: lambda: sum(1 for lane in list(shared.table.lanes.values()) if lane.live),
            metrics.lanes_spilled: lambda: len(shared.hungry),
            metrics.jobs_in_memory: lambda: len(shared.table.by_job),
            metrics.memory_waiting: lambda: shared.table.waiting.own_size,
            metrics.workers_connected: lambda: len(sessions.open),
            metrics.overdue_handlers: lambda: sum(session.overdue for session in list(sessions.open.values())),
        }
    )
    try:
        await leadership.join()
    except FAULTS as error:
        refuse(f"TASKFLOW_DATABASE_URL: {error}")
    stack.push_async_callback(leadership.hand_over)
    stack.push_async_callback(tasks.stop)  # the loops end first: they would start a takeover on closed connections
    await server.start(stack)
    for loop in (
        (leadership.beat(), "beat"),
        (leadership.run(), "owner"),
        (leadership.write_marks(), "marks"),
        (leadership.follow_paused(), "paused"),
        (pager.run_lanes(), "lanes"),
        (pager.run_payloads(), "payloads"),
        (deferred.run(), "due"),
        (blocked.run(), "blocked"),
        (takeover.run(), "recovery"),
        (lease_rows.run(), "leases"),
        (held_ends.run(), "held ends"),
        (lease_expiry.run(), "workers"),
        (executors.watch(), "executors"),
        (cancellations.run(), "cancels"),
        (start_by.run(), "expiry"),
        (start_slas.run(), "slas"),
        (job_logs.run(), "notes"),
        (runs.run(), "runs"),
    ):
        tasks.start(*loop)
    await leadership.took_over.wait()
    await server.serving(True)
    tasks.start(shared.readiness.follow(server.serving), "readiness")

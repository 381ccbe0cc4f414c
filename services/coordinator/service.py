"""Puts the coordinator together, and its loops."""

from __future__ import annotations

from contextlib import AsyncExitStack

from taskflow._policy import Outcome
from taskflow.v1 import dispatch_pb2, dispatch_pb2_grpc, worker_pb2, worker_pb2_grpc
from taskflow_server.coordinator.blocked import Blocked
from taskflow_server.coordinator.cancels import Cancels
from taskflow_server.coordinator.dispatch import DispatchServicer
from taskflow_server.coordinator.due import Due
from taskflow_server.coordinator.executors import Executors
from taskflow_server.coordinator.expiry import Expiry
from taskflow_server.coordinator.job_slas import JobSlas
from taskflow_server.coordinator.late import Late
from taskflow_server.coordinator.ledger import Ledger
from taskflow_server.coordinator.memory import Memory
from taskflow_server.coordinator.moving import Moving
from taskflow_server.coordinator.notes import Notes
from taskflow_server.coordinator.owner import Owner
from taskflow_server.coordinator.pager import Pager
from taskflow_server.coordinator.recovery import Recovery
from taskflow_server.coordinator.runs import Runs
from taskflow_server.coordinator.sessions import Sessions
from taskflow_server.coordinator.settings import CoordinatorSettings
from taskflow_server.coordinator.state import State
from taskflow_server.coordinator.workers import WorkerServicer
from taskflow_server.core.book import Entry
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
    """Ready once it owns its shards, and while no part of it waits for Postgres."""
    server.check_address()  # before it waits for its name
    step_kinds.load(settings.step_kinds)
    db = Database(settings.database_url, timeout=settings.database_timeout)
    try:
        await db.open()
    except Unavailable as error:
        refuse(f"TASKFLOW_DATABASE_URL: {error}")
    stack.push_async_callback(db.close)
    state = State(settings, clock, db)
    ledger = Ledger(state)
    stack.push_async_callback(ledger.close)
    state.fail_unreadable = lambda entries: ledger.end(entries, Outcome.FAILED, "unreadable", final=True)
    memory = Memory(state)
    pager = Pager(state, memory)
    stack.push_async_callback(pager.close)
    due_reader = LaneReader(settings.database_url, settings.database_timeout)
    stack.push_async_callback(due_reader.close)
    due = Due(state, memory, due_reader)
    blocked_reader = LaneReader(settings.database_url, settings.database_timeout)
    stack.push_async_callback(blocked_reader.close)
    blocked = Blocked(state, ledger, due, blocked_reader)
    recovery = Recovery(state, ledger)
    sessions = Sessions(state, ledger, server.closing)
    cancels = Cancels(state, ledger, sessions, recovery)
    notes = Notes(state)
    runs = Runs(state, pager)
    stack.push_async_callback(runs.close)
    job_slas = JobSlas(state)
    stack.push_async_callback(job_slas.close)
    expiry = Expiry(state, ledger, recovery, due_reader)
    moving = Moving(state, sessions, due, runs)

    def removed(entries: list[Entry]) -> None:
        cancels.removed(memory.returned(entries))

    owner = Owner(
        state,
        ledger,
        pager,
        recovery,
        sessions.announce,
        sessions.returned,
        removed,
        moving.follow,
        sessions.recall,
        sessions.dismiss,
    )
    owner.incarnation = server.incarnation
    cancels.owner = owner
    executors = Executors(state, ledger, sessions, notes)
    late = Late(state, ledger, recovery, lambda: owner.feed, cancels.removed)
    workers = WorkerServicer(state, ledger, sessions, recovery, notes, executors, late)
    dispatch = DispatchServicer(state, owner, pager, due, sessions, moving, server.closing)
    name = worker_pb2.DESCRIPTOR.services_by_name["WorkerService"].full_name
    server.add(name, lambda s: worker_pb2_grpc.add_WorkerServiceServicer_to_server(workers, s))
    name = dispatch_pb2.DESCRIPTOR.services_by_name["DispatchService"].full_name
    server.add(name, lambda s: dispatch_pb2_grpc.add_DispatchServiceServicer_to_server(dispatch, s))
    metrics.follow(
        {
            metrics.db_pool_size: lambda: db.pool("pool_size"),
            metrics.db_pool_available: lambda: db.pool("pool_available"),
            metrics.db_pool_waiting: lambda: db.pool("requests_waiting"),
            metrics.shards_owned: lambda: len(state.book.shards),
            metrics.lanes: lambda: len(state.book.lanes),
            metrics.lanes_live: lambda: sum(1 for lane in list(state.book.lanes.values()) if lane.live),
            metrics.lanes_spilled: lambda: len(state.hungry),
            metrics.jobs_in_memory: lambda: len(state.book.by_job),
            metrics.memory_waiting: lambda: state.book.waiting.own_size,
            metrics.workers_connected: lambda: len(sessions.open),
            metrics.overdue_handlers: lambda: sum(session.overdue for session in list(sessions.open.values())),
        }
    )
    try:
        await owner.join()
    except FAULTS as error:
        refuse(f"TASKFLOW_DATABASE_URL: {error}")
    stack.push_async_callback(owner.hand_over)
    stack.push_async_callback(tasks.stop)  # the loops end first: they would take over anew, on closed connections
    await server.start(stack)
    for loop in (
        (owner.beat(), "beat"),
        (owner.run(), "owner"),
        (owner.write_marks(), "marks"),
        (owner.follow_paused(), "paused"),
        (pager.run_lanes(), "lanes"),
        (pager.run_payloads(), "payloads"),
        (due.run(), "due"),
        (blocked.run(), "blocked"),
        (recovery.run(), "recovery"),
        (recovery.lease_long(), "leases"),
        (sessions.watch_leases(), "workers"),
        (executors.watch(), "executors"),
        (cancels.run(), "cancels"),
        (expiry.run(cancels.expire), "expiry"),
        (job_slas.run(), "slas"),
        (notes.run(), "notes"),
        (runs.run(), "runs"),
    ):
        tasks.start(*loop)
    await owner.took_over.wait()
    await server.serving(True)
    tasks.start(state.readiness.follow(server.serving), "readiness")

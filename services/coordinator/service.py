"""Puts the coordinator together, and its loops."""

from __future__ import annotations

from contextlib import AsyncExitStack

from services.coordinator.cancels import Cancels
from services.coordinator.dispatch import DispatchServicer
from services.coordinator.executors import Executors
from services.coordinator.expiry import Expiry
from services.coordinator.ledger import Ledger
from services.coordinator.moving import Moving
from services.coordinator.notes import Notes
from services.coordinator.owner import Owner
from services.coordinator.pager import Pager
from services.coordinator.recovery import Recovery
from services.coordinator.runs import Runs
from services.coordinator.sessions import Sessions
from services.coordinator.settings import CoordinatorSettings
from services.coordinator.state import State
from services.coordinator.workers import WorkerServicer
from services.core.errors import Unavailable
from services.rpc.server import Server
from services.runtime import metrics
from services.runtime.clock import SystemClock
from services.runtime.lifecycle import Background
from services.runtime.settings import refuse
from services.store.database import Database
from taskflow.v1 import dispatch_pb2, dispatch_pb2_grpc, worker_pb2, worker_pb2_grpc


async def start(
    settings: CoordinatorSettings, server: Server, clock: SystemClock, stack: AsyncExitStack, tasks: Background
) -> None:
    """Ready once it owns its shards."""
    db = Database(settings.database_url, timeout=settings.database_timeout)
    try:
        await db.open()
    except Unavailable as error:
        refuse(f"TASKFLOW_DATABASE_URL: {error}")
    stack.push_async_callback(db.close)
    state = State(settings, clock, db)
    ledger = Ledger(state)
    stack.push_async_callback(ledger.close)
    expiry = Expiry(state)
    pager = Pager(state, expiry)
    stack.push_async_callback(pager.close)
    recovery = Recovery(state, ledger)
    sessions = Sessions(state, ledger, server.closing)
    cancels = Cancels(state, ledger, sessions, recovery)
    notes = Notes(state)
    runs = Runs(state, pager)
    stack.push_async_callback(runs.close)
    moving = Moving(state, sessions, pager, runs)
    owner = Owner(
        state, ledger, pager, recovery, sessions.announce, sessions.returned, cancels.removed, moving.follow
    )
    owner.incarnation = server.incarnation
    cancels.owner = owner
    executors = Executors(state, ledger, sessions, notes)
    workers = WorkerServicer(state, ledger, sessions, recovery, notes, executors)
    dispatch = DispatchServicer(state, owner, pager, sessions, moving, server.closing)
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
            metrics.workers_connected: lambda: len(sessions.open),
        }
    )
    await owner.join()
    stack.push_async_callback(owner.hand_over)
    stack.push_async_callback(tasks.stop)  # the loops end first: they would take over anew, on closed connections
    await server.start(stack)
    for loop in (
        (owner.beat(), "beat"),
        (owner.run(), "owner"),
        (owner.write_marks(), "marks"),
        (owner.follow_paused(), "paused"),
        (pager.run_lanes(), "lanes"),
        (pager.run_due(), "due"),
        (recovery.run(), "recovery"),
        (recovery.lease_long(), "leases"),
        (sessions.watch_leases(), "workers"),
        (executors.watch(), "executors"),
        (cancels.run(), "cancels"),
        (expiry.run(cancels.expire), "expiry"),
        (notes.run(), "notes"),
        (runs.run(), "runs"),
    ):
        tasks.start(*loop)
    await owner.took_over.wait()
    await server.serving(True)

"""Puts the scheduler together, and its loops."""

from __future__ import annotations

import asyncio
import functools
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from uuid import UUID

from services.core.errors import Unavailable
from services.core.names import shard_of
from services.rpc.server import Server
from services.runtime import logs, metrics
from services.runtime.clock import RealClock, SystemClock
from services.runtime.lifecycle import Background
from services.runtime.settings import refuse
from services.scheduler.admission import Admission
from services.scheduler.backfill import Backfiller
from services.scheduler.cluster import ClusterServicer
from services.scheduler.coordinators import Coordinators
from services.scheduler.depths import Depths
from services.scheduler.directory import Directory
from services.scheduler.firing import Firer
from services.scheduler.intake import Intake
from services.scheduler.jobs import JobServicer
from services.scheduler.lists import Lists
from services.scheduler.namespaces import NamespaceServicer
from services.scheduler.queues import QueueAdminServicer
from services.scheduler.reading import Reading
from services.scheduler.schedules import ScheduleServicer
from services.scheduler.settings import SchedulerSettings
from services.scheduler.tasks import TaskServicer
from services.scheduler.workflows import WorkflowServicer
from services.store.database import Database, Writer
from services.store.prune import PruneBusy, prune
from taskflow.v1 import (
    cluster_pb2,
    cluster_pb2_grpc,
    jobs_pb2,
    jobs_pb2_grpc,
    queues_pb2,
    queues_pb2_grpc,
    schedules_pb2,
    schedules_pb2_grpc,
    tasks_pb2,
    tasks_pb2_grpc,
    workflows_pb2,
    workflows_pb2_grpc,
)

log = logs.get("scheduler")

PARTITION_INTERVAL = 3600.0


async def start(
    settings: SchedulerSettings, server: Server, clock: SystemClock, stack: AsyncExitStack, tasks: Background
) -> None:
    """Serves as soon as Postgres answers; exits with one line when it does not at the start."""
    db = Database(settings.database_url, timeout=settings.database_timeout)
    try:
        await db.open()
    except Unavailable as error:
        refuse(f"TASKFLOW_DATABASE_URL: {error}")
    stack.push_async_callback(db.close)
    directory = Directory(db, clock)
    coordinators = Coordinators(directory, settings.offer_backlog)
    stack.push_async_callback(coordinators.close)
    admission = Admission(settings, clock)
    intake = Intake(settings, clock, admission, directory, coordinators)
    stack.push_async_callback(intake.close)
    reading = Reading(db, coordinators)
    firer = Firer(settings, db, clock, admission, directory, intake, server.incarnation)
    stack.push_async_callback(firer.close)
    backfill_writer = Writer(settings.database_url, timeout=settings.database_timeout)
    stack.push_async_callback(backfill_writer.reset)
    backfiller = Backfiller(backfill_writer, directory, firer, intake)
    schedules = ScheduleServicer(settings, db, clock, admission, backfiller, firer.poked, coordinators.runs_news)
    register(server, settings, db, clock, directory, coordinators, intake, reading, admission, firer, schedules)
    stack.push_async_callback(tasks.stop)  # the loops end before the connections that they use
    await server.start(stack)
    incarnation = server.incarnation
    await db.run(
        "join_members", name=settings.name, kind="scheduler", incarnation=incarnation, addresses=settings.addresses
    )
    stack.push_async_callback(leave, db, settings.name, incarnation)
    await db.run("create_queues", names=["default"], shards=[shard_of("default")])  # it always exists (R11)
    await directory.refresh()
    coordinators.refresh(tasks)
    cluster = follow_cluster(settings, db, clock, directory, coordinators, server, tasks, incarnation)
    stack.callback(tasks.start(cluster, "cluster").cancel)  # before it leaves: who has left does not beat
    tasks.start(keep(clock, settings.await_interval, reading.sweep_awaited, "awaited jobs"), "awaited")

    tasks.start(firer.run(), "schedules")
    tasks.start(coordinators.tell_of_runs(), "news of runs")

    async def end_waits() -> None:
        await server.closing.wait()
        coordinators.abandon()

    tasks.start(end_waits(), "end of waits")

    async def make_partitions() -> None:
        await db.run("ensure_partitions", days=settings.partition_days)

    tasks.start(keep(clock, PARTITION_INTERVAL, make_partitions, "partitions"), "partitions")
    if settings.retention:
        step = functools.partial(prune_once, settings)
        # By the real clock: a test that moves the other by a year would start it at every step.
        tasks.start(keep(clock.real, settings.prune_interval, step, "retention"), "retention")
    metrics.follow(
        {
            metrics.db_pool_size: lambda: db.pool("pool_size"),
            metrics.db_pool_available: lambda: db.pool("pool_available"),
            metrics.db_pool_waiting: lambda: db.pool("requests_waiting"),
        }
    )
    if settings.metrics_port:  # it costs a query over what waits
        depths = Depths(QueueAdminServicer(db, coordinators, clock).page, settings.metrics_queues)
        tasks.start(keep(clock, settings.depth_interval, depths.sample, "depths of queues"), "depths")
    await server.serving(True)


def register(
    server: Server,
    settings: SchedulerSettings,
    db: Database,
    clock: SystemClock,
    directory: Directory,
    coordinators: Coordinators,
    intake: Intake,
    reading: Reading,
    admission: Admission,
    firer: Firer,
    schedules: ScheduleServicer,
) -> None:
    jobs = JobServicer(settings, db, intake, reading, Lists(db, clock, coordinators), coordinators, server.closing)
    queues = QueueAdminServicer(db, coordinators, clock)
    cluster = ClusterServicer(settings, db, clock, directory, coordinators, firer.caught_up)
    workflows = WorkflowServicer(settings, db, clock, coordinators, schedules)
    named = TaskServicer(db, clock, admission, intake, reading, schedules)
    name = tasks_pb2.DESCRIPTOR.services_by_name["TaskService"].full_name
    server.add(name, lambda s: tasks_pb2_grpc.add_TaskServiceServicer_to_server(named, s))
    namespaces = NamespaceServicer(db)
    name = cluster_pb2.DESCRIPTOR.services_by_name["NamespaceService"].full_name
    server.add(name, lambda s: cluster_pb2_grpc.add_NamespaceServiceServicer_to_server(namespaces, s))
    name = workflows_pb2.DESCRIPTOR.services_by_name["WorkflowService"].full_name
    server.add(name, lambda s: workflows_pb2_grpc.add_WorkflowServiceServicer_to_server(workflows, s))
    name = schedules_pb2.DESCRIPTOR.services_by_name["ScheduleService"].full_name
    server.add(name, lambda s: schedules_pb2_grpc.add_ScheduleServiceServicer_to_server(schedules, s))
    name = jobs_pb2.DESCRIPTOR.services_by_name["JobService"].full_name
    server.add(name, lambda s: jobs_pb2_grpc.add_JobServiceServicer_to_server(jobs, s))
    name = queues_pb2.DESCRIPTOR.services_by_name["QueueAdminService"].full_name
    server.add(name, lambda s: queues_pb2_grpc.add_QueueAdminServiceServicer_to_server(queues, s))
    name = cluster_pb2.DESCRIPTOR.services_by_name["ClusterService"].full_name
    server.add(name, lambda s: cluster_pb2_grpc.add_ClusterServiceServicer_to_server(cluster, s))


async def prune_once(settings: SchedulerSettings) -> None:
    """Unless another scheduler is at it. Unavailable when a part had to be put off, so that it is tried again soon."""
    with suppress(PruneBusy):
        report = await prune(
            settings.database_url, keep=timedelta(days=settings.retention), timeout=settings.database_timeout
        )
        for day in report.days:
            if day.deleted:
                log.info("past the retention", day=str(day.day), action=str(day.action), jobs=day.deleted, why=day.why)
        if report.firings or report.counts:
            log.info("past the retention", firings=report.firings, counts=report.counts)
        put_off = [f"{day.day}: {day.put_off}" for day in report.days if day.put_off]
        if put_off:
            raise Unavailable("; ".join(put_off), "PRUNE_PUT_OFF")


async def leave(db: Database, name: str, incarnation: UUID) -> None:
    try:
        await db.run("leave_members", name=name, incarnation=incarnation)
    except Unavailable:
        pass  # its beat stops, which says the same


async def follow_cluster(
    settings: SchedulerSettings,
    db: Database,
    clock: SystemClock,
    directory: Directory,
    coordinators: Coordinators,
    server: Server,
    tasks: Background,
    incarnation: UUID,
) -> None:
    """Beats, and follows the owners. Not ready while Postgres is away: no call could be stored."""
    ready = True
    namesake = logs.Outage(log, "another scheduler runs under this name")
    while True:
        soon = settings.topology_interval if directory.cluster.owners else min(settings.topology_interval, 0.2)
        await clock.sleep(soon)
        try:
            if not await db.run("beat", name=settings.name, incarnation=incarnation):
                namesake.failed(RuntimeError(settings.name))
            await directory.refresh()
            coordinators.refresh(tasks)
            well = True
        except Unavailable as error:
            well = False
            if ready:
                log.warning("not ready", why=str(error))
        if well != ready:
            ready = well
            await server.serving(well)


async def keep(clock: SystemClock | RealClock, interval: float, step: object, what: str) -> None:
    """Runs `step` now and at every interval; a failure is logged and tried again in a minute at most."""
    while True:
        try:
            await step()  # type: ignore[operator]
            await clock.sleep(interval)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.warning("failed, and will be tried again", what=what, why=str(error))
            await clock.sleep(min(interval, 60.0))

"""Assembles the scheduler and starts its loops."""

from __future__ import annotations

import asyncio
import functools
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from uuid import UUID

from taskflow.v1 import (
    alerts_pb2,
    alerts_pb2_grpc,
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
from taskflow_server.core.errors import Unavailable
from taskflow_server.core.names import shard_of
from taskflow_server.rpc.server import Server
from taskflow_server.runtime import logs, metrics, step_kinds
from taskflow_server.runtime.clock import RealClock, SystemClock
from taskflow_server.runtime.failpoints import reach
from taskflow_server.runtime.lifecycle import Background
from taskflow_server.runtime.readiness import Readiness
from taskflow_server.runtime.settings import refuse
from taskflow_server.scheduler.alert_jobs import AlertJobs
from taskflow_server.scheduler.alert_lanes import AlertLanes
from taskflow_server.scheduler.alerting import Alerter
from taskflow_server.scheduler.alerts import AlertServicer
from taskflow_server.scheduler.backfill import Backfiller
from taskflow_server.scheduler.backlogs import Backlogs
from taskflow_server.scheduler.cluster import ClusterServicer
from taskflow_server.scheduler.coordinators import Coordinators
from taskflow_server.scheduler.firing import Firer
from taskflow_server.scheduler.firing_rows import FiringRows
from taskflow_server.scheduler.handlers import Handlers
from taskflow_server.scheduler.job_lists import JobLists
from taskflow_server.scheduler.job_reader import JobReader
from taskflow_server.scheduler.job_writer import JobWriter
from taskflow_server.scheduler.jobs import JobServicer
from taskflow_server.scheduler.namespaces import NamespaceServicer
from taskflow_server.scheduler.queue_depth_metrics import QueueDepthMetrics
from taskflow_server.scheduler.queues import QueueAdminServicer
from taskflow_server.scheduler.quotas import JobQuotas
from taskflow_server.scheduler.schedules import ScheduleServicer
from taskflow_server.scheduler.serving import Serving
from taskflow_server.scheduler.settings import SchedulerSettings
from taskflow_server.scheduler.tasks import TaskServicer
from taskflow_server.scheduler.topology_cache import TopologyCache
from taskflow_server.scheduler.unserved import Makers
from taskflow_server.scheduler.validation import Validation
from taskflow_server.scheduler.workflows import WorkflowServicer
from taskflow_server.store.database import Database, Writer
from taskflow_server.store.errors import FAULTS
from taskflow_server.store.prune import PruneBusy, prune

log = logs.get("scheduler")

PARTITION_INTERVAL = 3600.0


async def start(
    settings: SchedulerSettings, server: Server, clock: SystemClock, stack: AsyncExitStack, tasks: Background
) -> None:
    """Serves as soon as Postgres answers; exits with a one-line error if it does not at the start."""
    step_kinds.load(settings.step_kinds)
    db = Database(settings.database_url, timeout=settings.database_timeout)
    try:
        await db.open()
    except Unavailable as error:
        refuse(f"TASKFLOW_DATABASE_URL: {error}")
    stack.push_async_callback(db.close)
    readiness = Readiness(clock.real.monotonic)
    topology = TopologyCache(db, clock)
    coordinators = Coordinators(topology, settings.offer_backlog)
    stack.push_async_callback(coordinators.close)
    validation = Validation(settings, clock)
    handlers = Handlers(db, clock, settings.handlers_interval)
    serving = Serving(db, clock, topology, handlers, settings.handlers_interval)
    stack.push_async_callback(serving.close)
    queues = QueueAdminServicer(db, topology, coordinators, Backlogs(db, clock.real.monotonic), clock, serving)
    quotas = JobQuotas(db, clock.real, queues.waiting_jobs, settings.quota_interval)
    job_writer = JobWriter(settings, clock, validation, topology, coordinators, readiness, handlers, quotas)
    stack.push_async_callback(job_writer.close)
    job_reader = JobReader(db, coordinators, serving)
    firing_rows = FiringRows(settings, clock, validation, topology, quotas)
    firer = Firer(settings, db, clock, firing_rows, topology, job_writer, readiness, server.incarnation)
    stack.push_async_callback(firer.close)
    backfill_writer = Writer(settings.database_url, timeout=settings.database_timeout)
    stack.push_async_callback(backfill_writer.reset)
    backfiller = Backfiller(backfill_writer, topology, firing_rows, job_writer)
    schedules = ScheduleServicer(
        settings, db, clock, validation, backfiller, firer.poked, coordinators.runs_news, Makers(db, serving)
    )
    alert_jobs = AlertJobs(settings, clock, validation)
    watch = AlertLanes(db, queues.waiting_tasks, serving.unserved, settings.alert_lanes)
    alerter = Alerter(settings, db, clock, topology, job_writer, readiness, alert_jobs, watch, lambda: firer.term)
    stack.push_async_callback(alerter.close)
    register(
        server, settings, db, clock, topology, coordinators, job_writer, job_reader, validation, firer, schedules,
        queues, serving, quotas,
    )  # fmt: skip
    register_alerts(server, AlertServicer(db, alert_jobs, job_writer, serving, settings.alert_rules))
    stack.push_async_callback(tasks.stop)  # the loops end before the connections that they use
    await server.start(stack)
    incarnation = server.incarnation
    try:
        await join(settings, db, incarnation, stack)
        await topology.refresh()
        await handlers.refresh()
        await quotas.refresh()
    except FAULTS as error:
        refuse(f"TASKFLOW_DATABASE_URL: {error}")
    coordinators.refresh(tasks)
    cluster = follow_cluster(
        settings, db, clock, topology, coordinators, readiness, tasks, incarnation, firer, handlers, quotas
    )
    stack.callback(tasks.start(cluster, "cluster").cancel)  # before the row in `members` goes: no beat may follow
    awaited = keep(clock, settings.await_interval, job_reader.sweep_awaited, "awaited jobs", coordinators.look)
    tasks.start(awaited, "awaited")

    tasks.start(firer.run(), "schedules")
    tasks.start(alerter.run(), "alerts")
    tasks.start(coordinators.tell_of_runs(), "wake runs")

    async def end_waits() -> None:
        await server.closing.wait()
        coordinators.abandon()

    tasks.start(end_waits(), "end waits")

    missing = readiness.outage(log, "partitions cannot be made")

    async def make_partitions() -> None:
        try:
            await db.run("ensure_partitions", days=settings.partition_days)
            missing.over()
        except FAULTS as error:
            missing.failed(error)
            raise

    tasks.start(keep(clock, PARTITION_INTERVAL, make_partitions, "partitions"), "partitions")
    if settings.retention:
        step = functools.partial(prune_once, settings)
        # By the real clock: a test that moves the manual clock by a year would start a prune at every step.
        tasks.start(keep(clock.real, settings.prune_interval, step, "retention"), "retention")
    metrics.follow(
        {
            metrics.db_pool_size: lambda: db.pool("pool_size"),
            metrics.db_pool_available: lambda: db.pool("pool_available"),
            metrics.db_pool_waiting: lambda: db.pool("requests_waiting"),
        }
    )
    if settings.metrics_port:  # it costs a query over waiting jobs
        depth_metrics = QueueDepthMetrics(
            queues.page, queues.waiting_tasks, settings.metrics_queues, settings.depth_interval
        )
        tasks.start(keep(clock, settings.depth_interval, depth_metrics.sample, "depths of queues"), "depths")
    await server.serving(True)
    tasks.start(readiness.follow(server.serving), "readiness")


def register(
    server: Server,
    settings: SchedulerSettings,
    db: Database,
    clock: SystemClock,
    topology: TopologyCache,
    coordinators: Coordinators,
    job_writer: JobWriter,
    job_reader: JobReader,
    validation: Validation,
    firer: Firer,
    schedules: ScheduleServicer,
    queues: QueueAdminServicer,
    serving: Serving,
    quotas: JobQuotas,
) -> None:
    job_lists = JobLists(db, clock, coordinators)
    jobs = JobServicer(settings, db, job_writer, job_reader, job_lists, coordinators, serving, server.closing)
    cluster = ClusterServicer(settings, db, clock, topology, coordinators, firer.caught_up)
    workflows = WorkflowServicer(settings, db, clock, coordinators, schedules, Makers(db, serving))
    named = TaskServicer(
        db, clock, validation, job_writer, job_reader, schedules, quotas, coordinators, settings.max_wait
    )
    name = tasks_pb2.DESCRIPTOR.services_by_name["TaskService"].full_name
    server.add(name, lambda s: tasks_pb2_grpc.add_TaskServiceServicer_to_server(named, s))
    namespaces = NamespaceServicer(db, quotas)
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


def register_alerts(server: Server, rules: AlertServicer) -> None:
    name = alerts_pb2.DESCRIPTOR.services_by_name["AlertService"].full_name
    server.add(name, lambda s: alerts_pb2_grpc.add_AlertServiceServicer_to_server(rules, s))


async def prune_once(settings: SchedulerSettings) -> None:
    """Prunes, unless another scheduler does. Unavailable when a part was put off, so that `keep` retries soon."""
    with suppress(PruneBusy):
        report = await prune(
            settings.database_url, keep=timedelta(days=settings.retention), timeout=settings.database_timeout
        )
        for day in report.days:
            if day.deleted:
                log.info("pruned", day=str(day.day), action=str(day.action), jobs=day.deleted, why=day.why)
        if report.firings or report.counts:
            log.info("pruned", firings=report.firings, counts=report.counts)
        put_off = [f"{day.day}: {day.put_off}" for day in report.days if day.put_off]
        if put_off:
            raise Unavailable("; ".join(put_off), "PRUNE_PUT_OFF")


async def join(settings: SchedulerSettings, db: Database, incarnation: UUID, stack: AsyncExitStack) -> None:
    """Inserts this process's row in `members`, deleted when it stops, and the queue that always exists (R11)."""
    await db.run(
        "join_members", name=settings.name, kind="scheduler", incarnation=incarnation, addresses=settings.addresses
    )
    stack.push_async_callback(leave, db, settings.name, incarnation)
    await db.run("create_queues", names=["default"], shards=[shard_of("default")])


async def leave(db: Database, name: str, incarnation: UUID) -> None:
    with suppress(*FAULTS):  # other members notice that the beat has stopped
        await db.run("leave_members", name=name, incarnation=incarnation)


async def follow_cluster(
    settings: SchedulerSettings,
    db: Database,
    clock: SystemClock,
    topology: TopologyCache,
    coordinators: Coordinators,
    readiness: Readiness,
    tasks: Background,
    incarnation: UUID,
    firer: Firer,
    handlers: Handlers,
    quotas: JobQuotas,
) -> None:
    """Beats, and reads the owners and the database's clock. Not ready while Postgres fails: no job can be stored."""
    outage = readiness.outage(log, "the cluster cannot be read")
    namesake = logs.Outage(log, "another scheduler runs under this name")
    while True:
        soon = settings.topology_interval if topology.cluster.owners else min(settings.topology_interval, 0.2)
        await clock.sleep(soon)
        await reach("scheduler.follow")
        try:
            if not await db.run("beat", name=settings.name, incarnation=incarnation):
                namesake.failed(RuntimeError(settings.name))
            jump = await topology.refresh()
            if abs(jump) >= settings.clock_step:
                direction = "forward" if jump > 0 else "back"
                log.warning("the database's clock was stepped", seconds=round(jump, 1), direction=direction)
                metrics.clock_steps.labels(direction).inc()
                firer.clock_stepped()
            coordinators.refresh(tasks)
            await handlers.refresh(topology.handlers_version)
            await quotas.refresh()
            outage.over()
        except FAULTS as error:
            outage.failed(error)


async def keep(
    clock: SystemClock | RealClock, interval: float, step: object, what: str, soon: asyncio.Event | None = None
) -> None:
    """Runs `step` now, at every interval, and when `soon` is set, which `step` clears. Logs a failure and retries
    within a minute."""
    while True:
        try:
            await step()  # type: ignore[operator]
            if soon is None:
                await clock.sleep(interval)
            else:
                with suppress(TimeoutError):
                    await asyncio.wait_for(soon.wait(), interval)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.warning("a periodic task failed; retrying", what=what, why=str(error))
            await clock.sleep(min(interval, 60.0))

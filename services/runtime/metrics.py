"""Prometheus metrics: one process, one registry. Names are stable and listed in docs/reference.

Labels are bounded: outcomes, methods and codes are few, and QueueLabels limits the queues with a label of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics, start_http_server

from taskflow._policy import addresses
from taskflow_server.runtime.histogram import BatchHistogram
from taskflow_server.runtime.settings import ServiceSettings, refuse

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter: when it began

_BATCH = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SPANS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 86_400)
OTHER_QUEUES = "(other)"  # no queue can be called that

commit_rows = Histogram("taskflow_commit_rows", "Jobs or attempts of one commit", ["what"], buckets=_BATCH)
commit_seconds = Histogram("taskflow_commit_seconds", "Time of one commit", ["what"], buckets=_SECONDS)
jobs_created = Counter("taskflow_jobs_created_total", "Jobs stored", ["queue"])
jobs_finished = Counter("taskflow_jobs_finished_total", "Jobs finished", ["queue", "outcome"])
attempts_started = Counter("taskflow_attempts_started_total", "Attempts started", ["queue"])
attempts_finished = Counter("taskflow_attempts_finished_total", "Attempts recorded", ["queue", "outcome"])
attempt_wait_seconds = BatchHistogram(
    "taskflow_attempt_wait_seconds", "From when a job could start to the start of its attempt", "queue", _SPANS
)
attempt_run_seconds = BatchHistogram(
    "taskflow_attempt_run_seconds", "From the start of an attempt to its end", "queue", _SPANS
)
job_end_to_end_seconds = BatchHistogram(
    "taskflow_job_end_to_end_seconds", "From submission, or run_at, to success or failure", "queue", _SPANS
)
reports_refused = Counter(
    "taskflow_reports_refused_total", "Outcomes refused, and executors' starts and notifications", ["reason"]
)
for _reason in ("STALE_EXEC_ID", "OUTCOME_RECORDED", "NOT_OWNER", "NOT_STARTED"):
    reports_refused.labels(_reason)  # 0 from the beginning: the first one is an increase
runs_started = Counter("taskflow_runs_started_total", "Runs of workflows started")
runs_finished = Counter("taskflow_runs_finished_total", "Runs finished", ["outcome"])
for _outcome in ("succeeded", "failed", "cancelled"):
    runs_finished.labels(_outcome)
jobs_sla_missed = Counter("taskflow_jobs_sla_missed_total", "Jobs that had not started when their sla ended")
runs_sla_missed = Counter("taskflow_runs_sla_missed_total", "Runs that had not begun when their workflow's sla ended")
outcomes_set_aside = Counter(
    "taskflow_outcomes_set_aside_total", "Outcomes that the database refused, each time; they are written again later"
)
schedule_faults = Counter("taskflow_schedule_faults_total", "Times that a schedule could not be fired")
clock_steps = Counter("taskflow_clock_steps_total", "Steps of the database's clock that a scheduler saw", ["direction"])
for _direction in ("forward", "back"):
    clock_steps.labels(_direction)
runs_left_out = Counter("taskflow_runs_left_out_total", "Times that a run could not even be made to fail")
takeovers = Counter("taskflow_takeovers_total", "Shards taken over")
offers_refused = Counter("taskflow_offers_refused_total", "Offered jobs not taken, to be read from Postgres")

rpc_seconds = Histogram("taskflow_rpc_seconds", "Duration of a call, without long polls", ["method"], buckets=_SECONDS)
rpc_failures = Counter("taskflow_rpc_failures_total", "Unary calls answered with an error", ["method", "code"])

http_seconds = Histogram(
    "taskflow_http_seconds", "Time until an answer begins, without long polls", ["route"], buckets=_SECONDS
)
http_requests = Counter("taskflow_http_requests_total", "Requests answered", ["route", "status"])
live_streams = Gauge("taskflow_live_streams", "Open pages of the console that are updated")
live_pages = Gauge("taskflow_live_pages", "Different ones among them, each with its own requests to the scheduler")

queue_ready = Gauge("taskflow_queue_ready", "Jobs that wait for a worker; about, over 10,000", ["queue"])
queue_oldest = Gauge("taskflow_queue_oldest_seconds", "Age of the oldest of them; 0 without any", ["queue"])
task_oldest = Gauge(
    "taskflow_task_oldest_seconds",
    "Age of the oldest ready job of a task, and whether somebody serves it; from 15 s on",
    ["queue", "task", "served"],
)
queue_scheduled = Gauge("taskflow_queue_scheduled", "Jobs whose time has not come", ["queue"])
queue_running = Gauge("taskflow_queue_running", "Jobs dispatched to workers", ["queue"])

shards_owned = Gauge("taskflow_shards_owned", "Shards that this coordinator owns, of 16")
lanes = Gauge("taskflow_lanes", "Lanes in memory: those that have had jobs of late")
lanes_live = Gauge("taskflow_lanes_live", "Lanes with jobs in memory, but for those that run long")
lanes_spilled = Gauge("taskflow_lanes_spilled", "Lanes with jobs in Postgres alone, not yet read or beyond their room")
memory_waiting = Gauge("taskflow_memory_waiting_bytes", "Bytes of the coordinator for jobs that wait, about")
jobs_in_memory = Gauge("taskflow_jobs_in_memory", "Jobs waiting, handed out or running, as the coordinator holds them")
workers_connected = Gauge("taskflow_workers_connected", "Workers with an open session")
overdue_handlers = Gauge(
    "taskflow_overdue_handlers", "Handlers of all workers that go on after the end of their attempts, and keep a slot"
)
queue_service_tasks = Gauge("taskflow_queue_service_tasks", "Jobs that wait in the queue service")
queue_service_lanes = Gauge("taskflow_queue_service_lanes", "Lanes with jobs in the queue service")
queue_service_bytes = Gauge("taskflow_queue_service_bytes", "Bytes of the queue service for jobs that wait, about")
polls_waiting = Gauge("taskflow_polls_waiting", "Long polls that wait for a job")

database_errors = Counter(
    "taskflow_database_errors_total",
    "Errors of Postgres that are waited out, by SQLSTATE class; `connection` without one, `other` for unknown classes,"
    " `query` for queries that cannot be sent, a fault of TaskFlow's own",
    ["class"],
)
db_pool_size = Gauge("taskflow_db_pool_size", "Connections of the pool, open or being opened")
db_pool_available = Gauge("taskflow_db_pool_available", "Those of them that are idle")
db_pool_waiting = Gauge("taskflow_db_pool_waiting", "Queries that wait for one")


class QueueLabels:
    """The label value of a queue: its name for the first `most` that this process meets, OTHER_QUEUES for the rest."""

    def __init__(self, most: int) -> None:
        self._room = most
        self._known: dict[str, str] = {}

    def __call__(self, queue: str) -> str:
        label = self._known.get(queue)
        if label is None:
            if not self._room:
                return OTHER_QUEUES
            self._room -= 1
            label = self._known[queue] = queue
        return label


def follow(gauges: Mapping[Gauge, Callable[[], float]]) -> None:
    """Reads each gauge when it is scraped, in the scraper's thread: the functions may only take lengths."""
    for gauge, read in gauges.items():
        gauge.set_function(read)


def serve(settings: ServiceSettings) -> None:
    """Serves /metrics, unless the port is 0."""
    if settings.metrics_port:
        try:
            start_http_server(settings.metrics_port, settings.host)
        except OSError as error:
            where = addresses.join(settings.host, settings.metrics_port)
            refuse(f"TASKFLOW_METRICS_PORT: cannot listen on {where}: {error.strerror}")

"""Prometheus metrics: one process, one registry. Names are stable and listed in docs/reference."""

from __future__ import annotations

from prometheus_client import Counter, Histogram, start_http_server

from services.runtime.settings import ServiceSettings, refuse

_BATCH = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

commit_rows = Histogram("taskflow_commit_rows", "Rows of one commit", ["what"], buckets=_BATCH)
commit_seconds = Histogram("taskflow_commit_seconds", "Time of one commit", ["what"], buckets=_SECONDS)
jobs_created = Counter("taskflow_jobs_created_total", "Jobs stored", ["queue"])
attempts_finished = Counter("taskflow_attempts_finished_total", "Attempts recorded", ["queue", "outcome"])
reports_refused = Counter("taskflow_reports_refused_total", "Outcomes refused", ["reason"])
takeovers = Counter("taskflow_takeovers_total", "Shards taken over")
offers_refused = Counter("taskflow_offers_refused_total", "Offered jobs left to the pager")


def serve(settings: ServiceSettings) -> None:
    """Serves /metrics, unless the port is 0."""
    if settings.metrics_port:
        try:
            start_http_server(settings.metrics_port, settings.host)
        except OSError as error:
            refuse(f"TASKFLOW_METRICS_PORT: cannot listen on {settings.host}:{settings.metrics_port}: {error.strerror}")

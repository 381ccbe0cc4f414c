"""The jobs that deliver messages of alerts: by `taskflow.alert`, in a queue of their own, with retries."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from taskflow.v1 import jobs_pb2 as pb
from taskflow_server.core import alerts
from taskflow_server.core.alerts import Group
from taskflow_server.runtime.clock import SystemClock
from taskflow_server.scheduler.settings import SchedulerSettings
from taskflow_server.scheduler.validation import Validation
from taskflow_server.store.database import Row
from taskflow_server.store.jobs import NewJob

FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=5), timedelta(minutes=10)  # between the tries of a delivery
TEST = "test"  # the event of a test message


class AlertJobs:
    def __init__(self, settings: SchedulerSettings, clock: SystemClock, validation: Validation) -> None:
        self._settings = settings
        self._clock = clock
        self._validation = validation

    def make(self, rule: Row, group: Group) -> tuple[NewJob, pb.JobSpec]:
        """The job of a message, whose id is the message's."""
        job_id = self._clock.new_id()
        spec = self._spec(rule, alerts.message(rule["name"], str(UUID(bytes=job_id)), group))
        spec.id = job_id
        return self._validation.check(spec, "alert", 0), spec

    def test(self, rule: Row) -> pb.JobSpec:
        """The job of a message of one made-up fact."""
        job_id = self._clock.new_id()
        now = datetime.fromtimestamp(self._clock.now_us() / 1e6, UTC).isoformat()
        message = {
            "id": str(UUID(bytes=job_id)), "rule": rule["name"], "opened_at": now, "count": 1, "counts": {TEST: 1},
            "first": [{"event": TEST, "at": now, "detail": "This is a test of the rule."}],
        }  # fmt: skip
        spec = self._spec(rule, message)
        spec.id = job_id
        return spec

    def _spec(self, rule: Row, message: dict[str, Any]) -> pb.JobSpec:
        if len(json.dumps(message)) > self._settings.max_payload_bytes // 2:
            message = message | {"first": []}  # a message that exceeds the payload limit would stop all alerts
        to = {name: rule[name] for name in ("kind", "url", "url_secret", "secret") if rule[name]}
        spec = pb.JobSpec(
            queue=alerts.QUEUE, task=alerts.TASK, retries=self._settings.alert_retries,
            payload=json.dumps({"to": to, "message": message}).encode(), encoding=pb.ENCODING_JSON,
        )  # fmt: skip
        spec.options.label = f"alert {rule['name']}"
        spec.options.backoff.first.FromTimedelta(FIRST_PAUSE)
        spec.options.backoff.factor = 2.0
        spec.options.backoff.limit.FromTimedelta(LONGEST_PAUSE)
        return spec

"""AlertService: alert rules as resources. taskflow_server.scheduler.alerting evaluates them, on the leader."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from taskflow.v1 import alerts_pb2 as pb
from taskflow.v1 import alerts_pb2_grpc
from taskflow_server.core import alerts
from taskflow_server.core.errors import AlreadyExists, NotFound, ResourceExhausted
from taskflow_server.scheduler.alert_jobs import AlertJobs
from taskflow_server.scheduler.alert_rules import COLUMNS, changed, message, name_of, row_of
from taskflow_server.scheduler.job_lists import page_size
from taskflow_server.scheduler.job_writer import JobWriter
from taskflow_server.scheduler.serving import Serving
from taskflow_server.store import alerts as store
from taskflow_server.store.database import Database, Row


class AlertServicer(alerts_pb2_grpc.AlertServiceServicer):
    def __init__(self, db: Database, jobs: AlertJobs, job_writer: JobWriter, serving: Serving, most_rules: int) -> None:
        self._db = db
        self._jobs = jobs
        self._job_writer = job_writer
        self._serving = serving
        self._most = most_rules

    async def CreateAlertRule(self, request: pb.CreateAlertRuleRequest, context: Any) -> pb.AlertRule:
        row = row_of(request.rule)
        if not await self._db.run("insert_alert_rule", **row, limit=self._most):
            if await self._rows(row["name"]):
                raise AlreadyExists(f"rule.name: the alert rule {row['name']!r} already exists", "ALERT_RULE_EXISTS")
            said = f"there are {self._most} alert rules, the limit (TASKFLOW_ALERT_RULES); delete or change one"
            raise ResourceExhausted(said, "TOO_MANY_ALERT_RULES")
        return await self._get(row["name"])

    async def GetAlertRule(self, request: pb.GetAlertRuleRequest, context: Any) -> pb.AlertRule:
        return await self._get(name_of(request.name, "name"))

    async def ListAlertRules(self, request: pb.ListAlertRulesRequest, context: Any) -> pb.ListAlertRulesResponse:
        size = page_size(request.page_size)
        after = name_of(request.page_token, "page_token") if request.page_token else ""
        rows = await self._db.rows("list_alert_rules", after=after, names=None, limit=size + 1)
        token = rows[size - 1]["name"] if len(rows) > size else ""
        return pb.ListAlertRulesResponse(rules=map(message, rows[:size]), next_page_token=token)

    async def UpdateAlertRule(self, request: pb.UpdateAlertRuleRequest, context: Any) -> pb.AlertRule:
        name = name_of(request.rule.name, "rule.name")
        paths = list(request.update_mask.paths) or list(COLUMNS)
        if not await store.change(self._db, name, lambda row: changed(row, request.rule, paths)):
            raise _not_found(name)
        return await self._get(name)

    async def DeleteAlertRule(self, request: pb.DeleteAlertRuleRequest, context: Any) -> pb.DeleteAlertRuleResponse:
        if not await self._db.run("delete_alert_rule", name=name_of(request.name, "name")):
            raise _not_found(request.name)
        return pb.DeleteAlertRuleResponse()

    async def TestAlertRule(self, request: pb.TestAlertRuleRequest, context: Any) -> pb.TestAlertRuleResponse:
        rows = await self._rows(name_of(request.name, "name"))
        if not rows:
            raise _not_found(request.name)
        spec = self._jobs.test(rows[0])
        await self._job_writer.create([spec], "rule", partial=False)
        return pb.TestAlertRuleResponse(job_id=str(UUID(bytes=spec.id)))

    async def _rows(self, name: str) -> list[Row]:
        return await self._db.rows("list_alert_rules", after="", names=[name], limit=1)

    async def _get(self, name: str) -> pb.AlertRule:
        rows = await self._rows(name)
        if not rows:
            raise _not_found(name)
        rule = message(rows[0])
        warnings = await self._serving.warnings([(alerts.QUEUE, alerts.TASK)])
        rule.warnings.extend(warnings.values())
        return rule


def _not_found(name: str) -> NotFound:
    return NotFound(f"there is no alert rule {name!r}", "ALERT_RULE_NOT_FOUND")

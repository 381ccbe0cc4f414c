"""Alerts: their rules, what each gathers now, and the job that delivered its last message."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from taskflow.v1 import alerts_pb2
from taskflow_server.gateway.console.page import PAGE_SIZE, Action, Ask, Page, link, pager


async def _list(ask: Ask) -> dict[str, Any]:
    request = alerts_pb2.ListAlertRulesRequest(page_size=PAGE_SIZE, page_token=ask.said("token"))
    found = await ask.up.call(ask.up.alerts.ListAlertRules, request)
    return {"title": "Alerts", "rules": found.rules, "pages": pager(ask, found.next_page_token)}


async def _show(ask: Ask) -> dict[str, Any]:
    request = alerts_pb2.GetAlertRuleRequest(name=ask.params["name"])
    rule = await ask.up.call(ask.up.alerts.GetAlertRule, request)
    return {"title": f"Alert {rule.name}", "rule": rule, "host": _host(rule.url)}


def _host(url: str) -> str:
    """The part of a URL that is not secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}" if url else ""


async def _switch(ask: Ask, *, active: bool) -> str:
    rule = alerts_pb2.AlertRule(name=ask.params["name"], active=active)
    request = alerts_pb2.UpdateAlertRuleRequest(rule=rule)
    request.update_mask.paths.append("active")
    await ask.up.call(ask.up.alerts.UpdateAlertRule, request)
    return link("alerts", ask.params["name"])


async def _pause(ask: Ask) -> str:
    return await _switch(ask, active=False)


async def _resume(ask: Ask) -> str:
    return await _switch(ask, active=True)


async def _test(ask: Ask) -> str:
    request = alerts_pb2.TestAlertRuleRequest(name=ask.params["name"])
    return link("jobs", (await ask.up.call(ask.up.alerts.TestAlertRule, request)).job_id)


async def _delete(ask: Ask) -> str:
    await ask.up.call(ask.up.alerts.DeleteAlertRule, alerts_pb2.DeleteAlertRuleRequest(name=ask.params["name"]))
    return "/alerts"


PAGES = (
    Page("/alerts", "alerts.html", "alerts", _list),
    Page("/alerts/{name}", "alert.html", "alerts", _show),
)
ACTIONS = (
    Action("/alerts/{name}/pause", "alert-paused", _pause),
    Action("/alerts/{name}/resume", "alert-resumed", _resume),
    Action("/alerts/{name}/test", "alert-tested", _test),
    Action("/alerts/{name}/delete", "alert-deleted", _delete),
)

"""Schedules: when they fire next, and the ledger of what became of each instant."""

from __future__ import annotations

import asyncio
from typing import Any

from taskflow.v1 import schedules_pb2
from taskflow_server.gateway.console.page import PAGE_SIZE, Action, Ask, Page, link, pager

NEXT = 5  # number of future firings shown


async def _list(ask: Ask) -> dict[str, Any]:
    request = schedules_pb2.ListSchedulesRequest(page_size=PAGE_SIZE, page_token=ask.said("token"))
    found = await ask.up.call(ask.up.schedules.ListSchedules, request)
    return {"title": "Schedules", "schedules": found.schedules, "pages": pager(ask, found.next_page_token)}


async def _show(ask: Ask) -> dict[str, Any]:
    id = ask.params["id"]
    firings = schedules_pb2.ListFiringsRequest(schedule_id=id, page_size=PAGE_SIZE, page_token=ask.said("token"))
    schedule, ledger = await asyncio.gather(
        ask.up.call(ask.up.schedules.GetSchedule, schedules_pb2.GetScheduleRequest(id=id)),
        ask.up.call(ask.up.schedules.ListFirings, firings),
    )
    return {
        "title": f"Schedule {schedule.id}",
        "schedule": schedule,
        "next": await _next(ask, schedule) if schedule.active else [],
        "firings": ledger.firings,
        "pages": pager(ask, ledger.next_page_token),
    }


async def _next(ask: Ask, schedule: schedules_pb2.Schedule) -> list[Any]:
    request = schedules_pb2.PreviewScheduleRequest(id=schedule.id, count=NEXT)
    return list((await ask.up.call(ask.up.schedules.PreviewSchedule, request)).times)


async def _pause(ask: Ask) -> str:
    request = schedules_pb2.PauseScheduleRequest(id=ask.params["id"])
    await ask.up.call(ask.up.schedules.PauseSchedule, request)
    return link("schedules", ask.params["id"])


async def _resume(ask: Ask) -> str:
    request = schedules_pb2.ResumeScheduleRequest(id=ask.params["id"])
    await ask.up.call(ask.up.schedules.ResumeSchedule, request)
    return link("schedules", ask.params["id"])


PAGES = (
    Page("/schedules", "schedules.html", "schedules", _list),
    Page("/schedules/{id}", "schedule.html", "schedules", _show),
)
ACTIONS = (
    Action("/schedules/{id}/pause", "stopped", _pause),
    Action("/schedules/{id}/resume", "started", _resume),
)

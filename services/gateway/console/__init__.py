"""The console: pages for people, made here and readable without JavaScript.

A page's address answers a browser with the page, and the same browser's EventSource with what changes on it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from taskflow_server.gateway.console import (
    alerts,
    designer,
    forms,
    jobs,
    namespaces,
    queues,
    runs,
    schedules,
    task_form,
    tasks,
    workers,
)
from taskflow_server.gateway.console.live import Live
from taskflow_server.gateway.console.page import Action, Ask, Page, local
from taskflow_server.gateway.console.render import STATIC, error_page, html, part, whole
from taskflow_server.gateway.errors import Failure
from taskflow_server.gateway.gateway import Gateway

__all__ = ["error_page", "routes"]

HOME = "/queues"
REFUSED = (400, 409, 429)  # what was filled in cannot be, or exceeds a quota
PARTS = (queues, jobs, task_form, tasks, schedules, runs, designer, workers, namespaces, alerts)
PAGES: tuple[Page, ...] = tuple(page for module in PARTS for page in module.PAGES)
ACTIONS: tuple[Action, ...] = tuple(action for module in PARTS for action in module.ACTIONS)

Endpoint = Callable[[Request], Awaitable[Any]]


def routes(gateway: Gateway) -> list[BaseRoute]:
    live = Live(gateway)
    return [
        Route("/", _home),
        STATIC.route,
        *jobs.raw(gateway),
        *designer.calls(gateway),
        *(Route(action.path, _action(gateway, action), methods=["POST"]) for action in ACTIONS),
        *(Route(page.path, _page(gateway, live, page)) for page in PAGES),
    ]


async def _home(request: Request) -> Response:
    return RedirectResponse(HOME, 307)


def _page(gateway: Gateway, live: Live, page: Page) -> Endpoint:
    async def show(request: Request) -> Any:
        ask = _ask(gateway, request, {})
        token = forms.token_of(request)
        if "text/event-stream" in request.headers.get("accept", ""):

            async def render() -> str:
                values = await _values(page, ask)
                return part(values["template"], values)

            return live.stream(ask.key, render, token)
        values = await _values(page, ask)
        values["said"] = SAID.get(ask.said("done"), "")
        answer = html(whole(values["template"], values), token, values.get("status", 200), {"Vary": "Accept"})
        forms.remember(answer, request, token)
        return answer

    return show


async def _values(page: Page, ask: Ask) -> dict[str, Any]:
    """Values for this page's template. Times are relative to the cluster's clock, which follows its topology."""
    values = await page.load(ask)
    await ask.up.topology()
    now = datetime.fromtimestamp(ask.gateway.clock.now_us() / 1e6, UTC)
    return {"section": page.section, "template": page.template, "live": True, "now": now, "here": ask.key, **values}


def _action(gateway: Gateway, action: Action) -> Endpoint:
    async def act(request: Request) -> Response:
        ask = _ask(gateway, request, await forms.sent(request))
        try:
            to = local(ask.form.get("to", ""), await action.do(ask))
        except Failure as failure:
            if action.again is None or failure.status not in REFUSED:
                raise
            values = {**await _values(action.again, ask), "problem": failure.message}
            return html(whole(values["template"], values), forms.token_of(request), failure.status)
        return RedirectResponse(f"{to}{'&' if '?' in to else '?'}done={action.done}", 303)

    return act


def _ask(gateway: Gateway, request: Request, form: dict[str, str]) -> Ask:
    return Ask(gateway, request.url.path, request.path_params, request.query_params, form)


SAID = {
    "continued": "The run resumed from its failed steps.",
    "alert-deleted": "The rule is deleted, with what it had gathered.",
    "alert-paused": "Paused: the rule gathers nothing until you resume it.",
    "alert-resumed": "The rule gathers facts again, from now on.",
    "alert-tested": "This job delivers the test message.",
    "cancelled": "Cancelled, or being cancelled if it runs.",
    "drained": "It drains: no new jobs are accepted until you resume it.",
    "fired": "A job of it is made.",
    "paused": "Paused: nothing of it is handed out until you resume it.",
    "resumed": "Resumed.",
    "retried": "Back in its queue, with fresh tries.",
    "saved": "Saved.",
    "started": "It goes on.",
    "stopped": "Paused: it makes no jobs until you resume it.",
}

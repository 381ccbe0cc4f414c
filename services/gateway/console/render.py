"""Templates to pages. Everything that is put into a page is escaped, and no page holds a script or a style of its own.

A page that several people look at is rendered once: where a form's token belongs it has MARK, which nobody outside
this process knows, and each of them gets their own in its place.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from taskflow_server.gateway.console import formatting
from taskflow_server.gateway.console.page import full, link
from taskflow_server.gateway.errors import Failure

HERE = Path(__file__).parent
MARK = f"form-token-{secrets.token_hex(16)}"
UNBROKEN = 20  # characters of a name
AGAIN = 5  # seconds after which a page that could not be shown now is loaded again
FOR_EVER = "public, max-age=31536000, immutable"  # a file's name changes with what is in it
TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}

SECTIONS = {
    "queues": "Queues", "jobs": "Jobs", "tasks": "Tasks", "schedules": "Schedules", "workflows": "Workflows",
    "runs": "Runs", "workers": "Workers", "namespaces": "Namespaces", "alerts": "Alerts",
}  # fmt: skip


class Static:
    """The files beside us, read once. The files of a folder name each other, so they share the folder's hash."""

    def __init__(self) -> None:
        self._served: dict[str, tuple[bytes, str]] = {}
        self.names: dict[str, str] = {}
        for path in sorted((HERE / "static").iterdir()):
            files = sorted(path.iterdir()) if path.is_dir() else [path]
            data = [each.read_bytes() for each in files]
            hashed = f"{path.stem}.{hashlib.sha256(b'/'.join(data)).hexdigest()[:12]}"
            for each, content in zip(files, data, strict=True):
                served = f"{hashed}/{each.name}" if path.is_dir() else f"{hashed}{path.suffix}"
                self._served[served] = content, TYPES[each.suffix]
                self.names[str(each.relative_to(HERE / "static"))] = f"/static/{served}"

    async def serve(self, request: Request) -> Response:
        found = self._served.get(request.path_params["name"])
        if found is None:
            raise Failure(404, "NOT_FOUND", f"there is nothing at {request.url.path}")
        return Response(found[0], media_type=found[1], headers={"Cache-Control": FOR_EVER})

    @property
    def route(self) -> Route:
        return Route("/static/{name:path}", self.serve)


STATIC = Static()
NOTHING = Markup('<span class="no">{}</span>').format(formatting.NOTHING)  # on a phone its cell is left out


@pass_context
def ran(context: Context, start: Timestamp, end: Timestamp, going: bool = False) -> Markup | str:
    """How long it took, or takes so far while it is `going`."""
    if going and (so_far := formatting.between(start, context["now"])):
        return f"{so_far} so far"
    return formatting.between(start, end) or NOTHING


@pass_context
def when(context: Context, stamp: Timestamp | datetime | None, zone: str = "") -> Markup:
    """An instant in UTC, by the clocks of `zone`, and how far from now it is."""
    instant = formatting.moment(stamp) if not isinstance(stamp, datetime) else stamp
    if instant is None:
        return NOTHING
    there = formatting.local(instant, zone)
    local = Markup(' <span class="there">{} <span class="zone">{}</span></span>').format(there, zone) if there else ""
    return Markup('<time datetime="{}"><span class="at">{}</span>{} <span class="ago">{}</span></time>').format(
        formatting.iso(instant), formatting.utc(instant), local, formatting.ago(instant, context["now"])
    )


def unbroken(text: str) -> Markup | str:
    """A name that a narrow column does not break; one of more than UNBROKEN characters may be broken anywhere."""
    return Markup('<span class="unbroken">{}</span>').format(text) if 0 < len(text) <= UNBROKEN else text


def _environment() -> Environment:
    env = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    env.globals |= {
        "static": STATIC.names, "sections": SECTIONS, "link": link, "value": formatting.value, "ran": ran,
        "nothing": NOTHING, "csrf": MARK, "full_name": full,
    }  # fmt: skip
    env.filters |= {
        "when": when, "job_state": formatting.job_state, "outcome": formatting.outcome,
        "firing_state": formatting.firing_state, "run_state": formatting.run_state, "step_state": formatting.step_state,
        "alert_event": formatting.alert_event, "alert_kind": formatting.alert_kind,
        "misfire": formatting.misfire, "overlap": formatting.overlap,
        "span": formatting.span, "seconds": formatting.seconds_of,
        "size": formatting.size, "number": formatting.number, "short": formatting.short, "unbroken": unbroken,
        "priority": formatting.priority, "delays": formatting.delays,
    }  # fmt: skip
    return env


ENVIRONMENT = _environment()


def whole(template: str, values: Mapping[str, Any]) -> str:
    """A page, with MARK."""
    return ENVIRONMENT.get_template(template).render(_filled(values))


def part(template: str, values: Mapping[str, Any]) -> str:
    """The part of it that is kept up to date, with MARK."""
    found = ENVIRONMENT.get_template(template)
    return "".join(found.blocks["live"](found.new_context(_filled(values))))


def _filled(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"section": "", "live": False, "said": "", "now": datetime.now(UTC), **values}


def html(text: str, token: str, status: int = 200, headers: Mapping[str, str] | None = None) -> HTMLResponse:
    """The answer for one person."""
    return HTMLResponse(text.replace(MARK, token), status, headers)


TITLES = {
    400: "That cannot be", 403: "Not allowed", 404: "Not found", 405: "Not possible", 409: "Not now", 413: "Too large",
    421: "Not known by this name", 429: "Too much", 501: "Not possible", 503: "Not available",
}  # fmt: skip


def error_page(request: Request, failure: Failure, headers: Mapping[str, str]) -> Response:
    """A page with the error, and without internals."""
    title = TITLES.get(failure.status, "Something went wrong")
    again = request.url.path if request.method == "GET" and failure.status in (429, 503) else ""
    values = {"title": title, "failure": failure, "again": again}
    loads_itself = {"Refresh": str(AGAIN)} if again else {}
    return html(whole("error.html", values), "", failure.status, {**headers, **loads_itself})

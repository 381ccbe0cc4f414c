"""The designer: a page that changes the documents of workflows and tries them, and the calls of its script.

The script sends its calls as forms, with the token of its page, so they pass the guards that every form passes. A
document is checked by the scheduler that would store it, and saved over the version that its editor began with: if
somebody has saved another meanwhile, nothing is stored, and the editor is told.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from taskflow.v1 import jobs_pb2
from taskflow.v1 import workflows_pb2 as pb
from taskflow_server.gateway import nodes
from taskflow_server.gateway.console import formatting, forms
from taskflow_server.gateway.console.page import ACTOR, Ask, Page, bad, pairs_of
from taskflow_server.gateway.errors import Failure
from taskflow_server.gateway.gateway import Gateway
from taskflow_server.gateway.upstream import Upstream

MOST_CHECKS = 8  # limit of simultaneous checks for all editors; a further one is refused and repeated
AGAIN = 1.0  # seconds after which it comes again
RECENT = 50  # versions in one list
MOST_JOBS = 20  # of one step that a test run shows, the newest
LABEL = "test run"
NEW = json.dumps({"name": "new-workflow", "steps": []}, indent=2)
FINAL = (pb.RUN_STATE_SUCCEEDED, pb.RUN_STATE_FAILED, pb.RUN_STATE_CANCELLED)

Form = Mapping[str, str]
Call = Callable[[Upstream, Request, Form], Awaitable[Any]]


async def _page(ask: Ask) -> dict[str, Any]:
    name = ask.said("workflow")
    if not name:
        return {"title": "New workflow", "live": False, "document": NEW, "version": 0, "name": ""}
    found = await ask.up.call(ask.up.workflows.GetWorkflow, pb.GetWorkflowRequest(name=name))
    return {
        "title": f"Edit {found.name}", "live": False, "document": _laid_out(found.document), "version": found.version,
        "name": found.name,
    }  # fmt: skip


def _laid_out(document: str) -> str:
    """As the designer writes it, unless numbers would change by that."""
    try:
        text = json.dumps(json.loads(document, parse_float=_exact), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return document
    return text


def _exact(number: str) -> float:
    value = float(number)
    if repr(value) != number:
        raise ValueError(f"{number} would be written as {value!r}")
    return value


def address(workflow: str) -> str:
    """The address of the page that edits the workflow."""
    return f"/designer?{urlencode({'workflow': workflow})}"


class Checks:
    """How many documents are being checked."""

    def __init__(self) -> None:
        self._running = 0

    async def check(self, up: Upstream, request: Request, form: Form) -> Any:
        """The problems of a document, each with its path; nothing is stored."""
        if self._running >= MOST_CHECKS:
            said = "too many documents are being checked"
            raise Failure(429, "RESOURCE_EXHAUSTED", said, reason="TOO_MANY_CHECKS", retry_after=AGAIN)
        self._running += 1
        try:
            wanted = pb.PutWorkflowRequest(document=form.get("document", ""), validate_only=True)
            await up.call(up.workflows.PutWorkflow, wanted)
        except Failure as failure:
            if failure.status != 400:
                raise
            return {"problems": _problems(failure)}
        finally:
            self._running -= 1
        return {"problems": []}


def _problems(failure: Failure) -> list[dict[str, str]]:
    found = failure.problems or ((failure.field, failure.message),)
    return [{"path": path, "message": message} for path, message in found]


async def _save(up: Upstream, request: Request, form: Form) -> Any:
    wanted = pb.PutWorkflowRequest(document=form.get("document", ""), if_version=_number(form, "version"))
    try:
        found = await up.call(up.workflows.PutWorkflow, wanted)
    except Failure as failure:
        if failure.status != 400:
            raise
        return JSONResponse({"problems": _problems(failure)}, 400)
    return {"name": found.name, "version": found.version, "address": address(found.name)}


async def _delete(up: Upstream, request: Request, form: Form) -> Any:
    wanted = pb.DeleteWorkflowRequest(name=form.get("workflow", ""), if_version=_number(form, "version"))
    await up.call(up.workflows.DeleteWorkflow, wanted)
    return {}


async def _run(up: Upstream, request: Request, form: Form) -> Any:
    wanted = pb.StartRunRequest(
        workflow=form.get("workflow", ""),
        version=_number(form, "version"),
        input=form.get("input", "").strip().encode(),
        metadata=pairs_of(form.get("metadata", ""), "metadata"),
        label=LABEL,
    )
    return _run_shown(await up.call(up.workflows.StartRun, wanted))


async def _signal(up: Upstream, request: Request, form: Form) -> Any:
    wanted = pb.SignalRunRequest(
        id=request.path_params["id"], name=form.get("name", ""), payload=form.get("payload", "").strip().encode()
    )
    await up.call(up.workflows.SignalRun, wanted)
    return {}


async def _cancel(up: Upstream, request: Request, form: Form) -> Any:
    await up.call(up.workflows.CancelRun, pb.CancelRunRequest(id=request.path_params["id"], actor=ACTOR))
    return {}


async def _kinds(up: Upstream) -> Any:
    found = await up.call(up.workflows.GetWorkflowSchema, pb.GetWorkflowSchemaRequest())
    return json.loads(found.schema)


async def _document(up: Upstream, request: Request, form: Form) -> Any:
    """One version, or the latest; version 0 and no document if it does not exist."""
    wanted = pb.GetWorkflowRequest(name=form.get("workflow", ""), version=_number(form, "version"))
    try:
        found = await up.call(up.workflows.GetWorkflow, wanted)
    except Failure as failure:
        if failure.status != 404 or wanted.version:
            raise
        return {"version": 0, "document": "", "saved": ""}
    return {"version": found.version, "document": _laid_out(found.document), "saved": _time(found.create_time)}


async def _versions(up: Upstream, request: Request, form: Form) -> Any:
    wanted = pb.ListWorkflowsRequest(name=form.get("workflow", ""), page_size=RECENT)
    found = await up.call(up.workflows.ListWorkflows, wanted)
    rows = [
        {"version": each.version, "title": each.title, "saved": _time(each.create_time)} for each in found.workflows
    ]
    return {"versions": rows, "more": bool(found.next_page_token)}


async def _run_state(up: Upstream, request: Request, form: Form) -> Any:
    return _run_shown(await up.call(up.workflows.GetRun, pb.GetRunRequest(id=request.path_params["id"])))


def _run_shown(run: pb.Run) -> dict[str, Any]:
    final = run.state in FINAL
    return {
        "id": run.id,
        "version": run.version,
        "state": formatting.run_state(run.state),
        "final": final,
        "waiting": run.waiting and not final,
        "signals": [] if final else list(run.signals),
        "error": _error(run.error),
        "output": _value(run.output) if run.state == pb.RUN_STATE_SUCCEEDED else None,
        "steps": [_step(step) for step in run.steps],
        "logs": [line.message for line in run.logs],
    }


def _step(step: pb.RunStep) -> dict[str, Any]:
    ended = step.finish_time if step.HasField("finish_time") else None
    return {
        "name": step.name,
        "state": formatting.step_state(step.state),
        "iteration": step.iteration,
        "error": _error(step.error),
        "until": _time(step.due_time) if step.HasField("due_time") and not ended else "",
        "took": formatting.between(step.start_time, ended) if ended else "",
        "more": max(0, len(step.jobs) - MOST_JOBS),
        "jobs": [
            {"id": job.job_id, "task": job.task, "run": job.run_id,
             "state": formatting.run_state(job.run_state) if job.run_id else formatting.job_state(job.job_state)}
            for job in step.jobs[-MOST_JOBS:]
        ],
    }  # fmt: skip


async def _job(up: Upstream, request: Request, form: Form) -> Any:
    """Payload and result of one job of a step."""
    job = await up.call(up.jobs.GetJob, jobs_pb2.GetJobRequest(id=request.path_params["id"]))
    return {
        "state": formatting.job_state(job.state),
        "attempt": job.attempt,
        "request": _value(job.payload, job.encoding),
        "answer": _value(job.result, job.result_encoding) if job.state == jobs_pb2.JOB_STATE_SUCCEEDED else None,
        "error": _error(job.error),
    }


def _value(data: bytes, encoding: int = jobs_pb2.ENCODING_JSON) -> dict[str, Any]:
    shown = formatting.value(data, encoding)
    return {"text": shown.text, "kind": shown.kind, "size": formatting.size(shown.size), "cut": shown.cut}


def _error(error: jobs_pb2.Error) -> dict[str, str] | None:
    return {"type": error.type, "message": error.message} if error.type or error.message else None


def _time(stamp: Any) -> str:
    found = formatting.moment(stamp)
    return formatting.utc(found) if found else ""


def _number(form: Form, field: str) -> int:
    text = form.get(field, "0")
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) < 1 << 31):
        raise bad(field, f"{text!r} is not the number of a version")
    return int(text)


def calls(gateway: Gateway) -> list[Route]:
    """The calls of the page's script."""
    up = gateway.upstream
    offered = nodes.load(gateway.settings.designer_nodes)

    async def kinds(up: Upstream, request: Request, form: Form) -> Any:
        return {"schema": await _kinds(up), "nodes": offered}

    def route(path: str, call: Call, method: str) -> Route:
        async def serve(request: Request) -> Response:
            form = await forms.sent(request) if method == "POST" else dict(request.query_params)
            found = await call(up, request, form)
            return found if isinstance(found, Response) else JSONResponse(found)

        return Route(path, serve, methods=[method])

    return [
        route("/designer/kinds", kinds, "GET"),
        route("/designer/document", _document, "GET"),
        route("/designer/versions", _versions, "GET"),
        route("/designer/runs/{id}", _run_state, "GET"),
        route("/designer/jobs/{id}", _job, "GET"),
        route("/designer/check", Checks().check, "POST"),
        route("/designer/save", _save, "POST"),
        route("/designer/delete", _delete, "POST"),
        route("/designer/run", _run, "POST"),
        route("/designer/runs/{id}/signal", _signal, "POST"),
        route("/designer/runs/{id}/cancel", _cancel, "POST"),
    ]


PAGES = (Page("/designer", "designer.html", "workflows", _page),)
ACTIONS = ()

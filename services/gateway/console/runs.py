"""Workflows and their runs: the steps as a graph and as a list; cancel and retry of a run."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from taskflow.v1 import schedules_pb2
from taskflow.v1 import workflows_pb2 as pb
from taskflow_server.gateway.console import formatting, graph
from taskflow_server.gateway.console.page import ACTOR, PAGE_SIZE, Action, Ask, Page, bad, link, pager, pairs_of
from taskflow_server.gateway.errors import Failure

RECENT = 20  # runs on a workflow's page
STATES = {formatting.run_state(number): number for number in pb.RunState.values() if number}
FINAL = (pb.RUN_STATE_SUCCEEDED, pb.RUN_STATE_FAILED, pb.RUN_STATE_CANCELLED)
RETRYABLE = (pb.RUN_STATE_FAILED, pb.RUN_STATE_CANCELLED)
NO_DOCUMENT = "There is no document of this name: it was deleted, or an executor decides its runs."
FITS = 1_140.0  # pixels of a drawing that a page 1280 wide shows whole
UNNAMED = 24  # characters of a name that fit into a box


@dataclass(frozen=True, slots=True)
class Node:
    """A box of the drawing, with its texts."""

    box: graph.Box
    group: bool
    state: str
    label: str
    sub: str


@dataclass(frozen=True, slots=True)
class Picture:
    drawing: graph.Drawing
    nodes: tuple[Node, ...]
    skipped: frozenset[str]  # what leads there was not taken


async def _runs(ask: Ask) -> dict[str, Any]:
    given = {name: ask.said(name) for name in ("workflow", "metadata")}
    chosen = ask.query.getlist("state")
    values: dict[str, Any] = {"title": "Runs", "given": given, "chosen": chosen, "states": STATES, "problem": ""}
    try:
        for state in chosen:
            if state not in STATES:
                raise bad("state", f"{state!r} is none of {', '.join(STATES)}")
        request = pb.ListRunsRequest(
            workflow=given["workflow"],
            states=[pb.RunState.ValueType(STATES[state]) for state in chosen],
            metadata=pairs_of(given["metadata"], "metadata"),
            page_size=PAGE_SIZE,
            page_token=ask.said("token"),
        )
        found = await ask.up.call(ask.up.workflows.ListRuns, request)
    except Failure as failure:
        if failure.status != 400:
            raise
        return {**values, "status": 400, "problem": failure.message, "runs": [], "pages": {}}
    return {**values, "runs": found.runs, "pages": pager(ask, found.next_page_token)}


async def _run(ask: Ask) -> dict[str, Any]:
    run = await ask.up.call(ask.up.workflows.GetRun, pb.GetRunRequest(id=ask.params["id"]))
    return {
        "title": f"Run {run.id}",
        **_graph_size(ask),
        "run": run,
        "final": run.state in FINAL,
        "retryable": run.state in RETRYABLE,
        "picture": await _picture_of(ask, run),
    }


async def _picture_of(ask: Ask, run: pb.Run) -> Picture | None:
    """None where the document is gone, or too large to be looked at."""
    try:
        request = pb.GetWorkflowRequest(name=run.workflow, version=run.version)
        workflow = await ask.up.call(ask.up.workflows.GetWorkflow, request)
    except Failure as failure:
        if failure.status != 404:
            raise
        return None
    steps = {step.name: step for step in run.steps}
    states = {name: formatting.step_state(step.state) for name, step in steps.items()}
    subs = {name: step.kind for name, step in steps.items()}
    return picture(workflow.document, states, subs)


def picture(document: str, states: dict[str, str], subs: dict[str, str]) -> Picture | None:
    """The drawing of a document, each step in its state."""
    read = json.loads(document)
    flow = graph.flow_of(read)
    names = [*flow.steps, *flow.groups]
    if not flow.steps or len(names) > graph.MOST:
        return None
    kinds = {str(step["name"]): str(step["kind"]) for step in read["steps"]}
    drawing = graph.draw_in_blocks(names, flow.edges)
    nodes = []
    for box in drawing.boxes:
        is_group = box.name in flow.groups
        state = states.get(box.name, "")
        sub = "group" if is_group else " · ".join(filter(None, (kinds.get(box.name, subs.get(box.name, "")), state)))
        nodes.append(Node(box, is_group, state.replace(" ", "-"), formatting.short(box.name, UNNAMED), sub))
    return Picture(drawing, tuple(nodes), frozenset(name for name, state in states.items() if state == "skipped"))


async def _workflows(ask: Ask) -> dict[str, Any]:
    request = pb.ListWorkflowsRequest(page_size=PAGE_SIZE, page_token=ask.said("token"))
    found = await ask.up.call(ask.up.workflows.ListWorkflows, request)
    return {"title": "Workflows", "workflows": found.workflows, "pages": pager(ask, found.next_page_token)}


async def _workflow(ask: Ask) -> dict[str, Any]:
    name, version = ask.params["name"], ask.said("version")
    if version and not (version.isascii() and version.isdigit() and 0 < int(version) < 1 << 31):
        raise bad("version", f"{version!r} is not the number of a version")
    workflow, versions, runs, schedules = await asyncio.gather(
        _found(ask, name, int(version or 0)),
        ask.up.call(ask.up.workflows.ListWorkflows, pb.ListWorkflowsRequest(name=name, page_size=RECENT)),
        ask.up.call(ask.up.workflows.ListRuns, pb.ListRunsRequest(workflow=name, page_size=RECENT)),
        ask.up.call(
            ask.up.schedules.ListSchedules, schedules_pb2.ListSchedulesRequest(workflow=name, page_size=RECENT)
        ),
    )
    if workflow is None:
        if not (runs.runs or schedules.schedules):
            raise Failure(404, "NOT_FOUND", f"there is no workflow {name!r}", reason="WORKFLOW_NOT_FOUND")
        return {
            "template": "handler.html", "title": f"Workflow {name}", "kind": "Workflow", "name": name,
            "note": NO_DOCUMENT, "schedules": schedules.schedules, "jobs": [], "runs": runs.runs, "workers": [],
        }  # fmt: skip
    return {
        "title": f"Workflow {workflow.name}",
        **_graph_size(ask),
        "workflow": workflow,
        "versions": versions.workflows,
        "runs": runs.runs,
        "schedules": schedules.schedules,
        "picture": picture(workflow.document, {}, {}),
    }


async def _found(ask: Ask, name: str, version: int) -> pb.Workflow | None:
    """None for one that was deleted, or that an executor decides."""
    try:
        return await ask.up.call(ask.up.workflows.GetWorkflow, pb.GetWorkflowRequest(name=name, version=version))
    except Failure as failure:
        if failure.status != 404 or version:
            raise
        return None


def _graph_size(ask: Ask) -> dict[str, Any]:
    """How the drawing is shown, and the address that shows it the other way."""
    full_size = ask.said("graph") == "full"
    others = [(name, value) for name, value in ask.query.multi_items() if name not in ("graph", "done")]
    other_size = urlencode([*others, *([] if full_size else [("graph", "full")])])
    return {"full_size": full_size, "fits": FITS, "other_size": f"{ask.path}?{other_size}"}


async def _cancel(ask: Ask) -> str:
    await ask.up.call(ask.up.workflows.CancelRun, pb.CancelRunRequest(id=ask.params["id"], actor=ACTOR))
    return link("runs", ask.params["id"])


async def _retry(ask: Ask) -> str:
    await ask.up.call(ask.up.workflows.RetryRun, pb.RetryRunRequest(id=ask.params["id"], actor=ACTOR))
    return link("runs", ask.params["id"])


PAGES = (
    Page("/workflows", "workflows.html", "workflows", _workflows),
    Page("/workflows/{name:path}", "workflow.html", "workflows", _workflow),
    Page("/runs", "runs.html", "runs", _runs),
    Page("/runs/{id}", "run.html", "runs", _run),
)
ACTIONS = (
    Action("/runs/{id}/cancel", "cancelled", _cancel),
    Action("/runs/{id}/retry", "continued", _retry),
)

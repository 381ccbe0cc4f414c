"""What users ask of workflows: create-and-execute, status, cancel, list; and how runs and decisions are shown."""

from __future__ import annotations

import asyncio
import heapq
import json
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from google.protobuf.duration_pb2 import Duration

from services.core.ids import is_uuid7
from services.core.workflow.changes import DECISION, decision_task
from services.gateway.errors import Failure
from services.gateway.gateway import Gateway
from services.gateway.rpc import resource
from services.gateway.rpc.formats import from_json, to_json
from services.gateway.rpc.params import Params, bad, stored
from services.gateway.rpc.tasks import CANCEL_PATIENCE, DEFAULT_COUNT, MAX_COUNT, MOST, Gone, Tasks, states_of
from taskflow.v1 import workflows_pb2 as pb

PAGE = 1000
MAX_SHOWN = 100  # activities and decisions of a status, the newest
AT_ONCE = 10  # calls of one status

STATUS = {
    pb.RUN_STATE_NEW: "ready",
    pb.RUN_STATE_RUNNING: "in-progress",
    pb.RUN_STATE_CANCELLING: "in-progress",
    pb.RUN_STATE_ENDING: "in-progress",
    pb.RUN_STATE_SUCCEEDED: "done",
    pb.RUN_STATE_FAILED: "done",
    pb.RUN_STATE_CANCELLED: "done",
}
OUTCOME = {
    pb.RUN_STATE_SUCCEEDED: "succeeded",
    pb.RUN_STATE_FAILED: "failed",
    pb.RUN_STATE_CANCELLED: "canceled",
}
_STATES: dict[str, list[Any]] = {name: [s for s, n in STATUS.items() if n == name] for name in STATUS.values()}
_ENDS: dict[str, list[Any]] = {name: [state] for state, name in OUTCOME.items()}


def of_run(run: pb.Run) -> dict[str, Any]:
    found: dict[str, Any] = {
        "resourceType": "AidboxWorkflow", "id": run.id, "definition": run.workflow,
        "params": (from_json(run.input) if run.input else None) or {}, "status": STATUS[run.state],
    }  # fmt: skip
    if run.state in OUTCOME:
        found["outcome"] = OUTCOME[run.state]
    if run.state == pb.RUN_STATE_SUCCEEDED:
        found["result"] = from_json(run.output) if run.output else {}
    if run.HasField("error"):
        details = from_json(run.error.details) if run.error.details else {}
        found["error"] = {"type": run.error.type, "message": run.error.message} | details
    if run.label:
        found["label"] = run.label
    if run.parent_run_id:
        found["requester"] = {"resourceType": "AidboxWorkflow", "id": run.parent_run_id}
    last = max(t.ToMicroseconds() for t in (run.create_time, run.start_time, run.finish_time))
    found["meta"] = {
        "createdAt": resource.instant(run.create_time),
        "lastUpdated": resource.instant_of(last),
        "versionId": str(last),
    }
    found["taskflow"] = {
        "state": pb.RunState.Name(run.state)[10:].lower(), "version": run.version, "trigger": run.trigger,
        "waiting": run.waiting, "metadata": dict(run.metadata),
    }  # fmt: skip
    return found


class Workflows:
    def __init__(self, gateway: Gateway, tasks: Tasks) -> None:
        self._upstream = gateway.upstream
        self._stub = gateway.upstream.workflows
        self._tasks = tasks
        self._known: set[str] = set()

    async def learn(self, names: Iterable[str]) -> list[str]:
        """The tasks that these workflows' decisions are jobs of. One that is not there is registered: its executor
        decides."""
        found = []
        for name in names:
            if name not in self._known:
                try:
                    await self._upstream.call(self._stub.GetWorkflow, pb.GetWorkflowRequest(name=name))
                except Failure as failure:
                    if failure.code != "NOT_FOUND":
                        raise
                    await self._register(name)
                if len(self._known) >= MOST:
                    self._known.clear()
                self._known.add(name)
            found.append(decision_task(name))
        return found

    async def _register(self, name: str) -> None:
        document = json.dumps({"name": name, "decider": {}})
        await self._upstream.call(self._stub.PutWorkflow, pb.PutWorkflowRequest(document=document))

    # -- methods -----------------------------------------------------------------------------
    async def create(self, params: Params, gone: Gone) -> dict[str, Any]:
        name = stored(params.wanted("definition"), "definition")
        request = pb.StartRunRequest(workflow=name, label=params.text("label"))
        given = params.object("params")
        request.input = to_json(given) if given is not None else b"{}"
        if params.instant("executeAt") is not None:
            raise bad("executeAt", "a workflow starts at once; make a schedule of it for another time")
        id = params.text("id")
        if id:
            request.id = _run_id(id).bytes
            if not is_uuid7(request.id):
                raise bad("id", "the id of a workflow's run is a UUIDv7 of this hour; leave it out to be given one")
        start = self._stub.StartRun
        try:
            run = await self._upstream.call(start, request)
        except Failure as failure:
            if failure.reason != "WORKFLOW_NOT_FOUND":
                raise
            await self._register(name)
            run = await self._upstream.call(start, request)
        return {"resource": of_run(run)}

    async def status(self, params: Params, gone: Gone) -> dict[str, Any]:
        run = await self._get(params)
        found: dict[str, Any] = {"resource": of_run(run)}
        if params.flag("include-activities?"):
            begun = [job for step in run.steps if step.name != DECISION for job in step.jobs]
            found["activities"] = await self._shown(begun)
        if params.flag("include-decisions?"):
            decisions = [job for step in run.steps if step.name == DECISION for job in step.jobs]
            found["decisions"] = await self._shown(decisions)
        return found

    async def cancel(self, params: Params, gone: Gone) -> dict[str, Any]:
        id = params.wanted("id")
        request = pb.CancelRunRequest(id=str(_run_id(id)))
        try:
            await self._upstream.call(self._stub.CancelRun, request)
        except Failure as failure:
            if failure.reason != "RUN_FINISHED":
                raise
            words = f"params.id: workflow {id[:80]} is done; there is nothing to cancel"
            raise Failure(422, failure.code, words, "params.id", "WORKFLOW_HAS_BEEN_DONE") from None
        ended = pb.GetRunRequest(id=request.id, wait=Duration(seconds=CANCEL_PATIENCE))
        return {"resource": of_run(await self._upstream.call(self._stub.GetRun, ended))}

    async def listed(self, params: Params, gone: Gone) -> dict[str, Any]:
        filters = params.within("filter")
        names = [*params.names("definitions"), *filters.names("definitions")]
        states = states_of(params, filters, _STATES, _ENDS)
        if states is None:
            return {"resources": [], "total": 0}
        count, page = params.whole("count", DEFAULT_COUNT, 1, MAX_COUNT), params.whole("page", 1, 1, MOST)
        each = [await self._runs(name, states) for name in dict.fromkeys(names) or [""]]
        runs = list(heapq.merge(*each, key=lambda run: run.id, reverse=True))[:MOST]
        shown = runs[(page - 1) * count : page * count]
        found: dict[str, Any] = {"resources": [of_run(run) for run in shown], "total": len(runs)}
        return found | ({"totalCapped": True} if len(runs) >= MOST else {})

    async def _runs(self, name: str, states: list[Any]) -> list[pb.Run]:
        request = pb.ListRunsRequest(workflow=name, states=states, page_size=PAGE)
        found: list[pb.Run] = []
        while True:
            answer = await self._upstream.call(self._stub.ListRuns, request)
            found += answer.runs
            request.page_token = answer.next_page_token
            if not request.page_token or len(found) >= MOST:
                return found

    # -- one run -----------------------------------------------------------------------------
    async def _get(self, params: Params) -> pb.Run:
        return await self._run(str(_run_id(params.wanted("id"))))

    async def _run(self, id: str) -> pb.Run:
        return await self._upstream.call(self._stub.GetRun, pb.GetRunRequest(id=id))

    async def _shown(self, jobs: list[pb.RunJob]) -> list[dict[str, Any]]:
        """Their resources, oldest first."""
        ordered = sorted(jobs, key=lambda job: job.job_id or job.run_id)[-MAX_SHOWN:]
        few = asyncio.Semaphore(AT_ONCE)

        async def one(job: pb.RunJob) -> dict[str, Any] | None:
            async with few:
                if job.run_id:
                    return of_run(await self._run(job.run_id))
                return resource.of_job(await self._tasks.get(UUID(job.job_id).bytes)) if job.job_id else None

        return [found for found in await asyncio.gather(*map(one, ordered)) if found is not None]


def _run_id(id: str) -> UUID:
    try:
        return UUID(id)
    except ValueError:
        words = f"params.id: there is no workflow {id[:80]!r}"
        raise Failure(404, "NOT_FOUND", words, "params.id", "RUN_NOT_FOUND") from None

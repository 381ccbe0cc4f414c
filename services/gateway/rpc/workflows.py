"""Users' requests about workflows: create-and-execute, status, cancel, list; and how runs and decisions are shown."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from google.protobuf.duration_pb2 import Duration

from taskflow.v1 import workflows_pb2 as pb
from taskflow_server.core.ids import is_uuid7
from taskflow_server.core.workflow.builtin import WAIT, is_wait, why_not
from taskflow_server.core.workflow.changes import DECISION, REASON, decided_document, decision_task
from taskflow_server.gateway.errors import Failure
from taskflow_server.gateway.gateway import Gateway
from taskflow_server.gateway.rpc import activities, resource
from taskflow_server.gateway.rpc.formats import from_json
from taskflow_server.gateway.rpc.listing import MOST, Wanted, select, wanted
from taskflow_server.gateway.rpc.params import Params
from taskflow_server.gateway.rpc.tasks import CANCEL_PATIENCE, Gone, Tasks

PAGE = 1000
MAX_SHOWN = 100  # activities and decisions of a status, the newest
AT_ONCE = 10  # calls of one status

STATUS = {
    pb.RUN_STATE_NEW: "created",
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
STATES: dict[str, list[Any]] = {name: [s for s, n in STATUS.items() if n == name] for name in STATUS.values()}
ENDS: dict[str, list[Any]] = {name: [state] for state, name in OUTCOME.items()}
BY_EXECUTOR = "awf.workflow/failed-by-executor"
_FAIL = "failed_by_executor"  # the type of the error of a run that its executor failed


def of_run(run: pb.Run, *, listed: bool = False) -> dict[str, Any]:
    """`listed`: as a list has it, which leaves params and result out."""
    found: dict[str, Any] = {"resourceType": "AidboxWorkflow", "id": run.id, "definition": run.workflow}
    if not listed:
        found["params"] = (from_json(run.input) if run.input else None) or {}
    found["status"] = STATUS[run.state]
    if run.state in OUTCOME:
        found["outcome"] = OUTCOME[run.state]
    if run.state == pb.RUN_STATE_SUCCEEDED and run.output not in (b"", b"null"):
        found["result"] = from_json(run.output)
    if run.state == pb.RUN_STATE_FAILED:
        details = from_json(run.error.details) if run.error.details else {}
        reason = details.pop(REASON, run.error.type)
        found["error"] = {"type": run.error.type, "message": run.error.message} | details
        found["outcomeReason"] = _reason(reason, found["error"])
    # A run is its own execution: executors poll for its decisions, not for the run.
    found |= {"execId": run.id, "retryCount": int(run.state in OUTCOME)}
    found["executeAt"] = resource.instant(run.create_time)
    if run.label:
        found["label"] = run.label
    if run.parent_run_id:
        found["requester"] = {"resourceType": "AidboxWorkflow", "id": run.parent_run_id}
    last = max(t.ToMicroseconds() for t in (run.create_time, run.start_time, run.finish_time))
    found["meta"] = resource.meta(run.create_time.ToMicroseconds(), last)
    found["taskflow"] = {
        "state": pb.RunState.Name(run.state)[10:].lower(), "version": run.version, "trigger": run.trigger,
        "waiting": run.waiting, "metadata": dict(run.metadata),
    }  # fmt: skip
    return found


def _reason(type_: str, error: dict[str, Any]) -> dict[str, Any]:
    if type_ != _FAIL:
        return {"type": resource.UNKNOWN, "message": error["message"] or "Unknown error", "data": error}
    return {"type": BY_EXECUTOR, "message": "Failed by executor", "data": error}


def _listed(run: pb.Run) -> dict[str, Any]:
    return of_run(run, listed=True)


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
        document = decided_document(name)
        await self._upstream.call(self._stub.PutWorkflow, pb.PutWorkflowRequest(document=document))

    # -- methods -----------------------------------------------------------------------------
    async def create(self, params: Params, gone: Gone) -> dict[str, Any]:
        name = params.stored("definition", params.wanted("definition"))
        if why := why_not(name) or (f"{WAIT} is a task; use awf.task/create-and-execute" if is_wait(name) else ""):
            raise params.bad("definition", why, "BUILT_IN")
        request = pb.StartRunRequest(workflow=name, label=params.text("label"))
        given = params.object("params")
        request.input = params.json("params", given) if given is not None else b"{}"
        if params.instant("executeAt") is not None:
            raise params.bad("executeAt", "a workflow starts at once; make a schedule of it for another time")
        id = params.text("id")
        if id:
            request.id = _run_id(id).bytes
            if not is_uuid7(request.id):
                raise params.bad(
                    "id", "the id of a workflow's run is a UUIDv7 of this hour; leave it out to be given one"
                )
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
        unmade = await self._tasks.activity(params.wanted("id"), "AidboxWorkflow")
        if unmade is not None:
            return {"resource": unmade}
        run = await self._get(params)
        found: dict[str, Any] = {"resource": of_run(run)}
        if params.flag("include-activities?"):
            found["activities"] = await self._activities(run)
        if params.flag("include-decisions?"):
            decisions = [job for step in run.steps if step.name == DECISION for job in step.jobs]
            found["decisions"] = [each for each in await self._shown(decisions) if each is not None]
        return found

    async def cancel(self, params: Params, gone: Gone) -> dict[str, Any]:
        id = params.wanted("id")
        request = pb.CancelRunRequest(id=str(_run_id(id)), actor=resource.ACTOR)
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
        asked = wanted(params, STATES, ENDS)
        if asked.settings:
            raise params.bad("include-settings?", "a workflow's definition has no settings", "UNKNOWN_PARAMETER")
        return await asyncio.to_thread(select, await self.matching(asked), asked, _listed)

    async def matching(self, asked: Wanted) -> list[pb.Run]:
        """Newest first; up to MOST."""
        if asked.states is None:
            return []
        each = [await self._runs(name, asked) for name in dict.fromkeys(asked.definitions) or [""]]
        return list(heapq.merge(*each, key=lambda run: run.id, reverse=True))[:MOST]

    async def _runs(self, name: str, asked: Wanted) -> list[pb.Run]:
        request = pb.ListRunsRequest(workflow=name, states=asked.states, page_size=PAGE)
        found: list[pb.Run] = []
        left = MOST
        while True:
            answer = await self._upstream.call(self._stub.ListRuns, request)
            found += (run for run in answer.runs if asked.wants(run.workflow))
            left -= len(answer.runs)
            request.page_token = answer.next_page_token
            if not request.page_token or left <= 0:
                return found

    # -- one run -----------------------------------------------------------------------------
    async def _activities(self, run: pb.Run) -> list[dict[str, Any]]:
        """Activities that the run began, oldest first: jobs, child runs, waits, and those that could not be made."""
        begun = [step for step in run.steps if step.name != DECISION]
        jobs = [job for step in begun for job in step.jobs if job.job_id or job.run_id]
        shown = {each["id"]: each for each in await self._shown(jobs) if each is not None}
        found: list[dict[str, Any]] = []
        for step in begun:
            made = [shown[id] for job in step.jobs if (id := job.job_id or job.run_id) in shown]
            found += made if made or any(job.job_id or job.run_id for job in step.jobs) else activities.shown(run, step)
        return found[-MAX_SHOWN:]

    async def _get(self, params: Params) -> pb.Run:
        return await self._run(str(_run_id(params.wanted("id"))))

    async def _run(self, id: str) -> pb.Run:
        return await self._upstream.call(self._stub.GetRun, pb.GetRunRequest(id=id))

    async def _shown(self, jobs: list[pb.RunJob]) -> list[dict[str, Any] | None]:
        """Their resources, oldest first."""
        ordered = sorted(jobs, key=lambda job: job.job_id or job.run_id)[-MAX_SHOWN:]
        few = asyncio.Semaphore(AT_ONCE)

        async def one(job: pb.RunJob) -> dict[str, Any] | None:
            async with few:
                if job.run_id:
                    return of_run(await self._run(job.run_id))
                return resource.of_job(await self._tasks.get(UUID(job.job_id).bytes)) if job.job_id else None

        return list(await asyncio.gather(*map(one, ordered)))


def _run_id(id: str) -> UUID:
    try:
        return UUID(id)
    except ValueError:
        words = f"params.id: there is no workflow {id[:80]!r}"
        raise Failure(404, "NOT_FOUND", words, "params.id", "RUN_NOT_FOUND") from None

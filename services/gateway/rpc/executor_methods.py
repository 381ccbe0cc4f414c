"""Executors' requests: poll, long-poll, start, notify, success, fail."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any
from uuid import UUID

from taskflow.v1 import jobs_pb2 as pb
from taskflow.v1 import queue_pb2, worker_pb2
from taskflow_server.core.workflow.builtin import WAIT, is_wait, why_not
from taskflow_server.gateway.errors import Failure
from taskflow_server.gateway.gateway import Gateway
from taskflow_server.gateway.rpc import resource
from taskflow_server.gateway.rpc.cluster import ClusterCalls
from taskflow_server.gateway.rpc.definitions import Definitions
from taskflow_server.gateway.rpc.formats import to_json
from taskflow_server.gateway.rpc.params import Params, bad
from taskflow_server.gateway.rpc.tasks import Gone, Tasks
from taskflow_server.gateway.rpc.workflows import Workflows

MAX_BATCH = 1000
MAX_WAIT_MS = 300_000
DEFAULT_WAIT_MS = 60_000
MAX_ERROR = 65_536  # characters of an error, as JSON
NOTIFICATIONS = ("heartbeat", "progress")
PREFIXES = ("awf.task/", "taskflow.task/")


class Executing:
    def __init__(
        self, gateway: Gateway, cluster: ClusterCalls, tasks: Tasks, workflows: Workflows, definitions: Definitions
    ) -> None:
        self._cluster = cluster
        self._workflows = workflows
        self._tasks = tasks
        self._definitions = definitions
        self._waits_left = gateway.settings.long_polls
        self._closing = gateway.closing
        self._now_us = gateway.clock.now_us

    # -- taking ------------------------------------------------------------------------------
    async def poll(self, params: Params, gone: Gone) -> dict[str, Any]:
        request = await self._request(params)
        return self._resources(await self._cluster.poll(request, 0.0))

    async def long_poll(self, params: Params, gone: Gone) -> dict[str, Any]:
        request = await self._request(params)
        seconds = params.whole("timeout", DEFAULT_WAIT_MS, 0, MAX_WAIT_MS) / 1000
        if self._waits_left <= 0:
            words = "as many long polls wait as this gateway holds (TASKFLOW_LONG_POLLS); try again"
            raise Failure(429, "RESOURCE_EXHAUSTED", words, "", "TOO_MANY_LONG_POLLS", 1.0)
        self._waits_left -= 1
        try:
            return self._resources(await self._wait(request, seconds, gone))
        finally:
            self._waits_left += 1

    async def _wait(self, request: queue_pb2.PollRequest, seconds: float, gone: Gone) -> list[queue_pb2.LaneTasks]:
        """Waits for tasks. Those that arrive after their client has left are given back (S2.2)."""
        polling = asyncio.ensure_future(self._cluster.poll(request, seconds))
        others = [asyncio.ensure_future(gone()), asyncio.ensure_future(self._closing.wait())]
        try:
            await asyncio.wait([polling, *others], return_when=asyncio.FIRST_COMPLETED)
            if others[0].done() and polling.done() and not polling.cancelled() and polling.exception() is None:
                await self._cluster.give_back(request.executor, polling.result())
            return polling.result() if polling.done() and not others[0].done() else []
        finally:
            for task in (polling, *others):
                task.cancel()
            with suppress(Exception):
                await asyncio.gather(polling, *others, return_exceptions=True)

    def _resources(self, lanes: list[queue_pb2.LaneTasks]) -> dict[str, Any]:
        now = self._now_us()
        return {"resources": [resource.of_assignment(lane, task, now) for lane in lanes for task in lane.tasks]}

    async def _request(self, params: Params) -> queue_pb2.PollRequest:
        tasks, workflows = params.names("taskDefinitions"), params.names("workflowDefinitions")
        for field, names in (("taskDefinitions", tasks), ("workflowDefinitions", workflows)):
            self._refuse_builtin(params, field, names)
        if not tasks and not workflows:
            words = "params.taskDefinitions, params.workflowDefinitions: name at least one definition in either"
            raise Failure(400, "INVALID_ARGUMENT", words, "params.taskDefinitions", "NO_DEFINITIONS")
        most = params.whole("maxBatchSize", 1, 1, MAX_BATCH)
        await self._definitions.learn(tasks)
        decisions = await self._workflows.learn(workflows)
        return queue_pb2.PollRequest(tasks=tasks + decisions, max=most, executor=_executor(params))

    def _refuse_builtin(self, params: Params, field: str, names: list[str]) -> None:
        """Refuses definitions whose tasks no executor would ever get."""
        for number, name in enumerate(names):
            why = f"TaskFlow ends the waits of {WAIT} itself" if is_wait(name) else why_not(name)
            if name == resource.DECISION_TASK:
                why = "name the workflows whose decisions are wanted, in params.workflowDefinitions"
            if why:
                raise params.bad(f"{field}[{number}]", why, "BUILT_IN")

    # -- running -----------------------------------------------------------------------------
    async def start(self, params: Params, gone: Gone) -> dict[str, Any]:
        job_id, exec_id = await self._attempt(params)
        request = worker_pb2.StartRequest(exec_id=exec_id, job_id=job_id, executor=_executor(params))
        try:
            await self._cluster.start(request)
        except Failure as failure:
            raise await self._refused(params, failure.reason) if failure.reason in _WORDS else failure from None
        return await self._tasks.shown(job_id)

    async def notify(self, params: Params, gone: Gone) -> dict[str, Any]:
        note = _notification(params)
        note.job_id, note.exec_id = await self._attempt(params)
        request = worker_pb2.NotifyRequest(notifications=[note], executor=_executor(params))
        answer = await self._cluster.notify(request)
        if answer.refused:
            raise await self._refused(params, answer.refused)
        return {"inProgressTimeoutAt": answer.timeout_at_us // 1000}

    async def success(self, params: Params, gone: Gone) -> dict[str, Any]:
        result = params.any("result")  # of a decision: its actions
        told = worker_pb2.AttemptOutcome(outcome=pb.OUTCOME_SUCCEEDED)
        if result is not None:
            told.result = params.json("result", result)
        return await self._report(params, told)

    async def fail(self, params: Params, gone: Gone) -> dict[str, Any]:
        field = "error" if params.has("error") else "result"
        given = params.any(field)
        details = params.json(field, given)
        if len(details) > MAX_ERROR:
            words = f"params.error: {len(details)} bytes exceed the limit of {MAX_ERROR}"
            raise Failure(413, "INVALID_ARGUMENT", words, "params.error", "TOO_LARGE")
        told = worker_pb2.AttemptOutcome(outcome=pb.OUTCOME_FAILED)
        named = given if isinstance(given, dict) else {"message": given}
        told.error.type = _word(named.get("type")) or resource.BY_EXECUTOR
        told.error.message = _word(named.get("message")) or "Failed by executor"
        told.error.final = named.get("retryable") is False
        told.error.details = b"" if given in (None, {}) else details
        return await self._report(params, told)

    async def _report(self, params: Params, told: worker_pb2.AttemptOutcome) -> dict[str, Any]:
        told.job_id, told.exec_id = await self._attempt(params)
        request = worker_pb2.ReportRequest(outcomes=[told], executor=_executor(params))
        refused = await self._cluster.report(request)
        if refused:
            raise await self._refused(params, refused)
        return await self._tasks.shown(told.job_id)

    async def _attempt(self, params: Params) -> tuple[bytes, bytes]:
        """The job and the exec_id of a request. An exec_id is opaque: an invalid one is not the present one."""
        exec_id = params.wanted("execId")
        job_id = await self._tasks.find(params.wanted("id"))
        try:
            return job_id, UUID(exec_id).bytes
        except ValueError:
            return job_id, bytes(16)

    async def _refused(self, params: Params, reason: str) -> Failure:
        """NOT_FOUND, if that is why."""
        await self._tasks.get(await self._tasks.find(params.wanted("id")))
        words = _WORDS.get(reason, reason).format(id=params.wanted("id")[:80])
        return Failure(409, "FAILED_PRECONDITION", words, "params.execId", reason)


_WORDS = {
    "STALE_EXEC_ID": "params.execId: not the present one of task {id}, which was handed out again or has ended",
    "NOT_STARTED": "params.execId: task {id} is requested, not in progress; start it first (awf.task/start)",
    "OUTCOME_RECORDED": "params.execId: another outcome of task {id} is recorded under it",
}


def _executor(params: Params) -> worker_pb2.Executor:
    return worker_pb2.Executor(name=params.text("executor", most=200) or "rpc")


def _notification(params: Params) -> worker_pb2.Notification:
    kind = params.wanted("notification")
    for prefix in PREFIXES:
        kind = kind.removeprefix(prefix)
    if kind not in NOTIFICATIONS:
        raise bad("notification", f"{kind[:80]!r} is neither heartbeat nor progress")
    note = worker_pb2.Notification()
    message = params.text("message", most=8192)
    if kind == "progress":
        current = params.number("progress-current")
        if current is None:
            raise bad("progress-current", "is missing; give a number")
        note.progress.current, note.progress.total = current, params.number("progress-total") or 0.0
        note.progress.unit, note.progress.message = params.text("progress-unit", most=100), message
        told = resource.progress(note.progress) | ({"message": message} if message else {})
        note.logs.add(level=kind, message=to_json(told).decode())
    else:
        note.logs.add(level=kind, message=message)
    return note


def _word(value: object) -> str:
    return value if isinstance(value, str) else ""

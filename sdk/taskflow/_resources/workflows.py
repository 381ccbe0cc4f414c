"""`tf.workflows`: documents of steps on the cluster, and runs of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from taskflow._jobs.core import Core
from taskflow._messages import checks, ids
from taskflow._messages.options import Seconds, check_label
from taskflow._messages.options import seconds as in_seconds
from taskflow._messages.workflows import document_text, run_info, run_state, value_bytes, workflow_info
from taskflow._transport.actor import actor
from taskflow._transport.clock import SYSTEM
from taskflow._values.workflows import RunInfo, RunState, WorkflowInfo
from taskflow.errors import DeadlineExceeded, RunCancelled, RunFailed
from taskflow.v1 import workflows_pb2 as pb

_LOOK = 60.0  # seconds after which a wait looks by itself

Document = str | Mapping[str, Any]
States = Sequence[RunState | str]


def _version(value: object) -> int:
    return checks.whole(value, "version", 0, 2**31 - 1)


def _of(name: str, version: int) -> pb.GetWorkflowRequest:
    return pb.GetWorkflowRequest(name=checks.text(name, "name"), version=_version(version))


def _known(if_version: int | None) -> int | None:
    return None if if_version is None else checks.whole(if_version, "if_version", 0, (1 << 31) - 1)


class Calls:
    """Each call once, for both faces."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def put(self, document: Document, validate_only: bool, if_version: int | None) -> WorkflowInfo:
        t = self._core.transport
        request = pb.PutWorkflowRequest(
            document=document_text(document),
            validate_only=checks.flag(validate_only, "validate_only"),
            if_version=_known(if_version),
        )
        return workflow_info(await t.call(t.workflows.PutWorkflow, request))

    async def get(self, name: str, version: int) -> WorkflowInfo:
        t = self._core.transport
        return workflow_info(await t.call(t.workflows.GetWorkflow, _of(name, version)))

    async def page(self, name: str, page_size: int, token: str) -> tuple[list[WorkflowInfo], str]:
        t = self._core.transport
        request = pb.ListWorkflowsRequest(
            name=checks.text(name, "name"), page_size=checks.page_size(page_size), page_token=token
        )
        page = await t.call(t.workflows.ListWorkflows, request)
        return [workflow_info(message) for message in page.workflows], page.next_page_token

    async def delete(self, name: str, if_version: int | None) -> None:
        t = self._core.transport
        request = pb.DeleteWorkflowRequest(name=checks.text(name, "name"), if_version=_known(if_version))
        await t.call(t.workflows.DeleteWorkflow, request)

    async def start(
        self,
        name: str,
        input: Any,
        metadata: Mapping[str, str] | None,
        label: str,
        version: int,
        priority: int | str | None,
    ) -> RunInfo:
        t = self._core.transport
        request = pb.StartRunRequest(
            workflow=checks.text(name, "name"), version=_version(version), input=value_bytes(input, "input"),
            metadata=checks.pairs(metadata), label=check_label(label),
            id=ids.new_id(),  # the same in every try: a repeated call starts no second run
        )  # fmt: skip
        if priority is not None:
            request.priority = checks.priority(priority)
        return run_info(await t.call(t.workflows.StartRun, request))

    async def get_run(self, id: str) -> RunInfo:
        t = self._core.transport
        return run_info(await t.call(t.workflows.GetRun, pb.GetRunRequest(id=ids.parse(id))))

    async def wait(self, id: str, timeout: Seconds | None) -> RunInfo:
        limit = None if timeout is None else in_seconds(timeout, "timeout")
        deadline = None if limit is None else SYSTEM.monotonic() + limit
        while True:
            run = await self.get_run(id)
            if run.state.final:
                return _success(run)
            left = _LOOK if deadline is None else min(_LOOK, deadline - SYSTEM.monotonic())
            if left <= 0:
                said = f"run {id} of workflow {run.workflow} is {run.state} after {limit:g} s; it goes on"
                raise DeadlineExceeded(said, reason="NOT_FINISHED")
            await self._core.waits.run(run.id, left)

    async def runs(
        self, workflow: str, states: States, metadata: Mapping[str, str] | None, page_size: int, token: str
    ) -> tuple[list[RunInfo], str]:
        t = self._core.transport
        request = pb.ListRunsRequest(
            workflow=checks.text(workflow, "workflow"), metadata=checks.pairs(metadata),
            states=map(run_state, checks.items(states, "states", f"some of {', '.join(RunState)}")),
            page_size=checks.page_size(page_size), page_token=token,
        )  # fmt: skip
        page = await t.call(t.workflows.ListRuns, request)
        return [run_info(message) for message in page.runs], page.next_page_token

    async def cancel(self, id: str) -> RunInfo:
        t = self._core.transport
        return run_info(await t.call(t.workflows.CancelRun, pb.CancelRunRequest(id=ids.parse(id), actor=actor())))

    async def retry(self, id: str) -> RunInfo:
        t = self._core.transport
        return run_info(await t.call(t.workflows.RetryRun, pb.RetryRunRequest(id=ids.parse(id), actor=actor())))

    async def signal(self, id: str, name: str, payload: Any) -> None:
        t = self._core.transport
        request = pb.SignalRunRequest(
            id=ids.parse(id), name=checks.text(name, "name"), payload=value_bytes(payload, "payload"),
            signal_id=ids.show(ids.new_id()),
        )  # fmt: skip
        await t.call(t.workflows.SignalRun, request)


def _success(run: RunInfo) -> RunInfo:
    if run.state is RunState.SUCCEEDED:
        return run
    if run.state is RunState.CANCELLED:
        raise RunCancelled(f"run {run.id} of workflow {run.workflow} was cancelled", run=run)
    why = f": {run.error.type}: {run.error.message}" if run.error is not None else ""
    raise RunFailed(f"run {run.id} of workflow {run.workflow} failed{why}", run=run)

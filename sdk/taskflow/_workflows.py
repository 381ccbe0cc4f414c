"""`tf.workflows`: documents of steps on the cluster, and runs of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from taskflow import _ids
from taskflow._admin import _aeach, _each
from taskflow._clock import SYSTEM
from taskflow._core import Core
from taskflow._filters import PAGE_SIZE
from taskflow._options import Seconds
from taskflow._options import seconds as in_seconds
from taskflow._workflow_values import (
    RunInfo,
    RunState,
    WorkflowInfo,
    document_text,
    run_info,
    run_state,
    value_bytes,
    workflow_info,
)
from taskflow.errors import DeadlineExceeded, RunCancelled, RunFailed
from taskflow.v1 import workflows_pb2 as pb

_ONE_WAIT = 60.0  # seconds of one call that waits

Document = str | Mapping[str, Any]
States = Sequence[RunState | str]


class _Calls:
    """Each call once, for both faces."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def put(self, document: Document, validate_only: bool) -> WorkflowInfo:
        t = self._core.transport
        request = pb.PutWorkflowRequest(document=document_text(document), validate_only=validate_only)
        return workflow_info(await t.call(t.workflows.PutWorkflow, request))

    async def get(self, name: str, version: int) -> WorkflowInfo:
        t = self._core.transport
        return workflow_info(await t.call(t.workflows.GetWorkflow, pb.GetWorkflowRequest(name=name, version=version)))

    async def page(self, name: str, page_size: int, token: str) -> tuple[list[WorkflowInfo], str]:
        t = self._core.transport
        request = pb.ListWorkflowsRequest(name=name, page_size=page_size, page_token=token)
        page = await t.call(t.workflows.ListWorkflows, request)
        return [workflow_info(message) for message in page.workflows], page.next_page_token

    async def delete(self, name: str) -> None:
        t = self._core.transport
        await t.call(t.workflows.DeleteWorkflow, pb.DeleteWorkflowRequest(name=name))

    async def start(self, name: str, input: Any, metadata: Mapping[str, str], label: str, version: int) -> RunInfo:
        t = self._core.transport
        request = pb.StartRunRequest(
            workflow=name, version=version, input=value_bytes(input, "input"), metadata=metadata, label=label,
            id=_ids.new_id(),  # the same in every try: a repeated call starts no second run
        )  # fmt: skip
        return run_info(await t.call(t.workflows.StartRun, request))

    async def get_run(self, id: str) -> RunInfo:
        t = self._core.transport
        return run_info(await t.call(t.workflows.GetRun, pb.GetRunRequest(id=id)))

    async def wait(self, id: str, timeout: Seconds | None) -> RunInfo:
        t, clock = self._core.transport, SYSTEM
        deadline = None if timeout is None else clock.monotonic() + in_seconds(timeout, "timeout")
        while True:
            left = _ONE_WAIT if deadline is None else min(_ONE_WAIT, max(0.0, deadline - clock.monotonic()))
            request = pb.GetRunRequest(id=id)
            request.wait.FromNanoseconds(int(left * 1e9))
            run = run_info(await t.call(t.workflows.GetRun, request, timeout=left + self._core.timeout))
            if run.state.final:
                return _success(run)
            if deadline is not None and clock.monotonic() >= deadline:
                said = f"run {id} of workflow {run.workflow} is {run.state} after {timeout} s; it goes on"
                raise DeadlineExceeded(said, reason="NOT_FINISHED")

    async def runs(
        self, workflow: str, states: States, metadata: Mapping[str, str], page_size: int, token: str
    ) -> tuple[list[RunInfo], str]:
        t = self._core.transport
        request = pb.ListRunsRequest(
            workflow=workflow, states=map(run_state, states), metadata=metadata, page_size=page_size, page_token=token
        )
        page = await t.call(t.workflows.ListRuns, request)
        return [run_info(message) for message in page.runs], page.next_page_token

    async def cancel(self, id: str) -> RunInfo:
        t = self._core.transport
        return run_info(await t.call(t.workflows.CancelRun, pb.CancelRunRequest(id=id)))

    async def retry(self, id: str) -> RunInfo:
        t = self._core.transport
        return run_info(await t.call(t.workflows.RetryRun, pb.RetryRunRequest(id=id)))

    async def signal(self, id: str, name: str, payload: Any) -> None:
        t = self._core.transport
        request = pb.SignalRunRequest(
            id=id, name=name, payload=value_bytes(payload, "payload"), signal_id=_ids.show(_ids.new_id())
        )
        await t.call(t.workflows.SignalRun, request)


def _success(run: RunInfo) -> RunInfo:
    if run.state is RunState.SUCCEEDED:
        return run
    if run.state is RunState.CANCELLED:
        raise RunCancelled(f"run {run.id} of workflow {run.workflow} was cancelled", run=run)
    why = f": {run.error.type}: {run.error.message}" if run.error is not None else ""
    raise RunFailed(f"run {run.id} of workflow {run.workflow} failed{why}", run=run)


class Workflows:
    """`tf.workflows`"""

    def __init__(self, core: Core) -> None:
        self._calls = _Calls(core)
        self._call = core.io.call

    def put(self, document: Document, *, validate_only: bool = False) -> WorkflowInfo:
        """Stores a version of a workflow: JSON text, or what `json.load` gave. The same document again makes none.

        InvalidArgument says every problem with its path in the document (`.problems`).
        """
        return self._call(lambda: self._calls.put(document, validate_only))

    def get(self, name: str, version: int = 0) -> WorkflowInfo:
        """The latest version, or the one named. NotFound when there is none."""
        return self._call(lambda: self._calls.get(name, version))

    def list(self, *, name: str = "", page_size: int = PAGE_SIZE) -> Iterator[WorkflowInfo]:
        """The latest version of each, by name, without documents; or all versions of one, newest first."""
        return _each(self._call, lambda token: self._calls.page(name, page_size, token))

    def delete(self, name: str) -> None:
        """With its own schedule. Its runs go on."""
        self._call(lambda: self._calls.delete(name))

    def start(
        self,
        name: str,
        input: Any = None,
        *,
        metadata: Mapping[str, str] | None = None,
        label: str = "",
        version: int = 0,
    ) -> RunInfo:
        """Starts a run. `metadata` are attributes of your own: templates read them as `context.NAME`, the run's jobs
        have them too, and `tf.schedules.delete(metadata=…)` ends waiting runs by them."""
        return self._call(lambda: self._calls.start(name, input, metadata or {}, label, version))

    def get_run(self, id: str) -> RunInfo:
        """A run with its steps. NotFound when there is none of that id."""
        return self._call(lambda: self._calls.get_run(id))

    def wait(self, id: str, timeout: Seconds | None = None) -> RunInfo:
        """The run that has succeeded, with `.output`. RunFailed, RunCancelled; DeadlineExceeded after `timeout` s."""
        return self._call(lambda: self._calls.wait(id, timeout))

    def runs(
        self,
        workflow: str = "",
        *,
        states: States = (),
        metadata: Mapping[str, str] | None = None,
        page_size: int = PAGE_SIZE,
    ) -> Iterator[RunInfo]:
        """Newest first, without inputs, outputs and steps."""
        return _each(self._call, lambda token: self._calls.runs(workflow, states, metadata or {}, page_size, token))

    def cancel(self, id: str) -> RunInfo:
        """It is cancelled once all that is under way has ended. FailedPrecondition when it is final already."""
        return self._call(lambda: self._calls.cancel(id))

    def retry(self, id: str) -> RunInfo:
        """A failed or cancelled run goes on from what failed. FailedPrecondition for another."""
        return self._call(lambda: self._calls.retry(id))

    def signal(self, id: str, name: str, payload: Any = None) -> None:
        """Ends the run's waits for this signal; the next finds it if there is none. FailedPrecondition: too late."""
        self._call(lambda: self._calls.signal(id, name, payload))


class AsyncWorkflows:
    """`tf.workflows` of AsyncTaskFlow: the verbs of Workflows as coroutines, lists as async iterators."""

    def __init__(self, core: Core) -> None:
        self._calls = _Calls(core)
        self._call = core.io.acall

    async def put(self, document: Document, *, validate_only: bool = False) -> WorkflowInfo:
        """As Workflows.put."""
        return await self._call(lambda: self._calls.put(document, validate_only))

    async def get(self, name: str, version: int = 0) -> WorkflowInfo:
        """As Workflows.get."""
        return await self._call(lambda: self._calls.get(name, version))

    def list(self, *, name: str = "", page_size: int = PAGE_SIZE) -> AsyncIterator[WorkflowInfo]:
        """As Workflows.list."""
        return _aeach(self._call, lambda token: self._calls.page(name, page_size, token))

    async def delete(self, name: str) -> None:
        """As Workflows.delete."""
        await self._call(lambda: self._calls.delete(name))

    async def start(
        self,
        name: str,
        input: Any = None,
        *,
        metadata: Mapping[str, str] | None = None,
        label: str = "",
        version: int = 0,
    ) -> RunInfo:
        """As Workflows.start."""
        return await self._call(lambda: self._calls.start(name, input, metadata or {}, label, version))

    async def get_run(self, id: str) -> RunInfo:
        """As Workflows.get_run."""
        return await self._call(lambda: self._calls.get_run(id))

    async def wait(self, id: str, timeout: Seconds | None = None) -> RunInfo:
        """As Workflows.wait."""
        return await self._call(lambda: self._calls.wait(id, timeout))

    def runs(
        self,
        workflow: str = "",
        *,
        states: States = (),
        metadata: Mapping[str, str] | None = None,
        page_size: int = PAGE_SIZE,
    ) -> AsyncIterator[RunInfo]:
        """As Workflows.runs."""
        return _aeach(self._call, lambda token: self._calls.runs(workflow, states, metadata or {}, page_size, token))

    async def cancel(self, id: str) -> RunInfo:
        """As Workflows.cancel."""
        return await self._call(lambda: self._calls.cancel(id))

    async def retry(self, id: str) -> RunInfo:
        """As Workflows.retry."""
        return await self._call(lambda: self._calls.retry(id))

    async def signal(self, id: str, name: str, payload: Any = None) -> None:
        """As Workflows.signal."""
        await self._call(lambda: self._calls.signal(id, name, payload))

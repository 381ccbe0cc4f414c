"""`tf.workflows`: documents of steps on the cluster, and runs of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from taskflow._jobs.core import Core
from taskflow._messages import checks, ids
from taskflow._messages.filters import PAGE_SIZE
from taskflow._messages.options import Seconds, check_label
from taskflow._messages.options import seconds as in_seconds
from taskflow._messages.workflows import document_text, run_info, run_state, value_bytes, workflow_info
from taskflow._resources.jobs_queues_workers import _aeach, _each
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


class _Calls:
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
        self, name: str, input: Any, metadata: Mapping[str, str] | None, label: str, version: int,
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


class Workflows:
    """`tf.workflows`"""

    def __init__(self, core: Core) -> None:
        self._calls = _Calls(core)
        self._call = core.io.call

    def put(self, document: Document, *, validate_only: bool = False, if_version: int | None = None) -> WorkflowInfo:
        """Stores a version of a workflow: JSON text, or what `json.load` gave. The same document again makes none.

        With `if_version` only over that version (0: only if there is no such workflow yet); FailedPrecondition,
        reason WORKFLOW_CHANGED, when another is the latest. InvalidArgument says every problem with its path in the
        document (`.problems`).
        """
        return self._call(lambda: self._calls.put(document, validate_only, if_version))

    def get(self, name: str, version: int = 0) -> WorkflowInfo:
        """The latest version, or the one named. NotFound when there is none."""
        return self._call(lambda: self._calls.get(name, version))

    def list(self, *, name: str = "", page_size: int = PAGE_SIZE) -> Iterator[WorkflowInfo]:
        """The latest version of each, by name, without documents; or all versions of one, newest first."""
        return _each(self._call, lambda token: self._calls.page(name, page_size, token))

    def delete(self, name: str, *, if_version: int | None = None) -> None:
        """With its own schedule. Its runs go on. With `if_version` as `put`."""
        self._call(lambda: self._calls.delete(name, if_version))

    def start(
        self,
        name: str,
        input: Any = None,
        *,
        metadata: Mapping[str, str] | None = None,
        label: str = "",
        version: int = 0,
        priority: int | str | None = None,
    ) -> RunInfo:
        """Starts a run. `metadata` are attributes of your own: templates read them as `context.NAME`, the run's jobs
        have them too, and `tf.schedules.delete(metadata=…)` ends waiting runs by them. `priority`: of the jobs of
        steps that have none, 0 to 9 or a name; by default that of their tasks."""
        return self._call(lambda: self._calls.start(name, input, metadata, label, version, priority))

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
        return _each(self._call, lambda token: self._calls.runs(workflow, states, metadata, page_size, token))

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

    async def put(
        self, document: Document, *, validate_only: bool = False, if_version: int | None = None
    ) -> WorkflowInfo:
        """As Workflows.put."""
        return await self._call(lambda: self._calls.put(document, validate_only, if_version))

    async def get(self, name: str, version: int = 0) -> WorkflowInfo:
        """As Workflows.get."""
        return await self._call(lambda: self._calls.get(name, version))

    def list(self, *, name: str = "", page_size: int = PAGE_SIZE) -> AsyncIterator[WorkflowInfo]:
        """As Workflows.list."""
        return _aeach(self._call, lambda token: self._calls.page(name, page_size, token))

    async def delete(self, name: str, *, if_version: int | None = None) -> None:
        """As Workflows.delete."""
        await self._call(lambda: self._calls.delete(name, if_version))

    async def start(
        self,
        name: str,
        input: Any = None,
        *,
        metadata: Mapping[str, str] | None = None,
        label: str = "",
        version: int = 0,
        priority: int | str | None = None,
    ) -> RunInfo:
        """As Workflows.start."""
        return await self._call(lambda: self._calls.start(name, input, metadata, label, version, priority))

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
        return _aeach(self._call, lambda token: self._calls.runs(workflow, states, metadata, page_size, token))

    async def cancel(self, id: str) -> RunInfo:
        """As Workflows.cancel."""
        return await self._call(lambda: self._calls.cancel(id))

    async def retry(self, id: str) -> RunInfo:
        """As Workflows.retry."""
        return await self._call(lambda: self._calls.retry(id))

    async def signal(self, id: str, name: str, payload: Any = None) -> None:
        """As Workflows.signal."""
        await self._call(lambda: self._calls.signal(id, name, payload))

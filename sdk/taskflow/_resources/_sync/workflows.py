# Generated from ../_async/workflows.py by `make faces`. Change that instead.
"""`tf.workflows`: documents of steps on the cluster, and runs of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from taskflow._jobs.core import Core
from taskflow._messages.filters import PAGE_SIZE
from taskflow._messages.options import Seconds
from taskflow._resources.pages import each
from taskflow._resources.workflows import Calls, Document, States
from taskflow._values.workflows import RunInfo, WorkflowInfo


class Workflows:
    """`tf.workflows`"""

    def __init__(self, core: Core) -> None:
        self._calls = Calls(core)
        self._call = core.io.call

    def put(
        self, document: Document, *, validate_only: bool = False, if_version: int | None = None
    ) -> WorkflowInfo:
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
        return each(self._call, lambda token: self._calls.page(name, page_size, token))

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
        return each(self._call, lambda token: self._calls.runs(workflow, states, metadata, page_size, token))

    def cancel(self, id: str) -> RunInfo:
        """It is cancelled once all that is under way has ended. FailedPrecondition when it is final already."""
        return self._call(lambda: self._calls.cancel(id))

    def retry(self, id: str) -> RunInfo:
        """A failed or cancelled run goes on from what failed. FailedPrecondition for another."""
        return self._call(lambda: self._calls.retry(id))

    def signal(self, id: str, name: str, payload: Any = None) -> None:
        """Ends the run's waits for this signal; the next finds it if there is none. FailedPrecondition: too late."""
        self._call(lambda: self._calls.signal(id, name, payload))

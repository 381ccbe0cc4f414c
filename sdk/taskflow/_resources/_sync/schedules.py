# Generated from ../_async/schedules.py by `make faces`. Change that instead.
"""`tf.schedules`: jobs that are made by themselves, by a cron expression or at one instant."""

from __future__ import annotations

from collections.abc import Iterator, Iterable, Mapping
from datetime import datetime
from typing import Unpack

from taskflow._jobs.core import Core
from taskflow._messages.filters import PAGE_SIZE
from taskflow._messages.schedules import ScheduleOptions
from taskflow._resources.pages import each
from taskflow._resources.schedules import Calls
from taskflow._values.schedules import BackfillInfo, FiringInfo, ScheduleInfo


class Schedules:
    """`tf.schedules`"""

    def __init__(self, core: Core) -> None:
        self._calls = Calls(core)
        self._call = core.io.call

    def create(
        self, task: str = "", *, workflow: str = "", active: bool = True, **options: Unpack[ScheduleOptions]
    ) -> ScheduleInfo:
        """Runs a task, or a workflow with the payload as its input, by `cron`, or once `at` an instant.

        InvalidArgument names the field at fault; NotFound for a workflow that is not there.
        """
        return self._call(lambda: self._calls.create(task, workflow, active, options))

    def get(self, id: str) -> ScheduleInfo:
        """NotFound when there is none of that id."""
        return self._call(lambda: self._calls.get(id))

    def list(
        self,
        *,
        task: str = "",
        workflow: str = "",
        metadata: Mapping[str, str] | None = None,
        page_size: int = PAGE_SIZE,
    ) -> Iterator[ScheduleInfo]:
        """Oldest first; of a task or a workflow, or those that have all of these entries."""
        return each(self._call, lambda token: self._calls.page(task, workflow, metadata, page_size, token))

    def update(self, id: str, **options: Unpack[ScheduleOptions]) -> ScheduleInfo:
        """Changes what is given. Another cron, time or zone counts from now."""
        return self._call(lambda: self._calls.update(id, options))

    def pause(self, id: str) -> ScheduleInfo:
        """It fires no more until `resume`."""
        return self._call(lambda: self._calls.switch(id, False))

    def resume(self, id: str) -> ScheduleInfo:
        """Counts from now: nothing is caught up."""
        return self._call(lambda: self._calls.switch(id, True))

    def delete(self, id: str | None = None, *, metadata: Mapping[str, str] | None = None) -> Iterable[str]:
        """One, or all that have all of these entries: then the waiting runs that have them are cancelled, too. The ids
        of what was ended."""
        return self._call(lambda: self._calls.delete(id, metadata))

    def preview(
        self,
        id: str | None = None,
        *,
        count: int = 10,
        after: datetime | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> Iterable[datetime]:
        """When a schedule fires next, or one of these options would."""
        return self._call(lambda: self._calls.preview(id, count, after, options))

    def firings(self, id: str, *, page_size: int = PAGE_SIZE) -> Iterator[FiringInfo]:
        """Its ledger, newest first."""
        return each(self._call, lambda token: self._calls.firings(id, page_size, token))

    def backfill(self, id: str, *, start: datetime, end: datetime | None = None) -> BackfillInfo:
        """Makes a job for each nominal instant from `start` on, before `end` (now by default), that has none: at most
        1,000 in a call. By hand: overlap does not apply to them. Safe to repeat."""
        return self._call(lambda: self._calls.backfill(id, start, end))

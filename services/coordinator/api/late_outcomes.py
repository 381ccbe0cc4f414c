"""Outcomes that arrive after their attempt was declared lost, while the next attempt still waits (protocol A8).

A stalled link looks like a dead worker. Its attempt n is recorded as lost, and its job waits for attempt n + 1; then
the link recovers and the worker reports that the handler had ended well. Attempts are append-only, so that outcome is
recorded as attempt n + 1, under the exec_id that ran, instead of running the job again. All these conditions must hold:

- attempt n is recorded as lost under this exec_id, and is not final;
- the outcome ends the job: a success, or an error that forbids retries;
- attempt n + 1 was given to no worker: it waits in `deferred`, or the queue service has answered `removed`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from taskflow._policy import Outcome
from taskflow.v1 import worker_pb2 as pb
from taskflow_server.coordinator.api.external_executors import PENDING
from taskflow_server.coordinator.entries import load_facts, unread_entry
from taskflow_server.coordinator.lanes.queue_feed import QueueFeed
from taskflow_server.coordinator.outcomes.writer import OutcomeWriter
from taskflow_server.coordinator.perform import Performer
from taskflow_server.coordinator.shared import Shared
from taskflow_server.core.dispatch.records import Entry
from taskflow_server.core.dispatch.transitions import Phase
from taskflow_server.core.errors import NotOwner, Unavailable
from taskflow_server.core.ids import show
from taskflow_server.runtime import logs
from taskflow_server.store.dispatch import recorded

log = logs.get("late")

STALE, RECORDED = "STALE_EXEC_ID", "OUTCOME_RECORDED"
Refusal = tuple[pb.AttemptOutcome, str]


def may_be_late(outcome: pb.AttemptOutcome, known: tuple[bytes | None, int] | None) -> bool:
    """Whether an outcome that contradicts the recorded one may be recorded for the next attempt."""
    told = Outcome(outcome.outcome)
    ends = told is Outcome.SUCCEEDED or (told is Outcome.FAILED and outcome.error.final)
    return ends and known == (outcome.exec_id, Outcome.LOST)


class LateOutcomes:
    def __init__(
        self,
        shared: Shared,
        outcomes: OutcomeWriter,
        performer: Performer,
        feed: Callable[[], QueueFeed | None],
    ) -> None:
        """`feed` returns the present feed."""
        self._shared = shared
        self._outcomes = outcomes
        self._performer = performer
        self._feed = feed
        self._adopting: dict[bytes, asyncio.Task[str]] = {}  # by exec_id; each continues without its caller

    async def settle(self, worker: bytes, outcomes: Sequence[pb.AttemptOutcome]) -> list[Refusal]:
        """Records outcomes where possible; returns the others, each with the reason. Unavailable: send them again."""
        if not outcomes:
            return []
        with self._shared.table.departures() as left:
            after = await recorded(self._shared.db, [(o.job_id, o.attempt + 1) for o in outcomes])
            facts = await load_facts(self._shared.db, [o.job_id for o in outcomes])
        refused: list[Refusal] = []
        tasks: list[tuple[pb.AttemptOutcome, asyncio.Task[str]]] = []
        for outcome in outcomes:
            known = after.get((outcome.job_id, outcome.attempt + 1))
            if known is not None:
                if known != (outcome.exec_id, outcome.outcome):
                    refused.append((outcome, RECORDED))
            elif outcome.job_id in left:
                refused.append((outcome, RECORDED))  # the next attempt has ended meanwhile
            else:
                tasks.append((outcome, self._begin(worker, outcome, facts.get(outcome.job_id))))
        refused.extend(await self._results(tasks))
        return refused

    def _begin(self, worker: bytes, outcome: pb.AttemptOutcome, facts: dict[str, Any] | None) -> asyncio.Task[str]:
        """Starts a task that outlives the call: an entry that was taken out of the queue must end."""
        task = self._adopting.get(outcome.exec_id)
        if task is None:
            task = asyncio.create_task(self._adopt(worker, outcome, facts))
            self._adopting[outcome.exec_id] = task
            task.add_done_callback(lambda done: self._done(outcome.exec_id, done))
        return task

    def _done(self, exec_id: bytes, task: asyncio.Task[str]) -> None:
        del self._adopting[exec_id]
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, Unavailable | NotOwner):
            log.error("a late outcome could not be recorded", exc_info=error)

    async def _results(self, tasks: list[tuple[pb.AttemptOutcome, asyncio.Task[str]]]) -> list[Refusal]:
        if not tasks:
            return []
        _, pending = await asyncio.wait({task for _, task in tasks}, timeout=self._shared.settings.report_wait / 2)
        if pending:
            raise Unavailable("late outcomes are not written yet; send them again", PENDING)
        try:
            return [(outcome, reason) for outcome, task in tasks if (reason := task.result())]
        except NotOwner:
            raise Unavailable("these shards have another owner now; ask for the topology", "NOT_OWNER") from None

    async def _adopt(self, worker: bytes, outcome: pb.AttemptOutcome, facts: dict[str, Any] | None) -> str:
        """The reason for which it is refused; empty once it is on disk."""
        table = self._shared.table
        entry = table.by_job.get(outcome.job_id)
        if entry is None:
            entry = self._waiting(outcome, facts)
        elif entry.attempt != outcome.attempt + 1 or not await self._recall(entry):
            entry = None
        if entry is None:
            return RECORDED  # a worker has the next attempt, or the job has ended
        if entry.cancelling:
            self._performer.perform(table.removed([entry]))
            return STALE
        table.end_by_late_outcome(entry, outcome.exec_id, worker)
        [fault] = await self._outcomes.report([(entry, outcome)])
        if fault is not None:
            return PENDING  # it is set aside; the worker sends it again
        log.info("a late outcome is recorded for the next attempt", job=show(entry.job_id), attempt=entry.attempt)
        return ""

    def _waiting(self, outcome: pb.AttemptOutcome, facts: dict[str, Any] | None) -> Entry | None:
        """The next attempt from its row of `deferred`. Until this returns, no other code can admit it."""
        table = self._shared.table
        if facts is None or facts["shard"] not in table.shards or facts["lease_attempt"] is not None:
            return None
        if facts["last_attempt"] != outcome.attempt or facts["due_attempt"] != outcome.attempt + 1:
            return None
        entry = unread_entry(facts)
        table.admit_unread(entry)
        return entry

    async def _recall(self, entry: Entry) -> bool:
        """Takes it out of the queue service; False when a worker has taken it before."""
        if entry.phase is Phase.BLOCKED:
            return True  # there is no queue service
        if entry.phase is not Phase.QUEUED:
            return False
        unfed = (*self._shared.table.outbox, *self._shared.without_payload)
        if not any(each is entry for each in unfed):
            feed = self._feed()
            if feed is None:
                raise Unavailable("the queue service does not answer; send the outcome again", PENDING)
            if not await feed.recall(entry.exec_id):
                return False
        return self._shared.table.by_job.get(entry.job_id) is entry and entry.phase is Phase.QUEUED

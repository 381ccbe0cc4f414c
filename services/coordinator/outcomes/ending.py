"""An attempt that ends: its row, and the other writes of its transaction. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from taskflow._policy import RUN_OF_JOB, Change, Outcome, decide
from taskflow.v1 import jobs_pb2
from taskflow_server.core.dispatch.records import Entry
from taskflow_server.core.errors import Unavailable
from taskflow_server.rpc.values import error_to_json
from taskflow_server.store.dispatch import AttemptRow, Changes, DeferredRow, LeaseRow, TaskLogRow

FAILURES = frozenset({Outcome.FAILED, Outcome.TIMED_OUT, Outcome.LOST})  # make a job `failed` when final


@dataclass(slots=True, eq=False)
class Ending:
    """An attempt that ends, with the values to write."""

    entry: Entry
    change: Change
    row: AttemptRow
    epoch: int  # of the decision: this owner must not write it under a later one
    reduced: str = ""  # the reason for which the row is written without the worker's result
    refused: Unavailable | None = None  # the database refuses the reduced row too: it is written again later
    refusal: str = ""  # the reason of the last refusal
    held: bool = False  # a transaction of its handler is open (A17): it is written again once that is over
    beaten: bool = False  # another outcome of this attempt is recorded


def changes_of(endings: Sequence[Ending], now_us: int) -> Changes:
    """The transaction of these endings. A cancel that arrived after a decision is applied."""
    changes = Changes()
    for ending in endings:
        if ending.entry.cancelling:
            _heed_cancel(ending)
        _add(ending, _reduced(ending, now_us) if ending.reduced else ending.row, changes)
    return changes


def _heed_cancel(ending: Ending) -> None:
    """Applies a cancel that came between the decision and this commit: no retry follows (R7, A13). A later cancel finds
    a waiting job, and cancels that."""
    if ending.change.then is not None:
        change = decide(ending.change.outcome, tries=ending.entry.tries, retries=0, rng=float, cancelling=True)
        ending.change = change
        ending.row = ending.row._replace(outcome=int(change.outcome), final=change.final, tries=change.tries)


def _reduced(ending: Ending, now_us: int) -> AttemptRow:
    """The row without the worker's result, with an error that says so: no outcome can block its job for ever (R14)."""
    said = jobs_pb2.Error(type="OutcomeRefused", message=f"the database refuses it: {ending.reduced}")
    return ending.row._replace(result=None, error=error_to_json(said), worker=None, started_at=None, finished_at=now_us)


def _add(ending: Ending, row: AttemptRow, changes: Changes) -> None:
    entry, change = ending.entry, ending.change
    changes.attempts.append(row)
    if entry.spec is None or entry.spec.HasField("options"):
        _add_task_log(entry, row, changes)
        if row.final and _of_a_run(entry):
            changes.told.append((entry.job_id, entry.attempt))
    if change.then is not None:
        key = entry.key
        changes.defer.append(
            DeferredRow(
                entry.job_id, change.then.delay, entry.shard, key.priority, entry.attempt + 1, change.tries,
                int(change.then.reason), key.queue, key.task,
            )
        )  # fmt: skip
    elif entry.due or entry.due_tried:
        changes.undefer.append(entry.job_id)
    if entry.leased or entry.lease_tried:
        if not entry.leased:
            # The commit of its lease row is in doubt, and may come after this one: the same row waits until Postgres
            # has decided. A row that was left behind would hide the next attempt from a takeover.
            changes.leases.append(_lease_in_doubt(entry))
        changes.unlease.append(entry.job_id)
    if entry.cancelling:
        changes.cancelled.append(entry.job_id)
    if entry.unread:
        changes.unread.append((entry.job_id, entry.shard))
    if row.final and change.outcome in FAILURES:
        changes.failed.append((entry.job_id, entry.attempt))


def _lease_in_doubt(entry: Entry) -> LeaseRow:
    return LeaseRow(
        entry.job_id, entry.exec_id or bytes(16), None, entry.shard, entry.key.priority, entry.attempt, entry.tries,
        entry.handouts, False, entry.key.queue, entry.key.task, None, None,
    )  # fmt: skip


def _add_task_log(entry: Entry, row: AttemptRow, changes: Changes) -> None:
    """Adds a log row for a run of a named task, and for a job whose facts a takeover has not loaded before its end."""
    task_id = None
    if entry.spec is not None:
        if not (given := entry.spec.options.task_id):
            return
        try:
            task_id = UUID(given)
        except ValueError:  # written by SQL
            return
    changes.task_logs.append(
        TaskLogRow(task_id, row.job_id, row.attempt, row.started_at, row.finished_at, row.outcome, row.final)
    )


def _of_a_run(entry: Entry) -> bool:
    """Whether its end may be an event of a workflow run; the database decides whether a run has made it."""
    spec = entry.spec
    return spec is None or RUN_OF_JOB in spec.options.metadata

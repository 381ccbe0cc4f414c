"""Outcomes: decided purely, appended in batches, acknowledged after the commit (protocol A8).

What holds: one transaction of this coordinator at a time; each ends with the fence of its shards; an attempt leaves
memory after its commit, never before; a commit of unknown fate is run again by keys until its fate is known.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from services.coordinator.state import State
from services.coordinator.tally import Tally
from services.coordinator.telling import Telling
from services.core.book import Entry
from services.core.errors import NotOwner, Unavailable
from services.core.ids import show
from services.rpc.values import MAX_SECONDS, backoff_of, error_to_json, unfit
from services.runtime import logs, metrics
from services.runtime.batcher import Batcher
from services.store import dispatch as store
from services.store.database import Writer
from services.store.dispatch import AttemptRow, Changes, DeferredRow, TaskLogRow
from services.store.errors import DatabaseError, UniqueViolation
from taskflow._policy import RUN_OF_JOB, Change, Outcome, decide
from taskflow.v1 import jobs_pb2
from taskflow.v1.worker_pb2 import AttemptOutcome

log = logs.get("ledger")

RETRY_DELAY = 0.2  # seconds between tries of a write while Postgres is away


@dataclass(slots=True)
class Ending:
    """An attempt that ends, and what is written for it."""

    entry: Entry
    change: Change
    row: AttemptRow
    epoch: int  # under which it was decided: a later one of ours must not write it


class Ledger:
    def __init__(self, state: State) -> None:
        self._state = state
        self._writer = Writer(state.settings.database_url, timeout=state.settings.database_timeout)
        self._lock = asyncio.Lock()
        self._batches: Batcher[Ending, None] = Batcher(self._flush, limit=2000, weigh=_weigh)
        self.tally = Tally(state)
        self._telling = Telling(state)
        self._outage = logs.Outage(log, "outcomes cannot be written")
        self._doubtful = False  # the last commit's fate is unknown

    async def close(self) -> None:
        await self._writer.reset()

    # -- endings -----------------------------------------------------------------------------
    def report(self, outcomes: Sequence[tuple[Entry, AttemptOutcome]]) -> asyncio.Future[Sequence[None]]:
        """What a worker reported of attempts that are its own; done when it is on disk."""
        now = self._state.clock.now_us()
        return self._submit([self._from_report(entry, outcome, now) for entry, outcome in outcomes])

    def end(
        self, entries: Sequence[Entry], outcome: Outcome, reason: str, *, final: bool = False
    ) -> asyncio.Future[Sequence[None]]:
        """Ends attempts by our own decision: lost, cancelled, expired, never started."""
        now = self._state.clock.now_us()
        endings = []
        for entry in entries:
            wish = f": {entry.cancel_reason}" if entry.cancelling and entry.cancel_reason else ""
            error = jobs_pb2.Error(type=reason, message=_SENTENCES.get(reason, reason) + wish)
            change = self._decide(entry, outcome, final_error=final)
            handed_out = entry.exec_id if entry.worker or entry.started else None
            row = self._row(entry, change, now, self._began(entry, now), handed_out, error=error)
            endings.append(Ending(entry, change, row, self._epoch(entry)))
        return self._submit(endings)

    def _began(self, entry: Entry, now: int) -> int | None:
        """When an attempt that its worker ends no more was handed out; at the latest now, of a former owner's."""
        if not entry.started:
            return None
        return now - int((self._state.clock.monotonic() - entry.taken_at) * 1e6) if entry.taken_at else now

    def _submit(self, endings: list[Ending]) -> asyncio.Future[Sequence[None]]:
        future = self._batches.submit(endings)
        future.add_done_callback(_seen)
        for ending in endings:
            self._state.book.end(ending.entry)
            ending.entry.commit = future
        return future

    def _from_report(self, entry: Entry, told: AttemptOutcome, now: int) -> Ending:
        outcome, error, result = Outcome(told.outcome), told.error, told.result
        encoding = told.encoding or jobs_pb2.ENCODING_JSON
        if outcome is Outcome.SUCCEEDED and result:
            refused = _refused(result, encoding, self._state.settings.max_payload_bytes)
            if refused is not None:
                outcome, error = Outcome.FAILED, refused
        change = self._decide(
            entry,
            outcome,
            final_error=error.final,
            delay=min(told.delay_ms / 1000, MAX_SECONDS) if told.HasField("delay_ms") else None,
        )
        finished = now - _span(told.age_us)
        started = finished - _span(told.run_us) if told.started else None
        row = self._row(
            entry,
            change,
            finished,
            started,
            told.exec_id,
            error=error if error.ByteSize() else None,
            result=result or None if outcome is Outcome.SUCCEEDED else None,
            encoding=encoding if outcome is Outcome.SUCCEEDED else jobs_pb2.ENCODING_JSON,
        )
        return Ending(entry, change, row, self._epoch(entry))

    def _epoch(self, entry: Entry) -> int:
        shard = self._state.book.shards.get(entry.shard)
        if shard is None:
            raise NotOwner(f"shard {entry.shard} is not ours")
        return shard.epoch

    def _decide(
        self, entry: Entry, outcome: Outcome, *, final_error: bool = False, delay: float | None = None
    ) -> Change:
        if outcome is Outcome.SUCCEEDED:
            return _success(entry.tries)
        options = entry.spec.options if entry.spec is not None and entry.spec.HasField("options") else None
        retries = entry.spec.retries if entry.spec is not None else 0
        if options is None:
            return decide(
                outcome, tries=entry.tries, retries=retries, rng=self._state.rng, delay=delay,
                final_error=final_error, cancelling=entry.cancelling,
            )  # fmt: skip
        return decide(
            outcome, tries=entry.tries, retries=retries, rng=self._state.rng, delay=delay,
            final_error=final_error, cancelling=entry.cancelling, backoff=backoff_of(options),
        )  # fmt: skip

    def _row(
        self,
        entry: Entry,
        change: Change,
        finished: int,
        started: int | None,
        exec_id: bytes | None,
        *,
        error: jobs_pb2.Error | None,
        result: bytes | None = None,
        encoding: int = 1,
    ) -> AttemptRow:
        seat = self._state.book.seats.get(entry.worker)
        return AttemptRow(
            entry.job_id,
            started,
            finished,
            exec_id,
            entry.attempt,
            change.tries,
            int(change.outcome),
            change.final,
            encoding,
            seat.name if seat is not None else None,
            result,
            error_to_json(error) if error is not None else None,
        )

    # -- commits -----------------------------------------------------------------------------
    async def _flush(self, endings: list[Ending]) -> Sequence[None]:
        async with self._lock:
            with metrics.commit_seconds.labels("attempts").time():
                await self._commit(endings)
        metrics.commit_rows.labels("attempts").observe(len(endings))
        self._close(endings)
        return [None] * len(endings)

    async def _commit(self, endings: list[Ending]) -> None:
        """Until it is written, or the shards are not ours. The caller's patience is its own affair."""
        while True:
            epochs = self._state.epochs({e.entry.shard for e in endings})
            if any(epochs[e.entry.shard] != e.epoch for e in endings):
                raise NotOwner("a takeover came between")
            try:
                changes = self._changes(endings)
                await store.write(self._writer, changes, epochs, slow=self._doubtful)
                if changes.told:
                    self._state.runs_wanted.set()
                self._doubtful = False
                self._outage.over()
                return
            except NotOwner:
                self._state.lost.set()
                raise
            except UniqueViolation:
                self._doubtful = True  # somebody has written one of them: by keys, then
            except Unavailable as error:
                self._outage.failed(error)
                self._doubtful = True
                await self._state.clock.sleep(RETRY_DELAY)
            except DatabaseError as error:
                if len(endings) == 1 or not (error.sqlstate or "").startswith(("22", "23")):
                    jobs = [show(e.entry.job_id) for e in endings[: logs.FEW]]
                    log.error("outcomes cannot be written", jobs=jobs, attempts=len(endings), exc_info=error)
                    self._spoil(endings, error)
                    await self._state.clock.sleep(RETRY_DELAY)
                    continue
                middle = len(endings) // 2
                await self._commit(endings[:middle])
                await self._commit(endings[middle:])
                return

    def _spoil(self, endings: list[Ending], error: DatabaseError) -> None:
        """What the database refuses is left out, and said so in the attempt: it never wedges the job (R14)."""
        for ending in endings:
            said = jobs_pb2.Error(type="OutcomeRefused", message=f"the database refuses it: {error.sqlstate}")
            ending.row = ending.row._replace(result=None, error=error_to_json(said), worker=None)

    def _changes(self, endings: Sequence[Ending]) -> Changes:
        changes = Changes()
        for ending in endings:
            entry, change = ending.entry, ending.change
            changes.attempts.append(ending.row)
            if entry.spec is None or entry.spec.HasField("options"):
                _log_of_task(ending, changes)
            if change.then is not None:
                key = entry.key
                changes.defer.append(
                    DeferredRow(
                        entry.job_id, change.then.delay, entry.shard, key.priority, entry.attempt + 1, change.tries,
                        int(change.then.reason), key.queue, key.task,
                    )
                )  # fmt: skip
            elif entry.due:
                changes.undefer.append(entry.job_id)
            if entry.leased:
                changes.unlease.append(entry.job_id)
            if entry.cancelling:
                changes.cancelled.append(entry.job_id)
            if change.final and _of_a_run(entry):
                changes.told.append((entry.job_id, entry.attempt))
        return changes

    def _close(self, endings: Sequence[Ending]) -> None:
        state = self._state
        due = False
        self.tally.ended(endings)
        self._telling.ended(endings)
        for ending in endings:
            state.book.finish(ending.entry)
            then = ending.change.then
            if then is None:
                state.announce_final(ending.entry.job_id)
            elif then.delay < state.settings.due_interval:
                due = True
        if due:
            state.due_wanted.set()

    async def write(self, changes: Changes, shards: set[int]) -> None:
        """A fenced write besides outcomes. The caller computes it under `exclusive`, or needs no such care."""
        try:
            await store.write(self._writer, changes, self._state.epochs(shards))
        except NotOwner:
            self._state.lost.set()
            raise

    @property
    def exclusive(self) -> asyncio.Lock:
        """Held while no other write of this coordinator is under way."""
        return self._lock

    async def drained(self) -> None:
        """When everything submitted so far is written."""
        await self._batches.idle()


def _log_of_task(ending: Ending, changes: Changes) -> None:
    """Of a run of a named task, and of what memory does not know: a takeover may end a job before it is loaded."""
    spec, row = ending.entry.spec, ending.row
    task_id = None
    if spec is not None:
        if not (given := spec.options.task_id):
            return
        try:
            task_id = UUID(given)
        except ValueError:  # written by SQL
            return
    changes.task_logs.append(
        TaskLogRow(task_id, row.job_id, row.attempt, row.started_at, row.finished_at, row.outcome, row.final)
    )


@functools.lru_cache(maxsize=1024)
def _success(tries: int) -> Change:
    """By far the most frequent decision: made once for each number of tries."""
    return decide(Outcome.SUCCEEDED, tries=tries, retries=0, rng=float)


def _of_a_run(entry: Entry) -> bool:
    """A run may have to hear of its end: whether one has made it, the database knows."""
    spec = entry.spec
    return spec is None or (spec.HasField("options") and RUN_OF_JOB in spec.options.metadata)


def _weigh(ending: Ending) -> int:
    return len(ending.row.result or b"")


def _seen(future: asyncio.Future[Sequence[None]]) -> None:
    """Nobody may be waiting for an ending of our own: its failure is `lost`, which is acted upon."""
    if not future.cancelled():
        future.exception()


def _refused(result: bytes, encoding: int, most: int) -> jobs_pb2.Error | None:
    """A result that cannot be kept fails its attempt, clearly (R14)."""
    if len(result) > most:
        said = f"the result has {len(result)} bytes; {most} are the most (TASKFLOW_MAX_PAYLOAD_BYTES)"
        return jobs_pb2.Error(type="ResultTooLarge", message=said)
    why = unfit(result, encoding)
    return jobs_pb2.Error(type="InvalidResult", message=f"the result cannot be kept: {why}") if why else None


def _span(microseconds: int) -> int:
    """A time span that a worker told, within reason."""
    return min(max(0, microseconds), int(MAX_SECONDS * 1e6))


_SENTENCES = {
    "lost": "its worker died, or was cut off for longer than its lease",
    "expired": "it was not started by the time that start_by gave",
    "cancelled": "cancelled before its start",
    "cancel_grace": "cancelled; its worker did not confirm within the grace",
    "cancelled_running": "cancelled while an executor had it",
    "in_progress_timeout": "its executor was silent for longer than its in-progress time-out",
    "timeout": "it ran for longer than its timeout",
    "never_started": "handed out too often without being started",
}

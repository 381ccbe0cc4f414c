"""Outcomes: decided purely, appended in batches, acknowledged after the commit (protocol A8).

What holds: one transaction of this coordinator at a time; each ends with the fence of its shards; an attempt leaves
memory after its commit, never before; a commit of unknown fate is run again by keys until its fate is known; an outage
of Postgres is waited out, and an outcome that Postgres refuses by itself is set aside and holds up no other.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from typing import Any

from taskflow._policy import Change, Outcome, decide
from taskflow.v1 import jobs_pb2
from taskflow.v1.worker_pb2 import AttemptOutcome
from taskflow_server.coordinator.outcomes.counting import AttemptMetrics
from taskflow_server.coordinator.outcomes.ending import Ending, changes_of
from taskflow_server.coordinator.outcomes.logging import AttemptLog
from taskflow_server.coordinator.shared import Shared
from taskflow_server.core.dispatch.records import Entry
from taskflow_server.core.errors import NotOwner, Unavailable
from taskflow_server.core.ids import show
from taskflow_server.rpc.values import MAX_SECONDS, backoff_of, error_to_json, unfit
from taskflow_server.runtime import logs, metrics
from taskflow_server.runtime.batcher import Batcher
from taskflow_server.runtime.failpoints import reach
from taskflow_server.store import dispatch as store
from taskflow_server.store.database import Writer
from taskflow_server.store.dispatch import AttemptRow, Changes
from taskflow_server.store.errors import NO_PARTITION, DatabaseError, UniqueViolation, short

log = logs.get("ledger")

RETRY_DELAY = 0.2  # seconds between tries of a write while Postgres is away


# Of each outcome: None when it is recorded, else why it is not; the ledger then keeps it.
Written = asyncio.Future[Sequence[Unavailable | None]]


class OutcomeWriter:
    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._writer = Writer(shared.settings.database_url, timeout=shared.settings.database_timeout)
        self._lock = asyncio.Lock()
        self._batches: Batcher[Ending, Unavailable | None] = Batcher(self._flush, limit=2000, weigh=_weigh)
        self.tally = AttemptMetrics(shared)
        self._telling = AttemptLog(shared)
        self._outage = shared.readiness.outage(log, "outcomes cannot be written")
        self._doubtful = False  # the last commit's fate is unknown

    async def close(self) -> None:
        await self._writer.reset()

    # -- endings -----------------------------------------------------------------------------
    def report(self, outcomes: Sequence[tuple[Entry, AttemptOutcome]]) -> Written:
        """Records what a worker reported of its own attempts; done when it is on disk, or set aside."""
        now = self._shared.clock.now_us()
        return self._submit([self._from_report(entry, outcome, now) for entry, outcome in outcomes])

    def end(self, entries: Sequence[Entry], outcome: Outcome, reason: str, *, final: bool = False) -> Written:
        """Ends attempts by our own decision: lost, cancelled, expired, never started."""
        now = self._shared.clock.now_us()
        endings = []
        for entry in entries:
            why = entry.cancel_reason if entry.cancelling else entry.spec.fault if entry.spec is not None else ""
            said = _SENTENCES.get(reason, reason).format(worker=self._shared.table.worker_of(entry)).replace("  ", " ")
            said += f": {why}" if why else ""
            error = jobs_pb2.Error(type=reason, message=said)
            change = self._decide(entry, outcome, final_error=final)
            handed_out = entry.exec_id if entry.worker or entry.started else None
            row = self._row(entry, change, now, self._began(entry, now), handed_out, error=error)
            endings.append(Ending(entry, change, row, self._epoch(entry)))
        return self._submit(endings)

    def _began(self, entry: Entry, now: int) -> int | None:
        """When an attempt that its worker ends no more was handed out; at the latest now, of a former owner's."""
        if not entry.started:
            return None
        return now - int((self._shared.clock.monotonic() - entry.taken_at) * 1e6) if entry.taken_at else now

    def _submit(self, endings: list[Ending]) -> Written:
        future = self._batches.submit(endings)
        future.add_done_callback(_seen)
        for ending in endings:
            self._shared.table.end(ending.entry, future)
        return future

    def _from_report(self, entry: Entry, told: AttemptOutcome, now: int) -> Ending:
        outcome, result = _OUTCOMES[told.outcome], told.result
        error = told.error if told.HasField("error") else None
        encoding = told.encoding or jobs_pb2.ENCODING_JSON
        if outcome is Outcome.SUCCEEDED and result:
            refused = _refused(result, encoding, self._shared.settings.max_payload_bytes)
            if refused is not None:
                outcome, error = Outcome.FAILED, refused
        if outcome is Outcome.SUCCEEDED:
            change = _success(entry.tries)
        else:
            change = self._decide(
                entry,
                outcome,
                final_error=error is not None and error.final,
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
            error=error if error is not None and error.ByteSize() else None,
            result=result or None if outcome is Outcome.SUCCEEDED else None,
            encoding=encoding if outcome is Outcome.SUCCEEDED else jobs_pb2.ENCODING_JSON,
        )
        return Ending(entry, change, row, self._epoch(entry))

    def _epoch(self, entry: Entry) -> int:
        shard = self._shared.table.shards.get(entry.shard)
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
                outcome, tries=entry.tries, retries=retries, rng=self._shared.rng, delay=delay,
                final_error=final_error, cancelling=entry.cancelling,
            )  # fmt: skip
        return decide(
            outcome, tries=entry.tries, retries=retries, rng=self._shared.rng, delay=delay,
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
            self._shared.table.worker_of(entry) or None,
            result,
            error_to_json(error) if error is not None else None,
        )

    # -- commits -----------------------------------------------------------------------------
    async def _flush(self, endings: list[Ending]) -> Sequence[Unavailable | None]:
        try:
            async with self._lock:
                with metrics.commit_seconds.labels("attempts").time():
                    await self._commit(endings)
        except NotOwner:
            self._outage.over()  # it is the next owner's, if there is one
            raise
        metrics.commit_rows.labels("attempts").observe(len(endings))
        await self._close([ending for ending in endings if ending.refused is None])
        return [ending.refused for ending in endings]

    async def _commit(self, endings: Sequence[Ending]) -> None:
        """Until each is written or set aside, or the shards are not ours. The caller's patience is its own affair."""
        while True:
            fault: Exception
            try:
                await self._write(endings)
                return
            except NotOwner:
                raise
            except Unavailable as error:
                if error.reason != NO_PARTITION:
                    # An outage is no outcome's fault: waited out, however long. The commit may have happened all the
                    # same, so that the next try goes by keys.
                    self._outage.failed(error)
                    self._doubtful = True
                    await self._shared.clock.sleep(RETRY_DELAY)
                    continue
                fault = error
            except UniqueViolation as error:
                if not self._doubtful:  # an outcome of one of these attempts is recorded already: by keys, then
                    self._doubtful = True
                    continue
                fault = error
            except Exception as error:
                fault = error
            if await self._isolated(endings, fault):
                return

    async def _write(self, endings: Sequence[Ending]) -> None:
        epochs = self._shared.epochs({e.entry.shard for e in endings})
        if any(epochs[e.entry.shard] != e.epoch for e in endings):
            raise NotOwner("a takeover came between")
        changes = changes_of(endings, self._shared.clock.now_us())
        try:
            beaten = await store.write(self._writer, changes, epochs, slow=self._doubtful)
        except NotOwner:
            self._shared.lost.set()
            raise
        for ending in endings:
            ending.beaten = ending.entry.job_id in beaten
        if changes.told:
            self._shared.runs_wanted.set()
        self._doubtful = False
        self._outage.over()

    async def _isolated(self, endings: Sequence[Ending], fault: Exception) -> bool:
        """One of these endings is at fault: halves until it stands alone. That one is written without what its worker
        said, and where this is refused as well, set aside. False: to be tried again, as it is now."""
        self._outage.over()  # Postgres answers
        if len(endings) > 1:
            middle = len(endings) // 2
            await self._commit(endings[:middle])
            await self._commit(endings[middle:])
            return True
        (ending,) = endings
        # The refusal that its reduced row met before is no fault of what its worker said: the whole row is kept for it.
        if not ending.reduced and not isinstance(fault, Unavailable) and short(fault) != ending.refusal:
            known = isinstance(fault, DatabaseError)
            job = show(ending.entry.job_id)
            log.error("an outcome cannot be written as it is", job=job, why=short(fault), exc_info=not known)
            ending.reduced = (fault.sqlstate if isinstance(fault, DatabaseError) else None) or type(fault).__name__
            return False
        self._set_aside(ending, fault)
        return True

    def _set_aside(self, ending: Ending, fault: Exception) -> None:
        """Its worker keeps it, too, and is answered that it is not recorded yet."""
        seconds = self._shared.settings.refused_retry
        job = show(ending.entry.job_id)
        log.error("an outcome is refused, and will be written again", job=job, seconds=seconds, why=short(fault))
        metrics.outcomes_set_aside.inc()
        ending.reduced, ending.refusal = "", short(fault)
        said = f"the database refuses the outcome of job {job} ({ending.refusal}); it will be written again"
        ending.refused = Unavailable(said, "OUTCOME_SET_ASIDE", retry_after=seconds)
        asyncio.get_running_loop().call_later(seconds, self._write_again, ending)

    def _write_again(self, ending: Ending) -> None:
        """Submits an outcome that was set aside; after a takeover, its worker reports it again instead."""
        table, entry = self._shared.table, ending.entry
        shard = table.shards.get(entry.shard)
        if shard is not None and shard.epoch == ending.epoch and table.by_job.get(entry.job_id) is entry:
            ending.refused = None
            self._submit([ending])

    async def _close(self, endings: Sequence[Ending]) -> None:
        """After the commit. Memory follows first, ending by ending; metrics and log lines can then fail alone."""
        for ending in endings:
            try:
                self._leave(ending)
            except Exception as error:
                # Memory is not what it should be: a takeover of our own reads it again.
                log.error("a recorded outcome cannot leave memory", job=show(ending.entry.job_id), exc_info=error)
                self._shared.lost.set()
        recorded = [ending for ending in endings if not ending.beaten]
        try:
            await reach("coordinator.counting")
            self.tally.ended(recorded)
            self._telling.ended(recorded)
        except Exception as error:
            log.error("outcomes are recorded, but not counted", attempts=len(recorded), exc_info=error)

    def _leave(self, ending: Ending) -> None:
        shared, entry, then = self._shared, ending.entry, ending.change.then
        shared.table.finish(entry)
        if ending.beaten:
            # The recorded outcome decided what follows: its job may wait in Postgres, and have an open cancel.
            shared.due_wanted.set()
            shared.cancels_wanted.set()
        elif then is None:
            shared.announce_final(entry.job_id)
        elif then.delay < shared.settings.due_interval:
            shared.due_wanted.set()
        if entry.cancelling and then is not None:
            shared.cancels_wanted.set()  # the cancel arrived while this was being written: the job waits, and can be

    async def write(self, changes: Changes, shards: set[int]) -> None:
        """A fenced write besides outcomes. The caller computes it under `exclusive`, or needs no such care.

        NotOwner; Unavailable, also when a row of it is refused: nothing is written then.
        """
        try:
            await store.write(self._writer, changes, self._shared.epochs(shards))
        except NotOwner:
            self._shared.lost.set()
            raise
        except DatabaseError as error:
            said = f"the database refuses a row ({short(error)})"
            raise Unavailable(said, "ROW_REFUSED") from error

    @property
    def exclusive(self) -> asyncio.Lock:
        """Held while no other write of this coordinator is under way."""
        return self._lock

    async def drained(self) -> None:
        """When everything submitted so far is written."""
        await self._batches.idle()


_OUTCOMES = {int(outcome): outcome for outcome in Outcome}
_LONGEST_US = int(MAX_SECONDS * 1e6)


@functools.lru_cache(maxsize=1024)
def _success(tries: int) -> Change:
    """By far the most frequent decision: made once for each number of tries."""
    return decide(Outcome.SUCCEEDED, tries=tries, retries=0, rng=float)


def _weigh(ending: Ending) -> int:
    return len(ending.row.result or b"")


def _seen(future: Written) -> None:
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
    return 0 if microseconds < 0 else microseconds if microseconds < _LONGEST_US else _LONGEST_US


_SENTENCES = {
    "lost": "its worker {worker} died, or was cut off for longer than its lease",
    "expired": "it was not started by the time that start_by gave",
    "cancelled": "cancelled before its start",
    "cancel_grace": "cancelled; its worker did not confirm within the grace",
    "cancelled_running": "cancelled while an executor had it",
    "in_progress_timeout": "its executor was silent for longer than its in-progress time-out",
    "timeout": "it ran for longer than its timeout",
    "unreadable": "its row cannot be read",
    "never_started": "handed out too often without being started",
}


async def committed(endings: Sequence[asyncio.Future[Any]]) -> None:
    """When all of them are written: no more of them are in memory at a time. Raises what stopped the first."""
    for ended in await asyncio.gather(*endings, return_exceptions=True):
        if isinstance(ended, BaseException):
            raise ended

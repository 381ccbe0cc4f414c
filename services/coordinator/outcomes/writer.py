"""Outcomes: decided by a pure function, appended in batches, acknowledged after the commit (protocol A8).

Invariants: one transaction of this coordinator at a time; each ends with the fence of its shards; an attempt leaves
memory after its commit, never before; a commit in doubt is repeated by keys until its result is known; an outage of
Postgres is waited out, and an outcome that Postgres refuses by itself is set aside and delays no other.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
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
from taskflow_server.store.errors import NO_PARTITION, DatabaseError, FencedOpen, UniqueViolation, short

log = logs.get("ledger")

RETRY_DELAY = 0.2  # seconds between retries of a write during an outage of Postgres


# For each outcome: None when it is recorded, else the reason why not; the writer then keeps it.
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
        self._doubtful = False  # the last commit is in doubt
        self.held: Callable[[Ending], None] = lambda ending: None  # set by HeldEnds

    async def close(self) -> None:
        await self._writer.reset()

    # -- endings -----------------------------------------------------------------------------
    def report(self, outcomes: Sequence[tuple[Entry, AttemptOutcome]]) -> Written:
        """Records the outcomes that a worker reported; done when they are on disk, or set aside."""
        now = self._shared.clock.now_us()
        return self._submit([self._from_report(entry, outcome, now) for entry, outcome in outcomes])

    def end(self, entries: Sequence[Entry], outcome: Outcome, reason: str, *, final: bool = False) -> Written:
        """Ends attempts by the owner's decision: lost, cancelled, expired, never started."""
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
        """The start of an attempt that the owner ends: its hand-out, or None if it never started."""
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
            raise NotOwner(f"shard {entry.shard} has another owner")
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
            self._outage.over()  # the next owner has the outage, if it lasts
            raise
        metrics.commit_rows.labels("attempts").observe(len(endings))
        await self._close([ending for ending in endings if ending.refused is None])
        answers = [ending.refused for ending in endings]
        for ending in endings:
            if ending.held:  # not before the answers are taken: it may be written again at once
                self.held(ending)
        return answers

    async def _commit(self, endings: Sequence[Ending]) -> None:
        """Commits until each is written or set aside, or the shards have another owner. Callers may stop waiting."""
        while True:
            fault: Exception
            try:
                await self._write(endings)
                return
            except NotOwner:
                raise
            except FencedOpen as error:
                # Handlers' transactions hold some attempts: the others do not wait for them (A17).
                if not (endings := self._put_off(endings, error.jobs)):
                    return
                continue
            except Unavailable as error:
                if error.reason != NO_PARTITION:
                    # An outage is not the fault of an outcome: wait, however long. The commit may have happened, so
                    # the retry goes by keys.
                    self._outage.failed(error)
                    self._doubtful = True
                    await self._shared.clock.sleep(RETRY_DELAY)
                    continue
                fault = error
            except UniqueViolation as error:
                if not self._doubtful:  # an outcome of one of these attempts is already recorded: retry by keys
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
        """One of these endings is at fault: halves them until it is alone. It is written without the worker's result,
        and if that is refused as well, set aside. False: retry the ending in its present form."""
        self._outage.over()  # Postgres answers
        if len(endings) > 1:
            middle = len(endings) // 2
            await self._commit(endings[:middle])
            await self._commit(endings[middle:])
            return True
        (ending,) = endings
        # The reduced row was refused before, so the result is not the fault: keep the whole row.
        if not ending.reduced and not isinstance(fault, Unavailable) and short(fault) != ending.refusal:
            known = isinstance(fault, DatabaseError)
            job = show(ending.entry.job_id)
            log.error("an outcome cannot be written with its result", job=job, why=short(fault), exc_info=not known)
            ending.reduced = (fault.sqlstate if isinstance(fault, DatabaseError) else None) or type(fault).__name__
            return False
        self._set_aside(ending, fault)
        return True

    def _put_off(self, endings: Sequence[Ending], held: frozenset[bytes]) -> list[Ending]:
        """Those that remain to be written. A worker keeps an outcome that is put off, and sends it again."""
        self._outage.over()  # Postgres answers
        for ending in endings:
            if ending.entry.job_id in held:
                said = f"a transaction of the handler holds the end of job {show(ending.entry.job_id)}"
                ending.held, ending.refused = True, Unavailable(said, "FENCED_TRANSACTION_OPEN")
        return [ending for ending in endings if ending.entry.job_id not in held]

    def _set_aside(self, ending: Ending, fault: Exception) -> None:
        """Keeps an outcome to write it later. Its worker keeps it too, and is answered that it is not recorded yet."""
        seconds = self._shared.settings.refused_retry
        job = show(ending.entry.job_id)
        log.error("an outcome is refused; retrying later", job=job, seconds=seconds, why=short(fault))
        metrics.outcomes_set_aside.inc()
        ending.reduced, ending.refusal = "", short(fault)
        said = f"the database refuses the outcome of job {job} ({ending.refusal}); it will be written again"
        ending.refused = Unavailable(said, "OUTCOME_SET_ASIDE", retry_after=seconds)
        asyncio.get_running_loop().call_later(seconds, self.write_again, ending)

    def is_open(self, ending: Ending) -> bool:
        """Whether it is to be written by us: not after a takeover."""
        table, entry = self._shared.table, ending.entry
        shard = table.shards.get(entry.shard)
        return shard is not None and shard.epoch == ending.epoch and table.by_job.get(entry.job_id) is entry

    def write_again(self, ending: Ending) -> None:
        """Submits an outcome that was set aside; after a takeover, its worker reports it again instead."""
        if self.is_open(ending):
            ending.refused, ending.held = None, False
            self._submit([ending])

    async def _close(self, endings: Sequence[Ending]) -> None:
        """Called after the commit. Updates memory first, for each ending; then metrics and log lines can fail alone."""
        for ending in endings:
            try:
                self._leave(ending)
            except Exception as error:
                # Memory is wrong: a takeover by this owner reads it again.
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
            # The recorded outcome decided: its job may wait in Postgres, and have an open cancel.
            shared.due_wanted.set()
            shared.cancels_wanted.set()
        elif then is None:
            shared.announce_final(entry.job_id)
        elif then.delay < shared.settings.due_interval:
            shared.due_wanted.set()
        if entry.cancelling and then is not None:
            shared.cancels_wanted.set()  # the cancel arrived during the commit: the job waits, and can be cancelled now

    async def write(self, changes: Changes, shards: set[int]) -> None:
        """A fenced write without outcomes. The caller computes it under `exclusive`, if it depends on other writes.

        NotOwner; Unavailable, also when one of its rows is refused: then nothing is written.
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
        """A lock; while it is held, no other write of this coordinator runs."""
        return self._lock

    async def drained(self) -> None:
        """Returns when everything submitted so far is written."""
        await self._batches.idle()


_OUTCOMES = {int(outcome): outcome for outcome in Outcome}
_LONGEST_US = int(MAX_SECONDS * 1e6)


@functools.lru_cache(maxsize=1024)
def _success(tries: int) -> Change:
    """The most frequent decision, cached by the number of tries."""
    return decide(Outcome.SUCCEEDED, tries=tries, retries=0, rng=float)


def _weigh(ending: Ending) -> int:
    return len(ending.row.result or b"")


def _seen(future: Written) -> None:
    """Retrieves the exception: an ending by the owner may have no caller that waits, and `lost` handles a failure."""
    if not future.cancelled():
        future.exception()


def _refused(result: bytes, encoding: int, most: int) -> jobs_pb2.Error | None:
    """The error of a result that cannot be stored, which fails its attempt (R14)."""
    if len(result) > most:
        said = f"the result has {len(result)} bytes, the limit is {most} (TASKFLOW_MAX_PAYLOAD_BYTES)"
        return jobs_pb2.Error(type="ResultTooLarge", message=said)
    why = unfit(result, encoding)
    return jobs_pb2.Error(type="InvalidResult", message=f"the result cannot be kept: {why}") if why else None


def _span(microseconds: int) -> int:
    """A duration that a worker reported, within bounds."""
    return 0 if microseconds < 0 else microseconds if microseconds < _LONGEST_US else _LONGEST_US


_SENTENCES = {
    "lost": "its worker {worker} died, or was cut off for longer than its lease",
    "expired": "it had not started by its start_by",
    "cancelled": "cancelled before its start",
    "cancel_grace": "cancelled; its worker did not confirm within the grace",
    "cancelled_running": "cancelled while running on an executor",
    "in_progress_timeout": "its executor was silent for longer than its in-progress timeout",
    "timeout": "it ran for longer than its timeout",
    "unreadable": "its row cannot be read",
    "never_started": "handed out too often without being started",
    "returned": "its worker {worker} does not have it any more",
}


async def committed(endings: Sequence[asyncio.Future[Any]]) -> None:
    """Waits until all of them are written, which bounds their number in memory. Raises the first failure."""
    for ended in await asyncio.gather(*endings, return_exceptions=True):
        if isinstance(ended, BaseException):
            raise ended

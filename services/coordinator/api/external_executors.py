"""Executors: programs that take tasks without a session, over /rpc or as pushers (rules R1, R2, R4, R5).

Invariants: a start is answered once its row of `leases` is on disk, so that the next owner of the shard knows it; an
outcome is accepted only for a started attempt; no silence ends an attempt while Postgres is unreachable, or for the
time in which this process was paused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from taskflow._policy import Outcome
from taskflow.v1 import jobs_pb2
from taskflow.v1 import worker_pb2 as pb
from taskflow_server.coordinator.outcomes.writer import OutcomeWriter
from taskflow_server.coordinator.perform import Performer
from taskflow_server.coordinator.shared import Shared
from taskflow_server.coordinator.workers.executor_timeouts import requested
from taskflow_server.coordinator.workers.job_logs import JobLogs
from taskflow_server.coordinator.workers.lease_rows import lease_row
from taskflow_server.core.dispatch.records import Entry
from taskflow_server.core.dispatch.transitions import Phase
from taskflow_server.core.errors import FailedPrecondition, NotOwner, Unavailable
from taskflow_server.core.ids import shard_and_epoch
from taskflow_server.core.names import SHARDS
from taskflow_server.runtime import metrics
from taskflow_server.runtime.batcher import Batcher
from taskflow_server.runtime.failpoints import reach
from taskflow_server.store.dispatch import Changes, recorded_executions
from taskflow_server.store.errors import FAULTS

CHECK = 0.25  # seconds between checks of timeouts
PENDING = "COMMIT_PENDING"  # an outcome of the attempt is not recorded yet: the report must be sent again
GAP = 1.0  # seconds; a longer gap between two checks was a pause of this process

Own = list[tuple[Entry, pb.AttemptOutcome]]


class ExternalExecutors:
    def __init__(self, shared: Shared, outcomes: OutcomeWriter, performer: Performer, job_logs: JobLogs) -> None:
        self._shared = shared
        self._outcomes = outcomes
        self._performer = performer
        self._job_logs = job_logs
        self._starts: Batcher[tuple[bytes, Entry], None] = Batcher(self._write_starts, limit=500)

    # -- start -------------------------------------------------------------------------------
    async def start(self, request: pb.StartRequest) -> pb.StartResponse:
        entry = self._present(request.exec_id, request.job_id, request.executor)
        if isinstance(entry, Entry) and entry.cancelling and not entry.started:
            self._outcomes.end([entry], Outcome.CANCELLED, "cancelled")  # taken before its removal
            entry = "STALE_EXEC_ID"
        if isinstance(entry, str):
            raise self._refusal(entry, request, "a start")
        try:
            await self._starts.submit([(request.exec_id, entry)])
        except NotOwner:
            raise Unavailable("its queue has another owner now; ask for the topology", "NOT_OWNER") from None
        written = self._present(request.exec_id, request.job_id, request.executor)
        if isinstance(written, str):
            raise self._refusal(written, request, "a start")
        return pb.StartResponse(timeout_at_us=self._instant(written))

    async def _write_starts(self, starts: list[tuple[bytes, Entry]]) -> Sequence[None]:
        """Writes all waiting starts in one transaction, except for attempts that have ended meanwhile."""
        shared, table = self._shared, self._shared.table
        async with self._outcomes.exclusive:
            now, now_us = shared.clock.monotonic(), shared.clock.now_us()
            good = {x: e for x, e in starts if table.by_exec.get(x) is e and e.phase is Phase.TAKEN}
            fresh = [e for e in good.values() if not e.started]
            rows = []
            for entry in good.values():
                if not entry.started:
                    shared.executor_leases.start(entry, now)
                began = now_us - int((now - entry.taken_at) * 1e6)
                rows.append(lease_row(entry, started_at=began, worker=table.workers[entry.worker].name, fenced=True))
            try:
                if rows:
                    table.writing_lease(good.values())
                    table.fence(good.values())
                    await self._outcomes.write(Changes(leases=rows), {e.shard for e in good.values()})
                    await reach("coordinator.started")
            except FAULTS:
                for entry in fresh:
                    shared.executor_leases.not_started(entry, shared.clock.monotonic())
                raise
        for exec_id, entry in good.items():
            if table.by_exec.get(exec_id) is entry:
                table.leased(entry)
                shared.executor_leases.keepalive(entry, shared.clock.monotonic())
        self._outcomes.tally.running(fresh)
        return [None] * len(starts)

    # -- notify ------------------------------------------------------------------------------
    def notify(self, request: pb.NotifyRequest) -> pb.NotifyResponse:
        answer = pb.NotifyResponse()
        for note in request.notifications:
            entry = self._present(note.exec_id, note.job_id, request.executor)
            reason = entry if isinstance(entry, str) else "" if entry.started else "NOT_STARTED"
            if isinstance(entry, Entry) and not reason:
                self._shared.executor_leases.keepalive(entry, self._shared.clock.monotonic())
                self._job_logs.keep(entry, note)
                answer.prolonged.add(exec_id=note.exec_id, timeout_at_us=self._instant(entry))
                continue
            answer.prolonged.add(exec_id=note.exec_id, refused=reason)
            if reason == "STALE_EXEC_ID":
                answer.stale.append(note.exec_id)
                self._stale(note.job_id, "a notification", reason)
        return answer

    # -- outcomes ----------------------------------------------------------------------------
    async def sort(self, request: pb.ReportRequest, answer: pb.ReportResponse) -> Own:
        """The outcomes to record, with fields that the executor left out; answers the others as refused or recorded.

        The caller must submit them before it awaits anything.
        """
        by_exec = self._shared.table.by_exec
        entries = [by_exec[told.exec_id] for told in request.outcomes if told.exec_id in by_exec]
        commits = {e.commit for e in entries if e.phase is Phase.ENDING}
        if commits:
            await asyncio.wait(commits, timeout=self._shared.settings.report_wait)
        known = await self._recorded([told for told in request.outcomes if told.exec_id not in by_exec])
        own: dict[bytes, tuple[Entry, pb.AttemptOutcome]] = {}
        for told in request.outcomes:
            found = self._present(told.exec_id, told.job_id, request.executor)
            if isinstance(found, str):
                self._refuse(told, found, known, answer)
            elif found.started or told.outcome == jobs_pb2.OUTCOME_RETURNED:
                ran = self._shared.clock.monotonic() - found.taken_at
                told.attempt, told.shard, told.started = found.attempt, found.shard, found.started
                told.age_us, told.run_us = 0, int(ran * 1e6)
                own[told.exec_id] = found, told
            else:
                answer.refused.add(exec_id=told.exec_id, reason="NOT_STARTED")
                metrics.reports_refused.labels("NOT_STARTED").inc()
        return list(own.values())

    async def _recorded(self, unknown: Sequence[pb.AttemptOutcome]) -> dict[bytes, int]:
        wanted = [(told.job_id, told.exec_id) for told in unknown if len(told.job_id) == len(told.exec_id) == 16]
        return await recorded_executions(self._shared.db, wanted) if wanted else {}

    def _refuse(self, told: pb.AttemptOutcome, reason: str, known: dict[bytes, int], answer: pb.ReportResponse) -> None:
        """Refuses an outcome, unless it is the recorded one (R1)."""
        if (
            told.exec_id in self._shared.table.by_exec
            and self._shared.table.by_exec[told.exec_id].phase is Phase.ENDING
        ):
            answer.refused.add(exec_id=told.exec_id, reason=PENDING)
            return
        recorded = known.get(told.exec_id)
        if recorded == told.outcome:
            return
        if recorded in (Outcome.SUCCEEDED, Outcome.FAILED):
            reason = "OUTCOME_RECORDED"
        answer.refused.add(exec_id=told.exec_id, reason=reason)
        if reason == "NOT_OWNER":
            metrics.reports_refused.labels(reason).inc()
        else:
            self._stale(told.job_id, "an outcome", reason)

    # -- common ------------------------------------------------------------------------------
    def _present(self, exec_id: bytes, job_id: bytes, executor: pb.Executor) -> Entry | str:
        """The present attempt of an executor, or the reason for which this exec_id is not one."""
        entry = self._shared.table.by_exec.get(exec_id)
        if entry is None:
            shard = shard_and_epoch(exec_id)[0] if len(exec_id) == 16 else SHARDS
            return "NOT_OWNER" if shard < SHARDS and shard not in self._shared.table.shards else "STALE_EXEC_ID"
        if job_id and entry.job_id != job_id:
            return "STALE_EXEC_ID"
        if entry.phase is Phase.QUEUED:  # the message about who took it is still on its way
            requested(self._shared, executor, [exec_id])
        return entry if entry.executor_lease is not None and entry.phase is Phase.TAKEN else "STALE_EXEC_ID"

    def _refusal(self, reason: str, request: pb.StartRequest, what: str) -> FailedPrecondition | Unavailable:
        if reason == "NOT_OWNER":
            return Unavailable("its queue has another owner, or none just now; ask for the topology", reason)
        self._stale(request.job_id, what, reason)
        return FailedPrecondition("exec_id: not the present attempt of its job", reason)

    def _stale(self, job_id: bytes, what: str, reason: str) -> None:
        """Logs a stale call in the job's log and counts it (R1)."""
        metrics.reports_refused.labels(reason).inc()
        if len(job_id) == 16:
            entry = self._shared.table.by_job.get(job_id)
            self._job_logs.refused(job_id, entry.attempt if entry is not None else 0, f"{what} was refused: {reason}")

    def _instant(self, entry: Entry) -> int:
        """The end of its timeout, in microseconds since 1970."""
        clock = self._shared.clock
        left = entry.executor_lease.until - clock.monotonic() if entry.executor_lease is not None else 0.0
        return clock.now_us() + int(left * 1e6)

    async def watch(self) -> None:
        """Ends attempts whose timeout has passed. A pause of this process or an outage of Postgres ends none."""
        shared = self._shared
        last = shared.clock.real.monotonic()
        while True:
            await shared.clock.sleep(CHECK)
            real = shared.clock.real.monotonic()
            if real - last > CHECK + GAP:
                shared.executor_leases.prolong(real - last)
            last = real
            if shared.healthy:
                self._performer.perform(shared.executor_leases.expire(shared.clock.monotonic()))

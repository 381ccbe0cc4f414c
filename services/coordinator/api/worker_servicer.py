"""WorkerService: sessions, starts, notifications, reports."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

from taskflow.v1 import jobs_pb2, worker_pb2_grpc
from taskflow.v1 import worker_pb2 as pb
from taskflow_server.coordinator.api.external_executors import PENDING, ExternalExecutors
from taskflow_server.coordinator.api.fenced_starts import FencedStarts
from taskflow_server.coordinator.api.late_outcomes import LateOutcomes, may_be_late
from taskflow_server.coordinator.outcomes.writer import OutcomeWriter, Written
from taskflow_server.coordinator.ownership.takeover import Takeover
from taskflow_server.coordinator.shared import Shared
from taskflow_server.coordinator.workers.job_logs import JobLogs
from taskflow_server.coordinator.workers.sessions import WorkerSessions
from taskflow_server.core import ids
from taskflow_server.core.dispatch.records import Claim, Entry
from taskflow_server.core.dispatch.transitions import Phase
from taskflow_server.core.errors import FailedPrecondition, InvalidArgument, NotOwner, Unavailable
from taskflow_server.runtime import logs, metrics
from taskflow_server.runtime.failpoints import reach
from taskflow_server.store.dispatch import recorded

log = logs.get("workers")

MAX_OUTCOMES = 5000
_OUTCOMES = [number for number in jobs_pb2.Outcome.values() if number]

# An outcome, and the commit of another outcome of its attempt; None: that one is in the same report.
Joined = tuple[pb.AttemptOutcome, Written | None]


class WorkerServicer(worker_pb2_grpc.WorkerServiceServicer):
    def __init__(
        self,
        shared: Shared,
        outcomes: OutcomeWriter,
        sessions: WorkerSessions,
        takeover: Takeover,
        job_logs: JobLogs,
        executors: ExternalExecutors,
        late: LateOutcomes,
        starts: FencedStarts,
    ) -> None:
        self._shared = shared
        self._late = late
        self._starts = starts
        self._executors = executors
        self._outcomes = outcomes
        self._sessions = sessions
        self._takeover = takeover
        self._job_logs = job_logs
        self._lines = logs.RateLimitedLog(log, shared.clock.monotonic)

    def Session(self, requests: AsyncIterator[pb.SessionRequest], context: Any) -> AsyncIterator[pb.SessionResponse]:
        return self._sessions.serve(requests, context)

    async def Start(self, request: pb.StartRequest, context: Any) -> pb.StartResponse:
        if request.HasField("executor"):
            return await self._executors.start(request)
        if request.fenced:
            await self._starts.start(request)
            return pb.StartResponse()
        if not self._shared.table.start(request.exec_id, request.worker_id):
            raise FailedPrecondition("exec_id: not the present attempt of its job", "STALE_EXEC_ID")
        return pb.StartResponse()

    async def Notify(self, request: pb.NotifyRequest, context: Any) -> pb.NotifyResponse:
        if request.HasField("executor"):
            return self._executors.notify(request)
        return pb.NotifyResponse(stale=await self._job_logs.take(request))

    async def Report(self, request: pb.ReportRequest, context: Any) -> pb.ReportResponse:
        """Acknowledges outcomes once they are on disk. Unknown attempts are looked up, adopted or refused (A8)."""
        _check(request)
        await reach("coordinator.report")
        answer = pb.ReportResponse()
        joined: list[Joined] = []
        if request.HasField("executor"):
            own = await self._executors.sort(request, answer)
            self._check_present(own)
        else:
            own = await self._sort(request, answer, joined)
        ending = self._accept(request.worker_id, own, joined)
        try:
            commit = self._outcomes.report(ending)
        except NotOwner:
            raise _moved() from None
        await self._committed({commit, *(other for _, other in joined if other is not None)})
        for (_, outcome), fault in zip(ending, commit.result(), strict=True):
            if fault is not None:
                answer.refused.add(exec_id=outcome.exec_id, reason=PENDING)
        await self._join(request.worker_id, [outcome for outcome, _ in joined], answer)
        return answer

    async def _sort(
        self, request: pb.ReportRequest, answer: pb.ReportResponse, joined: list[Joined]
    ) -> list[tuple[Entry, pb.AttemptOutcome]]:
        """The outcomes of a worker to record. An attempt whose outcome is being recorded is added to `joined`."""
        by_exec = self._shared.table.by_exec
        own: list[tuple[Entry, pb.AttemptOutcome]] = []
        unknown = []
        for outcome in request.outcomes:
            entry = by_exec.get(outcome.exec_id)
            if entry is None:
                unknown.append(outcome)
            elif entry.phase is Phase.ENDING:
                joined.append((outcome, entry.commit))
            else:
                own.append((entry, outcome))
        if unknown:
            own.extend(await self._look_up(request.worker_id, unknown, answer))
            self._check_present(own)
        if any(entry.spec is None for entry, _ in own):
            own = await self._completed(own, answer)
            self._check_present(own)
        return own

    def _check_present(self, own: Sequence[tuple[Entry, pb.AttemptOutcome]]) -> None:
        """Call after a look-up: if a takeover has begun meanwhile, the worker must report again."""
        by_exec = self._shared.table.by_exec
        if any(entry.phase is not Phase.ENDING and by_exec.get(entry.exec_id) is not entry for entry, _ in own):
            raise _moved()

    def _accept(
        self, worker: bytes, own: Sequence[tuple[Entry, pb.AttemptOutcome]], joined: list[Joined]
    ) -> list[tuple[Entry, pb.AttemptOutcome]]:
        """The entries that end now."""
        ending: dict[Entry, pb.AttemptOutcome] = {}
        for entry, outcome in own:
            if entry in ending:  # twice in one report: the first one is recorded
                joined.append((outcome, None))
                continue
            if entry.phase is Phase.ENDING:  # another report came first, while this one was looked up
                joined.append((outcome, entry.commit))
                continue
            if not entry.worker:
                self._shared.table.reported(entry, worker)
            if outcome.outcome == jobs_pb2.OUTCOME_RETURNED and not outcome.started and not entry.cancelling:
                # It never started: no attempt and no try are used (R4).
                self._sessions.returned([entry], counted=not outcome.prefetched)
            else:
                ending[entry] = outcome
        return list(ending.items())

    async def _committed(self, commits: set[Written]) -> None:
        """Waits for the commits within the call's time; they continue after it."""
        done, pending = await asyncio.wait(commits, timeout=self._shared.settings.report_wait)
        if pending:
            raise Unavailable("the outcomes are not written yet; send them again", PENDING)
        for future in done:
            error = future.exception()
            if isinstance(error, NotOwner):
                raise _moved()
            if error is not None:
                raise error

    async def _join(self, worker: bytes, outcomes: Sequence[pb.AttemptOutcome], answer: pb.ReportResponse) -> None:
        """Answers outcomes of attempts whose commit has ended by the recorded one. If none is recorded, because it was
        set aside, the worker must send it again."""
        if not outcomes:
            return
        for _, outcome in await self._look_up(worker, outcomes, answer):
            answer.refused.add(exec_id=outcome.exec_id, reason=PENDING)

    async def _look_up(
        self, worker: bytes, outcomes: Sequence[pb.AttemptOutcome], answer: pb.ReportResponse
    ) -> list[tuple[Entry, pb.AttemptOutcome]]:
        """Sorts outcomes of attempts that memory does not know: recorded before, of a former epoch, or stale."""
        there = await recorded(self._shared.db, [(o.job_id, o.attempt) for o in outcomes])
        adopted = []
        late = []
        for outcome in outcomes:
            known = there.get((outcome.job_id, outcome.attempt))
            entry = self._shared.table.by_exec.get(outcome.exec_id)
            if entry is not None and known is None:
                adopted.append((entry, outcome))  # it became known during the look-up
            elif outcome.shard not in self._shared.table.shards:
                self._refuse(answer, outcome, "NOT_OWNER")
            elif may_be_late(outcome, known):
                late.append(outcome)
            elif known is not None and known[0] == outcome.exec_id:
                if known[1] != outcome.outcome:
                    self._refuse(answer, outcome, "OUTCOME_RECORDED")
            elif known is None and self._may_adopt(outcome):
                claim = Claim(outcome.exec_id, outcome.job_id, outcome.attempt, outcome.shard, outcome.started, True)
                seat = self._shared.table.workers.get(worker)
                adopted.append((self._shared.table.adopt(claim, self._shared.clock.monotonic(), seat), outcome))
            else:
                self._refuse(answer, outcome, "STALE_EXEC_ID")
        for outcome, reason in await self._late.settle(worker, late):
            if reason == PENDING:
                answer.refused.add(exec_id=outcome.exec_id, reason=PENDING)
            else:
                self._refuse(answer, outcome, reason)
        return adopted

    def _may_adopt(self, outcome: pb.AttemptOutcome) -> bool:
        """Whether it has an older epoch, and its shard has not settled."""
        shard = self._shared.table.shards[outcome.shard]
        number, epoch = ids.shard_and_epoch(outcome.exec_id) if len(outcome.exec_id) == 16 else (-1, 0)
        doubtful = self._shared.table.in_doubt(outcome.job_id, outcome.attempt)
        return number == outcome.shard and epoch < shard.epoch and not shard.settled and doubtful

    async def _completed(
        self, own: Sequence[tuple[Entry, pb.AttemptOutcome]], answer: pb.ReportResponse
    ) -> list[tuple[Entry, pb.AttemptOutcome]]:
        """Loads the facts of adopted attempts, which they need before they can end."""
        void = await self._takeover.complete([entry for entry, _ in own])
        found = []
        for entry, outcome in own:
            if entry in void:
                self._refuse(answer, outcome, "STALE_EXEC_ID")
            else:
                found.append((entry, outcome))
        return found

    def _refuse(self, answer: pb.ReportResponse, outcome: pb.AttemptOutcome, reason: str) -> None:
        answer.refused.add(exec_id=outcome.exec_id, reason=reason)
        metrics.reports_refused.labels(reason).inc()
        if self._lines.wanted(logging.INFO):
            job = ids.show(outcome.job_id)
            self._lines.say(logging.INFO, "an outcome was refused", job=job, attempt=outcome.attempt, reason=reason)
        if reason != "NOT_OWNER":
            self._job_logs.stale(outcome, reason)


def _moved() -> Unavailable:
    return Unavailable("these shards have another owner now; ask for the topology", "NOT_OWNER")


def _check(request: pb.ReportRequest) -> None:
    if len(request.outcomes) > MAX_OUTCOMES:
        raise InvalidArgument(f"outcomes: {len(request.outcomes)} exceed the limit of {MAX_OUTCOMES}", "outcomes")
    for number, told in enumerate(request.outcomes):
        if len(told.exec_id) != 16 or len(told.job_id) != 16:
            field = f"outcomes[{number}]"
            raise InvalidArgument(f"{field}: exec_id and job_id must be the 16 bytes that were handed out", field)
        if told.outcome not in _OUTCOMES:
            field = f"outcomes[{number}].outcome"
            raise InvalidArgument(f"{field}: {told.outcome} is not one of {_OUTCOMES[0]} to {_OUTCOMES[-1]}", field)

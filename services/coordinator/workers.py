"""WorkerService: sessions, starts, notifications, reports."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any

from services.coordinator.executors import Executors
from services.coordinator.ledger import Ledger
from services.coordinator.notes import Notes
from services.coordinator.recovery import Recovery
from services.coordinator.sessions import Sessions
from services.coordinator.state import State
from services.core import ids
from services.core.book import Claim, Entry, Phase
from services.core.errors import FailedPrecondition, InvalidArgument, NotOwner, Unavailable
from services.runtime import logs, metrics
from services.runtime.failpoints import reach
from services.store.dispatch import recorded
from taskflow.v1 import jobs_pb2, worker_pb2_grpc
from taskflow.v1 import worker_pb2 as pb

log = logs.get("workers")

MAX_OUTCOMES = 5000
_OUTCOMES = [number for number in jobs_pb2.Outcome.values() if number]


class WorkerServicer(worker_pb2_grpc.WorkerServiceServicer):
    def __init__(
        self,
        state: State,
        ledger: Ledger,
        sessions: Sessions,
        recovery: Recovery,
        notes: Notes,
        executors: Executors,
    ) -> None:
        self._state = state
        self._executors = executors
        self._ledger = ledger
        self._sessions = sessions
        self._recovery = recovery
        self._notes = notes
        self._lines = logs.Sparing(log, state.clock.monotonic)

    def Session(self, requests: AsyncIterator[pb.SessionRequest], context: Any) -> AsyncIterator[pb.SessionResponse]:
        return self._sessions.serve(requests, context)

    async def Start(self, request: pb.StartRequest, context: Any) -> pb.StartResponse:
        if request.HasField("executor"):
            return await self._executors.start(request)
        entry = self._state.book.by_exec.get(request.exec_id)
        overtook = entry is not None and entry.phase is Phase.QUEUED  # the word of who took it is still on its way
        taken = entry is not None and entry.phase is Phase.TAKEN and entry.worker == request.worker_id
        if entry is None or not (taken or overtook) or entry.cancelling:
            raise FailedPrecondition("exec_id: not the present attempt of its job", "STALE_EXEC_ID")
        entry.started = True
        return pb.StartResponse()

    async def Notify(self, request: pb.NotifyRequest, context: Any) -> pb.NotifyResponse:
        if request.HasField("executor"):
            return self._executors.notify(request)
        return pb.NotifyResponse(stale=await self._notes.take(request))

    async def Report(self, request: pb.ReportRequest, context: Any) -> pb.ReportResponse:
        """Acknowledged means on disk. What this coordinator does not know is looked up, adopted or refused (A8)."""
        _check(request)
        await reach("coordinator.report")
        answer = pb.ReportResponse()
        waits: set[asyncio.Future[Any]] = set()
        if request.HasField("executor"):
            own = await self._executors.sort(request, answer)
        else:
            own = await self._sort(request, answer, waits)
        if own:
            waits.add(self._accept(request.worker_id, own))
        if waits:
            await self._committed(waits)
        return answer

    async def _sort(
        self, request: pb.ReportRequest, answer: pb.ReportResponse, waits: set[asyncio.Future[Any]]
    ) -> list[tuple[Entry, pb.AttemptOutcome]]:
        """Those of a worker that are to be recorded. What is being recorded joins `waits`."""
        by_exec = self._state.book.by_exec
        own: list[tuple[Entry, pb.AttemptOutcome]] = []
        unknown = []
        for outcome in request.outcomes:
            entry = by_exec.get(outcome.exec_id)
            if entry is None:
                unknown.append(outcome)
            elif entry.phase is Phase.ENDING:
                waits.add(entry.commit)
            else:
                own.append((entry, outcome))
        if unknown:
            own.extend(await self._look_up(request.worker_id, unknown, answer))
        if any(entry.spec is None for entry, _ in own):
            own = await self._completed(own, answer)
        return own

    def _accept(self, worker: bytes, own: Sequence[tuple[Entry, pb.AttemptOutcome]]) -> asyncio.Future[Any]:
        ending = []
        for entry, outcome in own:
            if entry.phase is Phase.ENDING:
                continue
            entry.worker = entry.worker or worker  # its report can overtake the word of who took it
            if outcome.outcome == jobs_pb2.OUTCOME_RETURNED and not outcome.started and not entry.cancelling:
                self._sessions.returned([entry])  # never started: no attempt, no try (R4)
            else:
                ending.append((entry, outcome))
        return self._ledger.report(ending)

    async def _committed(self, waits: set[asyncio.Future[Any]]) -> None:
        """Waits for the commits for as long as the call may; they go on without it."""
        done, pending = await asyncio.wait(waits, timeout=self._state.settings.report_wait)
        if pending:
            raise Unavailable("the outcomes are not written yet; send them again", "COMMIT_PENDING")
        for future in done:
            error = future.exception()
            if isinstance(error, NotOwner):
                raise Unavailable("these shards have another owner now; ask for the topology", "NOT_OWNER")
            if error is not None:
                raise error

    async def _look_up(
        self, worker: bytes, outcomes: Sequence[pb.AttemptOutcome], answer: pb.ReportResponse
    ) -> list[tuple[Entry, pb.AttemptOutcome]]:
        """Of attempts that memory does not know: recorded before, of a former epoch, or stale."""
        there = await recorded(self._state.db, [(o.job_id, o.attempt) for o in outcomes])
        adopted = []
        for outcome in outcomes:
            known = there.get((outcome.job_id, outcome.attempt))
            entry = self._state.book.by_exec.get(outcome.exec_id)
            if entry is not None and known is None:
                adopted.append((entry, outcome))  # it became known while we looked
            elif outcome.shard not in self._state.book.shards:
                self._refuse(answer, outcome, "NOT_OWNER")
            elif known is not None and known[0] == outcome.exec_id:
                if known[1] != outcome.outcome:
                    self._refuse(answer, outcome, "OUTCOME_RECORDED")
            elif known is None and self._may_adopt(outcome):
                claim = Claim(outcome.exec_id, outcome.job_id, outcome.attempt, outcome.shard, outcome.started, True)
                seat = self._state.book.seats.get(worker)
                adopted.append((self._state.book.adopt(claim, self._state.clock.monotonic(), seat), outcome))
            else:
                self._refuse(answer, outcome, "STALE_EXEC_ID")
        return adopted

    def _may_adopt(self, outcome: pb.AttemptOutcome) -> bool:
        """Of an older epoch, while it is not settled who has what."""
        shard = self._state.book.shards[outcome.shard]
        number, epoch = ids.shard_and_epoch(outcome.exec_id) if len(outcome.exec_id) == 16 else (-1, 0)
        entry = self._state.book.by_job.get(outcome.job_id)
        held = entry is None or entry.phase is Phase.HELD
        return number == outcome.shard and epoch < shard.epoch and not shard.settled and held

    async def _completed(
        self, own: Sequence[tuple[Entry, pb.AttemptOutcome]], answer: pb.ReportResponse
    ) -> list[tuple[Entry, pb.AttemptOutcome]]:
        """Adopted attempts need their facts before they can end."""
        void = await self._recovery.complete([entry for entry, _ in own])
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
            self._notes.stale(outcome, reason)


def _check(request: pb.ReportRequest) -> None:
    if len(request.outcomes) > MAX_OUTCOMES:
        raise InvalidArgument(f"outcomes: {len(request.outcomes)}; {MAX_OUTCOMES} are the most", "outcomes")
    for number, told in enumerate(request.outcomes):
        field = f"outcomes[{number}]"
        if len(told.exec_id) != 16 or len(told.job_id) != 16:
            raise InvalidArgument(f"{field}: exec_id and job_id must be the 16 bytes that were handed out", field)
        if told.outcome not in _OUTCOMES:
            field = f"{field}.outcome"
            raise InvalidArgument(f"{field}: {told.outcome} is not one of {_OUTCOMES[0]} to {_OUTCOMES[-1]}", field)

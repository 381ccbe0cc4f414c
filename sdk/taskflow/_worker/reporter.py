"""Outcomes, each kept until a coordinator acknowledges it.

One call is under way per coordinator; what arrives meanwhile is the next.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Container

import grpc.aio

from taskflow._handlers import outcomes
from taskflow._handlers.outcomes import Failure, Verdict
from taskflow._messages import ids
from taskflow._messages.texts import named
from taskflow._transport.clock import SYSTEM, Clock
from taskflow._transport.io_thread import complain
from taskflow._worker.attempt import Attempt
from taskflow._worker.calls import REFUSED, CoordinatorCalls, is_cancelled
from taskflow._worker.epochs import Epochs
from taskflow.v1 import jobs_pb2, worker_pb2

log = logging.getLogger("taskflow")

MAX_OUTCOMES = 1_000
MAX_BYTES = 3 << 20
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.1, 2.0
_LINES_A_SECOND = 20  # about attempts that failed
_LINE_CHARACTERS = 500  # of an error, in such a line; the attempt has it whole
_AGAIN = frozenset({"NOT_OWNER", "COMMIT_PENDING"})  # not recorded, and not refused for good: to be sent again
_BROKEN = frozenset({outcomes.FAILED, outcomes.TIMED_OUT, outcomes.LOST})


class Reporter:
    """Outcomes, by coordinator. Lives on the I/O loop. `forget`: an outcome of this attempt was acknowledged."""

    def __init__(
        self,
        calls: CoordinatorCalls,
        clock: Clock,
        epochs: Epochs,
        held: Container[bytes],
        forget: Callable[[Attempt], None],
    ) -> None:
        self.calls = calls
        self.clock = clock
        self.held = held
        self._epochs = epochs
        self._forget = forget
        self._outboxes: dict[str, _Outbox] = {}
        self._homeless: list[Attempt] = []  # nobody has announced their shard
        self.unacknowledged = 0
        self._lines_since, self._lines, self._lines_left_out = 0.0, 0, 0

    def add(self, attempt: Attempt) -> None:
        """Once for each settled attempt."""
        self.unacknowledged += 1
        self._route(attempt)  # first: an application's log filter may raise
        if attempt.verdict is not None and attempt.verdict.outcome in _BROKEN:
            self._tell(attempt, attempt.verdict.failure or Failure("Failed", ""))

    def _tell(self, attempt: Attempt, failure: Failure) -> None:
        """A line for each failed attempt, up to a number a second; its trace is for those who debug."""
        now = self.clock.monotonic()
        if now - self._lines_since >= 1.0:
            if self._lines_left_out:
                log.warning("%d more attempts failed", self._lines_left_out)
            self._lines_since, self._lines, self._lines_left_out = now, 0, 0
        self._lines += 1
        if self._lines > _LINES_A_SECOND:
            self._lines_left_out += 1
            return
        said = failure.message.partition("\n")[0][:_LINE_CHARACTERS]
        what = f"task {attempt.task}" if attempt.task else f"queue {attempt.queue}"
        log.warning(
            "job %s, attempt %d, %s: %s: %s",
            ids.show(attempt.job_id), attempt.number, what, failure.type, said, extra=_named(attempt),
        )  # fmt: skip
        if failure.traceback:
            log.debug("%s", failure.traceback, extra=_named(attempt))

    def _route(self, attempt: Attempt) -> None:
        owner = self._epochs.owner.get(attempt.shard)
        if owner is None:
            self._homeless.append(attempt)
            return
        outbox = self._outboxes.get(owner)
        if outbox is None:
            outbox = self._outboxes[owner] = _Outbox(self, owner)
        outbox.put(attempt)

    def owners_changed(self) -> None:
        """Sends waiting outcomes to the present owner of their shard."""
        waiting, self._homeless = self._homeless, []
        for outbox in self._outboxes.values():
            waiting.extend(outbox.take_misplaced(self._epochs.owner))
        for attempt in waiting:
            self._route(attempt)

    def again(self, attempts: list[Attempt]) -> None:
        for attempt in attempts:
            self._route(attempt)

    def acknowledged(self, attempt: Attempt) -> None:
        self.unacknowledged -= 1
        self._forget(attempt)


class _Outbox:
    """One coordinator's outcomes."""

    def __init__(self, reporter: Reporter, coordinator: str) -> None:
        self._reporter = reporter
        self._calls = reporter.calls
        self._coordinator = coordinator
        self._waiting: deque[Attempt] = deque()
        self._busy = False
        self._backoff = 0.0
        self._most = MAX_OUTCOMES

    def put(self, attempt: Attempt) -> None:
        self._waiting.append(attempt)
        if not self._busy:
            self._busy = True
            self._calls.spawn(self._send_all())

    def take_misplaced(self, owner: dict[int, str]) -> list[Attempt]:
        misplaced = [a for a in self._waiting if owner.get(a.shard) != self._coordinator]
        if misplaced:
            self._waiting = deque(a for a in self._waiting if owner.get(a.shard) == self._coordinator)
        return misplaced

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                if self._backoff:
                    await SYSTEM.sleep(self._backoff * random.uniform(0.7, 1.0))
                if batch := self._take():
                    await self._send_or_keep(batch)
        finally:
            self._busy = False

    def _take(self) -> list[Attempt]:
        batch: list[Attempt] = []
        size = 0
        while self._waiting and len(batch) < self._most:
            verdict = self._waiting[0].verdict
            assert verdict is not None
            size += 200 + len(verdict.result) + (len(verdict.failure.traceback) if verdict.failure else 0)
            if batch and size > MAX_BYTES:
                break
            batch.append(self._waiting.popleft())
        return batch

    async def _send_or_keep(self, batch: list[Attempt]) -> None:
        """An outcome outlives every exception: what was not acknowledged is sent again."""
        try:
            await self._send(batch)
        except (Exception, asyncio.CancelledError) as error:
            # A channel closed under a call ends it as cancelled, or otherwise.
            self._keep([attempt for attempt in batch if attempt.exec_id in self._reporter.held])
            if is_cancelled():
                raise
            if isinstance(error, Exception):
                complain(f"outcomes of {len(batch)} jobs could not be reported; retrying", error)

    async def _send(self, batch: list[Attempt]) -> None:
        messages = _messages(batch, self._reporter.clock.monotonic())
        try:
            answer = await self._calls.report(self._coordinator, messages)
        except grpc.aio.AioRpcError as error:
            self._failed(batch, error)
            return
        self._backoff, self._most = 0.0, MAX_OUTCOMES
        refused = {r.exec_id: r.reason for r in answer.refused}
        again = []
        for attempt in batch:
            reason = refused.get(attempt.exec_id) if refused else None
            if reason in _AGAIN:
                again.append(attempt)
                continue
            if reason is not None:
                job = ids.show(attempt.job_id)
                about = _named(attempt)
                log.warning("job %s, attempt %d: its outcome was refused, %s", job, attempt.number, reason, extra=about)
            self._reporter.acknowledged(attempt)
        if again:
            self._back_off()
            self._calls.look_for_owners()
            self._reporter.again(again)

    def _failed(self, batch: list[Attempt], error: grpc.aio.AioRpcError) -> None:
        if error.code() in REFUSED:
            self._not_taken(batch, error)
            return
        self._keep(batch)

    def _keep(self, batch: list[Attempt]) -> None:
        """To be sent again, to the owner of their shards by then."""
        self._back_off()
        self._calls.look_for_owners()
        self._waiting.extendleft(reversed(batch))
        self._reporter.owners_changed()

    def _not_taken(self, batch: list[Attempt], error: grpc.aio.AioRpcError) -> None:
        """One bad outcome must not hold up the others: halve until it stands alone, then report that instead."""
        self._waiting.extendleft(reversed(batch))
        if len(batch) > 1:
            self._most = len(batch) // 2
            return
        attempt, why = batch[0], str(error.details())[:500]
        assert attempt.verdict is not None
        if attempt.verdict.failure is not None and attempt.verdict.failure.type == "OutcomeRefused":
            job = ids.show(attempt.job_id)
            log.error("job %s: its outcome cannot be delivered: %s", job, why, extra=_named(attempt))
            self._waiting.popleft()
            self._reporter.acknowledged(attempt)
            return
        failure = Failure("OutcomeRefused", f"the coordinator refused the outcome: {why}")
        attempt.verdict = Verdict(outcomes.FAILED, failure=failure)

    def _back_off(self) -> None:
        self._backoff = min(max(self._backoff * 2, _FIRST_BACKOFF), _LONGEST_BACKOFF)


def _named(attempt: Attempt) -> dict[str, object]:
    """The same as fields of a log record."""
    named = {"job": ids.show(attempt.job_id), "attempt": attempt.number, "queue": attempt.queue}
    return named | {"task": attempt.task} if attempt.task else named


def _messages(batch: list[Attempt], now: float) -> list[worker_pb2.AttemptOutcome]:
    try:
        return [outcome_message(attempt, now) for attempt in batch]
    except Exception:  # of one of them: each by itself, then
        return [_reportable(attempt, now) for attempt in batch]


def _reportable(attempt: Attempt, now: float) -> worker_pb2.AttemptOutcome:
    """Its message, or one that says why there can be none: one outcome must not hold up the others."""
    try:
        return outcome_message(attempt, now)
    except Exception as error:
        complain(f"job {ids.show(attempt.job_id)}: its outcome cannot be encoded", error)
        failure = Failure("OutcomeNotEncodable", f"the outcome cannot be encoded: {named(error, 500)}")
        attempt.verdict = Verdict(outcomes.FAILED, failure=failure)
        return outcome_message(attempt, now)


def outcome_message(attempt: Attempt, now: float) -> worker_pb2.AttemptOutcome:
    """An attempt's verdict, to be sent `now`."""
    verdict = attempt.verdict
    assert verdict is not None
    started = attempt.started > 0
    message = worker_pb2.AttemptOutcome(
        exec_id=attempt.exec_id,
        job_id=attempt.job_id,
        attempt=attempt.number,
        shard=attempt.shard,
        outcome=verdict.outcome,  # type: ignore[arg-type]
        result=verdict.result,
        encoding=verdict.encoding,  # type: ignore[arg-type]
        started=started,
        prefetched=attempt.prefetched,
        run_us=int((attempt.ended - attempt.started) * 1e6) if started else 0,
        age_us=max(0, int((now - attempt.ended) * 1e6)),
    )
    if verdict.failure is not None:
        failure = verdict.failure
        message.error.CopyFrom(
            jobs_pb2.Error(type=failure.type, message=failure.message, traceback=failure.traceback, final=failure.final)
        )
    if verdict.delay_ms is not None:
        message.delay_ms = verdict.delay_ms
    return message

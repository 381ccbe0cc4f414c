"""One job of `taskflow.testing`: what it was made with, what became of it, and what may happen to it next.

States change by `taskflow._policy` alone; what people see is made of the same messages as in a cluster.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from taskflow._handlers.outcomes import Failure, Verdict
from taskflow._messages import ids, jobs
from taskflow._policy import (
    DEFAULT_BACKOFF,
    FINAL_STATES,
    Backoff,
    Change,
    Event,
    JobState,
    Outcome,
    decide,
    next_state,
)
from taskflow._values import jobs as values
from taskflow._values.jobs import AttemptInfo, ErrorInfo, JobInfo, LogInfo, ProgressInfo
from taskflow._worker.attempt import Attempt, Notes
from taskflow.testing._clock import MovedClock
from taskflow.v1 import jobs_pb2

WORKER = "taskflow.testing"
LIST_BYTES = 1024  # of a payload or a result in a list

_EVENTS = {Outcome.SUCCEEDED: Event.SUCCEED, Outcome.CANCELLED: Event.CANCEL}
_NOT_FINAL = {Outcome.SNOOZED: Event.SNOOZE, Outcome.RETURNED: Event.RETURN}


class MemoryJob:
    """A job in memory, as `cluster.jobs` lists it. It is live: its properties change as the cluster runs."""

    def __init__(self, spec: jobs_pb2.JobSpec, clock: MovedClock) -> None:
        self._spec = spec
        self._clock = clock
        self._state = JobState.READY
        self._number = 1  # of the attempt to come, or under way
        self._tries = 0
        self._attempt: Attempt | None = None  # under way
        self._ended: list[jobs_pb2.Attempt] = []
        self._made = clock.now()
        self._run_at: datetime | None = None  # asked for when it was made
        self._due: datetime | None = None  # of the attempt to come, or under way, if it had to wait
        self._cancelling = False
        self._started: datetime | None = None
        self._finished: datetime | None = None
        self.logs: list[LogInfo] = []
        """Every line that its handlers wrote with `job.log`."""
        self.progress: list[ProgressInfo] = []
        """Its handlers' reports by `job.progress`: without an `await` between two of them, only the later."""
        self.version = 0  # grows with each change, so that a timer for an older one does nothing

    # -- what a test looks at --------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        return ids.show(self._spec.id)

    @property
    def queue(self) -> str:
        return self._spec.queue

    @property
    def task(self) -> str:
        """'' for a job without a task."""
        return self._spec.task

    @property
    def payload(self) -> Any:
        return self.info.payload

    @property
    def state(self) -> JobState:
        return self.info.state

    @property
    def result(self) -> Any:
        """The result of its last attempt; None unless it succeeded."""
        return self.info.result

    @property
    def error(self) -> ErrorInfo | None:
        """The error of its last attempt."""
        return self.info.error

    @property
    def attempts(self) -> list[AttemptInfo]:
        """Its tries, in order, the one under way included."""
        return [jobs.attempt_info(message) for message in self._attempt_messages()]

    @property
    def outcomes(self) -> list[values.Outcome]:
        """How its tries ended, in order."""
        return [attempt.outcome for attempt in self.attempts if attempt.outcome is not None]

    @property
    def due(self) -> datetime | None:
        """When a job that waits for a time is due, by the moved clock; None for any other."""
        return self._due if self._state in (JobState.SCHEDULED, JobState.RETRYING) else None

    @property
    def info(self) -> JobInfo:
        """The answer of `tf.jobs.get`."""
        return jobs.job_info(self.message())

    def __repr__(self) -> str:
        name = f"task={self.task!r}" if self.task else f"queue={self.queue!r}"
        return f"<MemoryJob {self.id} {name} {self.state}>"

    # -- as messages -----------------------------------------------------------------------------------------------

    def message(self, most: int | None = None) -> jobs_pb2.Job:
        """`most`: payloads and results longer than that are left out."""
        spec, last = self._spec, self._ended[-1] if self._ended else None
        space, _, bare = spec.queue.rpartition("/")
        final = self._state in FINAL_STATES
        job = jobs_pb2.Job(
            id=self.id,
            namespace=space or "default",
            queue=bare,
            task=spec.task,
            state=self.present_state.number,  # type: ignore[arg-type]
            encoding=spec.encoding,
            priority=self.priority,
            retries=spec.retries,
            options=spec.options,
            key=spec.key,
            attempt=self._number if self._attempt is not None else self._executions(last),
            worker=WORKER if self._attempt is not None else last.worker if last else "",
            cancelling=self._cancelling and not final,
            create_time=_stamp(self._made),
            run_time=_stamp(self._due or self._run_at),
            start_time=_stamp(self._started),
            sla_missed=self._sla_missed(),
        )
        if most is None or len(spec.payload) <= most:
            job.payload = spec.payload
        if last is not None:
            job.last_outcome = last.outcome
            if last.HasField("error"):
                job.error.CopyFrom(last.error)
        if final and last is not None:
            job.finish_time.CopyFrom(last.finish_time)
            job.result_encoding = last.result_encoding
            if most is None or len(last.result) <= most:
                job.result = last.result
        if self._attempt is not None and self._attempt.started:
            job.start_time.FromDatetime(self._clock.instant(self._attempt.started))
        if self._attempt is not None and self.progress:
            p = self.progress[-1]
            job.progress.CopyFrom(jobs_pb2.Progress(current=p.current, total=p.total, unit=p.unit, message=p.message))
        return job

    def _sla_missed(self) -> bool:
        """By its first start, or its end without one; else by the present time."""
        if not self._spec.options.HasField("sla"):
            return False
        met = [row.start_time for row in self._ended if row.HasField("start_time")]
        met += [row.finish_time for row in self._ended if row.final]
        zone = self._made.tzinfo
        instants = [stamp.ToDatetime(zone) for stamp in met]
        if self._attempt is not None and self._attempt.started:
            instants.append(self._clock.instant(self._attempt.started))
        due = (self._run_at or self._made) + self._spec.options.sla.ToTimedelta()
        return min(instants, default=self._clock.now()) > due

    def _executions(self, last: jobs_pb2.Attempt | None) -> int:
        """One that ended before it was handed out has a number, and was none."""
        if last is None:
            return 0
        return last.number - (not last.HasField("start_time") and not last.worker)

    def _attempt_messages(self) -> list[jobs_pb2.Attempt]:
        if self._attempt is None:
            return list(self._ended)
        exec_id = ids.show(self._attempt.exec_id)
        running = jobs_pb2.Attempt(job_id=self.id, number=self._number, exec_id=exec_id, worker=WORKER)
        if self._attempt.started:
            running.start_time.FromDatetime(self._clock.instant(self._attempt.started))
        return [*self._ended, running]

    # -- what happens to it: `_testing_worker` says when ----------------------------------------------------------

    @property
    def spec(self) -> jobs_pb2.JobSpec:
        return self._spec

    @property
    def priority(self) -> int:
        return self._spec.priority if self._spec.HasField("priority") else 5

    @property
    def present_state(self) -> JobState:
        """`requested` becomes `running` with the handler's first line."""
        if self._attempt is not None and self._attempt.started:
            return JobState.RUNNING
        return self._state

    @property
    def under_way(self) -> Attempt | None:
        return self._attempt

    @property
    def final(self) -> bool:
        return self._state in FINAL_STATES

    @property
    def expires(self) -> datetime | None:
        """The instant by which it must start: a retry has met the condition."""
        if self._number > 1 or not self._spec.options.HasField("start_by"):
            return None
        return self._spec.options.start_by.ToDatetime(self._made.tzinfo)

    def happens(self, event: Event) -> None:
        state = next_state(self._state, event)
        assert state is not None, (self._state, event)
        self._state = state
        self.version += 1

    def schedule(self, due: datetime) -> None:
        """Before anything else happened to it."""
        if due > self._clock.now():
            self._run_at = self._due = due
            self._state = JobState.SCHEDULED

    def hand_out(self, exec_id: bytes) -> tuple[int, int]:
        """The number of the attempt that begins, and the tries used before it."""
        self.happens(Event.HAND_OUT)
        return self._number, self._tries

    def holds(self, attempt: Attempt) -> None:
        self._attempt = attempt

    def note(self, notes: Notes) -> None:
        """Stores the progress and log lines that a handler sent."""
        progress, lines = notes
        if progress is not None:
            self.progress.append(ProgressInfo(*progress))
        for moment, level, line in lines:
            self.logs.append(LogInfo(self._number, self._clock.instant(moment), level, line))

    def wish_cancel(self) -> None:
        self._cancelling = True

    def end(self, attempt: Attempt, verdict: Verdict, rng: Callable[[], float]) -> Change:
        """The outcome of the attempt under way, decided as a coordinator decides it."""
        failure = verdict.failure
        if attempt.started:
            self.happens(Event.START)
        change = decide(
            Outcome(verdict.outcome),
            tries=self._tries,
            retries=self._spec.retries,
            rng=rng,
            backoff=backoff_of(self._spec.options),
            delay=None if verdict.delay_ms is None else verdict.delay_ms / 1000,
            final_error=failure is not None and failure.final,
            cancelling=self._cancelling,
        )
        started = self._clock.instant(attempt.started) if attempt.started else None
        row = self._row(change, attempt.exec_id, started, self._clock.instant(attempt.ended), failure)
        if change.outcome is Outcome.SUCCEEDED:
            row.result, row.result_encoding = verdict.result, verdict.encoding  # type: ignore[assignment]
        self._attempt = None
        self._follow(change)
        return change

    def end_waiting(self, failure: Failure) -> None:
        """Cancelled or expired: it was never handed out."""
        change = decide(Outcome.CANCELLED, tries=self._tries, retries=0, rng=float)
        self._row(change, None, None, self._clock.now(), failure)
        self._follow(change)

    def _row(
        self,
        change: Change,
        exec_id: bytes | None,
        started: datetime | None,
        finished: datetime,
        failure: Failure | None,
    ) -> jobs_pb2.Attempt:
        row = jobs_pb2.Attempt(
            job_id=self.id,
            number=self._number,
            exec_id=ids.show(exec_id) if exec_id else "",
            outcome=int(change.outcome),  # type: ignore[arg-type]
            final=change.final,
            worker=WORKER if exec_id else "",
            start_time=_stamp(started),
            finish_time=_stamp(finished),
            result_encoding=jobs_pb2.ENCODING_JSON,
        )
        if failure is not None:
            row.error.CopyFrom(
                jobs_pb2.Error(
                    type=failure.type, message=failure.message, traceback=failure.traceback, final=failure.final
                )
            )
        self._ended.append(row)
        self._started = started
        return row

    def _follow(self, change: Change) -> None:
        self._tries = change.tries
        self._due = None
        self._number += 1
        if change.final:
            self._cancelling = False
            self.happens(_EVENTS.get(change.outcome, Event.FAIL))
        else:
            self.happens(_NOT_FINAL.get(change.outcome, Event.FAIL_WITH_TRIES))

    def wait_until(self, due: datetime) -> None:
        """After `end`, where a wait follows."""
        self._due = due

    def retry_by_hand(self) -> None:
        """Fresh tries; attempts count on (R8)."""
        self.happens(Event.RETRY_BY_HAND)
        self._tries = 0
        self._due = self._clock.now()


def _stamp(instant: datetime | None) -> Timestamp | None:
    if instant is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(instant)
    return stamp


def backoff_of(options: jobs_pb2.JobOptions) -> Backoff:
    """The policy's value of the message; what it leaves out is the default."""
    if not options.HasField("backoff"):
        return DEFAULT_BACKOFF
    given, default = options.backoff, DEFAULT_BACKOFF
    return Backoff(
        first=given.first.ToMicroseconds() / 1e6 if given.HasField("first") else default.first,
        factor=given.factor or default.factor,
        limit=given.limit.ToMicroseconds() / 1e6 if given.HasField("limit") else default.limit,
        jitter=given.jitter if given.HasField("jitter") else default.jitter,
    )

"""Converts rows of the store, with the owners' memory, to the API's resources."""

from __future__ import annotations

from typing import Any

from taskflow._policy import STATES, JobState, state_of
from taskflow.v1 import jobs_pb2 as pb
from taskflow.v1.dispatch_pb2 import LiveJob
from taskflow_server.core import ids
from taskflow_server.core.names import bare, namespace_of
from taskflow_server.rpc.values import error_from_json, options_from_json, stamp

Row = dict[str, Any]

_HANDED_OUT = (pb.JOB_STATE_REQUESTED, pb.JOB_STATE_RUNNING)


def stored_state(row: Row) -> JobState:
    """The state by the facts in Postgres."""
    return state_of(
        started=row["started"], due=row["due"], reason=row["reason"], final=row["final"], outcome=row["outcome"]
    )


def state_with(row: Row, live: LiveJob | None) -> JobState:
    """The state by these facts, and of a job that is not final by its owner's memory."""
    stored = stored_state(row)
    return STATES[live.state] if live is not None and not stored.final else stored


def shown_options(stored: Any) -> pb.JobOptions | None:
    """The options, or None if they cannot be read: one bad row must not break a list. Its job has failed with that
    error."""
    try:
        return options_from_json(stored)
    except Exception:
        return None


def job(row: Row, live: LiveJob | None = None, *, most: int | None = None) -> pb.Job:
    """`most`: payloads and results with more bytes are left out."""
    state = state_with(row, live)
    queue = row["queue"]
    found = pb.Job(
        id=str(row["id"]),
        namespace=namespace_of(queue),
        queue=bare(queue),
        task=row["task"],
        state=state.number,  # type: ignore[arg-type]
        encoding=row["encoding"],
        priority=row["priority"],
        retries=row["retries"],
        options=shown_options(row["options"]),
        key=row["key"] or "",
        attempt=_executions(row),
        create_time=stamp(row["created_at"]),
        run_time=stamp(row["run_at"]),
        error=error_from_json(row["error"]),
        last_outcome=row["outcome"],
        start_time=stamp(row["started_at"]),
        worker=row["worker"] or "",
        cancelling=bool(row["cancelling"]) and not state.final,
        exec_id=str(row["exec_id"] or ""),
        sla_missed=row["sla_missed"],
    )
    if row["payload"] is not None and (most is None or len(row["payload"]) <= most):
        found.payload = row["payload"]
    if state.final:
        found.finish_time.FromDatetime(row["finished_at"])
        if row["result"] is not None and (most is None or len(row["result"]) <= most):
            found.result = row["result"]
        found.result_encoding = row["result_encoding"]
    _add_running(found, row, live, state.final)
    return found


def _executions(row: Row) -> int:
    """The number of attempts. A job that ended before it was handed out has an attempt number that does not count."""
    number: int = row["attempt"] or 0
    never_started = row["outcome"] is not None and row["started_at"] is None and row["worker"] is None
    return number - never_started


def _add_running(found: pb.Job, row: Row, live: LiveJob | None, final: bool) -> None:
    if row["leased"]:
        found.attempt, found.worker = row["lease_attempt"], row["lease_worker"] or ""
        found.exec_id = str(row["lease_exec_id"])
        if row["lease_started_at"]:
            found.start_time.FromDatetime(row["lease_started_at"])
        if row["progress"]:
            found.progress.CopyFrom(pb.Progress(**row["progress"]))
    if live is not None and not final and live.state in _HANDED_OUT:
        found.attempt, found.worker, found.exec_id = live.attempt, live.worker, ids.show(live.exec_id)
        found.cancelling = found.cancelling or live.cancelling
        if live.HasField("progress"):
            found.progress.CopyFrom(live.progress)


def attempt(row: Row) -> pb.Attempt:
    return pb.Attempt(
        job_id=str(row["job_id"]),
        number=row["attempt"],
        exec_id=str(row["exec_id"] or ""),
        outcome=row["outcome"],
        final=row["final"],
        worker=row["worker"] or "",
        start_time=stamp(row["started_at"]),
        finish_time=stamp(row["finished_at"]),
        result=row["result"],
        result_encoding=row["encoding"],
        error=error_from_json(row["error"]),
    )


def running_attempt(job_id: bytes, lease: Row | None, live: LiveJob | None) -> pb.Attempt | None:
    """The present attempt of a job that is handed out, else None."""
    if live is not None and live.state in _HANDED_OUT:
        return pb.Attempt(
            job_id=ids.show(job_id), number=live.attempt, exec_id=ids.show(live.exec_id), worker=live.worker
        )
    if lease is not None:
        return pb.Attempt(
            job_id=ids.show(job_id),
            number=lease["attempt"],
            exec_id=str(lease["exec_id"]),
            worker=lease["worker"] or "",
            start_time=stamp(lease["started_at"]),
        )
    return None

"""A run as its owner loads it: its stored state, and its events and timers that are not applied yet.

Rows are decoded one by one. A value that cannot be decoded fails its own run, whose error names it, and no other run
(A11).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

from taskflow._policy import Outcome
from taskflow.v1 import jobs_pb2
from taskflow_server.core.workflow import (
    FINAL_RUNS,
    Definition,
    Event,
    JobFinished,
    Limits,
    Run,
    RunState,
    RunStatus,
    TimerDue,
)
from taskflow_server.core.workflow import events as workflow_events


class Heard:
    """A stored run, and its events to apply."""

    def __init__(self, row: dict[str, Any], limits: Limits) -> None:
        self.id: UUID = row["id"]
        self.workflow: str = row["workflow"]
        self.version: int = row["version"]
        self.latest: int = row["latest"] or row["version"]  # the version whose `concurrency` counts
        self.shard: int = row["shard"]
        self.turn: int = row["turn"]
        self.held: bool = row["held"]
        self.sla_missed: bool = row["sla_missed"]
        self.depth: int = row["depth"]
        self.now: datetime = row["now"]
        self.age: float = (row["now"] - row["created_at"]).total_seconds()
        self.parent: tuple[UUID, str, int] | None = None
        if row["parent_id"] is not None:
            self.parent = (row["parent_id"], row["parent_step"], row["parent_iteration"])
        self.limits = limits
        self.definition: Definition | str = ""  # or the reason for which it cannot be read
        self.ruling: Definition | str = ""  # that of `latest`
        self.rows: list[dict[str, Any]] = []  # of the inbox
        self.timers: list[TimerDue] = []
        self.metadata: dict[str, str] = {}
        self.run = Run(str(self.id))
        self.unreadable = ""  # the reason for which its stored state cannot be read
        try:
            self._decode(row)
        except Exception as fault:  # bad stored state: only this run fails
            self.state = RunState(status=_status(row["status"]))
            self.forget_state(f"its stored state cannot be read ({_said(fault)})")

    def forget_state(self, why: str) -> None:
        """Makes the run fail without its state, which stays as stored."""
        self.unreadable = why
        self.state = RunState(status=_status(self.state.status))

    def _decode(self, row: dict[str, Any]) -> None:
        self.state = RunState.from_json(json.loads(row["state"]))
        self.metadata = json.loads(row["metadata"])
        own = {"app_url": row["app_url"]} if row["app_url"] else {}
        given = json.loads(row["input"]) if row["input"] is not None else None
        self.run = Run(str(self.id), given, {**own, **json.loads(row["context"])})

    @property
    def fault(self) -> str:
        """The reason for which the run cannot continue, or empty."""
        return self.unreadable or (self.definition if isinstance(self.definition, str) else "")

    @property
    def concurrency(self) -> int | None:
        """The limit of its workflow's latest version, so that a change of it applies to waiting runs as well."""
        ruling = self.ruling if isinstance(self.ruling, Definition) else self.definition
        return ruling.concurrency if isinstance(ruling, Definition) else None

    def events(self) -> Iterator[Event | str]:
        """The events of the inbox in order, then the due timers. A text is the reason why an event cannot be read."""
        for row in self.rows:
            try:
                event = _event(row)
            except Exception as fault:  # an event of a newer version, or one written by hand
                yield f"event {row['seq']} of its inbox cannot be read ({_said(fault)})"
                continue
            if event is not None:
                yield event
        yield from self.timers


def _said(fault: Exception) -> str:
    return f"{type(fault).__name__}: {fault}"[:300]


def _status(stored: str) -> RunStatus:
    """The status of a run whose state cannot be read: a final status stays."""
    known = RunStatus(stored) if stored in set(RunStatus) else RunStatus.RUNNING
    return known if known in FINAL_RUNS else RunStatus.RUNNING


def _event(row: dict[str, Any]) -> Event | None:
    if row["event"] is not None:
        return workflow_events.from_json(json.loads(row["event"]))
    if row["step"] is not None and row["outcome"] is not None:
        return _finished(row)
    return None


def _finished(row: dict[str, Any]) -> JobFinished:
    """The end of a job. A result that cannot be read, for example one nested too deep, is a failure."""
    outcome = Outcome(row["outcome"])
    error = json.loads(row["error"]) if row["error"] is not None else None
    try:
        result = _value(row["result"], row["encoding"])
    except (ValueError, RecursionError) as unreadable:
        outcome, result = Outcome.FAILED, None
        error = {"type": "bad_result", "message": f"its result cannot be read: {type(unreadable).__name__}"}
    return JobFinished(row["step"], row["iteration"], row["index"], outcome, result, error, str(row["job_id"]))


def _value(result: bytes | None, encoding: int) -> Any:
    """A job's result as templates see it; bytes as base64."""
    if result is None:
        return None
    if encoding == jobs_pb2.ENCODING_BYTES:
        return base64.b64encode(result).decode()
    return result.decode() if encoding == jobs_pb2.ENCODING_TEXT else json.loads(result)

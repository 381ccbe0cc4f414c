"""Schedules and their ledger as the cluster answers them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from taskflow._values.jobs import JobWarning


class Misfire(StrEnum):
    """The policy for firings that were missed by more than a minute."""

    SKIP = "skip"
    FIRE_ONCE = "fire_once"
    CATCH_UP = "catch_up"


class Overlap(StrEnum):
    """The policy for a firing while a job of the same schedule is unfinished."""

    SKIP = "skip"
    ALLOW = "allow"
    QUEUE = "queue"
    REPLACE = "replace"


class FiringState(StrEnum):
    """The result of a nominal instant."""

    FIRED = "fired"
    QUEUED = "queued"
    SKIPPED_MISFIRE = "skipped_misfire"
    SKIPPED_OVERLAP = "skipped_overlap"
    SKIPPED_OFF = "skipped_off"


@dataclass(frozen=True, slots=True)
class ScheduleInfo:
    """A schedule as it stood when it was asked for."""

    id: str
    task: str
    workflow: str
    """The workflow that it runs, instead of a task."""
    cron: str
    at: datetime | None
    time_zone: str
    start: datetime | None
    end: datetime | None
    payload: Any
    metadata: dict[str, str]
    misfire: Misfire
    overlap: Overlap
    active: bool
    next_run_at: datetime | None
    """None: never again, or not while it is paused."""
    last_run_at: datetime | None
    create_time: datetime | None
    error: str = ""
    """Why it could not be fired when it was last due; empty when it could."""
    warnings: tuple[JobWarning, ...] = ()
    """Warnings that no worker can run its jobs. Lists leave them out."""


@dataclass(frozen=True, slots=True)
class FiringInfo:
    """The result of a nominal instant; with `count` over 1, of all those from `first` on."""

    instant: datetime
    first: datetime
    count: int
    state: FiringState
    reason: str
    job_id: str
    run_id: str
    """The run that a workflow's schedule began."""
    trigger: str
    """`schedule`, or `backfill`."""


@dataclass(frozen=True, slots=True)
class BackfillInfo:
    """The result of a backfill. `existing`: instants that had a job already, or wait for one."""

    firings: tuple[FiringInfo, ...]
    """The jobs that it made, oldest first."""
    existing: int

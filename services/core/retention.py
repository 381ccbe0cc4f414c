"""What becomes of a day of jobs that has ended before the cutoff. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum

NEARLY = timedelta(days=1)  # a day that can be dropped whole within it is not emptied first


class Action(StrEnum):
    KEEP = "keep"
    EMPTY = "empty"  # delete what is past the retention, job by job
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Survey:
    """What stands in a day. `expired`: finished, and the last attempt ended before the cutoff."""

    jobs: int
    unfinished: int
    expired: int
    newest_finish: datetime | None


@dataclass(slots=True)
class DayReport:
    """What was done with a day, or would be. `survey` is None where nobody looked, `estimate` is Postgres's own."""

    day: date
    action: Action
    why: str
    estimate: int | None = None
    survey: Survey | None = None
    deleted: int = 0  # jobs
    put_off: str = ""  # why the action was not done, or not wholly


@dataclass(slots=True)
class PruneReport:
    """What a prune did, or would do. `firings`, `counts` and `runs` are rows."""

    days: list[DayReport]
    firings: int
    counts: int
    runs: int


def decide(survey: Survey, cutoff: datetime) -> Action:
    """Dropped only when all of it may go; emptied when something in it would hold up the rest for longer (A10)."""
    if survey.expired == survey.jobs:
        return Action.DROP
    newest = survey.newest_finish
    soon = survey.unfinished == 0 and newest is not None and newest <= cutoff + NEARLY
    return Action.KEEP if survey.expired == 0 or soon else Action.EMPTY


def reason(survey: Survey, keep: timedelta) -> str:
    """Which jobs of a day stay; nothing when none does."""
    lately = survey.jobs - survey.unfinished - survey.expired
    parts = [f"{survey.unfinished} unfinished"] if survey.unfinished else []
    if lately and survey.newest_finish:
        parts.append(f"{lately} finished since, the last is kept until {shown(survey.newest_finish + keep)}")
    return ", ".join(parts)


def shown(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M} UTC"

"""Decides what a prune does with a day of jobs that ended before the cutoff. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum

NEARLY = timedelta(days=1)  # a day that can be dropped whole within this time is not emptied first


class Action(StrEnum):
    KEEP = "keep"
    EMPTY = "empty"  # delete the jobs past the retention one by one
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Survey:
    """The numbers of jobs of a day. `expired`: finished, and the last attempt ended before the cutoff."""

    jobs: int
    unfinished: int
    expired: int
    newest_finish: datetime | None


@dataclass(slots=True)
class DayReport:
    """The action for a day, done or planned. `survey` is None if the day was not surveyed; `estimate` is Postgres's."""

    day: date
    action: Action
    why: str
    estimate: int | None = None
    survey: Survey | None = None
    deleted: int = 0  # jobs
    put_off: str = ""  # the reason for which the action was not done, or not completely


@dataclass(slots=True)
class PruneReport:
    """The actions of a prune, done or planned. `firings`, `counts` and `runs` are numbers of rows."""

    days: list[DayReport]
    firings: int
    counts: int
    runs: int


def decide(survey: Survey, cutoff: datetime) -> Action:
    """DROP only when all its jobs may be deleted; EMPTY when some would keep the rest for longer than NEARLY (A10)."""
    if survey.expired == survey.jobs:
        return Action.DROP
    newest = survey.newest_finish
    soon = survey.unfinished == 0 and newest is not None and newest <= cutoff + NEARLY
    return Action.KEEP if survey.expired == 0 or soon else Action.EMPTY


def reason(survey: Survey, keep: timedelta) -> str:
    """Describes the jobs of a day that stay; empty when none does."""
    lately = survey.jobs - survey.unfinished - survey.expired
    parts = [f"{survey.unfinished} unfinished"] if survey.unfinished else []
    if lately and survey.newest_finish:
        parts.append(f"{lately} finished since, the last is kept until {shown(survey.newest_finish + keep)}")
    return ", ".join(parts)


def shown(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M} UTC"

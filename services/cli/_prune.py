"""Options and output of `taskflow db prune`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from taskflow._cli import _output
from taskflow._cli._input import BadInput, seconds
from taskflow_server.core.retention import Action, DayReport, PruneReport

DEFAULT_DAYS = "30"
LARGEST_DAYS = 36_500  # of TASKFLOW_RETENTION
_COLUMNS = ("day", "jobs", "expired", "unfinished", "newest finish", "action", "why")
_DONE = {Action.KEEP: "keep", Action.EMPTY: "emptied", Action.DROP: "dropped"}


def retention(older_than: str, environ: Mapping[str, str]) -> timedelta:
    """How long finished jobs are kept. BadInput says what would be right."""
    option, given = "--older-than", older_than
    if not given:
        days = environ.get("TASKFLOW_RETENTION", DEFAULT_DAYS)
        if not (days.isascii() and days.isdigit() and len(days) <= 5 and int(days) <= LARGEST_DAYS):
            raise BadInput(f"TASKFLOW_RETENTION: {days[:100]!r} is not a whole number of days from 0 to {LARGEST_DAYS}")
        option, given = "TASKFLOW_RETENTION", days + "d"
        if int(days) == 0:
            raise BadInput("TASKFLOW_RETENTION=0 keeps jobs for ever: give --older-than to delete some all the same")
    return timedelta(seconds=seconds(given, option) or 0.0)


def show(report: PruneReport, *, dry_run: bool, as_json: bool) -> None:
    """A table, or one document."""
    if as_json:
        days = [_item(day) for day in report.days]
        return _output.document(
            {
                "dry_run": dry_run,
                "days": days,
                "firings": report.firings,
                "counts": report.counts,
                "runs": report.runs,
            }
        )
    _output.table(_COLUMNS, [_row(day, dry_run) for day in report.days], empty="no partitions")
    if report.firings or report.counts or report.runs:
        done = "would be deleted" if dry_run else "deleted"
        _output.notice(
            f"{report.firings:,} firings of schedules, {report.counts:,} rows of counts and {report.runs:,} runs {done}"
        )


def _item(day: DayReport) -> dict[str, Any]:
    survey = day.survey
    return {
        "day": day.day.isoformat(),
        "jobs": survey.jobs if survey else None,
        "jobs_estimate": day.estimate,
        "expired": survey.expired if survey else None,
        "unfinished": survey.unfinished if survey else None,
        "newest_finish": survey.newest_finish if survey else None,
        "action": day.action,
        "why": day.why,
        "deleted": day.deleted,
        "put_off": day.put_off,
    }


def _row(day: DayReport, dry_run: bool) -> tuple[Any, ...]:
    action = f"would {day.action}" if dry_run and day.action is not Action.KEEP else _DONE[day.action]
    why = day.why
    if day.put_off:
        action, why = "put off", f"{day.put_off} ({day.deleted} jobs deleted)" if day.deleted else day.put_off
    if day.survey is None:
        return day.day, f"~{day.estimate}" if day.estimate is not None else None, None, None, None, action, why
    survey = day.survey
    return day.day, survey.jobs, survey.expired, survey.unfinished, survey.newest_finish, action, why

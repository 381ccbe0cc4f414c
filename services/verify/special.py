"""Checks that one statement cannot decide: instants of schedules, attempts at once, counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from taskflow_server.core.errors import InvalidArgument
from taskflow_server.core.timing import Timing, parse_timing
from taskflow_server.store.verify import History
from taskflow_server.verify.ledger import Fault, LedgerRow, Reading
from taskflow_server.verify.limits import Running
from taskflow_server.verify.pages import FIRST, Page

Row = dict[str, Any]
_PAGE = 5000
# After a change of a task's limit the owner hears of it within 2 s, and what started before may exceed it for longer.
_LIMIT_HEARD = timedelta(seconds=5)
_SHOWN = 20  # names in a proof
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


async def ledgers(history: History, page: Page, common: Mapping[str, Any]) -> AsyncIterator[tuple[int, list[Row]]]:
    """Reads the ledger of each schedule of a page: how many rows, and where they contradict its times.

    A finding is looked at once more: the schedule may have been changed or deleted while its ledger was read.
    """
    for schedule in await history.rows("verify_schedules", low=page.low, high=page.high, **common):
        looked, faults = await _ledger(history, schedule)
        if faults:
            before = UUID(int=schedule["id"].int - 1)
            again = await history.rows("verify_schedules", low=before, high=schedule["id"], **common)
            kept = set((await _ledger(history, again[0]))[1]) if again else set()
            faults = [fault for fault in faults if fault in kept]
        yield looked, [_told(schedule, fault) for fault in faults]


async def _ledger(history: History, schedule: Row) -> tuple[int, list[Fault]]:
    try:
        timing = _timing(schedule)
    except InvalidArgument:  # times that cannot be read have no instants; the schedule says so in its `error`
        return 0, []
    reading = Reading(timing, schedule["counted_from"], schedule["cursor"])
    looked, faults, after = 0, list[Fault](), schedule["counted_from"]
    rows: Sequence[Row] = [Row()] * _PAGE
    while len(rows) == _PAGE:
        rows = await history.rows(
            "verify_ledger", schedule_id=schedule["id"], after=after, cursor=schedule["cursor"], limit=_PAGE
        )
        faults += reading.read(LedgerRow(**row) for row in rows)
        looked += len(rows)
        after = rows[-1]["instant"] if rows else after
    return looked, [*faults, *reading.end()]


def _timing(row: Row) -> Timing:
    return parse_timing(
        cron=row["cron"], at=row["at"], time_zone=row["time_zone"], start=row["start_at"], end=row["end_at"]
    )


def _told(schedule: Row, fault: Fault) -> Row:
    times = schedule["cron"] or schedule["at"].isoformat()
    return {
        "subject": f"{schedule['id']} {fault.first.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "proof": {
            "fault": fault.what, "first": fault.first.isoformat(), "last": fault.last.isoformat(),
            "instants": fault.instants, "times": times, "time_zone": schedule["time_zone"],
            "cursor": schedule["cursor"].isoformat(),
        },
    }  # fmt: skip


async def limits(
    history: History, since: datetime | None, until: datetime | None
) -> AsyncIterator[tuple[int, list[Row]]]:
    """The attempts at each task with a concurrency, since that was last changed, and those that exceeded it."""
    for task in await history.rows("verify_limited_tasks"):
        after, after_job = max(task["updated_at"] + _LIMIT_HEARD, since or _LONG_AGO), FIRST
        running = Running()
        rows: Sequence[Row] = [Row()] * _PAGE
        while len(rows) == _PAGE:
            rows = await history.rows(
                "verify_task_runs", task_id=task["id"], after=after, after_job=after_job, until=until, limit=_PAGE
            )
            yield len(rows), [over for row in rows if (over := _over(task, row, running)) is not None]
            after, after_job = (rows[-1]["started_at"], rows[-1]["job_id"]) if rows else (after, after_job)


def _over(task: Row, row: Row, running: Running) -> Row | None:
    name = f"{row['job_id']} attempt {row['attempt']}"
    at_once = running.start(row["started_at"], row["finished_at"], name)
    if len(at_once) <= task["concurrency"]:
        return None
    proof = {
        "task": task["name"], "concurrency": task["concurrency"], "at_once": len(at_once),
        "at": row["started_at"].isoformat(), "attempts": sorted(at_once)[:_SHOWN],
    }  # fmt: skip
    return {"subject": name, "proof": proof}


class Ends:
    """Counts the final attempts of pages by queue and outcome, to be compared with `counts`."""

    def __init__(self) -> None:
        self._ended: Counter[tuple[str, int]] = Counter()

    def add(self, rows: Sequence[Row]) -> None:
        """Adds a page."""
        for row in rows:
            self._ended[row["queue"], row["outcome"]] += row["n"]

    def exceeded(self, claimed: Sequence[Row]) -> list[Row]:
        """The counts that say more. They are approximate, and never too high."""
        return [
            {
                "subject": f"{row['queue']} outcome {row['outcome']}",
                "proof": {"counted": row["n"], "final_attempts": self._ended[row["queue"], row["outcome"]]},
            }
            for row in claimed
            if row["n"] > self._ended[row["queue"], row["outcome"]]
        ]

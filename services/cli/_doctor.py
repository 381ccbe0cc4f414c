"""`taskflow db doctor`: its checks, and how they are shown."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from taskflow_server.store import restored
from taskflow_server.store.migrate import status


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. `well` is also true of a fault that was mended."""

    check: str
    well: bool
    said: str


async def examine(dsn: str, *, fix: bool) -> list[Finding]:
    """All checks, in order. psycopg.Error when the database cannot be had."""
    found = [await _migrations(dsn)]
    if found[0].well:
        found.append(await _numbers(dsn, fix))
    return found


async def _migrations(dsn: str) -> Finding:
    wrong = [f"{row.name} is {row.state}" for row in await status(dsn) if row.state != "applied"]
    cure = "; run `taskflow db migrate`" if wrong else ""
    return Finding("migrations", not wrong, ", ".join(wrong) + cure if wrong else "all are applied")


async def _numbers(dsn: str, fix: bool) -> Finding:
    check = "transaction numbers"
    numbers = await restored.look(dsn)
    if not numbers.foreign:
        return Finding(check, True, "all were given by this cluster")
    if fix and (mended := await restored.mend(dsn)) is not None:
        return Finding(check, True, f"mended: {mended}")
    highest = max(numbers.marks, numbers.jobs)
    said = f"the highest is {highest:,}, and this cluster has reached {numbers.reached:,}, as after a restored dump"
    return Finding(check, False, f"{said}: new jobs would not run; run `taskflow db doctor --fix`")


def show(findings: list[Finding], *, as_json: bool) -> None:
    """A line for each check, or one document."""
    if as_json:
        print(json.dumps({"checks": [asdict(finding) for finding in findings]}))
        return
    for finding in findings:
        print(f"{'ok   ' if finding.well else 'FAULT'} {finding.check}: {finding.said}")

"""Options and output of `taskflow verify`."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from taskflow._cli import _output
from taskflow._cli._input import BadInput, moment
from taskflow_server.store.verify import history
from taskflow_server.verify.checks import BY_ID, CHECKS, Check
from taskflow_server.verify.running import Options, Result, Verification

PROGRESS_EVERY = 5.0  # seconds


def options(since: str, until: str, ids: Sequence[str], limit: int) -> Options:
    """Options as they were typed. BadInput says what would be right."""
    first, last = moment(since, "--since"), moment(until, "--until")
    if first is not None and last is not None and first >= last:
        raise BadInput(f"--since {since} is not before --until {until}")
    return Options(checks=[_check(id) for id in dict.fromkeys(ids)] or CHECKS, since=first, until=last, limit=limit)


def _check(id: str) -> Check:
    if id in BY_ID:
        return BY_ID[id]
    near = get_close_matches(id, BY_ID, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise BadInput(f"--check {id[:100]} is not the id of a check; {hint}ids: {', '.join(BY_ID)}")


async def run(dsn: str, wanted: Options, *, as_json: bool) -> bool:
    """Runs the checks and shows each as it ends. Whether nothing was found."""
    results = []
    async with history(dsn) as rows:
        async for result in Verification(rows, wanted, progress=_Progress().tell).run():
            results.append(result)
            if not as_json:
                _show(result)
    found = sum(result.found for result in results)
    if as_json:
        _output.document({"findings": found, "checks": [_item(result) for result in results]})
    else:
        skipped = sum(bool(result.skipped) for result in results)
        also = f", {skipped} skipped" if skipped else ""
        print(f"{found:,} {'finding' if found == 1 else 'findings'} in {len(results)} checks{also}")
    return found == 0


class _Progress:
    """Says every few seconds how far a long check is."""

    def __init__(self) -> None:
        self._said = time.monotonic()

    def tell(self, check: Check, looked: int, of: int) -> None:
        if time.monotonic() - self._said >= PROGRESS_EVERY:
            self._said = time.monotonic()
            _output.notice(f"{check.id}: {looked:,} of {of:,} {check.rows}")


def _show(result: Result) -> None:
    check = result.check
    if result.skipped:
        print(f"skip  {check.id}: {result.skipped}", flush=True)
        return
    word = "FAULT" if result.found else "ok   "
    print(f"{word} {check.id}: {check.promise} ({result.looked:,} {check.rows})", flush=True)
    for finding in result.findings:
        proof = _output.cell(json.dumps(finding.proof, ensure_ascii=False))
        print(f"      {_output.cell(finding.subject)}  {proof}")
    if result.found > len(result.findings):
        print(f"      and {result.found - len(result.findings):,} more; --limit shows more of them")


def _item(result: Result) -> dict[str, Any]:
    check = result.check
    return {
        "id": check.id,
        "promise": check.promise,
        "rows": check.rows.value,
        "looked": result.looked,
        "found": result.found,
        "findings": [{"subject": finding.subject, "proof": finding.proof} for finding in result.findings],
        "skipped": result.skipped or None,
    }

"""Logs attempts that did not succeed, each with its job. The text of a handler's error stays in the database."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

from taskflow._policy import Outcome
from taskflow_server.coordinator.outcomes.ending import Ending
from taskflow_server.coordinator.shared import Shared
from taskflow_server.core.ids import show
from taskflow_server.runtime import logs

log = logs.get("attempts")

_SUCCEEDED = int(Outcome.SUCCEEDED)
_BROKEN = frozenset({Outcome.FAILED, Outcome.TIMED_OUT, Outcome.LOST})


class AttemptLog:
    def __init__(self, shared: Shared) -> None:
        self._lines = logs.RateLimitedLog(log, shared.clock.monotonic)

    def ended(self, endings: Sequence[Ending]) -> None:
        """Call after the commit of these endings."""
        for ending in [e for e in endings if e.row.outcome != _SUCCEEDED]:
            level, event = _said(ending)
            if self._lines.wanted(level):
                self._lines.say(level, event, **_facts(ending))


def _said(ending: Ending) -> tuple[int, str]:
    change = ending.change
    if change.outcome is Outcome.CANCELLED:
        return logging.INFO, "a job is cancelled"
    if change.outcome not in _BROKEN:
        return logging.DEBUG, "an attempt was returned or snoozed"
    if change.final:
        return logging.WARNING, "a job has failed"
    return logging.INFO, "an attempt failed; another follows"


def _facts(ending: Ending) -> dict[str, object]:
    entry, row, change = ending.entry, ending.row, ending.change
    facts: dict[str, object] = {
        "job": show(entry.job_id), "attempt": entry.attempt, "queue": entry.key.queue, "task": entry.key.task,
        "worker": row.worker, "outcome": change.outcome.name.lower(),
    }  # fmt: skip
    if row.error is not None:
        facts["error"] = json.loads(row.error)["type"]
    if change.then is not None:
        facts["delay"] = round(change.then.delay, 3)
    return {name: value for name, value in facts.items() if value not in ("", None)}

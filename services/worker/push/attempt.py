"""An attempt that a pusher answers for, and what each look at its external job means. Pure.

`learn` is all that decides: from what was known and what the destination shows now, to lines for the job's log and,
once, to a verdict.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from taskflow.v1 import jobs_pb2, worker_pb2
from taskflow_server.worker.push.destination import External, Order, Phase, Ticket

MISSING = 3  # looks in a row that do not find an external job: it was deleted, or the destination has forgotten it
MOST_WORDS = 1000  # characters of a destination's reason
MOST_REASONS = 10  # limit of the reported reasons for which an external job waits


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """How the attempt ended. `error` empty: it succeeded."""

    facts: Mapping[str, Any]
    error: str = ""
    message: str = ""
    final: bool = False
    returned: bool = False  # it never was submitted: it goes back, and uses no try


@dataclass(slots=True, eq=False)
class PushedAttempt:
    ticket: Ticket
    order: Order | None = None  # None: found at the destination
    starting: bool = False  # TaskFlow is being asked for it
    started: bool = False  # and the coordinator has confirmed it
    doubtful: bool = False  # its external job may exist, although it is unknown here
    not_before: float = 0.0  # while doubtful: when not finding it begins to mean that there is none
    external: External | None = None
    missing: int = 0
    told: Phase | None = None
    told_log: bool = False
    told_reasons: set[str] = field(default_factory=set)  # their first words: what follows may change at each look
    lines: list[tuple[str, str]] = field(default_factory=list)  # for the job's log
    progress: str = ""
    verdict: AttemptEnd | None = None

    @property
    def wants_a_place(self) -> bool:
        """Whether its external job must be found or submitted."""
        return self.external is None and self.verdict is None and not self.starting

    def say(self, level: str, text: str) -> None:
        self.lines.append((level, text))


def learn(held: PushedAttempt, seen: External | None, destination: str) -> None:
    """The external job as the destination shows it now; None: absent."""
    if held.verdict is not None:
        return
    if seen is None:
        held.missing += 1
        if held.missing >= MISSING:
            held.verdict = _failed(held.external, destination, "it is not there any more")
        return
    held.missing = 0
    held.external = seen
    if held.told is not seen.phase:
        held.told = seen.phase
        held.progress = f"{seen.phase} at {destination}"
        held.told_reasons = {_sort(seen)}
        held.say("info" if seen.phase is not Phase.FAILED else "warning", _words(seen, destination))
    elif seen.reason and _sort(seen) not in held.told_reasons and len(held.told_reasons) < MOST_REASONS:
        held.told_reasons.add(_sort(seen))
        held.progress = f"{seen.phase} at {destination}: {_sort(seen)}"
        held.say("warning", _words(seen, destination))
    if seen.log_url and not held.told_log:
        held.told_log = True
        held.say("info", f"log: {seen.log_url}")
    if seen.phase.over and seen.tail:
        held.say("info", f"its last lines:\n{seen.tail}")
    if seen.phase is Phase.SUCCEEDED:
        held.verdict = AttemptEnd(_facts(seen, destination))
    elif seen.phase is Phase.FAILED:
        held.verdict = _failed(seen, destination, seen.reason[:MOST_WORDS])


def refused(destination: str, why: str) -> AttemptEnd:
    """The destination does not take the order; another try would end the same."""
    return AttemptEnd({"destination": destination}, "Refused", f"{destination}: {why}"[:MOST_WORDS], final=True)


def returned(destination: str) -> AttemptEnd:
    return AttemptEnd({"destination": destination}, returned=True)


def _sort(seen: External) -> str:
    """The category of its reason."""
    return seen.reason.partition(":")[0][:MOST_WORDS]


def _words(seen: External, destination: str) -> str:
    code = f", exit code {seen.exit_code}" if seen.exit_code is not None else ""
    reason = f": {seen.reason[:MOST_WORDS]}" if seen.reason else ""
    return f"{seen.phase} at {destination} as {seen.id}{code}{reason}"


def _facts(seen: External, destination: str) -> dict[str, Any]:
    return {"destination": destination, "id": seen.id, "exit_code": seen.exit_code, "log_url": seen.log_url or None}


def _failed(seen: External | None, destination: str, reason: str) -> AttemptEnd:
    if seen is None:
        return AttemptEnd({"destination": destination}, "External", f"{destination}: {reason}")
    code = f"exit code {seen.exit_code}" if seen.exit_code is not None else ""
    parts = [part for part in (code, reason) if part] or ["it failed, and does not say why"]
    log = f"; log: {seen.log_url}" if seen.log_url else ""
    kind = "ExitCode" if seen.exit_code else "External"
    return AttemptEnd(_facts(seen, destination) | {"reason": reason}, kind, f"{destination}: {': '.join(parts)}{log}")


def outcome_of(held: PushedAttempt) -> worker_pb2.AttemptOutcome:
    """The verdict, to be reported."""
    verdict = held.verdict
    assert verdict is not None
    outcome = worker_pb2.AttemptOutcome(
        exec_id=held.ticket.exec_id, job_id=held.ticket.job_id, started=True, outcome=jobs_pb2.OUTCOME_SUCCEEDED
    )
    facts = json.dumps(dict(verdict.facts), ensure_ascii=False).encode()
    if verdict.returned:
        outcome.outcome = jobs_pb2.OUTCOME_RETURNED
    elif verdict.error:
        outcome.outcome = jobs_pb2.OUTCOME_FAILED
        outcome.error.CopyFrom(
            jobs_pb2.Error(type=verdict.error, message=verdict.message, final=verdict.final, details=facts)
        )
    else:
        outcome.result, outcome.encoding = facts, jobs_pb2.ENCODING_JSON
    return outcome

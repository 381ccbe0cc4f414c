"""Performs the effects of events of the dispatch table."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

from taskflow._policy import Outcome
from taskflow_server.coordinator.outcomes.writer import OutcomeWriter
from taskflow_server.coordinator.shared import Shared
from taskflow_server.core.dispatch.effects import Effects, End
from taskflow_server.core.dispatch.records import Entry
from taskflow_server.core.dispatch.transitions import Phase


class Performer:
    def __init__(self, shared: Shared, outcomes: OutcomeWriter) -> None:
        self._shared = shared
        self._outcomes = outcomes
        self.send_cancel: Callable[[Entry], None] = lambda entry: None  # set to the workers' sessions once they exist

    def perform(self, effects: Effects) -> None:
        """Performs all effects except those that the caller handles: `void` and `revoke` of a heartbeat, `lease_first`
        of a settlement."""
        for (outcome, reason, final), ends in groupby(effects.ends, key=_decision):
            self._outcomes.end([end.entry for end in ends], outcome, reason, final=final)
        if effects.take_out:
            self._shared.take_back(effects.take_out)
        for entry in effects.cancel:
            if entry.phase is Phase.TAKEN:
                self.send_cancel(entry)
        self._shared.fed.set()


def _decision(end: End) -> tuple[Outcome, str, bool]:
    return end.outcome, end.reason, end.final

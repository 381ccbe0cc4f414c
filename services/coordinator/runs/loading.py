"""Loads runs with their events, timers and documents. One that cannot be loaded delays no other."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from uuid import UUID

from taskflow_server.coordinator.runs.inputs import Heard
from taskflow_server.coordinator.shared import Shared
from taskflow_server.core.workflow import BadDocument, Definition, Limits, TimerDue

EVENTS = 100  # limit of one run in a transaction
STATE_BYTES, EVENT_BYTES = 8 << 20, 16 << 20  # of all runs of one transaction: Python needs ten times as much memory
DEFINITIONS = 500  # cached: one of 1,000 steps takes 22 ms to parse


class RunLoader:
    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._limits = Limits(payload=shared.settings.max_payload_bytes)
        self._definitions: OrderedDict[tuple[str, int], Definition | str] = OrderedDict()  # or why it cannot be read

    async def load(self, ids: Sequence[UUID]) -> list[Heard]:
        """The first of these runs, as many as fit into memory. Deleted runs have no events."""
        db = self._shared.db
        rows = await db.rows("load_runs", ids=list(ids), bytes=STATE_BYTES)
        heard = {row["id"]: Heard(row, self._limits) for row in rows}
        missing = [run_id for run_id in ids if run_id not in heard]
        if missing:
            await db.run("delete_inbox_of_nobody", ids=missing)
        for row in await db.rows("events_of_runs", ids=list(heard), limit=EVENTS, bytes=EVENT_BYTES):
            heard[row["run_id"]].rows.append(row)
        for row in await db.rows("due_timers", ids=list(heard)):
            heard[row["run_id"]].timers.append(TimerDue(row["name"], row["iteration"]))
        runs = heard.values()
        await self._read({(run.workflow, n) for run in runs for n in (run.version, run.latest)})
        for run in runs:
            run.definition = self._definitions[run.workflow, run.version]
            run.ruling = self._definitions[run.workflow, run.latest]
        return list(runs)

    async def definitions(self, workflows: Iterable[tuple[str, int]]) -> list[Definition | str]:
        """The definition of each of these versions, or the reason for which its document cannot be read."""
        wanted = list(workflows)
        await self._read(set(wanted))
        return [self._definitions[key] for key in wanted]

    async def _read(self, wanted: set[tuple[str, int]]) -> None:
        missing = sorted(wanted - self._definitions.keys())
        if missing:
            names, versions = [name for name, _ in missing], [version for _, version in missing]
            rows = await self._shared.db.rows("workflow_documents", names=names, versions=versions)
            documents = {(row["name"], row["version"]): row["document"] for row in rows}
            for key in missing:
                self._definitions[key] = await asyncio.to_thread(_parse, documents.get(key))
        for key in wanted:
            self._definitions.move_to_end(key)
        while len(self._definitions) > max(DEFINITIONS, len(wanted)):
            self._definitions.popitem(last=False)


def _parse(document: str | None) -> Definition | str:
    if document is None:
        return "its document was deleted"
    try:
        return Definition.parse(document)
    except BadDocument as error:
        return f"its document cannot be read any more: {error}"
    except Exception as error:  # a fault of the parser: only the runs of this document fail
        return f"its document cannot be read any more ({type(error).__name__}: {error})"

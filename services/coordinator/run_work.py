"""What the owner of runs does with those that have news: loads them, lets them hear it, writes what follows.

It needs the workflows' engine, which takes 75 ms and some MB: imported with the first run that has news.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Sequence
from uuid import UUID

from services.coordinator.pager import Pager
from services.coordinator.run_jobs import RunJobs
from services.coordinator.run_turns import Heard, Worked, changes_of, work_out
from services.coordinator.state import State
from services.core.errors import NotOwner, Unavailable
from services.core.workflow import BadDocument, Definition, Limits, TimerDue
from services.runtime import logs, metrics
from services.runtime.failpoints import reach
from services.store import runs as store
from services.store.database import Writer
from services.store.errors import DatabaseError

log = logs.get("runs")

EVENTS = 100  # of one run in a transaction
STATE_BYTES, EVENT_BYTES = 8 << 20, 16 << 20  # of all that one transaction loads: Python takes ten times as much
LEFT_OUT = 60.0  # seconds until a run is looked at again that could not even be made to fail
DEFINITIONS = 500  # kept: one of 1,000 steps takes 22 ms to read


class RunWork:
    def __init__(self, state: State, pager: Pager, writer: Writer) -> None:
        self._state = state
        self._writer = writer
        self._jobs = RunJobs(state, pager)
        self._limits = Limits(payload=state.settings.max_payload_bytes)
        self._definitions: OrderedDict[tuple[str, int], Definition | str] = OrderedDict()  # or why it cannot be read
        self._left_out: dict[UUID, float] = {}  # until when

    async def go_on(self, ids: Sequence[UUID], epochs: dict[int, int]) -> bool:
        """Whether there was anything that could be done."""
        now = self._state.clock.real.monotonic()
        self._left_out = {run_id: until for run_id, until in self._left_out.items() if until > now}
        wanted = [run_id for run_id in ids if run_id not in self._left_out]
        if wanted:
            await self._go_on(await self._load(wanted), epochs)
        return bool(wanted)

    async def _load(self, ids: Sequence[UUID]) -> list[Heard]:
        """These runs, with what each has to hear."""
        db = self._state.db
        rows = await db.rows("load_runs", ids=list(ids), bytes=STATE_BYTES)
        heard = {row["id"]: Heard(row, self._limits) for row in rows}
        missing = [run_id for run_id in ids if run_id not in heard]
        if missing:
            await db.run("delete_inbox_of_nobody", ids=missing)
        for row in await db.rows("events_of_runs", ids=list(heard), limit=EVENTS, bytes=EVENT_BYTES):
            heard[row["run_id"]].rows.append(row)
        for row in await db.rows("due_timers", ids=list(heard)):
            heard[row["run_id"]].timers.append(TimerDue(row["name"], row["iteration"]))
        await self._read_definitions({(run.workflow, run.version) for run in heard.values()})
        for run in heard.values():
            run.definition = self._definitions[run.workflow, run.version]
        return list(heard.values())

    async def _read_definitions(self, wanted: set[tuple[str, int]]) -> None:
        missing = sorted(wanted - self._definitions.keys())
        if missing:
            names, versions = [name for name, _ in missing], [version for _, version in missing]
            rows = await self._state.db.rows("workflow_documents", names=names, versions=versions)
            documents = {(row["name"], row["version"]): row["document"] for row in rows}
            for key in missing:
                self._definitions[key] = await asyncio.to_thread(_parse, documents.get(key))
        for key in wanted:
            self._definitions.move_to_end(key)
        while len(self._definitions) > max(DEFINITIONS, len(wanted)):
            self._definitions.popitem(last=False)

    # -- one transaction ---------------------------------------------------------------------
    async def _go_on(self, heard: list[Heard], epochs: dict[int, int]) -> None:
        """Applies and writes; where that is impossible with one of the runs, each goes alone, and that one fails."""
        try:
            await self._apply(heard, epochs)
        except (Unavailable, NotOwner):
            raise
        except Exception as error:
            if len(heard) > 1:
                for run in heard:
                    await self._go_on([run], epochs)
                return
            log.error("a run cannot go on, and fails", run=str(heard[0].id), exc_info=error)
            await self._give_up(heard[0], error, epochs)

    async def _give_up(self, run: Heard, error: Exception, epochs: dict[int, int]) -> None:
        what = error.sqlstate if isinstance(error, DatabaseError) else type(error).__name__
        run.definition = f"what follows cannot be written ({what})"
        try:
            await self._apply([run], epochs)
        except (Unavailable, NotOwner):
            raise
        except Exception as again:
            log.error("a run is left out for a minute", run=str(run.id), exc_info=again)
            self._left_out[run.id] = self._state.clock.real.monotonic() + LEFT_OUT

    async def _apply(self, heard: list[Heard], epochs: dict[int, int]) -> None:
        active = await self._active(heard)
        worked = await asyncio.to_thread(lambda: [work_out(run, active) for run in heard])
        try:
            await self._write(worked, active, epochs)
        except DatabaseError as error:
            if not (error.sqlstate or "").startswith(("22", "23")):
                raise Unavailable(f"runs cannot be written: {error}") from error
            raise
        except NotOwner:
            mine = self._state.book.shards
            if all(n in mine and mine[n].epoch == epochs[n] for n in {run.shard for run in heard}):
                self._state.lost.set()
            raise

    async def _active(self, heard: Sequence[Heard]) -> Counter[str]:
        """Of the workflows among these that bound their concurrency: how many runs are under way."""
        bound = sorted({run.workflow for run in heard if run.concurrency is not None})
        rows = await self._state.db.rows("active_runs", workflows=bound) if bound else []
        return Counter({row["workflow"]: row["n"] for row in rows})

    async def _write(self, worked: Sequence[Worked], active: Counter[str], epochs: dict[int, int]) -> None:
        changes = changes_of(worked)
        for run in worked:
            if run.ended and run.heard.concurrency is not None:
                room = run.heard.concurrency - active[run.heard.workflow]
                changes.freed[run.heard.workflow] = max(0, room)
        offers = await self._jobs.make(worked, changes)
        await reach("coordinator.before_run")
        tx = await store.write(self._writer, changes, {n: epochs[n] for n in {run.heard.shard for run in worked}})
        await reach("coordinator.after_run")
        self._jobs.offer(offers, tx)
        if changes.cancelled:
            self._state.cancels_wanted.set()
        for run in worked:
            self._count(run)
            if run.ended:
                self._state.announce_final(run.heard.id.bytes)

    def _count(self, run: Worked) -> None:
        if run.begun:
            metrics.runs_started.inc()
        if run.sla_missed and not run.heard.sla_missed:
            metrics.runs_sla_missed.inc()
        if run.ended:
            metrics.runs_finished.labels(run.state.status.value).inc()


def _parse(document: str | None) -> Definition | str:
    if document is None:
        return "its document is gone"
    try:
        return Definition.parse(document)
    except BadDocument as error:
        return f"its document cannot be read any more: {error}"

"""Advances the runs that have events: loads them, applies the events, and writes the changes in one transaction.

It needs the workflow engine, which takes 75 ms and some MB, so it is imported with the first run that has events.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from uuid import UUID

from taskflow_server.coordinator.lanes.pager import LanePager
from taskflow_server.coordinator.outcomes.sla_misses import Miss, recorded
from taskflow_server.coordinator.runs.apply import Worked, changes_of, work_out
from taskflow_server.coordinator.runs.create_jobs import Offer, RunJobs
from taskflow_server.coordinator.runs.inputs import Heard
from taskflow_server.coordinator.runs.loading import RunLoader
from taskflow_server.coordinator.shared import Shared
from taskflow_server.core.errors import NotOwner, Unavailable
from taskflow_server.runtime import logs, metrics
from taskflow_server.runtime.failpoints import reach
from taskflow_server.store import runs as store
from taskflow_server.store.database import Writer
from taskflow_server.store.errors import DatabaseError

log = logs.get("runs")

LEFT_OUT = 60.0  # seconds until the next try of a run that could not even be made to fail
RELEASED = 1000  # limit of the runs that one step releases when a workflow's concurrency is no longer limited


class RunWork:
    def __init__(self, shared: Shared, pager: LanePager, writer: Writer) -> None:
        self._shared = shared
        self._writer = writer
        self._jobs = RunJobs(shared, pager)
        self._loader = RunLoader(shared)
        self._left_out: dict[UUID, float] = {}  # until when

    def left_out(self) -> list[UUID]:
        """The runs to skip for now."""
        now = self._shared.clock.real.monotonic()
        self._left_out = {run_id: until for run_id, until in self._left_out.items() if until > now}
        return list(self._left_out)

    async def go_on(self, ids: Sequence[UUID], epochs: dict[int, int]) -> list[UUID]:
        """Advances the first of these runs, as many as fit into memory; returns their ids."""
        try:
            heard = await self._loader.load(ids)
        except (Unavailable, NotOwner):
            raise
        except Exception as error:  # a row cannot be fetched: each run is loaded separately, and that one is left out
            if len(ids) == 1:
                self._leave_out(ids[0], error)
                return list(ids)
            return [done for run_id in ids for done in await self.go_on([run_id], epochs)]
        await self._go_on([run for run in heard if run.rows or run.timers], epochs)
        there = {run.id for run in heard}
        loaded = max((n for n, run_id in enumerate(ids) if run_id in there), default=len(ids))
        return list(ids[: loaded + 1])

    def _leave_out(self, run_id: UUID, error: Exception) -> None:
        log.error("a run is left out for a minute", run=str(run_id), exc_info=error)
        metrics.runs_left_out.inc()
        self._left_out[run_id] = self._shared.clock.real.monotonic() + LEFT_OUT

    async def release_held(self, epochs: dict[int, int]) -> None:
        """Releases runs that wait for others of their workflow, if the limit of its latest version allows it."""
        rows = await self._shared.db.rows("held_workflows", shards=list(epochs))
        rulings = await self._loader.definitions((row["workflow"], row["version"]) for row in rows)
        changes, shards = store.RunChanges(), set()
        for row, ruling in zip(rows, rulings, strict=True):
            if isinstance(ruling, str):
                continue  # the limit of its own version then holds each run, and it is released as others end
            room = RELEASED if ruling.concurrency is None else ruling.concurrency - row["active"]
            if room > 0:
                changes.freed[row["workflow"]] = room
                shards.add(row["shard"])
        if changes.freed:
            await self._commit(changes, {n: epochs[n] for n in shards})

    # -- one transaction ---------------------------------------------------------------------
    async def _go_on(self, heard: list[Heard], epochs: dict[int, int]) -> None:
        """Applies events and writes. If that fails for one run, each is tried separately, and that one fails."""
        if not heard:
            return
        try:
            await self._apply(heard, epochs)
        except (Unavailable, NotOwner):
            raise
        except store.RunsChanged as error:
            # A commit in doubt has succeeded after these runs were read: nothing was written now, and the next pass
            # reads their present state.
            log.info("runs are read again", runs=len(heard), why=str(error))
        except Exception as error:
            if len(heard) > 1:
                for run in heard:
                    await self._go_on([run], epochs)
                return
            log.error("a run cannot go on, and fails", run=str(heard[0].id), exc_info=error)
            await self._give_up(heard[0], error, epochs)

    async def _give_up(self, run: Heard, error: Exception, epochs: dict[int, int]) -> None:
        """Fails a run: with the state that was read, or, if even that raises, without it."""
        said = error.sqlstate if isinstance(error, DatabaseError) else type(error).__name__
        run.definition = why = f"its changes cannot be written ({said})"
        for last in (False, True):
            try:
                await self._apply([run], epochs)
                return
            except (Unavailable, NotOwner):
                raise
            except store.RunsChanged:
                return  # it has advanced since: the next pass reads its present state
            except Exception as again:
                if last:
                    self._leave_out(run.id, again)
                run.forget_state(why)

    async def _apply(self, heard: list[Heard], epochs: dict[int, int]) -> None:
        active = await self._active(heard)
        worked = await asyncio.to_thread(lambda: [work_out(run, active) for run in heard])
        changes = changes_of(worked)
        for run in worked:
            if run.ended and run.heard.concurrency is not None:
                room = run.heard.concurrency - active[run.heard.workflow]
                changes.freed[run.heard.workflow] = max(0, room)
        offers = await self._jobs.make(worked, changes)
        await reach("coordinator.before_run")
        tx = await self._commit(changes, {n: epochs[n] for n in {run.shard for run in heard}})
        await reach("coordinator.after_run")
        try:
            self._announce(worked, changes, offers, tx)
        except Exception as error:  # already committed: a fault here is not one of these runs
            log.error("runs were written, and cannot be announced", runs=len(worked), exc_info=error)

    async def _active(self, heard: Sequence[Heard]) -> Counter[str]:
        """The number of active runs of each of these workflows that limits its concurrency."""
        bound = sorted({run.workflow for run in heard if run.concurrency is not None})
        rows = await self._shared.db.rows("active_runs", workflows=bound) if bound else []
        return Counter({row["workflow"]: row["n"] for row in rows})

    async def _commit(self, changes: store.RunChanges, epochs: dict[int, int]) -> int:
        try:
            return await store.write(self._writer, changes, epochs)
        except NotOwner:
            mine = self._shared.table.shards
            if all(n in mine and mine[n].epoch == epoch for n, epoch in epochs.items()):
                self._shared.lost.set()
            raise

    def _announce(self, worked: Sequence[Worked], changes: store.RunChanges, offers: Sequence[Offer], tx: int) -> None:
        self._jobs.offer(offers, tx)
        if changes.cancelled or changes.abandoned:
            self._shared.cancels_wanted.set()
        for run in worked:
            self._count(run)
            if run.ended:
                self._shared.announce_final(run.heard.id.bytes)

    def _count(self, run: Worked) -> None:
        if run.begun:
            metrics.runs_started.inc()
        if run.sla_missed and not run.heard.sla_missed:
            recorded([Miss("run", run.heard.id, run.heard.workflow)])
        if run.ended:
            metrics.runs_finished.labels(run.state.status.value).inc()

"""What a takeover leaves open: attempts that may run somewhere, and those that workers claim."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from taskflow._policy import Outcome
from taskflow._process.identity import Process
from taskflow_server.coordinator.entries import facts_of, leased_entry, load_facts
from taskflow_server.coordinator.outcomes.writer import OutcomeWriter
from taskflow_server.coordinator.perform import Performer
from taskflow_server.coordinator.shared import Shared
from taskflow_server.coordinator.workers.executor_timeouts import restored
from taskflow_server.coordinator.workers.lease_rows import LeaseRows, lease_row
from taskflow_server.core.dispatch.records import Entry, WorkerRecord
from taskflow_server.core.dispatch.transitions import Phase
from taskflow_server.runtime import logs
from taskflow_server.store.errors import FAULTS

log = logs.get("recovery")


class Takeover:
    def __init__(self, shared: Shared, outcomes: OutcomeWriter, performer: Performer, lease_rows: LeaseRows) -> None:
        self._shared = shared
        self._outcomes = outcomes
        self._performer = performer
        self._lease_rows = lease_rows
        self._outage = shared.readiness.outage(log, "what a takeover left open cannot be settled")

    async def read_workers(self) -> None:
        """Gives every registered worker a seat, and a lease's time to confirm (A5).

        The former owner's name does not narrow them: after a clean hand-over there is none, and an owner that died
        before its own takeover had settled may never have met workers that still run its predecessor's jobs.
        """
        shared = self._shared
        rows = await shared.db.rows("registered_workers")
        deadline = shared.clock.monotonic() + shared.settings.lease
        for row in rows:
            worker = row["worker_id"].bytes
            if worker not in shared.table.workers:
                process = Process(row["pid_namespace"] or "", row["pid"], row["pid_started"] or 0)
                shared.table.workers[worker] = WorkerRecord(worker, deadline, row["name"], process=process)

    async def read_leases(self, shards: list[int]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """The rows of these shards' leases, each with its job's facts."""
        leases = await self._shared.db.rows("list_leases", shards=shards)
        facts = await load_facts(self._shared.db, [row["job_id"].bytes for row in leases])
        return [(row, facts[row["job_id"].bytes]) for row in leases if row["job_id"].bytes in facts]

    def restore(self, leases: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
        """Attempts with a lease row: running somewhere, or handed out in doubt."""
        for row, facts in leases:
            entry = leased_entry(row, facts)
            if not restored(self._shared, entry, row):
                self._shared.table.restore(entry)
            else:
                self._shared.permits.count(entry)

    async def complete(self, entries: Sequence[Entry]) -> list[Entry]:
        """Loads what an adopted attempt needs before it can end. Returns those that are final already, or unknown."""
        wanting = [e for e in entries if e.spec is None]
        facts = await load_facts(self._shared.db, [e.job_id for e in wanting])
        void = []
        for entry in wanting:
            row = facts.get(entry.job_id)
            # By a claim of a later attempt. One with a spec was completed and ended by another report meanwhile.
            replaced = entry.spec is None and self._shared.table.by_job.get(entry.job_id) is not entry
            if row is None or replaced or _ended(row, entry):
                void.append(entry)
                continue
            if entry.spec is not None:
                continue  # another report was quicker
            self._shared.table.complete(entry, facts_of(row))
            self._shared.permits.count(entry)
        for entry in void:
            self._shared.table.discard(entry)
        return void

    async def run(self) -> None:
        """Settles shards whose workers have all confirmed, and loads the facts of what was adopted."""
        shared = self._shared
        while True:
            await shared.settle_wanted.wait()
            shared.settle_wanted.clear()
            try:
                adopted, shared.table.adopted = shared.table.adopted, []
                void = await self.complete(adopted)
                seats = shared.table.workers
                over = [e for e in adopted if e not in void and e.phase is Phase.TAKEN and e.worker not in seats]
                if over:  # its worker's end came before its facts
                    self._outcomes.end(over, Outcome.LOST, "lost")
                effects = shared.table.settle()
                self._performer.perform(effects)
                if effects.lease_first:
                    await self._lease_first(effects.lease_first)
                shared.permits.begin()
                self._outage.over()
            except FAULTS as error:
                self._outage.failed(error)
                shared.table.adopted.extend(e for e in adopted if e.spec is None)
                await shared.clock.sleep(1.0)
                shared.settle_wanted.set()

    async def _lease_first(self, entries: list[Entry]) -> None:
        """Poison that takes the machine down leaves a trace: its row is written before it is handed out (A12)."""
        shared = self._shared
        counted = shared.table.lease_first_writing(entries)
        try:
            async with self._outcomes.exclusive:
                held = [e for e in entries if e.phase is Phase.IN_DOUBT]
                await self._lease_rows.write(held, [lease_row(e, started_at=None, worker=None) for e in held])
        except BaseException:
            shared.table.lease_first_failed(entries, counted)
            raise
        shared.table.lease_first_written(held)
        shared.fed.set()


def _ended(facts: dict[str, Any], entry: Entry) -> bool:
    """The attempt that the worker has is recorded already: its report will be answered from `attempts`."""
    return facts["last_attempt"] is not None and facts["last_attempt"] >= entry.attempt

"""Settles the attempts that are open after a takeover: those that may be running, and those that workers claim."""

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
        self._outage = shared.readiness.outage(log, "attempts in doubt cannot be settled")

    async def read_workers(self) -> None:
        """Adds a record for every registered worker, which must confirm within a lease (A5).

        Not only the workers of the former owner: after a clean hand-over there is none, and an owner that died before
        its takeover had settled may never have met workers that still run its predecessor's jobs.
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
        """The rows of `leases` of these shards, each with the facts of its job."""
        leases = await self._shared.db.rows("list_leases", shards=shards)
        facts = await load_facts(self._shared.db, [row["job_id"].bytes for row in leases])
        return [(row, facts[row["job_id"].bytes]) for row in leases if row["job_id"].bytes in facts]

    def restore(self, leases: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
        """Restores attempts with a lease row: they are running, or were handed out in doubt."""
        for row, facts in leases:
            entry = leased_entry(row, facts)
            if not restored(self._shared, entry, row):
                self._shared.table.restore(entry)
            else:
                self._shared.permits.count(entry)

    async def complete(self, entries: Sequence[Entry]) -> list[Entry]:
        """Loads the facts that adopted attempts need before they can end. Returns those that are final, or unknown."""
        wanting = [e for e in entries if e.spec is None]
        facts = await load_facts(self._shared.db, [e.job_id for e in wanting])
        void = []
        for entry in wanting:
            row = facts.get(entry.job_id)
            # Replaced by the claim of a later attempt. One with a spec was completed and ended by another report.
            replaced = entry.spec is None and self._shared.table.by_job.get(entry.job_id) is not entry
            if row is None or replaced or _ended(row, entry):
                void.append(entry)
                continue
            if entry.spec is not None:
                continue  # another report came first
            self._shared.table.complete(entry, facts_of(row))
            self._shared.permits.count(entry)
        for entry in void:
            self._shared.table.discard(entry)
        return void

    async def run(self) -> None:
        """Settles shards whose workers have all confirmed, and loads the facts of adopted attempts."""
        shared = self._shared
        while True:
            await shared.settle_wanted.wait()
            shared.settle_wanted.clear()
            try:
                adopted, shared.table.adopted = shared.table.adopted, []
                void = await self.complete(adopted)
                seats = shared.table.workers
                over = [e for e in adopted if e not in void and e.phase is Phase.TAKEN and e.worker not in seats]
                if over:  # its worker was lost before its facts were loaded
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
        """Writes lease rows before the hand-out: a job that takes its machine down leaves a trace (A12)."""
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
    """Whether the worker's attempt is already recorded: its report is then answered from `attempts`."""
    return facts["last_attempt"] is not None and facts["last_attempt"] >= entry.attempt

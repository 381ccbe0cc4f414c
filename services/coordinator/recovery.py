"""What a takeover leaves open: attempts that may run somewhere, and those that workers claim."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from taskflow._policy import Outcome
from taskflow._process_identity import Process
from taskflow_server.coordinator.holding import restored
from taskflow_server.coordinator.ledger import Ledger
from taskflow_server.coordinator.pager import task_of
from taskflow_server.coordinator.state import State, note_limit
from taskflow_server.core.book import Entry, Phase, Seat
from taskflow_server.core.lanes import LaneKey
from taskflow_server.rpc.values import clean
from taskflow_server.runtime import logs
from taskflow_server.store.dispatch import Changes, LeaseRow
from taskflow_server.store.errors import FAULTS
from taskflow_server.store.lane_reader import Spec
from taskflow_server.store.times import to_us

log = logs.get("recovery")


class Recovery:
    def __init__(self, state: State, ledger: Ledger) -> None:
        self._state = state
        self._ledger = ledger
        self._outage = state.readiness.outage(log, "what a takeover left open cannot be settled")
        self._leases_outage = state.readiness.outage(log, "leases cannot be written")

    async def seats(self) -> None:
        """Gives every registered worker a seat, and a lease's time to confirm (A5).

        The former owner's name does not narrow them: after a clean hand-over there is none, and an owner that died
        before its own takeover had settled may never have met workers that still run its predecessor's jobs.
        """
        state = self._state
        rows = await state.db.rows("registered_workers")
        deadline = state.clock.monotonic() + state.settings.lease
        for row in rows:
            worker = row["worker_id"].bytes
            if worker not in state.book.seats:
                process = Process(row["pid_namespace"] or "", row["pid"], row["pid_started"] or 0)
                state.book.seats[worker] = Seat(worker, deadline, row["name"], process=process)

    async def read_leases(self, shards: list[int]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """The rows of these shards' leases, each with its job's facts."""
        leases = await self._state.db.rows("list_leases", shards=shards)
        facts = await self.facts([row["job_id"].bytes for row in leases])
        return [(row, facts[row["job_id"].bytes]) for row in leases if row["job_id"].bytes in facts]

    def restore(self, leases: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
        """Attempts with a lease row: running somewhere, or handed out in doubt."""
        for row, facts in leases:
            job_id = row["job_id"].bytes
            key = LaneKey(row["queue"], row["task"], row["priority"])
            entry = Entry(job_id, key, row["shard"], row["attempt"], row["tries"], spec_of(job_id, facts))
            entry.exec_id, entry.started, entry.handouts = row["exec_id"].bytes, row["started"], row["handouts"]
            entry.leased_to = row["worker"] or ""
            note_limit(entry)
            note_due(entry, facts)
            entry.counted = entry.started  # by its former owner
            if not restored(self._state, entry, row):
                self._state.book.restore(entry)
            else:
                self._state.permits.count(entry)

    async def facts(self, job_ids: Sequence[bytes], *, payloads: bool = True) -> dict[bytes, dict[str, Any]]:
        if not job_ids:
            return {}
        rows = await self._state.db.rows("load_facts", ids=[UUID(bytes=i) for i in job_ids], payloads=payloads)
        return {row["id"].bytes: row for row in rows}

    async def complete(self, entries: Sequence[Entry]) -> list[Entry]:
        """Loads what an adopted attempt needs before it can end. Returns those that are final already, or unknown."""
        wanting = [e for e in entries if e.spec is None]
        facts = await self.facts([e.job_id for e in wanting])
        void = []
        for entry in wanting:
            row = facts.get(entry.job_id)
            # By a claim of a later attempt. One with a spec was completed and ended by another report meanwhile.
            replaced = entry.spec is None and self._state.book.by_job.get(entry.job_id) is not entry
            if row is None or replaced or _ended(row, entry):
                void.append(entry)
                continue
            if entry.spec is not None:
                continue  # another report was quicker
            entry.key = LaneKey(row["queue"], row["task"], row["priority"])
            entry.spec = spec_of(entry.job_id, row)
            note_limit(entry)
            note_due(entry, row)
            entry.leased = row["lease_attempt"] is not None
            known = row["lease_tries"] if row["lease_tries"] is not None else row["due_tries"]
            entry.tries = known if known is not None else row["last_tries"] or 0
            self._state.permits.count(entry)
        for entry in void:
            self._state.book.discard(entry)
        return void

    async def run(self) -> None:
        """Settles shards whose workers have all confirmed, and loads the facts of what was adopted."""
        state = self._state
        while True:
            await state.settle_wanted.wait()
            state.settle_wanted.clear()
            try:
                adopted, state.book.adopted = state.book.adopted, []
                void = await self.complete(adopted)
                seats = state.book.seats
                over = [e for e in adopted if e not in void and e.phase is Phase.TAKEN and e.worker not in seats]
                if over:  # its worker's end came before its facts
                    self._ledger.end(over, Outcome.LOST, "lost")
                entries = [e for number in list(state.book.shards) for e in state.book.settle(number)]
                if entries:
                    await self._settle(entries)
                state.permits.begin()
                self._outage.over()
            except FAULTS as error:
                self._outage.failed(error)
                state.book.adopted.extend(e for e in adopted if e.spec is None)
                await state.clock.sleep(1.0)
                state.settle_wanted.set()

    async def _settle(self, entries: list[Entry]) -> None:
        """With nobody: what had started is lost, what had not is handed out again."""
        state = self._state
        lost = [e for e in entries if e.leased and e.started]
        if lost:
            self._ledger.end(lost, Outcome.LOST, "lost")
        first = []
        for entry in entries:
            if entry.phase is not Phase.HELD:
                continue
            if entry.cancelling:
                self._ledger.end([entry], Outcome.CANCELLED, "cancelled")
            elif entry.handouts + entry.leased >= state.settings.max_handouts:
                self._ledger.end([entry], Outcome.FAILED, "never_started", final=True)
            elif entry.limit is not None and entry not in entry.limit.holders:
                state.book.hand_out(entry)  # waits for a permit; then it comes here once more
            elif entry.leased or entry.lease_first:
                first.append(entry)
            else:
                state.book.hand_out(entry)
        state.fed.set()
        if first:
            await self._lease_first(first)

    async def _lease_first(self, entries: list[Entry]) -> None:
        """Poison that takes the machine down leaves a trace: its row is written before it is handed out (A12)."""
        state = self._state
        counted = [entry for entry in entries if entry.leased]
        for entry in counted:
            entry.handouts += 1
        try:
            async with self._ledger.exclusive:
                held = [e for e in entries if e.phase is Phase.HELD]
                await self._put_leases(held, [lease_row(e, started_at=None, worker=None) for e in held])
        except BaseException:
            # They stay held, to be settled again.
            for entry in counted:
                entry.handouts -= 1
            for entry in entries:
                shard = state.book.shards.get(entry.shard)
                if shard is not None and entry.phase is Phase.HELD and state.book.by_job.get(entry.job_id) is entry:
                    shard.held[entry.job_id] = entry
            raise
        for entry in held:
            entry.lease_first = False
            if entry.phase is Phase.HELD and state.book.by_job.get(entry.job_id) is entry:
                state.book.hand_out(entry)
        state.fed.set()

    async def _put_leases(self, entries: Sequence[Entry], rows: list[LeaseRow]) -> None:
        """Writes rows of `leases`. An entry counts as leased once its row is committed; whose commit is in doubt has
        its row written again by the next look, and deleted by its outcome."""
        if not entries:
            return
        progress = [entry.progress for entry in entries]
        for entry in entries:
            entry.lease_tried = True
        await self._ledger.write(Changes(leases=rows), {e.shard for e in entries})
        for entry, written in zip(entries, progress, strict=True):
            entry.lease_written = written
            self._state.book.leased(entry)

    async def lease_long(self) -> None:
        """Attempts that outlast a heartbeat get a row in `leases`; progress is written with it."""
        state = self._state
        while True:
            await state.clock.sleep(1.0)
            if not state.healthy:
                continue
            try:
                async with self._ledger.exclusive:
                    long = self._long()
                    now_us, now = state.clock.now_us(), state.clock.monotonic()
                    began = [now_us - int((now - entry.taken_at) * 1e6) for entry in long]
                    rows = [lease_row(e, started_at=b, worker=self._name(e)) for e, b in zip(long, began, strict=True)]
                    await self._put_leases(long, rows)
                self._leases_outage.over()
            except FAULTS as error:
                self._leases_outage.failed(error)

    def _name(self, entry: Entry) -> str | None:
        seat = self._state.book.seats.get(entry.worker)
        return seat.name if seat is not None else None

    def _long(self) -> list[Entry]:
        before = self._state.clock.monotonic() - self._state.settings.lease_row_after
        found = []
        for seat in self._state.book.seats.values():
            for entry in seat.entries.values():
                if entry.taken_at > before or entry.phase is not Phase.TAKEN or not entry.key.queue:
                    continue
                if not entry.started:
                    if entry.hold is not None:
                        continue  # an executor says so itself
                    entry.started = True  # a live worker has had it for longer than a heartbeat
                elif entry.leased and entry.lease_written is entry.progress:
                    continue
                found.append(entry)
        return found


def lease_row(entry: Entry, *, started_at: int | None, worker: str | None) -> LeaseRow:
    key = entry.key
    progress = entry.progress
    told = None
    if progress is not None:
        words = {"unit": clean(progress.unit, 100), "message": clean(progress.message)}
        told = json.dumps({"current": progress.current, "total": progress.total, **words})
    return LeaseRow(
        entry.job_id, entry.exec_id or bytes(16), started_at, entry.shard, key.priority,
        entry.attempt, entry.tries, entry.handouts, entry.started, key.queue, key.task, worker, told,
        round(entry.hold.silence * 1000) if entry.hold is not None else None,
    )  # fmt: skip


def spec_of(job_id: bytes, facts: dict[str, Any]) -> Any:
    return task_of(job_id, Spec(facts["payload"], facts["encoding"], facts["retries"], facts["options"]))


def note_due(entry: Entry, facts: dict[str, Any]) -> None:
    entry.due = facts["due_attempt"] is not None
    entry.due_us, entry.run_at_us = to_us(facts["due_at"]) or 0, to_us(facts["run_at"]) or 0


def _ended(facts: dict[str, Any], entry: Entry) -> bool:
    """The attempt that the worker has is recorded already: its report will be answered from `attempts`."""
    return facts["last_attempt"] is not None and facts["last_attempt"] >= entry.attempt

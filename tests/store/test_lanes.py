"""A2: a lane is read in full, each job once, from a real Postgres, however late transactions end and whoever reads."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskflow_server.core.lanes import START, Lane, LaneKey, Mark, Page, PageRequest
from taskflow_server.store.database import Writer
from taskflow_server.store.jobs import Stored, store_jobs
from taskflow_server.store.lane_reader import LaneReader
from tests.support import rows

CALLERS = 4
_numbers = itertools.count(1)

STEPS = 120
OPERATIONS = (
    "begin", "write", "write", "write", "commit", "commit", "rollback", "read", "read", "merge", "merge", "offer",
    "offer", "finish", "finish", "cancel", "mark", "takeover",
)  # fmt: skip


@dataclass
class World:
    """One lane, several callers with open transactions, and one owner at a time."""

    callers: list[psycopg.Connection[Any]]
    facts: psycopg.Connection[Any]  # autocommit: what is finished and cancelled
    ask: Callable[[Lane, PageRequest], Page]
    key: LaneKey
    limit: int
    lane: Lane = field(init=False)
    mark_written: Mark = START
    open: dict[int, list[bytes]] = field(default_factory=dict)  # caller -> what it has inserted
    offers: list[tuple[int, bytes]] = field(default_factory=list)
    flying: tuple[PageRequest, Page] | None = None
    committed: set[bytes] = field(default_factory=set)
    cancelled: set[bytes] = field(default_factory=set)
    finished: set[bytes] = field(default_factory=set)
    dispatched: set[bytes] = field(default_factory=set)  # by the present owner

    def __post_init__(self) -> None:
        self.lane = Lane.at(self.key, 0, START, 0)

    def begin(self, caller: int) -> None:
        if caller not in self.open:
            self.callers[caller].execute("select pg_current_xact_id()")
            self.open[caller] = []

    def write(self, caller: int) -> None:
        """By a clock of its own: up to twenty minutes off."""
        if caller in self.open:
            job_id = rows.new_id(offset_ms=(caller - 2) * 600_000)
            self.callers[caller].execute(
                "insert into taskflow.jobs (id, queue) values (%s, %s)", (UUID(bytes=job_id), self.key.queue)
            )
            self.open[caller].append(job_id)

    def commit(self, caller: int) -> None:
        if caller in self.open:
            row = self.callers[caller].execute("select pg_current_xact_id()::text::bigint").fetchone()
            self.callers[caller].commit()
            assert row is not None
            for job_id in self.open.pop(caller):
                self.committed.add(job_id)
                self.offers.append((row[0], job_id))

    def rollback(self, caller: int) -> None:
        if self.open.pop(caller, None) is not None:
            self.callers[caller].rollback()

    def read(self, _: int = 0) -> None:
        if self.flying is None:
            request = self.lane.request(self.limit)
            self.flying = request, self.ask(self.lane, request)

    def merge(self, _: int = 0) -> None:
        if self.flying is not None:
            request, page = self.flying
            self.flying = None
            for row in self.lane.merge(request, page):
                self.dispatch(row.id)

    def offer(self, number: int) -> None:
        """Late, twice, in any order, or never."""
        if self.offers:
            place = number % len(self.offers)
            tx, job_id = self.offers[place] if number % 3 else self.offers.pop(place)
            if job_id not in self.dispatched and self.lane.offer(tx, job_id):
                self.dispatch(job_id)

    def dispatch(self, job_id: bytes) -> None:
        assert job_id not in self.dispatched, "dispatched twice by one owner"
        assert job_id not in self.finished, "dispatched after its end"
        self.dispatched.add(job_id)

    def finish(self, number: int) -> None:
        running = sorted(self.dispatched - self.finished)
        if running:
            self._end(running[number % len(running)])

    def _end(self, job_id: bytes) -> None:
        self.facts.execute(
            "insert into taskflow.attempts (job_id, finished_at, attempt, tries, outcome, final)"
            " values (%s, now(), 1, 1, 1, true)",
            (UUID(bytes=job_id),),
        )
        self.finished.add(job_id)
        if self.lane.catching_up and not self.lane.holds(job_id):
            self.lane.drop(job_id)
        self.lane.close((job_id,))

    def cancel(self, number: int) -> None:
        """Cancels a job that waits: it is final, and must not be dispatched any more."""
        waiting = sorted(self.committed - self.dispatched - self.finished)
        if waiting:
            job_id = waiting[number % len(waiting)]
            self.facts.execute("insert into taskflow.cancels (job_id, shard) values (%s, 0)", (UUID(bytes=job_id),))
            self.cancelled.add(job_id)
            self.lane.drop(job_id)
            self._end(job_id)

    def mark(self, _: int = 0) -> None:
        self.mark_written = self.lane.mark()

    def takeover(self, _: int = 0) -> None:
        """The next owner knows the last mark that was written, and what is in the tables."""
        self.flying = None
        self.dispatched = set()
        row = self.facts.execute("select pg_snapshot_xmax(pg_current_snapshot())::text::bigint").fetchone()
        assert row is not None
        self.lane = Lane.at(self.key, 0, self.mark_written, row[0])

    def end(self) -> None:
        """Everybody ends, and the owner reads until there is nothing more."""
        for caller in list(self.open):
            self.commit(caller)
        self.merge()
        for _ in range(200):
            before = (self.lane.position, self.lane.late)
            self.read()
            self.merge()
            if (self.lane.position, self.lane.late) == before and not self.lane.news:
                break
        else:
            raise AssertionError("the reading never ends")
        assert self.committed - self.finished <= self.dispatched, "jobs were passed over"
        assert self.dispatched <= self.committed, "jobs were dispatched that nobody committed"
        there = self.facts.execute("select id from taskflow.jobs where queue = %s", (self.key.queue,)).fetchall()
        assert {row[0].bytes for row in there} == self.committed


@pytest.fixture(scope="module")
def connections(database: str) -> Iterator[list[psycopg.Connection[Any]]]:
    opened = [psycopg.connect(database) for _ in range(CALLERS)]
    opened.append(psycopg.connect(database, autocommit=True))
    yield opened
    for conn in opened:
        conn.close()


@pytest.fixture(scope="module")
def ask(database: str) -> Iterator[Callable[[Lane, PageRequest], Page]]:
    reader = LaneReader(database, 5.0)
    with asyncio.Runner() as runner:
        yield lambda lane, request: runner.run(reader.pages([(lane, request)]))[0]
        runner.run(reader.close())


@pytest.mark.feature("A2", "A3", "B3", "B8")
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_every_committed_job_is_dispatched_once_by_its_owner_and_never_after_its_end(
    connections: list[psycopg.Connection[Any]], ask: Callable[[Lane, PageRequest], Page], seed: int
) -> None:
    *callers, facts = connections
    rng = random.Random(seed)
    world = World(callers, facts, ask, LaneKey(f"lane-{next(_numbers)}", "", 5), rng.choice([1, 2, 5]))
    try:
        for _ in range(STEPS):
            name = rng.choice(OPERATIONS)
            most = CALLERS - 1 if name in ("begin", "write", "commit", "rollback") else 99
            getattr(world, name)(rng.randint(0, most))
        world.end()
    finally:
        for caller in callers:
            caller.rollback()


@pytest.mark.feature("A2", "B8")
async def test_jobs_of_callers_that_commit_at_the_same_time_are_each_read_once_while_a_transaction_stays_open(
    database: str,
) -> None:
    lane = Lane.at(LaneKey("busy", "", 5), 0, START, 0)
    rng = random.Random(7)
    reader = LaneReader(database, 5.0)
    read: Counter[bytes] = Counter()
    told: dict[bytes, int] = {}
    over = asyncio.Event()

    async def calls() -> None:
        writer = Writer(database)
        for _ in range(40):
            jobs = [rows.job("busy") for _ in range(rng.randint(1, 12))]
            for result in await store_jobs(writer, jobs):
                assert isinstance(result, Stored)
                told[result.id] = result.tx
        await writer.reset()

    async def reads() -> None:
        while not over.is_set() or lane.news or lane.late:
            request = lane.request(rng.randint(1, 30))
            read.update(row.id for row in lane.merge(request, (await reader.pages([(lane, request)]))[0]))
            lane.news = lane.news or not over.is_set()

    async with await psycopg.AsyncConnection.connect(database) as long:
        await long.execute("select pg_current_xact_id()")
        late = rows.job("busy")
        await long.execute("insert into taskflow.jobs (id, queue) values (%s, 'busy')", (UUID(bytes=late.id),))
        reading = asyncio.create_task(reads())
        await asyncio.gather(*(calls() for _ in range(6)))
        await long.commit()
    over.set()
    lane.news = True
    await reading
    await reader.close()

    assert read == Counter([*told, late.id])
    order = rows.found(database, "select id from taskflow.jobs where queue = 'busy' order by tx, id")
    assert len(order) == len(told) + 1

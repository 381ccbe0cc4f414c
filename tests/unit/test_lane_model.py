"""The real lane reader under random commits, offers, pages and takeovers (protocol A2, A3, A4, B3).

A toy Postgres hands out transaction numbers and snapshots; schedulers commit late, roll back, offer late, twice or
never; an owner reads pages, leaves the ends of some unread, takes offers, dispatches, finishes, cancels unread jobs,
lets the lane leave memory while it is idle, and is replaced at random.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskflow_server.core.lanes import START, Lane, LaneKey, Mark, Page, PageRequest, Position, Snapshot
from tests.support.tier import size

KEY = LaneKey("q", "", 5)


def id_of(number: int) -> bytes:
    """Ids of slower clocks sort below earlier ones: every third is stamped low."""
    return (number if number % 3 else 1_000_000 + number).to_bytes(16, "big")


@dataclass
class ToyPostgres:
    next_tx: int = 1
    open: dict[int, list[bytes]] = field(default_factory=dict)
    rows: dict[bytes, int] = field(default_factory=dict)
    final: set[bytes] = field(default_factory=set)
    cancelled: set[bytes] = field(default_factory=set)
    mark: Mark = START

    def begin(self) -> None:
        self.open[self.next_tx] = []
        self.next_tx += 1

    def read(self, request: PageRequest) -> Page:
        snapshot = Snapshot(self.next_tx, frozenset(self.open))
        ended = request.late - snapshot.in_progress
        seen = {
            i: tx
            for i, tx in self.rows.items()
            if i not in self.cancelled and not (tx < request.catch_to and i in self.final)
        }
        ahead = sorted(Position(tx, i) for i, tx in seen.items() if (tx, i) > request.position)
        behind = [Position(tx, i) for i, tx in seen.items() if tx in ended]
        return Page(snapshot, ahead[: request.limit], behind, len(ahead) >= request.limit)


class World:
    def __init__(self, seed: int, *, takeovers: bool) -> None:
        self.rng = random.Random(seed)
        self.db = ToyPostgres()
        self.takeovers = takeovers
        self.room = self.rng.choice([2, 5, 50])
        self.page_limit = self.rng.choice([1, 3, 10])
        self.lane = Lane.at(KEY, 0, START, 0)
        self.memory: set[bytes] = set()
        self.flying: tuple[PageRequest, Page] | None = None
        self.offers: list[tuple[int, bytes]] = []
        self.number = 0
        self.dispatched: dict[bytes, int] = {}
        self.excused: dict[bytes, int] = {}
        self.finished: dict[bytes, int] = {}
        self.left = 0  # how often the lane has left memory

    def dispatch(self, job: bytes) -> None:
        assert job not in self.finished, "dispatched after its end"
        self.dispatched[job] = self.dispatched.get(job, 0) + 1
        self.memory.add(job)

    def finish(self, job: bytes) -> None:
        self.memory.discard(job)
        self.db.final.add(job)
        self.finished[job] = self.finished.get(job, 0) + 1
        if self.lane.catching_up and not self.lane.holds(job):
            self.lane.drop(job)
        self.lane.close((job,))

    def begin(self) -> None:
        self.db.begin()

    def write(self) -> None:
        if self.db.open:
            self.number += 1
            self.db.open[self.rng.choice(list(self.db.open))].append(id_of(self.number))

    def commit(self) -> None:
        if self.db.open:
            tx = self.rng.choice(list(self.db.open))
            for job in self.db.open.pop(tx):
                self.db.rows[job] = tx
                self.offers.append((tx, job))

    def rollback(self) -> None:
        if self.db.open:
            self.db.open.pop(self.rng.choice(list(self.db.open)))

    def offer(self) -> None:
        """Late, twice, in any order."""
        if self.offers:
            place = self.rng.randrange(len(self.offers))
            tx, job = self.offers[place] if self.rng.random() < 0.2 else self.offers.pop(place)
            if len(self.memory) < self.room and self.lane.offer(tx, job):
                self.dispatch(job)

    def lose_offer(self) -> None:
        if self.offers:
            self.offers.pop(self.rng.randrange(len(self.offers)))

    def read(self) -> None:
        if self.flying is None and len(self.memory) < self.room:
            request = self.lane.request(self.page_limit)
            self.flying = request, self.db.read(request)

    def merge(self) -> None:
        if self.flying is not None:
            request, page = self.flying
            self.flying = None
            fresh = self.lane.merge(request, page)
            room = self.rng.randint(1, 2 * len(fresh) + 1)  # a page always brings something
            for row in fresh[:room]:
                if row.id not in self.memory:
                    self.dispatch(row.id)
            if fresh[room:]:
                self.lane.unread(fresh[room:], page.snapshot.xmax)

    def finish_one(self) -> None:
        if self.memory:
            self.finish(self.rng.choice(sorted(self.memory)))

    def cancel_unread(self) -> None:
        """A committed job that nobody has in memory: final at once; a page in flight may still bring it."""
        waiting = sorted(self.db.rows.keys() - self.memory - self.finished.keys() - self.lane.offered)
        if waiting:
            job = self.rng.choice(waiting)
            self.db.cancelled.add(job)
            self.db.final.add(job)
            self.lane.drop(job)
            self.finished[job] = 1
            self.dispatched.setdefault(job, 0)

    def write_mark(self) -> None:
        if self.lane.passed != self.lane.marked:
            self.db.mark = self.lane.mark()
            self.lane.marked = self.lane.passed

    def leave_memory(self) -> None:
        """The lane comes back at the next step, by an offer or a look at all lanes."""
        if self.lane.idle:
            assert not self.memory
            self.left += 1
            self.lane = Lane.at(KEY, 0, self.db.mark, self.db.next_tx)

    def take_over(self) -> None:
        if self.takeovers:
            for job in self.memory:
                self.excused[job] = self.excused.get(job, 0) + 1
            self.memory.clear()
            self.flying = None
            self.lane = Lane.at(KEY, 0, self.db.mark, self.db.next_tx)

    def run(self) -> None:
        steps = [
            (self.begin, 6), (self.write, 12), (self.commit, 8), (self.rollback, 1), (self.offer, 12),
            (self.lose_offer, 2), (self.read, 8), (self.merge, 10), (self.finish_one, 14),
            (self.cancel_unread, 1), (self.write_mark, 3),
            (self.take_over, 1), (self.leave_memory, 3),
        ]  # fmt: skip
        actions, weights = zip(*steps, strict=True)
        for _ in range(self.rng.randint(50, 600)):
            self.rng.choices(actions, weights)[0]()
        for tx in list(self.db.open):
            for job in self.db.open.pop(tx):
                self.db.rows[job] = tx
        for _ in range(10 * len(self.db.rows) + 20):
            self.room = len(self.memory) + 1
            self.read()
            self.merge()
            for job in sorted(self.memory):
                self.finish(job)

    def check(self) -> None:
        for job in self.db.rows:
            assert self.finished.get(job, 0) == 1, f"finished {self.finished.get(job, 0)} times"
            if job not in self.db.cancelled:
                times = self.dispatched.get(job, 0)
                assert 1 <= times <= 1 + self.excused.get(job, 0), f"dispatched {times} times"
        assert set(self.dispatched) <= set(self.db.rows), "a job that never committed was dispatched"


@pytest.mark.feature("A2", "A3", "B3")
@pytest.mark.longer
@settings(max_examples=size(400, 5000), deadline=None)
@given(st.integers(min_value=0, max_value=2**32), st.booleans())
def test_every_committed_job_is_dispatched_once_in_any_order_of_events(seed: int, takeovers: bool) -> None:
    world = World(seed, takeovers=takeovers)
    world.run()
    world.check()


def test_the_lanes_of_the_model_do_leave_memory() -> None:
    worlds = [World(seed, takeovers=True) for seed in range(100)]
    for world in worlds:
        world.run()

    assert sum(world.left > 0 for world in worlds) > 20


@pytest.mark.feature("A2", "B3")
@pytest.mark.parametrize("seed", [1280, 194068])
def test_a_mark_inside_a_late_transaction_brings_its_jobs_once(seed: int) -> None:
    world = World(seed, takeovers=True)
    world.run()
    world.check()


@pytest.mark.feature("A3")
def test_an_offer_delayed_past_its_page_is_refused() -> None:
    lane = Lane.at(KEY, 0, START, 0)
    job = id_of(1)
    request = lane.request(10)
    assert lane.merge(request, Page(Snapshot(8, frozenset()), [Position(7, job)], [], False)) == [Position(7, job)]
    lane.close((job,))

    taken = lane.offer(7, job)

    assert not taken


@pytest.mark.feature("A2")
def test_a_long_transaction_delays_only_itself() -> None:
    lane = Lane.at(KEY, 0, START, 0)
    early, late = id_of(1), id_of(2)
    first = lane.request(10)
    assert lane.merge(first, Page(Snapshot(9, frozenset({5})), [Position(7, early)], [], False)) == [Position(7, early)]
    assert lane.mark().late == {5}

    second = lane.request(10)
    fresh = lane.merge(second, Page(Snapshot(12, frozenset()), [], [Position(5, late)], False))

    assert fresh == [Position(5, late)]
    assert lane.late == frozenset()
    assert 5 in lane.mark().late, "the mark names its transaction while its job is unfinished"
    assert lane.mark().position.tx == 7


@pytest.mark.feature("B3")
def test_the_mark_stands_just_before_the_oldest_unfinished_job() -> None:
    lane = Lane.at(KEY, 0, START, 0)
    jobs = [id_of(n) for n in (1, 2, 4)]
    request = lane.request(10)
    lane.merge(request, Page(Snapshot(9, frozenset()), [Position(7, j) for j in jobs], [], False))

    lane.close(jobs[:1])

    mark = lane.mark()
    assert Position(7, jobs[0]) <= mark.position < Position(7, jobs[1])
    lane.close(jobs[1:])
    assert lane.mark().position == Position(9, bytes(16))


@pytest.mark.feature("A3", "B3")
def test_an_offered_job_holds_the_mark_back_where_a_page_before_it_was_left_unread() -> None:
    lane = Lane.at(KEY, 0, START, 0)
    lane.merge(lane.request(10), Page(Snapshot(5, frozenset()), [], [], False))
    early, offered = Position(6, id_of(1)), Position(9, id_of(2))
    assert lane.offer(*offered)
    page = Page(Snapshot(10, frozenset()), [early], [], True)
    assert lane.merge(lane.request(1), page) == [early]

    lane.unread([early], page.snapshot.xmax)
    fresh = lane.merge(lane.request(10), Page(Snapshot(12, frozenset()), [early, offered], [], False))
    lane.close([early.id])

    assert fresh == [early], "the other was dispatched when it was offered"
    assert early <= lane.mark().position < offered


@pytest.mark.feature("B3")
def test_others_transactions_move_the_position_of_an_idle_lane_and_not_its_mark() -> None:
    lane = Lane.at(KEY, 0, START, 0)
    job = Position(7, id_of(1))
    lane.merge(lane.request(10), Page(Snapshot(9, frozenset({8})), [job], [], False))
    lane.close([job.id])
    lane.marked = lane.passed
    assert lane.idle

    for xmax in range(10, 20):
        lane.merge(lane.request(10), Page(Snapshot(xmax, frozenset({xmax - 1})), [], [], False))

    assert lane.position.tx == 19
    assert lane.passed == lane.marked, "nothing is to be written"
    lane.merge(lane.request(10), Page(Snapshot(20, frozenset()), [], [Position(18, id_of(2))], False))
    assert lane.passed > lane.marked, "a late transaction has brought something"

"""Lists never scan history, and say what the derived view says (docs/protocol.md, part D; X.19)."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from taskflow._policy import STATES, JobState, Outcome
from taskflow.v1 import jobs_pb2 as pb
from taskflow_server.core.ids import uuid7
from taskflow_server.runtime.clock import SystemClock
from taskflow_server.scheduler.coordinators import Coordinators
from taskflow_server.scheduler.job_lists import JobLists
from taskflow_server.scheduler.topology_cache import TopologyCache
from taskflow_server.store.database import Database
from taskflow_server.store.tags import words

QUEUES, TASKS, TAGS = ("a", "b", "team/c"), ("", "t", "u"), ("red", "green", "x" * 300)
FATES = (
    "ready", "scheduled", "due", "retrying", "running", "requested", "succeeded", "failed", "timed_out", "lost",
    "cancelled", "retried", "failed_again",
)  # fmt: skip
DAYS = 12


@dataclass
class History:
    """A random one, in the tables: what every job was made as."""

    rng: random.Random
    conn: psycopg.Connection[Any]
    jobs: dict[UUID, dict[str, Any]] = field(default_factory=dict)

    def fill(self, count: int) -> None:
        self.conn.execute("select taskflow.create_partitions((now() at time zone 'UTC')::date - 13, 14)")
        for start in range(0, count, 25):
            with self.conn.transaction():  # several, so that lanes have several positions
                for _ in range(min(25, count - start)):
                    self._job()
        self._mark_lanes()

    def _job(self) -> None:
        rng = self.rng
        made = datetime.now(UTC) - timedelta(seconds=rng.random() * DAYS * 86_400)
        job_id = UUID(bytes=uuid7(int(made.timestamp() * 1000), rng.getrandbits(80)))
        options: dict[str, Any] = {}
        if rng.random() < 0.4:
            options["tags"] = rng.sample(TAGS, rng.randint(1, 2))
        if rng.random() < 0.3:
            options["metadata"] = {"user": rng.choice(["u1", "u=1"]), "n": str(rng.randint(0, 2))}
        fate = rng.choice(FATES)
        queue, task, priority = rng.choice(QUEUES), rng.choice(TASKS), rng.randint(4, 6)
        waited = fate == "scheduled" or (fate == "due" and rng.random() < 0.5)
        self.conn.execute(
            "insert into taskflow.jobs (id, queue, task, priority, deferred, payload, options)"
            " values (%s, %s, %s, %s, %s, %s, %s)",
            (job_id, queue, task, priority, waited, b'"x"', json.dumps(options) if options else None),
        )
        for word in words(options.get("tags", ()), options.get("metadata", {})):
            self.conn.execute("insert into taskflow.job_tags (word, job_id) values (%s, %s)", (word, job_id))
        self.jobs[job_id] = {"queue": queue, "task": task, "priority": priority, "made": made, **options}
        self._live(job_id, fate, waited, queue, task, priority)

    def _live(self, job_id: UUID, fate: str, waited: bool, queue: str, task: str, priority: int) -> None:
        attempts: list[tuple[Outcome, bool]] = {
            "retrying": [(Outcome.FAILED, False)],
            "due": [] if waited else [(Outcome.TIMED_OUT, False)],
            "retried": [(Outcome.FAILED, True)],
            "failed_again": [(Outcome.FAILED, True), (Outcome.FAILED, True)],
            **{name: [(Outcome[name.upper()], True)] for name in FATES[6:11]},
        }.get(fate, [])
        for number, (outcome, final) in enumerate(attempts, 1):
            kind, message = self.rng.choice(["ValueError", "Timeout"]), f"It failed: {self.rng.randint(0, 3)}"
            error = {"type": kind, "message": message}
            self.conn.execute(
                "insert into taskflow.attempts"
                " (job_id, started_at, finished_at, exec_id, attempt, tries, outcome, final, error)"
                " values (%s, now(), now(), gen_random_uuid(), %s, %s, %s, %s, %s)",
                (job_id, number, number, outcome, final, None if outcome is Outcome.SUCCEEDED else json.dumps(error)),
            )
        place = (job_id, len(attempts) + 1, priority, queue, task)
        if fate in ("scheduled", "due", "retrying", "retried"):
            delay = timedelta(hours=-1 if fate in ("due", "retried") else 1)
            self.conn.execute(
                "insert into taskflow.deferred (job_id, attempt, priority, queue, task, due_at, shard, tries, reason)"
                " values (%s, %s, %s, %s, %s, now() + %s, 0, 0, %s)",
                (*place, delay, {"retrying": 2, "retried": 5}.get(fate, 1 if waited else 2)),
            )
        elif fate in ("running", "requested"):
            self.conn.execute(
                "insert into taskflow.leases (job_id, attempt, priority, queue, task, exec_id, shard, tries, started)"
                " values (%s, %s, %s, %s, %s, gen_random_uuid(), 0, 0, %s)",
                (*place, fate == "running"),
            )

    def _mark_lanes(self) -> None:
        """As high as the rule allows: every job that is in no small table and not over stands beyond, or is `late`."""
        self.conn.execute(
            "insert into taskflow.lanes (queue, task, priority, shard)"
            " select distinct queue, task, priority, 0 from taskflow.jobs"
        )
        for queue, task, priority in self.conn.execute("select queue, task, priority from taskflow.lanes").fetchall():
            lane = self.conn.execute(
                "select j.tx::text::bigint, j.id, s.state = 'ready' and d.job_id is null from taskflow.jobs j"
                " join taskflow.job_states s using (id) left join taskflow.deferred d on d.job_id = j.id"
                " where (j.queue, j.task, j.priority) = (%s, %s, %s) and not j.deferred order by j.tx, j.id",
                (queue, task, priority),
            ).fetchall()
            mark, late = (0, UUID(int=0)), set()
            for tx, job_id, waits in lane:
                if waits and (late or self.rng.random() < 0.7):
                    break
                if waits:
                    late.add(tx)
                mark = (tx, job_id)
            if mark[0] in late:  # a late transaction stands wholly below a mark (ADR 0008)
                mark = (mark[0], UUID(int=(1 << 128) - 1))
            self.conn.execute(
                "update taskflow.lanes set tx = %s::text::xid8, id = %s, late = %s::text[]::xid8[]"
                " where (queue, task, priority) = (%s, %s, %s)",
                (str(mark[0]), mark[1], [str(tx) for tx in late], queue, task, priority),
            )


def expected(conn: psycopg.Connection[Any], jobs: dict[UUID, dict[str, Any]], asked: pb.ListJobsRequest) -> list[str]:
    """By the view for people, and by how the jobs were made."""
    states = {str(STATES[s]) for s in asked.states} or ({"failed", "cancelled"} if asked.error else set())
    waiting = {"scheduled", "ready", "requested", "running", "retrying"}
    since = asked.create_after.ToDatetime(tzinfo=UTC) if asked.HasField("create_after") else None
    if since is None and not (states and states <= waiting):
        since = datetime.now(UTC) - timedelta(days=7)
    found = []
    query = (
        "select s.id, s.state, a.error ->> 'type', a.error ->> 'message' from taskflow.job_states s left join lateral"
        " (select error from taskflow.attempts a where a.job_id = s.id order by attempt desc limit 1) a on true"
    )
    for job_id, state, kind, message in conn.execute(query).fetchall():
        job = jobs.get(job_id)
        if (
            job is not None
            and (not states or state in states)
            and asked.queue in ("", job["queue"])
            and asked.task in ("", job["task"])
            and (since is None or job["made"] >= since)
            and (not asked.HasField("create_before") or job["made"] < asked.create_before.ToDatetime(tzinfo=UTC))
            and set(asked.tags) <= set(job.get("tags", ()))
            and dict(asked.metadata).items() <= job.get("metadata", {}).items()
            and (not asked.error or (kind and (kind == asked.error or asked.error.lower() in message.lower())))
        ):
            found.append(str(job_id))
    return sorted(found, reverse=True)


def wish(rng: random.Random) -> pb.ListJobsRequest:
    asked = pb.ListJobsRequest(page_size=rng.choice([4, 30, 100]))
    if rng.random() < 0.5:
        asked.queue = rng.choice(QUEUES)
    if rng.random() < 0.3:
        asked.task = rng.choice(TASKS)
    if rng.random() < 0.7:
        asked.states.extend(s.number for s in rng.sample(list(JobState), rng.choice([1, 1, 1, 2, 3])))  # type: ignore[misc]
        live = {JobState.REQUESTED.number, JobState.RUNNING.number}
        if set(asked.states) & live:  # those are in the owners' memory, and there is none here
            del asked.states[:]
    if rng.random() < 0.3:
        asked.create_after.FromDatetime(datetime.now(UTC) - timedelta(days=rng.random() * DAYS))
    if rng.random() < 0.3:
        asked.create_before.FromDatetime(datetime.now(UTC) - timedelta(days=rng.random() * DAYS))
    if rng.random() < 0.3:
        asked.tags.extend(rng.sample(TAGS, rng.choice([1, 1, 2])))
    if rng.random() < 0.2:
        asked.metadata["user"] = rng.choice(["u1", "u=1", "nobody"])
    if rng.random() < 0.2:
        asked.error = rng.choice(["ValueError", "failed: 1", "FAILED", "Value"])
    return asked


async def read(lists: JobLists, asked: pb.ListJobsRequest) -> list[str]:
    """All pages of it."""
    found: list[str] = []
    request = pb.ListJobsRequest()
    request.CopyFrom(asked)
    while True:
        page = await lists.page(request)
        assert len(page.jobs) <= asked.page_size
        found += [job.id for job in page.jobs]
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


@pytest.fixture
def conn(database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database, autocommit=True) as opened:
        yield opened


@pytest.mark.feature("X.19", "S3.4")
async def test_every_list_is_what_the_derived_view_says(database: str, conn: psycopg.Connection[Any]) -> None:
    rng = random.Random(20)
    history = History(rng, conn)
    history.fill(300)
    db, clock = Database(database, timeout=10), SystemClock()
    await db.open()
    lists = JobLists(db, clock, Coordinators(TopologyCache(db, clock), 0))
    try:
        some = 0
        for _ in range(150):
            asked = wish(rng)
            wanted = expected(conn, history.jobs, asked)
            assert await read(lists, asked) == wanted, asked
            some += bool(wanted)
        assert some > 50
    finally:
        await db.close()

"""Jobs that end where they wait, in Postgres, beyond what their lane has in memory (R7, A13)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from taskflow import Job, JobState, TaskFlow
from tests.support import rows
from tests.support.cluster import ServiceCluster
from tests.support.waiting import eventually
from tests.support.workers import working

DEPTH = 10  # jobs of one lane in memory
WISHES = 15_000
GROWTH = 36 << 20  # bytes; 3 to 5 MiB as a rule, 21 once on a busy machine; all wishes at once take 49

OUTCOMES = """
    select coalesce(error ->> 'type', ''), count(*)
    from taskflow.attempts a join taskflow.jobs j on j.id = a.job_id where j.queue = %s group by 1
"""
LEFT = "select count(*) from taskflow.start_bys"
UNREAD = """
    insert into taskflow.jobs (id, queue, payload)
    select (left(taskflow.uuid_at(now())::text, 14) || '7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'doomed', '1'
    from generate_series(1, %s) n
"""
WISH = """
    insert into taskflow.cancels (job_id, shard)
    select j.id, q.shard from taskflow.jobs j join taskflow.queues q on q.name = j.queue where q.name = 'doomed'
"""
OPEN = "select count(*) from taskflow.cancels where not done"


@pytest.fixture(scope="module")
def shallow(make_cluster: Callable[..., ServiceCluster]) -> Iterator[ServiceCluster]:
    cluster = make_cluster(env={"coordinator": {"TASKFLOW_LANE_DEPTH": str(DEPTH)}})
    cluster.start_all()
    yield cluster


@pytest.fixture
def tf(shallow: ServiceCluster) -> Iterator[TaskFlow]:
    with TaskFlow(shallow.scheduler_address) as client:
        yield client


@pytest.mark.feature("R7")
def test_start_by_holds_for_jobs_that_their_lane_has_not_read(shallow: ServiceCluster, tf: TaskFlow) -> None:
    starts: Counter[str] = Counter()
    ahead = tf.new_jobs([{"queue": "late"} for _ in range(DEPTH)])
    soon = datetime.now(UTC) + timedelta(seconds=0.5)
    late = tf.new_jobs([{"queue": "late", "start_by": soon} for _ in range(5 * DEPTH)])
    past = tf.new_jobs([{"queue": "late", "start_by": soon - timedelta(days=1)} for _ in range(DEPTH)])
    behind = tf.new_jobs([{"queue": "late", "start_by": soon + timedelta(hours=1)} for _ in range(DEPTH)])

    eventually(lambda: rows.found(shallow.dsn, OUTCOMES, "late") == [("expired", len(late) + len(past))], 20)

    def note(job: Job) -> None:
        starts[job.id] += 1

    with working(tf, "late", note, concurrency=20):
        assert {job.wait(timeout=20).state for job in (*ahead, *behind)} == {JobState.SUCCEEDED}
    assert starts == Counter(job.id for job in (*ahead, *behind))
    eventually(lambda: rows.found(shallow.dsn, LEFT) == [(len(behind),)])  # to be seen to when their time has come


@pytest.mark.feature("R7")
def test_a_job_that_started_in_time_runs_on_past_its_start_by(shallow: ServiceCluster, tf: TaskFlow) -> None:
    before = rows.found(shallow.dsn, LEFT)

    def outlast(job: Job) -> str:
        eventually(lambda: rows.found(shallow.dsn, LEFT) == before)
        return "outlasted"

    with working(tf, "timely", outlast):
        job = tf.new_job("timely", start_by=datetime.now(UTC) + timedelta(seconds=1.5))
        assert job.wait(timeout=20).result == "outlasted"


def peak(pid: int) -> int:
    """Bytes of memory that a process has had at most."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1]) << 10  # type: ignore[index]


@pytest.mark.feature("A13", "X.10")
def test_many_cancels_apply_in_pages_while_other_jobs_run(shallow: ServiceCluster, tf: TaskFlow) -> None:
    tf.new_job("doomed")
    pid = shallow.pid("coordinator")
    with working(tf, "alive", lambda job: "ran"):
        tf.new_job("alive").wait(timeout=20)
        before = peak(pid)
        rows.run(shallow.dsn, UNREAD, WISHES)
        rows.run(shallow.dsn, WISH)
        while rows.found(shallow.dsn, OPEN) != [(0,)]:
            assert tf.new_job("alive").wait(timeout=5).result == "ran"

    assert rows.found(shallow.dsn, OUTCOMES, "doomed") == [("cancelled", WISHES + 1)]
    assert peak(pid) - before < GROWTH

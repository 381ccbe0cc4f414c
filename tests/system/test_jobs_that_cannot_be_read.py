"""A job whose row cannot be decoded, as one that SQL has written, fails alone and says why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from uuid import UUID

import pytest

from taskflow import Job, JobState, TaskFlow
from tests.support import rows
from tests.support.cluster import ServiceCluster
from tests.support.waiting import eventually
from tests.support.workers import working

INSERT = """
insert into taskflow.jobs (id, priority, encoding, retries, deferred, queue, task, payload, options)
values (%s, 5, 1, 0, %s, 'by-sql', '', '1', %s::jsonb) returning 1
"""
DEFER = """
insert into taskflow.deferred (job_id, due_at, shard, priority, attempt, tries, reason, queue, task)
select %s, now(), q.shard, 5, 1, 0, 1, 'by-sql', '' from taskflow.queues q where q.name = 'by-sql' returning 1
"""
UNREADABLE = {
    "of another type": '{"timeout": "soon"}',
    "no object": "[1, 2]",
    "a time in no year": '{"start_by": 9000000000000000000}',
    "a pause without end": '{"backoff": {"first": 1, "factor": 1e300}}',
    "too deep": '{"requester": %s}' % ("[" * 5000 + "]" * 5000),
    "too long a number": '{"timeout": 1%s}' % ("0" * 5000),
}  # fmt: skip


@pytest.fixture(scope="module")
def cluster(make_cluster: Callable[..., ServiceCluster]) -> ServiceCluster:
    running = make_cluster()
    running.start_all()
    return running


@pytest.fixture
def tf(cluster: ServiceCluster) -> Iterator[TaskFlow]:
    with TaskFlow(cluster.scheduler_address, timeout=30) as app:
        yield app


@pytest.mark.feature("A11", "X.4")
@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("name", UNREADABLE)
def test_a_job_whose_options_cannot_be_read_fails_and_the_jobs_around_it_run(
    cluster: ServiceCluster, tf: TaskFlow, name: str, deferred: bool
) -> None:
    pid = cluster.pid("coordinator")
    before = tf.new_job("by-sql", 1)
    bad = rows.new_id()
    rows.found(cluster.dsn, INSERT, UUID(bytes=bad), deferred, UNREADABLE[name])
    if deferred:
        rows.found(cluster.dsn, DEFER, UUID(bytes=bad))
    after = tf.new_job("by-sql", 2)

    failed = eventually(lambda: (job := tf.jobs.get(rows.shown(bad))).state is JobState.FAILED and job, timeout=20)

    assert failed.error and failed.error.type == "unreadable" and "options" in failed.error.message
    with working(tf, "by-sql", handler=double):
        assert [job.wait(20).result for job in (before, after)] == [2, 4]
    assert rows.shown(bad) in {job.id for job in tf.jobs.list(queue="by-sql")}
    assert cluster.alive("coordinator") and cluster.pid("coordinator") == pid


def double(job: Job) -> int:
    return int(job.payload) * 2

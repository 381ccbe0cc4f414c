"""Queues and workers as people see them; who is handed what, and in which order (R11, R12, R13, S3.5)."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import grpc
import pytest

from taskflow import (
    Constant,
    FailedPrecondition,
    FiringInfo,
    FiringState,
    Job,
    JobState,
    NewJob,
    NotFound,
    QueueInfo,
    TaskFlow,
)
from taskflow.v1 import cluster_pb2, queues_pb2
from taskflow.v1 import jobs_pb2 as pb
from tests.support import rows
from tests.support.api import TIMEOUT, Api, refusal, spec
from tests.support.cluster import ServiceCluster
from tests.support.rawworker import RawWorker
from tests.support.waiting import eventually
from tests.support.workers import working


def get(api: Api, name: str) -> queues_pb2.Queue:
    queue: queues_pb2.Queue = api.queues.GetQueue(queues_pb2.GetQueueRequest(name=name), timeout=TIMEOUT)
    return queue


def create(api: Api, *jobs: pb.JobSpec) -> list[str]:
    answer = api.jobs.CreateJobs(pb.CreateJobsRequest(jobs=jobs), timeout=TIMEOUT)
    return [rows.shown(i) for i in answer.ids]


def later(queue: str, seconds: float, **fields: Any) -> pb.JobSpec:
    job = spec(queue, **fields)
    job.delay.FromMilliseconds(int(seconds * 1000))
    return job


# -- queues ------------------------------------------------------------------------------------------------------------


@pytest.mark.feature("R11")
def test_a_queue_comes_into_being_by_its_first_job_and_is_there_when_it_is_empty(
    api: Api, tf: TaskFlow, queue: str
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        get(api, queue)
    said = refusal(refused.value)
    assert (said.code, said.reason) == (grpc.StatusCode.NOT_FOUND, "QUEUE_NOT_FOUND") and queue in said.message

    job = tf.new_job(queue)
    assert get(api, queue).ready == 1
    with working(tf, queue, lambda job: None):
        job.wait(timeout=20)

    empty = eventually(lambda: found if (found := get(api, queue)).ready == found.running == 0 else None)
    assert (empty.name, empty.namespace, empty.scheduled) == (queue, "default", 0)
    assert not empty.HasField("oldest") and abs(empty.create_time.ToMicroseconds() - rows.now_us()) < 60e6


@pytest.mark.feature("R11")
def test_the_queue_default_is_always_there(api: Api) -> None:
    assert get(api, "default").name == "default"


@pytest.mark.feature("R11", "S1.7")
def test_running_an_unknown_queue_creates_it(api: Api, tf: TaskFlow, queue: str) -> None:
    with working(tf, queue, lambda job: "served"):
        assert eventually(lambda: served(tf, queue)).workers == 1
        assert tf.new_job(queue).wait(timeout=20).result == "served"


def served(tf: TaskFlow, queue: str) -> QueueInfo | None:
    try:
        found = tf.queues.get(queue)
    except NotFound:
        return None
    return found if found.workers else None


@pytest.mark.feature("S3.4")
def test_a_queue_counts_what_is_ready_scheduled_and_running_and_knows_its_oldest(api: Api, queue: str) -> None:
    create(api, *(spec(queue, payload=b"1" * 1000) for _ in range(30)))
    create(api, *(later(queue, 600) for _ in range(4)), later(queue, 0.3))
    begun = time.monotonic()
    assert (get(api, queue).ready, get(api, queue).scheduled) == (30, 5)
    eventually(lambda: get(api, queue).ready == 31)

    with RawWorker(api, queues=[queue]) as worker:
        for handed in (worker.take(), worker.take(), worker.take()):
            worker.start(handed)
        found = eventually(lambda: q if (q := get(api, queue)).running == 3 and q.memory_bytes else None)
        assert (found.ready, found.scheduled, found.workers, found.ready_capped) == (28, 4, 1, False)
        assert 28 * 1000 < found.memory_bytes < 28 * 2000
        assert time.monotonic() - begun - 1 < found.oldest.ToMicroseconds() / 1e6 < time.monotonic() - begun + 1
        leased = eventually(lambda: q if (q := get(api, queue)).running == 3 else None, 3)
        assert leased.ready == 28, "also once the attempts have rows in leases"


@pytest.mark.feature("S3.4")
def test_a_large_queue_shows_about_how_much_waits_and_whether_it_grows(api: Api, tf: TaskFlow, queue: str) -> None:
    create(api, *(spec(queue) for _ in range(4000)))
    assert not get(api, queue).ready_estimated
    for _ in range(2):
        create(api, *(spec(queue) for _ in range(4000)))

    found = get(api, queue)
    assert (found.ready, found.ready_estimated, found.ready_capped) == (12_000, True, False)

    create(api, *(spec(queue) for _ in range(2000)))
    eventually(lambda: get(api, queue).ready == 14_000)
    assert tf.queues.get(queue).ready_estimated


@pytest.mark.feature("S3.4")
def test_queues_are_listed_by_name_over_pages(api: Api, queue: str) -> None:
    names = sorted(f"{space}{queue}-{n:02}" for space in ("", "a/", "z/") for n in range(15))
    create(api, *(spec(name) for name in names))

    found: list[str] = []
    token = ""
    while True:
        page = api.queues.ListQueues(queues_pb2.ListQueuesRequest(page_size=7, page_token=token), timeout=TIMEOUT)
        found.extend(q.name if q.namespace == "default" else f"{q.namespace}/{q.name}" for q in page.queues)
        token = page.next_page_token
        if not token:
            break

    assert len(found) == len(set(found))
    assert sorted(name for name in found if f"{queue}-" in name) == names


@pytest.mark.feature("R10", "R11", "X.25")
def test_a_queue_of_a_namespace_is_another_queue(api: Api, tf: TaskFlow, queue: str) -> None:
    full = f"billing.eu/{queue}"
    plain, other = tf.new_job(queue, 1), tf.new_job(full, 2)

    assert (get(api, full).name, get(api, full).namespace, get(api, full).ready) == (queue, "billing.eu", 1)
    with working(tf, full, lambda job: job.payload):
        assert other.wait(timeout=20).result == 2
    assert plain.get().state == JobState.READY
    assert (other.get().namespace, other.get().queue) == ("billing.eu", queue)


# -- workers and the cluster -------------------------------------------------------------------------------------------


def workers(api: Api, page_size: int = 1000) -> list[cluster_pb2.Worker]:
    found: list[cluster_pb2.Worker] = []
    token = ""
    while True:
        request = cluster_pb2.ListWorkersRequest(page_size=page_size, page_token=token)
        page = api.cluster.ListWorkers(request, timeout=TIMEOUT)
        found.extend(page.workers)
        token = page.next_page_token
        if not token:
            return found


@pytest.mark.feature("S3.4", "S1.7")
def test_workers_are_listed_while_they_live_with_what_they_run(api: Api, queue: str) -> None:
    with RawWorker(api, queues=[queue, f"{queue}-2"], tasks=["mail"], name=f"smith-{queue}") as worker:
        api.new(queue)
        worker.start(worker.take())
        found = next(w for w in workers(api) if w.name == f"smith-{queue}")
        assert (found.id, found.host, found.pid, found.concurrency, found.sdk) == (
            rows.shown(worker.worker_id), "here", 1, 3, "raw/1",
        )  # fmt: skip
        assert (list(found.queues), list(found.tasks)) == ([queue, f"{queue}-2"], ["mail"])
        assert (found.running, found.coordinator, found.draining) == (1, "coordinator-1", False)
        worker.draining = True
        eventually(lambda: next(w for w in workers(api) if w.id == found.id).draining)

    eventually(lambda: all(w.id != found.id for w in workers(api)))


@pytest.mark.feature("S3.4")
def test_a_worker_is_listed_once_with_all_its_coordinators(api: Api, database: str, queue: str) -> None:
    with RawWorker(api, queues=[queue], name=f"once-{queue}") as worker:
        # A standby stores the same row under its own name when the worker registers with it.
        rows.found(
            database,
            "insert into taskflow.workers select worker_id, 'standby', name, host, pid, queues, tasks, concurrency,"
            " sdk, true, started_at + interval '1 s' from taskflow.workers where worker_id = %s"
            " returning worker_id",
            UUID(bytes=worker.worker_id),
        )
        found = [w for w in workers(api, 1) if w.name == f"once-{queue}"]

        assert [list(w.coordinators) for w in found] == [["coordinator-1", "standby"]]
        assert [(w.coordinator, w.draining, w.id) for w in found] == [
            ("coordinator-1", True, rows.shown(worker.worker_id))
        ]
        rows.found(database, "delete from taskflow.workers where coordinator = 'standby' returning worker_id")


@pytest.mark.feature("S3.4")
def test_many_workers_are_listed_over_pages(api: Api, queue: str) -> None:
    started = [RawWorker(api, queues=[queue], name=f"{queue}-{n}") for n in range(5)]
    for worker in started:
        worker.__enter__()
    try:
        found = [w.name for w in workers(api, 2) if w.name.startswith(f"{queue}-")]
    finally:
        for worker in started:
            worker.__exit__()

    assert found == [worker.name for worker in started], "in the order in which they came"


@pytest.mark.feature("S1.7")
def test_the_topology_names_who_is_there_and_where(cluster: ServiceCluster, api: Api) -> None:
    topology = api.topology()

    assert [(i.name, list(i.addresses)) for i in topology.coordinators] == [
        ("coordinator-1", [cluster.address("coordinator")])
    ]
    assert [(i.name, list(i.addresses)) for i in topology.queues] == [("queue-1", [cluster.address("queue")])]
    assert [(i.name, list(i.addresses)) for i in topology.schedulers] == [
        ("scheduler-1", [cluster.address("scheduler")])
    ]
    assert all(len(i.incarnation) == 36 for i in [*topology.coordinators, *topology.schedulers])


# -- who is handed what (R12) ------------------------------------------------------------------------------------------


@pytest.mark.feature("R12", "S3.3")
def test_a_worker_is_handed_only_what_it_has_a_handler_for(api: Api, queue: str) -> None:
    mail, call, bare = create(api, spec(queue, task=f"mail-{queue}"), spec(queue, task=f"call-{queue}"), spec(queue))
    other_mail, other_bare = create(api, spec(f"{queue}-2", task=f"mail-{queue}"), spec(f"{queue}-2"))

    def given(**serves: Any) -> set[str]:
        only = serves.pop("only", ())
        with RawWorker(api, **serves) as worker:
            handed = eventually(lambda: worker.poll(most=10, seconds=1, only=only), 5)
            handed += worker.poll(most=10, seconds=0.3, only=only)
            worker.report(*(h.outcome(pb.OUTCOME_RETURNED, started=False) for h in handed))
            return {rows.shown(h.task.job_id) for h in handed}

    assert given(queues=[queue]) == {bare}
    assert given(tasks=[f"mail-{queue}"]) == {mail, other_mail}
    assert given(tasks=[f"mail-{queue}"], only=[queue]) == {mail}
    assert given(tasks=[f"call-{queue}"], queues=[f"{queue}-2"]) == {call, other_bare}


@pytest.mark.feature("R12")
def test_a_job_that_no_live_worker_can_run_waits(api: Api, tf: TaskFlow, queue: str) -> None:
    lonely = tf.new_job(queue, task=f"lonely-{queue}")
    with working(tf, queue, lambda job: "bare"):
        assert tf.new_job(queue).wait(timeout=20).result == "bare"
        assert lonely.get().state == JobState.READY


# -- draining ----------------------------------------------------------------------------------------------------------


@pytest.mark.feature("S3.8")
def test_a_draining_queue_accepts_no_new_jobs_and_finishes_those_that_it_has(
    api: Api, tf: TaskFlow, queue: str
) -> None:
    tries: list[str] = []

    def handle(job: Job) -> str:
        tries.append(job.id)
        if job.payload == "twice" and job.attempt == 1:
            raise RuntimeError("not yet")
        return "ran"

    there = [
        tf.new_job(queue, "once"),
        tf.new_job(queue, "twice", retries=1, backoff=Constant(0.05)),
        tf.new_job(queue, delay=0.3),
    ]

    drained = tf.queues.drain(queue)

    assert drained.draining and not drained.paused and get(api, queue).draining
    submissions: list[Callable[[], object]] = [
        lambda: tf.new_job(queue),
        lambda: tf.new_job(queue, key="a-key"),
        lambda: tf.new_jobs([NewJob(f"{queue}-other"), NewJob(queue)]),
    ]
    for refused in submissions:
        with pytest.raises(FailedPrecondition, match=f"'{queue}' drains and accepts no new jobs") as caught:
            refused()
        assert caught.value.reason == "QUEUE_DRAINING"
    partial = pb.CreateJobsRequest(jobs=[spec(queue), spec(f"{queue}-other")], allow_partial=True)
    answer = api.jobs.CreateJobs(partial, timeout=TIMEOUT)
    assert [problem.index for problem in answer.errors] == [0]
    with working(tf, queue, handle):
        assert {job.wait(timeout=20).result for job in there} == {"ran"}
        assert len(tries) == 4
        eventually(lambda: (found := tf.queues.get(queue)).ready == found.running == found.scheduled == 0)

        assert not tf.queues.resume(queue).draining
        assert tf.new_job(queue).wait(timeout=20).result == "ran"
    with pytest.raises(NotFound):
        tf.queues.drain(f"{queue}-unknown")


@pytest.mark.feature("S3.8")
def test_schedules_skip_their_instants_while_their_queue_drains(tf: TaskFlow, queue: str) -> None:
    tf.new_job(queue)
    tf.queues.drain(queue)
    task = tf.tasks.create(f"often-{queue}", queue=queue, schedule="* * * * * *")

    def skipped() -> list[FiringInfo]:
        found = [each for made in tf.schedules.list(task=task.name) for each in tf.schedules.firings(made.id)]
        return [each for each in found if each.state is FiringState.SKIPPED_OFF]

    (first, *_) = eventually(skipped, 5)
    assert first.reason == f"its queue {queue} drains" and not first.job_id
    assert tf.queues.get(queue).ready == 1
    with pytest.raises(FailedPrecondition, match="drains"):
        tf.tasks.run(task.name)
    (made,) = tf.schedules.list(task=task.name)
    tf.schedules.pause(made.id)
    with pytest.raises(FailedPrecondition, match="drains"):
        tf.schedules.backfill(made.id, start=datetime.now(UTC) - timedelta(minutes=1))
    tf.tasks.remove(task.name)


# -- order (R13) -------------------------------------------------------------------------------------------------------


@pytest.mark.feature("R13")
def test_higher_priorities_go_first_and_equal_ones_in_the_order_of_their_commits(api: Api, queue: str) -> None:
    # Far apart: a lane goes before its turn once it has waited for 2 s for each step up to the highest one (B14).
    made = {p: [api.new(queue, priority=p).id for _ in range(2)] for p in (0, 5, 9)}
    by_default = api.new(queue).id
    order = [*made[9], *made[5], by_default, *made[0]]
    eventually(lambda: get(api, queue).memory_bytes > 7 * 250)  # all are with the queue service

    with RawWorker(api, queues=[queue]) as worker:
        handed = [worker.poll()[0] for _ in order]

    assert [rows.shown(h.task.job_id) for h in handed] == order
    assert [h.lane.priority for h in handed] == [9] * 2 + [5] * 3 + [0] * 2


@pytest.mark.feature("R13", "X.2", "B14")
def test_a_low_job_runs_though_one_worker_always_has_higher_ones(api: Api, tf: TaskFlow, queue: str) -> None:
    more = True

    @tf.task(name=f"high-{queue}", queue=queue)
    def high() -> None:
        """Another one follows each, so that there are always 300: more than run until a page brings the next ones."""
        if more:
            tf.new_job(queue, {}, task=f"high-{queue}", priority=6)

    @tf.task(name=f"low-{queue}", queue=f"{queue}-low")
    def low() -> str:
        return "ran"

    tf.new_jobs([NewJob(queue, {}, task=f"high-{queue}", priority=6)] * 300)
    late = tf.new_job(f"{queue}-low", {}, task=f"low-{queue}", priority=5)
    eventually(lambda: get(api, queue).memory_bytes > 300 * 250 and get(api, f"{queue}-low").memory_bytes > 0)
    with working(tf, concurrency=1):
        assert late.wait(timeout=10).result == "ran"
        more = False


@pytest.mark.feature("R13")
def test_one_worker_runs_a_lane_in_the_order_of_tx_and_id(tf: TaskFlow, database: str, queue: str) -> None:
    ran: list[str] = []
    with working(tf, queue, lambda job: ran.append(job.id), concurrency=1):
        for _ in range(20):
            tf.new_jobs([NewJob(queue, n) for n in range(20)])
        eventually(lambda: len(ran) == 400, 20)

    order = rows.found(database, "select id::text from taskflow.jobs where queue = %s order by tx, id", queue)
    assert ran == [row[0] for row in order]


# -- jobs for a time (S3.5) --------------------------------------------------------------------------------------------


@pytest.mark.feature("S3.5", "X.1")
@pytest.mark.parametrize(
    "when",
    [lambda: {"delay": 0.8}, lambda: {"run_at": datetime.now(UTC) + timedelta(seconds=0.8)}],
    ids=["delay", "run_at"],
)
def test_a_job_for_a_time_runs_then_and_not_before(
    tf: TaskFlow, queue: str, when: Callable[[], dict[str, Any]]
) -> None:
    def handle(job: Job) -> int:
        return rows.now_us()

    with working(tf, queue, handle):
        job = tf.new_job(queue, **when())
        due = job.get().run_time
        assert job.get().state == JobState.SCHEDULED and due is not None
        ran = job.wait(timeout=20).result / 1e6 - due.timestamp()

    assert -0.02 <= ran < 0.7
    assert due == job.get().run_time


@pytest.mark.feature("S3.5")
def test_a_job_for_a_time_that_has_passed_runs_at_once(tf: TaskFlow, queue: str) -> None:
    with working(tf, queue, lambda job: "ran"):
        for when in ({"run_at": datetime.now(UTC) - timedelta(days=400)}, {"delay": 0}):
            assert tf.new_job(queue, **when).wait(timeout=20).result == "ran"


@pytest.mark.feature("S3.5", "M.4", "A4")
def test_jobs_for_a_time_come_due_after_their_coordinator_was_killed(
    cluster: ServiceCluster, tf: TaskFlow, database: str, queue: str
) -> None:
    """Due while it is away, and due when it is back."""
    eventually(lambda: rows.found(database, "select count(*) from taskflow.workers") == [(0,)])  # none to be asked
    jobs = [tf.new_job(queue, n, delay=0.3 + 0.4 * n) for n in range(8)]
    cluster.kill("coordinator")
    cluster.start("coordinator")
    cluster.wait_healthy("coordinator")

    with working(tf, queue, lambda job: (job.payload, job.attempt)):
        assert [job.wait(timeout=30).result for job in jobs] == [[n, 1] for n in range(8)]

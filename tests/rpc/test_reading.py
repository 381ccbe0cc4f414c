"""The API's view of jobs: through their life, in lists by page, to those who wait for them, with their history."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from taskflow import Fail, InvalidArgument, Job, TaskFlow
from taskflow.v1 import jobs_pb2 as pb
from taskflow.v1 import worker_pb2
from tests.support import rows
from tests.support.api import TIMEOUT, Api, refusal, spec
from tests.support.cluster import ServiceCluster
from tests.support.rawworker import RawWorker
from tests.support.waiting import eventually
from tests.support.workers import working

NOBODY = "01980a2c-7d1e-7c43-9b1f-0c5d2f6a7b8c"
SCHEDULED, READY, REQUESTED, RUNNING, RETRYING, SUCCEEDED, FAILED, CANCELLED = (
    pb.JOB_STATE_SCHEDULED, pb.JOB_STATE_READY, pb.JOB_STATE_REQUESTED, pb.JOB_STATE_RUNNING, pb.JOB_STATE_RETRYING,
    pb.JOB_STATE_SUCCEEDED, pb.JOB_STATE_FAILED, pb.JOB_STATE_CANCELLED,
)  # fmt: skip


def listed(api: Api, page_size: int = 100, **filters: object) -> list[pb.Job]:
    """All pages of a list."""
    found: list[pb.Job] = []
    token = ""
    while True:
        request = pb.ListJobsRequest(page_size=page_size, page_token=token, **filters)  # type: ignore[arg-type]
        page = api.jobs.ListJobs(request, timeout=TIMEOUT)
        assert len(page.jobs) <= page_size
        found.extend(page.jobs)
        token = page.next_page_token
        if not token:
            return found


def attempts(api: Api, id: str) -> list[pb.Attempt]:
    answer = api.jobs.ListAttempts(pb.ListAttemptsRequest(job_id=id), timeout=TIMEOUT)
    return list(answer.attempts)


def logs(api: Api, id: str, page_size: int = 100) -> list[pb.JobLog]:
    """All pages of a job's log."""
    found: list[pb.JobLog] = []
    token = ""
    while True:
        request = pb.ListJobLogsRequest(job_id=id, page_size=page_size, page_token=token)
        page = api.jobs.ListJobLogs(request, timeout=TIMEOUT)
        found.extend(page.logs)
        token = page.next_page_token
        if not token:
            return found


# -- the life of a job -------------------------------------------------------------------------------------------------


@pytest.mark.feature("S3.4", "R3")
def test_a_job_is_seen_in_each_state_of_its_life(api: Api, queue: str) -> None:
    options = pb.JobOptions()
    options.backoff.first.FromMilliseconds(700)
    wanted = spec(queue, retries=1, options=options)
    wanted.delay.FromMilliseconds(700)

    with RawWorker(api, queues=[queue], name="raw-1") as worker:
        job = api.create(wanted)
        seen = [job.state]
        due = job.run_time.ToMicroseconds()
        assert 0 < due - job.create_time.ToMicroseconds() < 1_500_000
        assert not worker.poll(seconds=0.1)
        first = worker.take()
        assert rows.now_us() >= due - 50_000
        requested = eventually(lambda: (asked := api.get(job.id)).worker and asked)  # once its owner has heard of it
        seen.append(requested.state)
        assert (requested.attempt, requested.worker) == (1, "raw-1")

        worker.start(first)
        progress = pb.Progress(current=1, total=4, unit="mails", message="on it")
        assert worker.notify(first, progress=progress) == []
        running = api.get(job.id)
        seen.append(running.state)
        assert (running.progress, running.attempt) == (progress, 1)

        error = pb.Error(type="SMTPError", message="450 later", traceback="line 1", details=b'{"code":450}')
        assert worker.report(first.outcome(pb.OUTCOME_FAILED, error=error, run_us=1000)) == {}
        retrying = api.get(job.id)
        seen.append(retrying.state)
        assert (retrying.error, retrying.last_outcome) == (error, pb.OUTCOME_FAILED)
        assert retrying.run_time.ToMicroseconds() > rows.now_us() and not retrying.HasField("finish_time")

        worker.have.clear()
        second = worker.take()
        assert (second.task.attempt, second.task.tries, second.task.exec_id != first.task.exec_id) == (2, 1, True)
        assert worker.report(second.outcome(result=b'{"sent":true}', run_us=2_000_000)) == {}
    done = api.get(job.id)
    seen.append(done.state)

    assert seen == [SCHEDULED, REQUESTED, RUNNING, RETRYING, SUCCEEDED]
    assert (done.result, done.result_encoding, done.attempt) == (b'{"sent":true}', pb.ENCODING_JSON, 2)
    assert (done.last_outcome, done.worker, done.HasField("error")) == (pb.OUTCOME_SUCCEEDED, "raw-1", False)
    assert done.finish_time.ToMicroseconds() - done.start_time.ToMicroseconds() == 2_000_000


@pytest.mark.feature("S3.4")
def test_a_running_job_is_seen_with_its_start_once_it_outlasts_a_heartbeat(api: Api, database: str, queue: str) -> None:
    job = api.new(queue)
    with RawWorker(api, queues=[queue], name="long") as worker:
        handed = worker.take()
        worker.start(handed)
        worker.notify(handed, progress=pb.Progress(current=2, unit="x", message="a \\u0000 b\0c"))
        leased = "select worker, started, attempt, progress ->> 'message' from taskflow.leases where job_id = %s"
        eventually(lambda: rows.found(database, leased, job.id))
        running = api.get(job.id)
        assert rows.found(database, leased, job.id) == [("long", True, 1, "a \\u0000 bc")]
        worker.report(handed.outcome())

    assert running.state == RUNNING
    assert 0 <= rows.now_us() - running.start_time.ToMicroseconds() < 20e6
    assert rows.found(database, leased, job.id) == []


@pytest.mark.feature("S3.4", "R1")
def test_attempts_are_listed_in_order_with_all_that_is_known(api: Api, queue: str) -> None:
    options = pb.JobOptions()
    options.backoff.first.FromMilliseconds(1)
    job = api.new(queue, retries=5, options=options)
    with RawWorker(api, queues=[queue], name="historian") as worker:
        first = worker.take()
        worker.report(first.outcome(pb.OUTCOME_FAILED, error=pb.Error(type="E", message="m", traceback="t")))
        second = worker.take()
        worker.report(second.outcome(pb.OUTCOME_SNOOZED, delay_ms=1))
        third = worker.take()
        under_way = attempts(api, job.id)
        worker.report(third.outcome(result=b"3", encoding=pb.ENCODING_TEXT))
    history = attempts(api, job.id)

    assert [(a.number, a.outcome, a.final) for a in under_way] == [
        (1, pb.OUTCOME_FAILED, False), (2, pb.OUTCOME_SNOOZED, False), (3, pb.OUTCOME_UNSPECIFIED, False),
    ]  # fmt: skip
    assert [(a.number, a.outcome, a.final) for a in history[2:]] == [(3, pb.OUTCOME_SUCCEEDED, True)]
    assert history[0].error == pb.Error(type="E", message="m", traceback="t")
    assert (history[2].result, history[2].result_encoding) == (b"3", pb.ENCODING_TEXT)
    assert {a.worker for a in history} == {"historian"} and len({a.exec_id for a in history}) == 3
    assert under_way[2].exec_id == history[2].exec_id
    assert all(a.HasField("start_time") and a.HasField("finish_time") and a.job_id == job.id for a in history)


@pytest.mark.feature("S3.4", "R1")
def test_a_job_s_log_is_paged_in_order(api: Api, tf: TaskFlow, queue: str) -> None:
    def talk(job: Job) -> None:
        for n in range(25):
            job.log(f"line {n}", level="debug" if n % 2 else "info")
        raise Fail("\0 that was all")

    with working(tf, queue, talk):
        job = tf.new_job(queue)
        tf.jobs.wait(job.id, timeout=20)
    found = eventually(lambda: lines if len(lines := logs(api, job.id, page_size=10)) >= 25 else None)

    assert [(line.message, line.level, line.attempt) for line in found] == [
        (f"line {n}", "debug" if n % 2 else "info", 1) for n in range(25)
    ]
    times = [line.time.ToMicroseconds() for line in found]
    assert abs(times[0] - rows.now_us()) < 20e6


# -- lists -------------------------------------------------------------------------------------------------------------


@pytest.mark.feature("S3.4")
def test_lists_bring_every_job_once_newest_first_over_pages(api: Api, queue: str) -> None:
    made = api.jobs.CreateJobs(pb.CreateJobsRequest(jobs=[spec(queue) for _ in range(250)]), timeout=TIMEOUT).ids

    for size in (1000, 100, 99, 250, 83):
        found = listed(api, size, queue=queue)
        assert [job.id for job in found] == [rows.shown(i) for i in sorted(made, reverse=True)]
    assert [job.id for job in listed(api, 200, queue=queue, states=[READY])] == [job.id for job in found]
    assert listed(api, queue=queue, states=[RUNNING]) == []


@pytest.mark.feature("S3.4")
def test_jobs_made_while_pages_are_read_disturb_nothing(api: Api, queue: str) -> None:
    api.jobs.CreateJobs(pb.CreateJobsRequest(jobs=[spec(queue) for _ in range(50)]), timeout=TIMEOUT)
    first = api.jobs.ListJobs(pb.ListJobsRequest(queue=queue, page_size=20), timeout=TIMEOUT)
    api.new(queue)

    rest = pb.ListJobsRequest(queue=queue, page_size=100, page_token=first.next_page_token)
    second = api.jobs.ListJobs(rest, timeout=TIMEOUT)

    assert len(first.jobs) + len(second.jobs) == 50
    assert len({job.id for job in [*first.jobs, *second.jobs]}) == 50


@pytest.mark.feature("S3.4")
def test_lists_tell_jobs_apart_by_queue_task_and_state(api: Api, queue: str) -> None:
    """One job in each state, and the list of each state has it alone."""
    states: dict[int, str] = {}
    later = spec(queue)
    later.delay.FromSeconds(600)
    states[SCHEDULED] = api.create(later).id
    with RawWorker(api, queues=[queue]) as worker:
        backoff = pb.JobOptions()
        backoff.backoff.first.FromSeconds(600)
        for state, outcome in ((SUCCEEDED, pb.OUTCOME_SUCCEEDED), (FAILED, pb.OUTCOME_TIMED_OUT),
                               (CANCELLED, pb.OUTCOME_CANCELLED), (RETRYING, pb.OUTCOME_FAILED)):  # fmt: skip
            states[state] = api.new(queue, retries=int(state == RETRYING), options=backoff).id
            worker.report(worker.take().outcome(outcome))
        worker.have.clear()
        states[REQUESTED] = api.new(queue).id
        worker.take()
        states[RUNNING] = api.new(queue).id
        worker.start(worker.take())
        states[READY] = api.new(queue).id
        other = api.new(queue, task="other-task").id

        assert {s: [job.id for job in listed(api, queue=queue, states=[s])] for s in states if s != READY} == {
            state: [id] for state, id in states.items() if state != READY
        }
        assert [j.id for j in listed(api, queue=queue, states=[READY])] == sorted([states[READY], other], reverse=True)
        assert [j.id for j in listed(api, queue=queue, task="other-task")] == [other]
        assert [j.state for j in listed(api, queue=queue, states=[RUNNING, SUCCEEDED, REQUESTED])] == sorted(
            [RUNNING, SUCCEEDED, REQUESTED], key=lambda s: states[s], reverse=True
        )
        everything = {other: READY, **{id: state for state, id in states.items()}}
        assert {j.id: j.state for j in listed(api, 3, queue=queue)} == everything
        assert {id: api.get(id).state for id in states.values()} == {id: state for state, id in states.items()}


@pytest.mark.feature("S3.4")
def test_lists_leave_out_large_payloads_and_results(api: Api, tf: TaskFlow, queue: str) -> None:
    with working(tf, queue, lambda job: job.payload):
        for size in (1024, 1025):
            tf.new_job(queue, b"x" * size).wait(timeout=20)

    assert [(len(job.payload), len(job.result)) for job in listed(api, queue=queue)] == [(0, 0), (1024, 1024)]


# -- waiting -----------------------------------------------------------------------------------------------------------


def awaited(api: Api, id: str, milliseconds: int) -> tuple[pb.Job, float]:
    request = pb.AwaitJobRequest(id=id)
    request.timeout.FromMilliseconds(milliseconds)
    begun = time.monotonic()
    return api.jobs.AwaitJob(request, timeout=TIMEOUT + 20), time.monotonic() - begun


@pytest.mark.feature("X.11", "C1")
def test_waiting_ends_with_the_job_or_with_the_time_out(api: Api, queue: str) -> None:
    job = api.new(queue)
    with RawWorker(api, queues=[queue]) as worker, ThreadPoolExecutor(4) as pool:
        handed = worker.take()
        over, took = awaited(api, job.id, 300)
        assert (over.state, 0.3 <= took < 2) == (REQUESTED, True)
        waits = [pool.submit(awaited, api, job.id, 20_000) for _ in range(3)]
        begun = time.monotonic()
        worker.report(handed.outcome(result=b"1"))
        answers = [wait.result() for wait in waits]

    assert time.monotonic() - begun < 1.5, "they were told, and did not wait for the next look"
    assert [(answer.state, answer.result) for answer, _ in answers] == [(SUCCEEDED, b"1")] * 3
    known, took = awaited(api, job.id, 20_000)
    assert (known.state, took < 1) == (SUCCEEDED, True)


@pytest.mark.feature("X.11")
def test_waiting_with_no_time_answers_at_once(api: Api, queue: str) -> None:
    job, took = awaited(api, api.new(queue).id, 0)

    assert (job.state, took < 1) == (READY, True)


@pytest.mark.feature("X.11", "M.4", "C1")
def test_those_who_wait_are_answered_though_the_coordinator_restarts(
    cluster: ServiceCluster, api: Api, tf: TaskFlow, database: str, queue: str
) -> None:
    eventually(lambda: rows.found(database, "select count(*) from taskflow.workers") == [(0,)])  # none to be asked
    job = api.new(queue)
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(awaited, api, job.id, 30_000)
        cluster.kill("coordinator")
        cluster.start("coordinator")
        with working(tf, queue, lambda job: 1):
            assert waits.result()[0].state == SUCCEEDED
    cluster.wait_healthy("coordinator")


@pytest.mark.feature("C1")
def test_a_wait_ends_though_no_notice_of_the_end_comes(api: Api, database: str, queue: str) -> None:
    """The end is written behind the coordinators' backs; the scheduler reads what is awaited every 2 s."""
    job = api.new(queue)
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(awaited, api, job.id, 30_000)
        assert api.get(job.id).state == READY
        write = """
            insert into taskflow.attempts (job_id, finished_at, attempt, tries, outcome, final)
            values (%s, taskflow.now(), 1, 1, 1, true) returning final"""
        assert rows.found(database, write, job.id) == [(True,)]
        ended, took = wait.result()
    assert (ended.state, took < 20) == (SUCCEEDED, True)


CALLS: list[Callable[[Api, str], object]] = [
    lambda api, id: api.get(id),
    lambda api, id: awaited(api, id, 1000),
    lambda api, id: api.jobs.CancelJob(pb.CancelJobRequest(id=id), timeout=TIMEOUT),
    lambda api, id: api.jobs.RetryJob(pb.RetryJobRequest(id=id), timeout=TIMEOUT),
    lambda api, id: attempts(api, id),
    lambda api, id: logs(api, id),
]


@pytest.mark.feature("S3.4")
@pytest.mark.parametrize("call", CALLS)
def test_a_job_that_is_not_there_is_not_found(api: Api, call: Callable[[Api, str], object]) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        call(api, NOBODY)

    said = refusal(refused.value)
    assert (said.code, said.reason) == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")
    assert NOBODY in said.message


@pytest.mark.feature("R1")
def test_an_outcome_of_an_older_attempt_is_refused_counted_and_logged(api: Api, queue: str) -> None:
    options = pb.JobOptions()
    options.backoff.first.FromMilliseconds(1)
    job = api.new(queue, retries=1, options=options)
    with RawWorker(api, queues=[queue]) as worker:
        first = worker.take()
        failed = first.outcome(pb.OUTCOME_FAILED)
        assert worker.report(failed) == {}
        second = worker.take()

        assert worker.report(failed) == {}, "the same outcome again"
        assert worker.report(first.outcome(pb.OUTCOME_SUCCEEDED)) == {first.task.exec_id: "OUTCOME_RECORDED"}
        stale = worker_pb2.AttemptOutcome()
        stale.CopyFrom(second.outcome(result=b"stale"))
        stale.exec_id = rows.new_exec(second.lane.shard, 1)
        assert worker.report(stale) == {stale.exec_id: "STALE_EXEC_ID"}
        with pytest.raises(grpc.RpcError) as refused:
            worker.start(first)
        assert worker.notify(first) == [first.task.exec_id]
        assert worker.report(second.outcome(result=b'"good"')) == {}
        assert worker.report(second.outcome(result=b'"good"')) == {}

    said = refusal(refused.value)
    assert (said.code, said.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "STALE_EXEC_ID")
    assert api.get(job.id).result == b'"good"'
    assert [a.outcome for a in attempts(api, job.id)] == [pb.OUTCOME_FAILED, pb.OUTCOME_SUCCEEDED]
    lines = eventually(lambda: found if len(found := logs(api, job.id)) >= 2 else None)
    assert [(line.attempt, line.level) for line in lines] == [(1, "warning"), (2, "warning")]
    assert "OUTCOME_RECORDED" in lines[0].message and "STALE_EXEC_ID" in lines[1].message


# -- what runs --------------------------------------------------------------------------------------------------------


@pytest.mark.feature("S3.4")
def test_jobs_of_one_worker_and_those_that_run_long_are_listed(api: Api, tf: TaskFlow, queue: str) -> None:
    for _ in range(4):
        api.new(queue)
    with RawWorker(api, queues=[queue], name=f"one-{queue}") as one, RawWorker(api, queues=[queue], name="two") as two:
        mine = one.poll(most=2, seconds=5)
        one.start(mine[0])
        others = two.poll(most=1, seconds=5)
        two.start(others[0])
        ids = [rows.shown(handed.task.job_id) for handed in mine]
        other = rows.shown(others[0].task.job_id)

        def found(**filters: object) -> set[str]:
            return {job.id for job in listed(api, queue=queue, **filters)}

        eventually(lambda: found(running_longer_than=Duration(nanos=200_000_000)) == {ids[0], other})
        assert found(worker=f"one-{queue}") == set(ids)
        assert found(worker=f"one-{queue}", states=[RUNNING]) == {ids[0]}
        assert found(worker=f"one-{queue}", running_longer_than=Duration()) == {ids[0]}
        assert found(running_longer_than=Duration(seconds=3600)) == found(worker="nobody") == set()
        assert {job.id for job in tf.jobs.list(queue=queue, worker=f"one-{queue}")} == set(ids)
        assert [job.id for job in tf.jobs.list(worker=f"one-{queue}", running_longer_than=0.1)] == ids[:1]
        with pytest.raises(InvalidArgument, match="states: worker applies to requested and running jobs only"):
            list(tf.jobs.list(worker="two", states="failed"))
        with pytest.raises(InvalidArgument, match="running_longer_than"):
            list(tf.jobs.list(running_longer_than=-1))
        one.report(*(handed.outcome() for handed in mine))
        two.report(*(handed.outcome() for handed in others))
        assert found(worker=f"one-{queue}") == set()

"""A task's own options count for whoever submits jobs by its name, unless he says otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from taskflow import Constant, JobInfo, NewJob, TaskFlow
from taskflow.errors import DeadlineExceeded
from taskflow.v1 import jobs_pb2
from tests.support.api import Api, spec
from tests.support.cluster import ServiceCluster
from tests.support.rawexecutor import RawExecutor
from tests.support.waiting import eventually
from tests.support.workers import working

Facts = tuple[str, int, int, float | None]


@pytest.fixture(scope="module")
def cluster(make_cluster: Callable[..., ServiceCluster]) -> ServiceCluster:
    running = make_cluster(env={"scheduler": {"TASKFLOW_CLOCK": "manual", "TASKFLOW_TOPOLOGY_INTERVAL": "0.1"}})
    running.start_all()
    return running


@pytest.fixture(scope="module")
def tf(cluster: ServiceCluster) -> Iterator[TaskFlow]:
    """A client that knows no task, beside a worker of `flaky` and `plain`."""
    with TaskFlow(cluster.scheduler_address) as client, worker_of(cluster, retries=3), working(plain(cluster)):
        eventually(lambda: len(list(client.workers.list())) == 2)
        yield client


def other(cluster: ServiceCluster) -> TaskFlow:
    app = TaskFlow(cluster.scheduler_address)

    @app.task
    def briefly() -> None:
        pass

    return app


def worker_of(cluster: ServiceCluster, *, retries: int) -> AbstractContextManager[TaskFlow]:
    app = TaskFlow(cluster.scheduler_address)

    @app.task(
        queue="own", retries=retries, priority=8, timeout=30, heartbeat_timeout=20, backoff=Constant(2.5, jitter=0)
    )
    def flaky(n: int = 0) -> int:
        return n

    return working(app)


def plain(cluster: ServiceCluster) -> TaskFlow:
    app = TaskFlow(cluster.scheduler_address)

    @app.task
    def plain() -> None:
        pass

    return app


def facts(job: JobInfo) -> Facts:
    return job.queue, job.retries, job.priority, job.timeout


def by_workflow(tf: TaskFlow, name: str, **said: object) -> JobInfo:
    """The job of a step."""
    tf.workflows.put({"name": name, "steps": [{"name": "one", "kind": "task", "meta": {"task": "flaky"}, **said}]})
    run = tf.workflows.start(name)
    job = eventually(lambda: [job for step in tf.workflows.get_run(run.id).steps for job in step.jobs])[0]
    return tf.jobs.get(job.job_id)


def fired(tf: TaskFlow, schedule: str) -> JobInfo:
    """The job of its first firing."""
    tf.advance_clock(70)
    return tf.jobs.get(eventually(lambda: [f.job_id for f in tf.schedules.firings(schedule) if f.job_id])[0])


OWN = ("own", 3, 8, 30.0)


@pytest.mark.feature("R3")
def test_a_job_by_its_tasks_name_has_the_tasks_options(tf: TaskFlow, cluster: ServiceCluster) -> None:
    assert facts(tf.new_job(task="flaky").get()) == OWN
    assert facts(tf.new_jobs([NewJob(None, task="flaky")])[0].get()) == OWN
    assert facts(tf.new_jobs([{"task": "flaky"}])[0].get()) == OWN
    assert facts(tf.new_job("another", {"n": 1}, task="flaky").get()) == ("another", *OWN[1:])
    with Api(cluster.scheduler_address) as api:
        job = api.create(jobs_pb2.JobSpec(task="flaky"))
        assert (job.queue, job.retries, job.priority, job.options.timeout.seconds) == OWN
        assert job.options.heartbeat_timeout.seconds == 20
        assert job.options.backoff.first.ToMilliseconds() == 2500
        assert api.create(spec("q", task="default/flaky")).retries == 3


def test_what_is_said_of_a_job_goes_before_its_tasks_options(tf: TaskFlow, cluster: ServiceCluster) -> None:
    said = tf.new_job("q", task="flaky", retries=0, priority=1, timeout=5, backoff=Constant(1.0)).get()
    assert facts(said) == ("q", 0, 1, 5.0)
    assert facts(tf.new_job("q", {"n": 1}).get()) == ("q", 0, 5, None), "without a task, no task's options"
    assert facts(tf.new_job(task="plain").get()) == ("default", 0, 5, None)
    assert facts(tf.new_job(task="nobody").get()) == ("default", 0, 5, None)


@pytest.mark.feature("S1.7", "S4.5")
def test_schedules_tasks_and_steps_apply_a_handlers_options(tf: TaskFlow) -> None:
    assert facts(fired(tf, tf.schedules.create("flaky", cron="* * * * *").id)) == OWN
    tf.tasks.create("named", target="flaky")
    assert facts(tf.tasks.run("named")) == OWN
    shown = tf.tasks.get("named")
    assert (shown.queue, shown.retries, shown.priority, shown.timeout) == OWN
    assert facts(by_workflow(tf, "as-the-task-says")) == OWN
    assert facts(by_workflow(tf, "as-the-step-says", retries=1, queue="q", timeout=7)) == ("q", 1, 8, 7.0)
    tf.tasks.update("named", retries=0)
    assert facts(tf.tasks.run("named")) == ("own", 0, 8, 30.0), "what is changed is said; the rest is not"


def test_a_named_task_that_says_its_options_keeps_them(tf: TaskFlow) -> None:
    made = tf.tasks.create("says", target="flaky", queue="q", retries=0, priority=5, timeout=9, schedule="0 0 1 1 *")
    assert (made.queue, made.retries, made.priority, made.timeout) == ("q", 0, 5, 9.0)
    assert facts(tf.tasks.run("says")) == ("q", 0, 5, 9.0)


def test_a_change_at_a_deploy_counts_for_what_is_submitted_later(tf: TaskFlow, cluster: ServiceCluster) -> None:
    before = tf.new_job("nobody", task="flaky")
    with worker_of(cluster, retries=7):
        eventually(lambda: tf.new_job("nobody", task="flaky").get().retries == 7)
        assert before.get().retries == 3
        cluster.restart("coordinator")  # all workers come again, in any order: the newest one's word stands
        eventually(lambda: len(list(tf.workers.list())) == 3)
        eventually(lambda: tf.new_job("q", task="plain").wait(10))
        assert tf.new_job("nobody", task="flaky").get().retries == 7
        assert tf.tasks.create("later", target="flaky").retries == 7
    assert tf.new_job("nobody", task="flaky").get().retries == 7, "they stay when the worker has gone"


def test_a_repeated_call_is_the_same_job_though_the_options_have_changed(cluster: ServiceCluster) -> None:
    with TaskFlow(cluster.scheduler_address) as tf, Api(cluster.scheduler_address) as api:
        with worker_of(cluster, retries=4):
            eventually(lambda: tf.new_job(task="flaky").get().retries == 4)
            job = spec("nobody", task="flaky")
            assert api.create(job).retries == 4
        with worker_of(cluster, retries=5):
            eventually(lambda: tf.new_job(task="flaky").get().retries == 5)
            assert api.create(job).retries == 4


# -- jobs that nobody is there to run ----------------------------------------------------------------------------------


@pytest.mark.feature("R12")
def test_a_misspelt_task_or_queue_is_warned_of_wherever_the_job_is_seen(tf: TaskFlow) -> None:
    job = tf.new_job("misspelt", task="flakey")
    assert [warning.reason for warning in job.warnings] == ["HANDLER_NOT_SEEN"]
    assert "near in name: 'flaky'" in str(job.warnings[0])
    assert job.get().warnings == job.warnings
    with pytest.raises(DeadlineExceeded, match="no worker has ever had a handler for task 'flakey'"):
        job.wait(0.1)
    assert eventually(lambda: tf.queues.get("misspelt").warnings) == job.warnings
    (without,) = tf.new_job("q").warnings
    assert (without.reason, "queue 'q'" in without.message) == ("NO_LIVE_WORKER", True)
    first, second = tf.new_jobs([("q", 1), {"task": "flaky"}])
    assert [w.reason for w in first.warnings] == ["NO_LIVE_WORKER"]
    assert second.warnings == ()
    assert [w.reason for w in tf.schedules.create("flakey", cron="0 0 1 1 *").warnings] == ["HANDLER_NOT_SEEN"]
    assert tf.schedules.create("flaky", cron="0 0 1 1 *").warnings == ()


@pytest.mark.feature("R12")
def test_a_workflow_whose_steps_nobody_runs_and_its_schedule_are_warned_of(tf: TaskFlow) -> None:
    steps: list[dict[str, object]] = [
        {"name": "say", "kind": "task", "meta": {"task": "flakey"}},
        {"name": "again", "kind": "task", "meta": {"task": "flakey"}},
        {"name": "served", "kind": "task", "meta": {"task": "flaky"}},
        {"name": "call", "kind": "task_flow", "meta": {"calls": [{"url": "http://localhost/"}]}},
        {"name": "whole", "kind": "task", "queue": "nobody", "meta": {}},
        {"name": "pause", "kind": "wait", "meta": {"duration": 1}},
    ]
    document = {"name": "nightly", "schedule": {"cron": "0 0 1 1 *"}, "steps": steps}
    stored = tf.workflows.put(document)
    misspelt, call, whole = stored.warnings
    assert (misspelt.reason, call.reason, whole.reason) == ("HANDLER_NOT_SEEN", "HANDLER_NOT_SEEN", "NO_LIVE_WORKER")
    assert misspelt.message.startswith("steps 'say', 'again': no worker has ever had a handler for task 'flakey'")
    assert "near in name: 'flaky'" in misspelt.message
    assert call.message.startswith("step 'call': no worker has ever had a handler for task 'http.call'")
    assert whole.message.startswith("step 'whole': no live worker has a handler for jobs without a task in queue")
    assert tf.workflows.put(document, validate_only=True).warnings == stored.warnings
    assert tf.workflows.get("nightly").warnings == stored.warnings
    (own,) = tf.schedules.list(workflow="nightly")
    assert tf.schedules.get(own.id).warnings == stored.warnings
    assert tf.schedules.create(workflow="nightly", cron="0 0 1 1 *").warnings == stored.warnings
    assert tf.workflows.put({**document, "name": "served", "steps": [steps[2], steps[5]]}).warnings == ()
    decided = tf.workflows.put({"name": "decided", "decider": {}}).warnings
    assert "'awf.workflow.decision/decided'" in decided[0].message


def test_the_warnings_of_a_workflow_are_no_more_than_its_limit(tf: TaskFlow) -> None:
    steps = [{"name": f"s{n}", "kind": "task", "meta": {"task": f"nobody{n % 25}"}} for n in range(100)]
    warnings = tf.workflows.put({"name": "wide", "steps": steps}).warnings
    assert len(warnings) == 20
    assert warnings[0].message.startswith("steps 's0', 's25', 's50' and 1 more: ")


def test_a_served_job_has_no_warning_and_one_of_a_worker_that_left_has(tf: TaskFlow, cluster: ServiceCluster) -> None:
    assert tf.new_job(task="flaky").warnings == ()
    app = TaskFlow(cluster.scheduler_address)

    @app.task(queue="here")
    def brief() -> None:
        pass

    with working(app, queues=["here"]):
        eventually(lambda: tf.new_job(task="brief").warnings == ())
        assert [w.reason for w in tf.new_job("there", task="brief").warnings] == ["QUEUE_NOT_SERVED"]
    eventually(lambda: [w.reason for w in tf.new_job(task="brief").warnings] == ["NO_LIVE_WORKER"])
    assert "near in name" not in str(tf.new_job(task="brief").warnings[0]), "not its own name"
    with working(other(cluster)):
        eventually(lambda: "near in name: 'briefly'" in str(tf.new_job(task="brief").warnings[0]))


def test_an_executor_that_polls_is_there(tf: TaskFlow, cluster: ServiceCluster) -> None:
    assert [w.reason for w in tf.new_job("q", task="polled").warnings] == ["HANDLER_NOT_SEEN"]
    with Api(cluster.scheduler_address) as api, RawExecutor(api, tasks=["polled"]) as executor:
        eventually(lambda: executor.poll())
        eventually(lambda: tf.new_job("q", task="polled").warnings == ())

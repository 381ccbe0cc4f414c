"""Named tasks: an app's own, by name or id, on demand or by their schedule (S4)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial

import grpc
import pytest

from taskflow import AsyncTaskFlow, Constant, Exponential, Fail, Job, JobFailed, JobState, RunFailed, TaskFlow, TaskInfo
from taskflow.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from taskflow.v1 import tasks_pb2, tasks_pb2_grpc
from tests.support import rows
from tests.support.api import TIMEOUT, Api, refusal
from tests.support.cluster import ServiceCluster
from tests.support.waiting import eventually
from tests.support.workers import working

NEW_YEAR = datetime(2099, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def cluster(make_cluster: Callable[..., ServiceCluster]) -> ServiceCluster:
    running = make_cluster(env={"scheduler": {"TASKFLOW_CLOCK": "manual"}})
    running.start_all()
    return running


@pytest.fixture(scope="module")
def tf(cluster: ServiceCluster) -> Iterator[TaskFlow]:
    with TaskFlow(cluster.scheduler_address) as app:

        @app.task(queue="app")
        def double(n: int) -> int:
            if n < 0:
                raise Fail("no negative numbers")
            return 2 * n

        @app.task(queue="app")
        async def awaited(job: Job) -> str:
            return f"{job.payload}, in {job.attempt}"

        @app.task(queue="app")
        def who(job: Job) -> list[object]:
            return [job.caller.name, list(job.caller.roles), job.caller.namespace, dict(job.requester)]

        worker = threading.Thread(target=app.run, daemon=True)
        worker.start()
        eventually(lambda: len(list(app.workers.list())) == 1)
        yield app
        app.stop()
        worker.join(20)


@pytest.mark.feature("S4.1", "S4.2", "S4.3", "R20", "S1.1", "S1.2", "R19")
def test_a_task_is_made_found_and_run_by_name_or_id(tf: TaskFlow) -> None:
    task = tf.tasks.create("double", queue="app", title="Twice", retries=1, schedule="0 8 * * mon")

    assert (task.active, task.target, task.schedule, task.warnings) == (True, "double", "0 8 * * mon", ())
    assert task.next_run_at is not None and (task.next_run_at.weekday(), task.next_run_at.hour) == (0, 8)
    assert tf.tasks.get(task.id) == tf.tasks.get("double")
    assert tf.tasks.run_with_result("double", {"n": 21}) == 42
    job = tf.tasks.run(task.id, {"n": 4})
    assert tf.jobs.wait(job.id, timeout=20).result == 8
    assert [t.name for t in tf.tasks.list()] == ["double"]
    eventually(lambda: tf.tasks.get("double").last_run_at is not None)
    with pytest.raises(AlreadyExists):
        tf.tasks.create("double")
    with pytest.raises(NotFound):
        tf.tasks.get("no-such-task")


@pytest.mark.feature("S4.2", "S4.7", "R21")
def test_a_result_an_error_or_the_end_of_patience_is_what_the_caller_gets(tf: TaskFlow) -> None:
    tf.tasks.create("twice", target="double", queue="app")
    tf.tasks.create("later", target="awaited", queue="app")
    tf.tasks.create("never", queue="app")

    assert tf.tasks.run_with_result("twice", {"n": 1}) == 2
    assert tf.tasks.run_with_result("later", "here") == "here, in 1"
    with pytest.raises(JobFailed, match="no negative numbers"):
        tf.tasks.run_with_result("twice", {"n": -1})
    with pytest.raises(DeadlineExceeded, match="it goes on"):
        tf.tasks.run_with_result("never", timeout=0.3)
    assert [job.state for job in tf.jobs.list(task="never")] == [JobState.READY]


@pytest.mark.feature("S4.4", "R22")
def test_each_run_leaves_a_log_newest_first(tf: TaskFlow) -> None:
    tf.tasks.create("logged", target="double", queue="app")
    for n in (1, -1, 2, -2, 3):
        tf.jobs.wait(tf.tasks.run("logged", {"n": n}).id, timeout=20)

    logs = tf.tasks.logs("logged")

    assert (logs.count, [log.result for log in logs.logs if log.type == "app.task.completed"]) == (5, [6, 4, 2])
    assert {log.task for log in logs.logs} == {"logged"}
    failed = tf.tasks.logs("logged", type="failed", limit=1)
    assert (failed.count, len(failed.logs)) == (2, 1)
    assert failed.logs[0].error is not None and failed.logs[0].error.message == "no negative numbers"
    assert tf.tasks.logs(type="app.task.completed").count >= 3
    with pytest.raises(InvalidArgument, match="neither completed nor failed"):
        tf.tasks.logs("logged", type="done")


@pytest.mark.feature("S4.3", "S4.4", "R22", "S4.1")
def test_tasks_and_their_logs_are_asked_for_as_an_app_s_own_api_has_it(tf: TaskFlow) -> None:
    """`get()` lists; `get_logs()` without arguments has the last 50 of all tasks, whatever their end, newest first."""
    one = tf.tasks.create("asked", target="double", queue="app", schedule="0 8 * * mon")
    tf.tasks.create("other", target="double", queue="app")
    for n in (1, -1):
        tf.jobs.wait(tf.tasks.run("asked", {"n": n}).id, timeout=20)
    tf.jobs.wait(tf.tasks.run("other", {"n": 5}).id, timeout=20)
    jobs = [tf.tasks.run("other", {"n": n}).id for n in range(52)]
    eventually(lambda: all(tf.jobs.get(job).state.final for job in jobs), timeout=30)

    listed = {task.name: task for task in tf.tasks.get()}
    assert listed["asked"].next_run_at is not None and listed["other"].next_run_at is None
    assert all(listed[name].last_run_at is not None for name in ("asked", "other"))
    assert listed["asked"] == tf.tasks.get(one.id)
    everything = tf.tasks.get_logs()
    assert len(everything.logs) == 50 < everything.count
    assert [log.time for log in everything.logs] == sorted((log.time for log in everything.logs), reverse=True)
    assert {log.task for log in tf.tasks.get_logs(limit=1000).logs} >= {"asked", "other"}
    asked = tf.tasks.get_logs(id=one.id)
    assert (asked.count, [log.type for log in asked.logs]) == (2, ["app.task.failed", "app.task.completed"])
    failed = tf.tasks.get_logs("asked", limit=10, where={"type": "failed"})
    assert (failed.count, failed.logs[0].error is not None) == (1, True)
    assert tf.tasks.get_logs("asked", where={"type": "app.task.completed"}).logs[0].result == 2
    for wrong in ({"where": {"status": "failed"}}, {"where": {"type": "done"}}, {"limit": 1001}):
        with pytest.raises(InvalidArgument):
            tf.tasks.get_logs("asked", **wrong)  # type: ignore[arg-type]


@pytest.mark.feature("S4.2", "S1.2", "S1.1")
def test_a_task_s_own_payload_is_that_of_jobs_that_bring_none(tf: TaskFlow, cluster: ServiceCluster) -> None:
    """By hand, by its schedule, by another schedule, and as a step of a workflow."""
    task = tf.tasks.create("preset", target="double", queue="app", payload={"n": 20}, schedule="*/10 * * * *")
    assert task.payload == {"n": 20} == tf.tasks.get("preset").payload
    assert tf.tasks.run_with_result("preset") == 40
    assert tf.tasks.run_with_result("preset", {"n": 1}) == 2

    tf.advance_clock(700, step=100)
    eventually(lambda: 40 in [log.result for log in tf.tasks.logs("preset").logs][:-2], timeout=20)
    step = {"name": "a", "kind": "task", "meta": {"task": "preset"}}
    tf.workflows.put({"name": "of-preset", "steps": [step], "output": "{{ steps.a.result }}"})
    assert tf.workflows.wait(tf.workflows.start("of-preset").id, 30).output == 40

    assert tf.tasks.update("preset", payload={"n": 3}, schedule="").payload == {"n": 3}
    assert tf.tasks.run_with_result("preset") == 6
    assert tf.tasks.update("preset", payload=None).payload is None


@pytest.mark.feature("S1.2")
def test_each_instance_of_a_task_and_its_attempts_are_rows_of_the_views(tf: TaskFlow, cluster: ServiceCluster) -> None:
    """The actors in `job_states` and `attempt_history`, whether a person, a schedule or a workflow made it."""
    tf.tasks.create("in-sql", target="double", queue="app", payload={"n": 4}, retries=1, backoff=Constant(0.01))
    schedule = tf.schedules.create("in-sql", at=now_of(cluster) + timedelta(minutes=1))
    step = {"name": "a", "kind": "task", "meta": {"task": "in-sql", "input": {"n": -4}}}
    tf.workflows.put({"name": "of-in-sql", "steps": [step]})
    by_hand = tf.tasks.run("in-sql", {"n": "many"}).id
    with pytest.raises(RunFailed) as failed:
        tf.workflows.wait(tf.workflows.start("of-in-sql").id, 30)
    ((by_step,),) = [step.jobs for step in failed.value.run.steps]
    tf.advance_clock(61, step=61)
    (firing,) = eventually(lambda: [f for f in tf.schedules.firings(schedule.id) if f.job_id])
    jobs = [by_hand, by_step.job_id, firing.job_id]
    eventually(lambda: all(tf.jobs.get(job).state.final for job in jobs), timeout=20)

    states = "select id::text, task, state, attempt, result from taskflow.job_states where id = any(%s::uuid[])"
    assert {id: rest for id, *rest in rows.found(cluster.dsn, states, jobs)} == {
        by_hand: ["double", "failed", 2, None],
        by_step.job_id: ["double", "failed", 1, None],
        firing.job_id: ["double", "succeeded", 1, "8"],
    }
    history = (
        "select attempt, outcome, final, error ->> 'message' is not null, started_at <= finished_at"
        " from taskflow.attempt_history where job_id = %s order by attempt"
    )
    assert rows.found(cluster.dsn, history, by_hand) == [
        (1, "failed", False, True, True), (2, "failed", True, True, True),
    ]  # fmt: skip


@pytest.mark.feature("S1.2", "X.1", "R13")
def test_a_run_of_a_task_or_workflow_has_a_time_and_a_priority_of_its_own(tf: TaskFlow) -> None:
    tf.tasks.create("ranked", queue="elsewhere", priority=2)
    due = datetime.now(UTC) + timedelta(days=2)
    step = {"name": "a", "kind": "task", "meta": {"task": "ranked"}}
    own = {"name": "b", "kind": "task", "meta": {"task": "ranked"}, "priority": "critical"}
    tf.workflows.put({"name": "of-ranked", "steps": [step, own]})

    job = tf.tasks.run("ranked", run_at=due, priority=7)
    run = tf.workflows.start("of-ranked", priority=8)
    plain = tf.workflows.start("of-ranked")

    assert (job.state, job.priority, job.run_time) == (JobState.SCHEDULED, 7, due)
    assert tf.tasks.run("ranked").priority == 2
    made = eventually(lambda: len(found := _jobs_of(tf, run.id, plain.id)) == 4 and found)
    assert made == {(run.id, "a"): 8, (run.id, "b"): 9, (plain.id, "a"): 2, (plain.id, "b"): 9}
    with pytest.raises(InvalidArgument, match="priority"):
        tf.workflows.start("of-ranked", priority=10)
    for each in (run, plain):
        tf.workflows.cancel(each.id)


def _jobs_of(tf: TaskFlow, *runs: str) -> dict[tuple[str, str], int]:
    jobs = [job for job in tf.jobs.list(task="ranked") if job.metadata.get("taskflow.run") in runs]
    return {(job.metadata["taskflow.run"], job.metadata["taskflow.step"]): job.priority for job in jobs}


@pytest.mark.feature("R18", "R17")
def test_a_run_by_hand_of_a_scheduled_task_is_a_job_more_and_changes_nothing_of_its_schedule(
    tf: TaskFlow, cluster: ServiceCluster
) -> None:
    """Nobody runs the jobs: an unfinished one of the schedule refuses none by hand, and one by hand no firing."""
    task = tf.tasks.create("extra", queue="nowhere", schedule="*/10 * * * *")
    (schedule,) = tf.schedules.list(task="extra")
    early = tf.tasks.run("extra")
    assert tf.tasks.get("extra").next_run_at == task.next_run_at

    assert task.next_run_at is not None
    ((now,),) = rows.found(cluster.dsn, "select taskflow.now()")
    tf.advance_clock(task.next_run_at - now + timedelta(minutes=2), step=60)
    (fired,) = eventually(lambda: [f for f in tf.schedules.firings(schedule.id) if f.job_id])
    coming = tf.tasks.get("extra").next_run_at
    late = tf.tasks.run("extra")

    assert fired.instant == task.next_run_at, "the job by hand that waits did not overlap"
    assert tf.tasks.get("extra").next_run_at == coming == tf.schedules.get(schedule.id).next_run_at
    assert len(list(tf.schedules.firings(schedule.id))) == 1
    jobs = {job.id: job.metadata.get("taskflow.trigger") for job in tf.jobs.list(task="extra")}
    assert jobs == {early.id: "manual", fired.job_id: None, late.id: "manual"}
    tf.tasks.remove("extra")


@pytest.mark.feature("S4.5", "R18", "R19", "S1.1", "S1.2")
def test_an_inactive_task_fires_no_more_and_can_still_be_run(tf: TaskFlow, cluster: ServiceCluster) -> None:
    task = tf.tasks.create("awaited", queue="app", frequency="*/10 * * * *")
    assert tf.tasks.update("awaited", active=False).next_run_at is None

    tf.advance_clock(3600, step=600)

    by_schedule = {"taskflow.schedule": schedule_of(cluster, "awaited")}
    assert list(tf.jobs.list(task="awaited", metadata=by_schedule)) == []
    assert tf.tasks.run_with_result("awaited", "by hand") == "by hand, in 1"
    on = tf.tasks.update(task.id, active=True)
    now = now_of(cluster)
    assert on.next_run_at is not None and timedelta(0) < on.next_run_at - now <= timedelta(minutes=10)
    tf.advance_clock(1200, step=60)
    eventually(lambda: len(fired(tf, cluster)) == 2)
    assert min(fired(tf, cluster)) > now


@pytest.mark.feature("S1.1")
def test_a_task_s_schedule_fires_between_its_start_and_its_end(tf: TaskFlow, cluster: ServiceCluster) -> None:
    hour = now_of(cluster).replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    start, end = hour + timedelta(minutes=20), hour + timedelta(minutes=45)
    made = tf.tasks.create("bounded", target="awaited", queue="app", schedule="*/10 * * * *", start=start, end=end)
    assert (made.start, made.end, made.next_run_at) == (start, end, start)
    (own,) = tf.schedules.list(task="bounded")
    assert (own.start, own.end) == (start, end)

    tf.advance_clock(start - now_of(cluster) - timedelta(minutes=1), step=3600)
    tf.advance_clock(end - now_of(cluster), step=60)
    tf.advance_clock(timedelta(minutes=30), step=600)

    eventually(lambda: tf.tasks.get("bounded").next_run_at is None)
    instants = sorted(firing.instant for firing in tf.schedules.firings(own.id))
    assert instants == [start, start + timedelta(minutes=10), start + timedelta(minutes=20)]
    later = tf.tasks.update("bounded", start=None, end=None)
    assert later.next_run_at is not None and later.next_run_at > now_of(cluster), "other times count from now"
    assert tf.schedules.get(own.id).end is None
    assert len(list(tf.schedules.firings(own.id, page_size=100))) <= 4
    tf.tasks.remove("bounded")


@pytest.mark.feature("S1.1")
async def test_the_async_client_gives_and_shows_each_field(cluster: ServiceCluster) -> None:
    start, end = datetime(2098, 1, 1, tzinfo=UTC), datetime(2099, 1, 1, tzinfo=UTC)
    async with AsyncTaskFlow(cluster.scheduler_address) as tf:
        made = await tf.tasks.create("async", queue="app", schedule="@daily", sla=5, start=start, end=end)
        assert (made.sla, made.start, made.end) == (5, start, end)
        changed = await tf.tasks.update("async", sla=None, start=None, priority="critical")
        assert (changed.sla, changed.start, changed.end, changed.priority) == (None, None, end, 9)
        await tf.tasks.remove("async")


@pytest.mark.feature("S1.1")
def test_start_end_and_sla_by_bare_calls(cluster: ServiceCluster, tf: TaskFlow) -> None:
    with Api(cluster.scheduler_address) as api:
        stub = tasks_pb2_grpc.TaskServiceStub(api.channel)
        task = tasks_pb2.Task(name="bare", schedule="@daily")
        task.start_time.seconds, task.end_time.seconds, task.options.sla.seconds = 4_000_000_000, 4_100_000_000, 90
        made = stub.CreateTask(tasks_pb2.CreateTaskRequest(task=task), timeout=TIMEOUT).task
        assert (made.start_time, made.end_time, made.options.sla) == (task.start_time, task.end_time, task.options.sla)
        request = tasks_pb2.UpdateTaskRequest(task="bare")
        request.update_mask.paths.extend(["end_time", "options.sla"])
        changed = stub.UpdateTask(request, timeout=TIMEOUT)
        assert (changed.HasField("end_time"), changed.options.HasField("sla")) == (False, False)
        assert changed.start_time == task.start_time
        task.name, task.options.sla.seconds = "bare-bad", -1
        with pytest.raises(grpc.RpcError) as error:
            stub.CreateTask(tasks_pb2.CreateTaskRequest(task=task), timeout=TIMEOUT)
        assert refusal(error.value).field == "task.options.sla"
    tf.tasks.remove("bare")


@pytest.mark.feature("S4.5", "S1.1")
def test_a_task_s_properties_change_and_it_goes_with_its_schedule(tf: TaskFlow, cluster: ServiceCluster) -> None:
    task = tf.tasks.create("changing", target="double", schedule="@daily")
    changed = tf.tasks.update(
        task.id, name="changed", queue="app", title="New", schedule="0 12 * * *", time_zone="Asia/Tokyo"
    )

    assert (changed.name, changed.queue, changed.title, changed.schedule) == ("changed", "app", "New", "0 12 * * *")
    assert changed.next_run_at is not None and changed.next_run_at.hour == 3
    assert tf.tasks.run_with_result("changed", {"n": 5}) == 10
    assert [log.result for log in tf.tasks.logs("changed").logs] == [10]
    assert tf.tasks.update("changed", queue="elsewhere", name="renamed").queue == "elsewhere"
    assert [log.result for log in tf.tasks.logs("renamed").logs] == [10], "its runs stay its own"
    tf.tasks.update("renamed", name="changed")
    assert tf.tasks.update("changed", schedule="").next_run_at is None
    tf.tasks.update("changed", schedule="@hourly")
    tf.tasks.remove("changed")
    with pytest.raises(NotFound):
        tf.tasks.get("changed")
    assert rows.found(cluster.dsn, "select 1 from taskflow.schedules where task in ('changing', 'changed')") == []


@pytest.mark.feature("S4.5", "S1.1")
@pytest.mark.parametrize(
    ("option", "value", "shown"),
    [
        ("title", "Other", "Other"),
        ("description", "Words", "Words"),
        ("active", False, False),
        ("target", "double", "double"),
        ("queue", "other", "other"),
        ("priority", 7, 7),
        ("retries", 4, 4),
        ("schedule", "@hourly", "@hourly"),
        ("time_zone", "Asia/Tokyo", "Asia/Tokyo"),
        ("timeout", 9, 9.0),
        ("timeout", None, None),
        ("heartbeat_timeout", 8, 8.0),
        ("requested_timeout", 7, 7.0),
        ("in_progress_timeout", 70, 70.0),
        ("sla", 60, 60.0),
        ("sla", None, None),
        ("start", datetime(2098, 1, 1, tzinfo=UTC), datetime(2098, 1, 1, tzinfo=UTC)),
        ("start", None, None),
        ("end", datetime(2097, 1, 1, tzinfo=UTC), datetime(2097, 1, 1, tzinfo=UTC)),
        ("end", None, None),
        ("payload", {"n": 1}, {"n": 1}),
        ("backoff", Constant(5), Exponential(first=5, factor=1, limit=5)),
        ("backoff", None, None),
        ("metadata", {"b": "2"}, {"b": "2"}),
        ("tags", ["new"], ("new",)),
        ("tags", None, ()),
    ],
)
def test_a_property_of_a_task_is_changed_alone(tf: TaskFlow, option: str, value: object, shown: object) -> None:
    task = tf.tasks.create(
        "whole", queue="app", title="T", description="D", target="awaited", priority=2, retries=3, schedule="@daily",
        time_zone="Europe/Berlin", timeout=30, heartbeat_timeout=20, metadata={"a": "1"}, tags=["old"],
        backoff=Exponential(first=1, factor=3, limit=60, jitter=0.2), sla=40, start=datetime(2096, 1, 1, tzinfo=UTC),
        end=datetime(2099, 1, 1, tzinfo=UTC),
    )  # fmt: skip

    changed = tf.tasks.update(task.id, **{option: value})  # type: ignore[arg-type]

    assert getattr(changed, option) == shown
    others = [name for name in TaskInfo.__slots__ if name not in (option, "next_run_at", "warnings", "update_time")]
    assert {name: getattr(changed, name) for name in others} == {name: getattr(task, name) for name in others}
    tf.tasks.remove(task.id)


@pytest.mark.feature("S4.1", "S4.5")
def test_of_calls_at_once_each_gets_one_clear_answer(tf: TaskFlow, cluster: ServiceCluster) -> None:
    """Creations of one name, then changes of its schedule, then two that want one name: whatever wins is whole."""

    def at_once(*calls: Callable[[], TaskInfo]) -> list[TaskInfo | Exception]:
        def answer(call: Callable[[], TaskInfo]) -> TaskInfo | Exception:
            try:
                return call()
            except Exception as error:
                return error

        with ThreadPoolExecutor(len(calls)) as pool:
            return list(pool.map(answer, calls))

    for n in range(5):
        crons = [f"{minute} * * * *" for minute in range(8)]
        made = at_once(*(partial(tf.tasks.create, f"at-once-{n}", schedule=cron) for cron in crons))
        (winner,) = [answer for answer in made if isinstance(answer, TaskInfo)]
        assert {type(answer) for answer in made} == {TaskInfo, AlreadyExists}
        assert own_crons(cluster, winner.name) == [winner.schedule] == [tf.tasks.get(winner.id).schedule]

        crons = [*(f"{minute} 1 * * *" for minute in range(6)), ""]
        changed = at_once(*(partial(tf.tasks.update, winner.id, schedule=cron) for cron in crons))
        assert [answer for answer in changed if not isinstance(answer, TaskInfo)] == []
        last = tf.tasks.get(winner.id).schedule
        assert last in crons
        assert own_crons(cluster, winner.name) == [last] * bool(last)

        tf.tasks.update(winner.id, schedule="")
        crons = [f"{minute} 2 * * *" for minute in range(8)]
        given = at_once(*(partial(tf.tasks.update, winner.id, schedule=cron) for cron in crons))
        assert [answer for answer in given if not isinstance(answer, TaskInfo)] == []
        assert own_crons(cluster, winner.name) == [tf.tasks.get(winner.id).schedule]

        other = tf.tasks.create(f"at-once-{n}-b", schedule="@daily")
        wanted = f"at-once-{n}-c"
        answers = at_once(
            partial(tf.tasks.update, winner.id, name=wanted, schedule="@hourly"),
            partial(tf.tasks.update, other.id, name=wanted),
            partial(tf.tasks.create, wanted, schedule="@weekly"),
        )
        (renamed,) = [answer for answer in answers if isinstance(answer, TaskInfo)]
        assert {type(answer) for answer in answers} == {TaskInfo, AlreadyExists}
        assert own_crons(cluster, wanted) == [renamed.schedule] == [tf.tasks.get(wanted).schedule]


def own_crons(cluster: ServiceCluster, task: str) -> list[str]:
    return [c for (c,) in rows.found(cluster.dsn, "select cron from taskflow.schedules where task = %s", task)]


@pytest.mark.feature("S4.7")
def test_a_handler_sees_its_caller_and_whom_the_app_made_the_job_for(tf: TaskFlow) -> None:
    tf.tasks.create("askers", target="who", queue="app", tags=["kept"])
    grace = {"user": "grace", "roles": ["editor", "admin"], "age": 45.5, "nested": {"ok": True, "none": None}}

    assert tf.tasks.run_with_result("askers", requester=grace) == ["anonymous", [], "default", grace]
    assert tf.jobs.get(tf.tasks.run("askers").id).requester == {}
    job = tf.new_job("app", task="who", requester=grace, label="for Grace")
    assert job.wait(timeout=20).result[3] == grace
    kept = job.get()
    assert (kept.requester, kept.label) == (grace, "for Grace")
    run = tf.tasks.run("askers", requester={})
    assert tf.jobs.wait(run.id, timeout=20).result[3] == {}
    assert tf.jobs.get(run.id).tags == ("kept",)


@pytest.mark.feature("S4.7")
@pytest.mark.parametrize(
    ("requester", "said"),
    [
        ({"a": "x" * 5000}, "4,096"),
        (["no", "object"], "mapping"),
        ({"a": object()}, "not serialisable"),
        ({"a": float("nan")}, "not serialisable"),
        ({"a": "\x00"}, "NUL"),
        ({"a": "\ud800"}, "surrogate"),
    ],
    ids=["long", "list", "object", "nan", "nul", "surrogate"],
)
def test_a_bad_requester_is_refused_by_field(tf: TaskFlow, requester: object, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said) as refused:
        tf.new_job("app", task="who", requester=requester)  # type: ignore[arg-type]

    assert "requester" in refused.value.field


@pytest.mark.feature("S4.1", "R20", "R10")
def test_a_bad_task_is_refused_by_field(tf: TaskFlow) -> None:
    for name, options, field in (
        *((name, {}, "task.name") for name in ("bad name", "bad.name", "naïve", "a:b", "")),
        ("bad", {"schedule": "61 * * * *"}, "task.schedule"),
        ("bad", {"retries": -1}, "retries"),
        ("bad", {"frequency": "@daily", "schedule": "@daily"}, "frequency"),
        ("bad", {"time_zone": "Asia/Tokyo"}, "task.time_zone"),
        ("bad", {"start": NEW_YEAR}, "task.start_time"),
        ("bad", {"schedule": "@daily", "start": NEW_YEAR, "end": NEW_YEAR - timedelta(1)}, "task.end"),
        ("bad", {"schedule": "@daily", "end": "tomorrow"}, "end"),
    ):
        with pytest.raises(InvalidArgument) as refused:
            tf.tasks.create(name, **options)  # type: ignore[arg-type]
        assert refused.value.field == field
    assert tf.tasks.create("A-Z_09").name == "A-Z_09"
    assert tf.tasks.create("unseen").warnings == ("HANDLER_NOT_SEEN",)
    with pytest.raises(FailedPrecondition, match="no worker has ever registered"):
        tf.tasks.create("required", require_handler=True)


def schedule_of(cluster: ServiceCluster, task: str) -> str:
    ((schedule_id,),) = rows.found(cluster.dsn, "select id from taskflow.schedules where task = %s and owned", task)
    return str(schedule_id)


def fired(tf: TaskFlow, cluster: ServiceCluster) -> list[datetime]:
    firings = tf.schedules.firings(schedule_of(cluster, "awaited"))
    return [f.instant for f in firings if f.state == "fired"]


def now_of(cluster: ServiceCluster) -> datetime:
    ((now,),) = rows.found(cluster.dsn, "select taskflow.now()")
    assert isinstance(now, datetime)
    return now


@pytest.mark.feature("R20")
def test_a_handler_is_seen_for_ever_once_a_worker_has_registered_it(cluster: ServiceCluster, tf: TaskFlow) -> None:
    with TaskFlow(cluster.scheduler_address) as app:

        @app.task(queue="app")
        def leaves() -> None:
            pass

        with working(app, name="leaver"):
            eventually(lambda: any(worker.name == "leaver" for worker in tf.workers.list()))
    eventually(lambda: all(worker.name != "leaver" for worker in tf.workers.list()))
    assert tf.tasks.create("restarting", target="leaves", require_handler=True).warnings == ()


@pytest.mark.feature("S4.3", "R22", "S4.4")
def test_the_logs_of_a_removed_task_stay(tf: TaskFlow) -> None:
    made = tf.tasks.create("short-lived", target="double", queue="app")
    job = tf.tasks.run("short-lived", {"n": 2})
    tf.jobs.wait(job.id, 20)
    before = tf.tasks.logs()
    assert job.id in [log.job_id for log in before.logs]
    tf.tasks.remove("short-lived")
    assert tf.tasks.logs() == before
    assert [log.task for log in tf.tasks.logs(made.id).logs] == ["short-lived"]
    assert [log.job_id for log in tf.tasks.logs("short-lived").logs] == [job.id]
    tf.tasks.create("short-lived", target="double", queue="app")
    assert tf.tasks.logs("short-lived").count == 0, "the present task of that name"
    with pytest.raises(NotFound):
        tf.tasks.logs("never-there")


@pytest.mark.feature("S4.1")
@pytest.mark.parametrize("name", ["0123456789abcdef" * 2, "01234567-89ab-cdef-0123-456789abcdef"])
def test_a_task_whose_name_looks_like_an_id_is_found_by_it(tf: TaskFlow, name: str) -> None:
    made = tf.tasks.create(name, target="double", queue="app")
    assert tf.tasks.get(name).id == tf.tasks.get(made.id).id == made.id
    assert tf.tasks.update(name, title="by its name").title == "by its name"
    assert tf.tasks.run_with_result(name, {"n": 4}) == 8
    other = tf.tasks.create(made.id, target="double")
    assert tf.tasks.get(made.id).id == other.id, "a name goes before an id"
    tf.tasks.remove(other.name)
    tf.tasks.remove(name)
    with pytest.raises(NotFound):
        tf.tasks.get(name)


def test_a_limit_of_logs_out_of_range_is_named(tf: TaskFlow, cluster: ServiceCluster) -> None:
    with Api(cluster.scheduler_address) as api, pytest.raises(grpc.RpcError) as error:
        stub = tasks_pb2_grpc.TaskServiceStub(api.channel)
        stub.ListTaskLogs(tasks_pb2.ListTaskLogsRequest(limit=1001), timeout=TIMEOUT)
    assert (refusal(error.value).field, refusal(error.value).message[:12]) == ("limit", "limit: 1001 ")
    with pytest.raises(InvalidArgument) as refused:
        tf.tasks.logs(limit=1001)
    assert refused.value.field == "limit"
    assert str(refused.value).startswith("limit: 1001 is not")

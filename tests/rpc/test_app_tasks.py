"""The results of App Tasks' methods, field by field, as the tables of docs/howto/from-app-tasks.md have it (S4)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from uuid import UUID

import pytest

from taskflow import Fail, Job, JobFailed, JobState, TaskFlow, TaskInfo, TaskLogInfo
from tests.support.docs import ROOT
from tests.support.waiting import eventually
from tests.support.workers import working

PAGE = (ROOT / "docs" / "howto" / "from-app-tasks.md").read_text()


def fields(heading: str) -> set[str]:
    """Our names in the table under these words; rows without one have none."""
    table = PAGE.partition(f"\n{heading}\n")[2].partition("\n\n\n")[0].lstrip().partition("\n\n")[0]
    cells = [line.split("|")[2].strip() for line in table.splitlines()[2:]]
    found = {cell.strip("`") for cell in cells if cell}
    assert found and all(re.fullmatch(r"[a-z_.]+", name) for name in found), heading
    return found


def is_recent(instant: datetime | None) -> bool:
    return instant is not None and abs(datetime.now(UTC) - instant) < timedelta(minutes=10)


@pytest.fixture
def app(tf: TaskFlow, queue: str) -> Iterator[TaskFlow]:
    """With a worker of one handler, which is named as its queue."""

    @tf.task(name=queue, queue=queue)
    def handle(job: Job) -> dict[str, int]:
        if job.payload == "fail":
            raise Fail("no such screen")
        return {"a": 1}

    with working(tf):
        yield tf


@pytest.mark.feature("S4.1", "S4.3", "S4.5")
def test_every_field_of_a_task_has_its_counterpart(app: TaskFlow, queue: str) -> None:
    name = f"task-{queue}"
    made = app.tasks.create(name, target=queue, frequency="0 8 * * 1", time_zone="Europe/Berlin", active=True)
    app.tasks.run_with_result(name, timeout=30)
    task = eventually(lambda: (found := app.tasks.get(name)).last_run_at and found)
    expected = {
        "id": str(UUID(made.id)), "name": name, "namespace": "default", "target": queue, "active": True,
        "schedule": "0 8 * * 1", "time_zone": "Europe/Berlin",
    }  # fmt: skip
    instants = {"last_run_at", "next_run_at", "create_time", "update_time"}

    assert expected.keys() | instants == fields("A task, as `create`, `get` and `update` return it:")
    assert {field: getattr(task, field) for field in expected} == expected
    assert is_recent(task.last_run_at) and is_recent(task.create_time)
    assert task.next_run_at is not None and task.next_run_at > datetime.now(UTC)
    assert task.update_time == task.create_time == made.create_time, "it has not been changed"
    assert made.last_run_at is None and made.next_run_at == task.next_run_at
    assert task in app.tasks.get(), "the list has the same"
    changed = app.tasks.update(task.id, active=False)
    assert isinstance(changed, TaskInfo) and (changed.active, changed.next_run_at) == (False, None)
    assert changed.update_time is not None and changed.create_time is not None
    assert changed.update_time > changed.create_time == task.create_time
    app.tasks.remove(name)


@pytest.mark.feature("S4.4")
def test_every_field_of_the_logs_has_its_counterpart(app: TaskFlow, queue: str) -> None:
    name = f"task-{queue}"
    task = app.tasks.create(name, target=queue)
    job = app.jobs.wait(app.tasks.run(name).id, timeout=30)
    with pytest.raises(JobFailed):
        app.tasks.run_with_result(name, "fail", timeout=30)
    response = eventually(lambda: len((found := app.tasks.get_logs(id=task.id)).logs) == 2 and found)
    failed, completed = response.logs

    assert response.count == 2
    assert fields("The response of `getLogs`:") == {"count", "logs"}
    expected = {
        "job_id": job.id, "type": "app.task.completed", "trigger": "manual", "task_id": task.id, "result": {"a": 1},
    }  # fmt: skip
    errors = {"error.type": "Fail", "error.message": "no such screen"}
    others = {"time", "duration", "error.traceback"}
    assert expected.keys() | errors.keys() | others == fields("Each log:")
    assert {field: getattr(completed, field) for field in expected} == expected
    assert (completed.task, completed.error) == (name, None)
    assert is_recent(completed.time) and completed.duration is not None and 0 <= completed.duration < 600
    assert (failed.type, failed.result, failed.trigger) == ("app.task.failed", None, "manual")
    assert {field: attrgetter(field)(failed) for field in errors} == errors
    assert isinstance(attrgetter("error.traceback")(failed), str)
    never = TaskLogInfo("id", "task", "app.task.failed", completed.time, None, None)
    assert never.duration is None
    app.tasks.remove(name)


@pytest.mark.feature("S4.4", "R22")
def test_a_log_says_what_made_its_job(app: TaskFlow, queue: str) -> None:
    name = f"task-{queue}"
    app.tasks.create(name, target=queue)
    each_second = app.schedules.create(name, cron="* * * * * *")
    hourly = app.schedules.create(name, cron="@hourly")
    app.schedules.pause(hourly.id)
    hour = datetime.now(UTC).replace(minute=30) - timedelta(hours=3)
    app.schedules.backfill(hourly.id, start=hour, end=hour + timedelta(hours=1))
    app.tasks.run_with_result(name, timeout=30)

    wanted = {"backfill", "manual", "schedule"}
    eventually(lambda: {log.trigger for log in app.tasks.get_logs(id=name).logs} >= wanted)

    app.schedules.delete(each_second.id)
    app.schedules.delete(hourly.id)
    logs = app.tasks.get_logs(id=name).logs
    assert {log.trigger for log in logs} == wanted
    assert all(log.duration is not None for log in logs)
    app.tasks.remove(name)


@pytest.mark.feature("S4.2", "S4.5")
def test_what_the_other_methods_return(app: TaskFlow, queue: str) -> None:
    name = f"task-{queue}"
    app.tasks.create(name, target=queue)

    job = app.tasks.run(name)

    assert job.id and job.state in (JobState.READY, JobState.REQUESTED, JobState.RUNNING, JobState.SUCCEEDED)
    assert app.tasks.run_with_result(name, timeout=30) == {"a": 1}
    with pytest.raises(JobFailed, match="no such screen"):
        app.tasks.run_with_result(name, "fail", timeout=30)
    assert app.tasks.remove(name) is None  # type: ignore[func-returns-value]
    assert name not in {task.name for task in app.tasks.get()}

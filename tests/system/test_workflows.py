"""Workflows through real processes: documents, runs, their jobs and waits, and what is left of them after a kill."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from taskflow import RunFailed, RunInfo, RunState, StepState, TaskFlow
from taskflow.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, RunCancelled
from tests.support import rows
from tests.support.cluster import ServiceCluster
from tests.support.waiting import eventually

TIMEOUT = 60.0


@pytest.fixture(scope="module")
def cluster(make_cluster: Callable[..., ServiceCluster]) -> ServiceCluster:
    running = make_cluster(env={"scheduler": {"TASKFLOW_CLOCK": "manual"}})
    running.start_all()
    running.run("app", "-m", "tests.support.workflow_app", running.scheduler_address)
    return running


@pytest.fixture
def tf(cluster: ServiceCluster) -> Iterator[TaskFlow]:
    with TaskFlow(cluster.scheduler_address) as app:
        yield app


def task(name: str, task: str, input: Any = None, **more: Any) -> dict[str, Any]:
    return {"name": name, "kind": "task", "queue": "steps", "meta": {"task": task, "input": input}, **more}


def states(run: RunInfo) -> dict[str, str]:
    return {step.name: str(step.state) for step in run.steps}


def in_state(tf: TaskFlow, run: RunInfo, step: str, state: StepState) -> None:
    eventually(lambda: tf.workflows.get_run(run.id).step(step).state is state, timeout=30)


@pytest.mark.feature("S1.3", "S1.4", "S0.2", "S0.3", "S0.6")
def test_steps_run_in_order_and_in_parallel_and_their_values_flow(tf: TaskFlow) -> None:
    document = {
        "name": "sums",
        "steps": [
            task("left", "add", "{{ input.left }}"),
            task("right", "add", "{{ input.right }}"),
            task("both", "add", ["{{ steps.left.result }}", "{{ steps.right.result }}"], depends_on=["left", "right"]),
            task("unhappy", "add", [0]),
        ],
        "edges": [{"from": "both", "to": "unhappy", "on": "failure"}],
        "output": {"sum": "{{ steps.both.result }}", "who": "{{ context.user }}"},
    }
    put = tf.workflows.put(document)
    again = tf.workflows.put(json.dumps(document))
    assert (put.version, again.version) == (1, 1)

    run = tf.workflows.start("sums", {"left": [1, 2], "right": [3, 4]}, metadata={"user": "u1"}, label="first")
    done = tf.workflows.wait(run.id, TIMEOUT)

    assert done.output == {"sum": 10, "who": "u1"}
    assert states(done) == {"left": "succeeded", "right": "succeeded", "both": "succeeded", "unhappy": "skipped"}
    (job,) = done.step("both").jobs
    made = tf.jobs.get(job.job_id)
    assert (made.payload, made.result, made.queue, made.task) == ([3, 7], 10, "steps", "add")
    assert made.metadata["user"] == "u1"
    assert made.metadata["taskflow.run"] == run.id
    assert [r.id for r in tf.workflows.runs("sums", states=["succeeded"], metadata={"user": "u1"})] == [run.id]


@pytest.mark.feature("S0.2", "R23")
def test_a_failure_leads_along_its_edge_and_always_leads_along_both(tf: TaskFlow) -> None:
    tf.workflows.put({
        "name": "branches",
        "steps": [
            task("try", "fail", "{{ input }}"),
            task("mend", "shout", {"text": "{{ steps.try.error.message }}"}),
            task("after", "add", [1]),
        ],
        "edges": [
            {"from": "try", "to": "mend", "on": "failure"},
            {"from": "try", "to": "after", "on": "always"},
        ],
        "output": "{{ steps.mend.result.text }}",
    })  # fmt: skip
    tf.workflows.put(
        {
            "name": "unhandled",
            "steps": [task("try", "fail", "{{ input }}"), task("next", "add", [1], depends_on=["try"])],
        }
    )

    handled = tf.workflows.start("branches", "this")
    unhandled = tf.workflows.start("unhandled", "that")

    assert tf.workflows.wait(handled.id, TIMEOUT).output == "WILL NOT THIS"
    with pytest.raises(RunFailed, match="will not that") as failed:
        tf.workflows.wait(unhandled.id, TIMEOUT)
    assert states(failed.value.run) == {"try": "failed", "next": "skipped"}
    assert failed.value.run.step("try").error is not None


@pytest.mark.feature("S0.4", "M.11")
def test_a_run_waits_for_a_duration_a_time_of_its_data_and_a_signal(cluster: ServiceCluster, tf: TaskFlow) -> None:
    ((soon,),) = rows.found(
        cluster.dsn, "select to_char(taskflow.now() + interval '5 days', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')"
    )
    tf.workflows.put({
        "name": "patience",
        "steps": [
            {"name": "pause", "kind": "wait", "meta": {"duration": "2d"}},
            {
                "name": "before",
                "kind": "wait",
                "meta": {"until": "{{ input.ends }}", "offset": "-1d"},
                "depends_on": ["pause"],
            },
            {"name": "answer", "kind": "wait", "meta": {"signal": "answered"}, "depends_on": ["before"]},
            {"name": "late", "kind": "wait", "meta": {"signal": "never", "duration": "1h"}, "depends_on": ["answer"]},
            task("end", "add", [2]),
        ],
        "edges": [{"from": "late", "to": "end", "on": "failure"}],
        "output": {"said": "{{ steps.answer.result }}"},
    })  # fmt: skip
    run = tf.workflows.start("patience", {"ends": soon})
    in_state(tf, run, "pause", StepState.WAITING)
    assert tf.workflows.get_run(run.id).waiting

    tf.advance_clock(timedelta(days=1, hours=23), step=6 * 3600)
    assert tf.workflows.get_run(run.id).step("pause").state is StepState.WAITING
    tf.advance_clock(timedelta(hours=2), step=1800)
    in_state(tf, run, "before", StepState.WAITING)
    due = tf.workflows.get_run(run.id).step("before").due_time
    assert due is not None and due.strftime("%Y-%m-%dT%H:%M:%SZ") < soon
    tf.advance_clock(timedelta(days=2), step=6 * 3600)
    in_state(tf, run, "answer", StepState.WAITING)
    assert tf.workflows.get_run(run.id).signals == ("answered",)
    tf.workflows.signal(run.id, "answered", {"by": "mail"})
    in_state(tf, run, "late", StepState.WAITING)
    tf.advance_clock(timedelta(hours=2), step=1800)

    done = tf.workflows.wait(run.id, TIMEOUT)
    assert done.output == {"said": {"by": "mail"}}
    assert states(done)["late"] == "failed"


@pytest.mark.feature("S0.4")
def test_a_signal_that_nobody_waits_for_yet_is_found_by_the_next_wait(tf: TaskFlow) -> None:
    tf.workflows.put({
        "name": "early",
        "steps": [
            {"name": "first", "kind": "wait", "meta": {"signal": "go"}},
            {"name": "second", "kind": "wait", "meta": {"signal": "stop"}, "depends_on": ["first"]},
        ],
        "output": ["{{ steps.first.result }}", "{{ steps.second.result }}"],
    })  # fmt: skip
    run = tf.workflows.start("early")

    tf.workflows.signal(run.id, "stop", 2)
    tf.workflows.signal(run.id, "go", 1)

    assert tf.workflows.wait(run.id, TIMEOUT).output == [1, 2]
    with pytest.raises(FailedPrecondition) as late:
        tf.workflows.signal(run.id, "go", 3)
    assert late.value.reason == "RUN_FINISHED"


@pytest.mark.feature("S0.5", "R23")
def test_a_sequence_is_retried_by_its_group_and_a_run_by_hand_from_what_failed(tf: TaskFlow) -> None:
    steps = [task("one", "add", [1]), task("two", "fail_once", "{{ input }}", depends_on=["one"])]
    group = {"name": "both", "steps": ["one", "two"], "retries": 1, "backoff": {"first": 0.01, "factor": 1, "limit": 1}}
    tf.workflows.put({"name": "by-group", "steps": steps, "groups": [group]})
    tf.workflows.put({"name": "by-hand", "steps": steps})

    by_itself = tf.workflows.wait(tf.workflows.start("by-group", "g").id, TIMEOUT)
    by_hand = tf.workflows.start("by-hand", "h")
    with pytest.raises(RunFailed):
        tf.workflows.wait(by_hand.id, TIMEOUT)
    failed = next(step.jobs[0].job_id for step in tf.workflows.get_run(by_hand.id).steps if step.name == "two")
    with pytest.raises(FailedPrecondition, match=f"instead: taskflow workflow retry {by_hand.id}") as alone:
        tf.jobs.retry(failed)
    assert alone.value.reason == "JOB_OF_A_RUN"
    tf.workflows.retry(by_hand.id)
    again = tf.workflows.wait(by_hand.id, TIMEOUT)

    assert [(s.name, s.iteration) for s in by_itself.steps] == [("one", 1), ("two", 2)]
    assert [(s.name, s.iteration, len(s.jobs)) for s in again.steps] == [("one", 1, 1), ("two", 2, 2)]
    with pytest.raises(FailedPrecondition) as refused:
        tf.workflows.retry(by_hand.id)
    assert refused.value.reason == "RUN_NOT_RETRYABLE"


@pytest.mark.feature("S1.4", "X.10")
def test_a_cancelled_run_ends_its_waits_and_its_jobs(cluster: ServiceCluster, tf: TaskFlow) -> None:
    tf.workflows.put({
        "name": "long",
        "steps": [
            {"name": "pause", "kind": "wait", "meta": {"duration": "9d"}},
            {"name": "job", "kind": "task", "queue": "nobody", "meta": {"task": "nobody-has-this"}},
        ],
    })  # fmt: skip
    run = tf.workflows.start("long")
    in_state(tf, run, "job", StepState.RUNNING)
    (job,) = tf.workflows.get_run(run.id).step("job").jobs

    tf.workflows.cancel(run.id)

    with pytest.raises(RunCancelled) as ended:
        tf.workflows.wait(run.id, TIMEOUT)
    assert states(ended.value.run) == {"pause": "cancelled", "job": "cancelled"}
    assert tf.jobs.get(job.job_id).state == "cancelled"
    assert rows.found(cluster.dsn, "select 1 from taskflow.run_timers where run_id = %s", run.id) == []
    with pytest.raises(FailedPrecondition):
        tf.workflows.cancel(run.id)


@pytest.mark.feature("S0.6", "R24")
def test_versions_are_kept_and_a_run_keeps_the_one_that_it_began_with(tf: TaskFlow) -> None:
    def document(output: str) -> dict[str, Any]:
        wait = {"name": "wait", "kind": "wait", "meta": {"signal": "go"}}
        return {"name": "versions", "steps": [wait], "output": output}

    first = tf.workflows.put(document("old"))
    run = tf.workflows.start("versions")
    second = tf.workflows.put(document("new"))
    tf.workflows.signal(run.id, "go")
    other = tf.workflows.start("versions")
    tf.workflows.signal(other.id, "go")
    chosen = tf.workflows.start("versions", version=1)
    tf.workflows.signal(chosen.id, "go")

    assert (first.version, second.version) == (1, 2)
    assert [tf.workflows.wait(r.id, TIMEOUT).output for r in (run, other, chosen)] == ["old", "new", "old"]
    assert [w.version for w in tf.workflows.list(name="versions")] == [2, 1]
    assert tf.workflows.get("versions", 1).document == document("old")
    tf.workflows.delete("versions")
    with pytest.raises(NotFound):
        tf.workflows.start("versions")
    assert tf.workflows.put(document("old")).version == 3


@pytest.mark.feature("S0.6", "S0.10")
def test_of_those_who_change_the_same_version_one_is_stored_and_the_others_are_told(tf: TaskFlow) -> None:
    def document(output: str) -> dict[str, Any]:
        return {"name": "shared", "steps": [{"name": "a", "kind": "wait", "meta": {"duration": 1}}], "output": output}

    def put(output: str, known: int) -> int | str:
        try:
            return tf.workflows.put(document(output), if_version=known).version
        except FailedPrecondition as refused:
            return f"{refused.reason}: {refused}"

    assert put("a", 1) == "WORKFLOW_CHANGED: workflow 'shared' was changed meanwhile: there is none of this name, " \
        "not version 1"  # fmt: skip
    assert put("a", 0) == 1
    with ThreadPoolExecutor(8) as editors:
        said = list(editors.map(lambda n: put(f"by {n}", 1), range(8)))
    assert said.count(2) == 1
    assert all("its latest version is 2, not version 1" in str(each) for each in said if each != 2)
    assert tf.workflows.get("shared").document == document(f"by {said.index(2)}")
    assert put("a", 0).startswith("WORKFLOW_CHANGED")  # type: ignore[union-attr]
    with pytest.raises(FailedPrecondition, match="its latest version is 2"):
        tf.workflows.delete("shared", if_version=1)
    with pytest.raises(InvalidArgument, match="if_version"):
        tf.workflows.delete("shared", if_version=-1)
    tf.workflows.delete("shared", if_version=2)
    with pytest.raises(FailedPrecondition, match="there is none of this name"):
        tf.workflows.delete("shared", if_version=2)
    with pytest.raises(NotFound):
        tf.workflows.delete("shared")
    assert (put("a", 0), tf.workflows.put(document("b")).version) == (3, 4)


@pytest.mark.feature("S0.6")
def test_a_bad_document_is_refused_with_every_problem_at_its_path(tf: TaskFlow) -> None:
    bad = {
        "name": "bad",
        "steps": [
            {"name": "a", "kind": "wait", "meta": {"duration": "3 days"}},
            {"name": "b", "kind": "task_flow", "meta": {"calls": [{"ulr": "/x"}]}},
        ],
    }

    with pytest.raises(InvalidArgument) as refused:
        tf.workflows.put(bad)

    paths = [path for path, _ in refused.value.problems]
    assert paths[:2] == ["steps[0].meta.duration", "steps[1].meta.calls[0].ulr"]
    with pytest.raises(NotFound):
        tf.workflows.get("bad")
    with pytest.raises(InvalidArgument):
        tf.workflows.put("{not json")
    tf.workflows.put({"name": "well", "steps": [task("a", "add", [1])]}, validate_only=True)
    with pytest.raises(NotFound):
        tf.workflows.get("well")


@pytest.mark.feature("S1.4")
def test_what_a_step_leaves_out_is_as_its_named_task_has_it(tf: TaskFlow) -> None:
    tf.tasks.create("sum-up", target="add", queue="steps", retries=3, priority=7, timeout=30)
    tf.workflows.put(
        {"name": "named", "steps": [{"name": "a", "kind": "task", "meta": {"task": "sum-up", "input": [4, 5]}}]}
    )

    done = tf.workflows.wait(tf.workflows.start("named").id, TIMEOUT)

    job = tf.jobs.get(done.step("a").jobs[0].job_id)
    assert (job.queue, job.task, job.retries, job.priority, job.result) == ("steps", "add", 3, 7, 9)
    tf.tasks.remove("sum-up")


@pytest.mark.feature("S1.4")
def test_a_step_that_cannot_be_done_fails_its_own_run_only(tf: TaskFlow) -> None:
    tf.workflows.put({"name": "faulty", "steps": [task("a", "add", [1])], "output": "{{ input.missing }}"})
    tf.workflows.put({"name": "well", "steps": [task("a", "add", [1])]})

    faulty = [tf.workflows.start("faulty", {}) for _ in range(3)]
    well = [tf.workflows.start("well") for _ in range(3)]

    for run in well:
        tf.workflows.wait(run.id, TIMEOUT)
    for run in faulty:
        with pytest.raises(RunFailed, match="there is no 'missing'"):
            tf.workflows.wait(run.id, TIMEOUT)


@pytest.mark.feature("S1.4")
def test_a_result_that_no_template_could_read_fails_its_step_and_nothing_else(tf: TaskFlow) -> None:
    tf.workflows.put({"name": "deep", "steps": [task("a", "nest", 1010)], "output": "{{ steps.a.result }}"})
    tf.workflows.put({"name": "large", "steps": [task("a", "nest", 499)], "output": "{{ steps.a.result }}"})
    tf.workflows.put({"name": "unread", "steps": [task("a", "nest", 499)]})

    runs = {name: tf.workflows.start(name) for name in ("deep", "large", "unread")}

    for name in ("deep", "large"):
        with pytest.raises(RunFailed, match=r"nested|cannot be read"):
            tf.workflows.wait(runs[name].id, TIMEOUT)
    assert tf.workflows.wait(runs["unread"].id, TIMEOUT).step("a").state is StepState.SUCCEEDED


@pytest.mark.feature("S1.4", "A11")
def test_the_last_of_many_parallel_steps_fires_the_join_once(cluster: ServiceCluster, tf: TaskFlow) -> None:
    names = [f"part-{n}" for n in range(60)]
    tf.workflows.put({
        "name": "fan",
        "steps": [
            *(task(name, "add", [n]) for n, name in enumerate(names)),
            task("join", "add", [1], depends_on=names),
        ],
    })  # fmt: skip
    runs = [tf.workflows.start("fan") for _ in range(5)]

    done = [tf.workflows.wait(run.id, TIMEOUT) for run in runs]

    assert all(set(states(run).values()) == {"succeeded"} for run in done)
    made = rows.found(
        cluster.dsn,
        "select count(*), count(distinct (run_id, step)) from taskflow.run_jobs j"
        " join taskflow.runs r on r.id = j.run_id where r.workflow = 'fan'",
    )
    assert made == [(305, 305)]
    assert rows.found(cluster.dsn, "select count(*) from taskflow.run_inbox") == [(0,)]


@pytest.mark.feature("S1.3")
def test_concurrency_holds_later_runs_until_one_ends(cluster: ServiceCluster, tf: TaskFlow) -> None:
    tf.workflows.put(
        {
            "name": "narrow",
            "concurrency": 2,
            "sla": 0.001,
            "steps": [{"name": "w", "kind": "wait", "meta": {"signal": "go"}}],
        }
    )
    runs = [tf.workflows.start("narrow") for _ in range(4)]

    def found() -> list[str]:
        return [str(tf.workflows.get_run(run.id).state) for run in runs]

    eventually(lambda: found() == ["running", "running", "new", "new"], timeout=30)
    tf.workflows.signal(runs[0].id, "go")
    eventually(lambda: found() == ["succeeded", "running", "running", "new"], timeout=30)
    tf.workflows.cancel(runs[3].id)
    eventually(lambda: found() == ["succeeded", "running", "running", "cancelled"], timeout=30)
    for run in runs[1:3]:
        tf.workflows.signal(run.id, "go")
    assert tf.workflows.wait(runs[2].id, TIMEOUT).sla_missed
    missed = {run.id for run in tf.workflows.runs("narrow") if run.sla_missed}
    assert (missed, runs[2].id in missed) == (misses_of(cluster, *(run.id for run in runs)), True)


@pytest.mark.feature("S1.3")
def test_an_sla_is_missed_when_its_time_comes_though_the_run_never_begins(
    cluster: ServiceCluster, tf: TaskFlow
) -> None:
    steps = [{"name": "w", "kind": "wait", "meta": {"signal": "go"}}]
    tf.workflows.put({"name": "late", "concurrency": 1, "sla": 600, "steps": steps})
    tf.workflows.put({"name": "unhurried", "concurrency": 1, "steps": steps})
    first = [tf.workflows.start(name) for name in ("late", "unhurried")]
    for run in first:
        in_state(tf, run, "w", StepState.WAITING)
    waits, cancelled, _ = (tf.workflows.start(name) for name in ("late", "late", "unhurried"))
    tf.workflows.cancel(cancelled.id)
    before = missed_slas(cluster)

    tf.advance_clock(timedelta(seconds=590), step=590)
    assert not tf.workflows.get_run(waits.id).sla_missed
    tf.advance_clock(timedelta(seconds=11), step=11)

    eventually(lambda: tf.workflows.get_run(waits.id).sla_missed, timeout=30)
    assert tf.workflows.get_run(waits.id).state is RunState.NEW
    assert missed_slas(cluster) == before + 1
    others = [run for name in ("late", "unhurried") for run in tf.workflows.runs(name) if run.id != waits.id]
    assert len(others) == 4 and not any(run.sla_missed for run in others)
    for run in (first[0], waits):
        tf.workflows.signal(run.id, "go")
    assert tf.workflows.wait(waits.id, TIMEOUT).sla_missed and missed_slas(cluster) == before + 1
    assert rows.found(cluster.dsn, "select count(*) from taskflow.run_slas") == [(0,)]
    assert misses_of(cluster, *(run.id for run in (*first, waits, cancelled))) == {waits.id}


def misses_of(cluster: ServiceCluster, *run_ids: str) -> set[str]:
    """Which of these runs have a record of a missed sla, in the time line."""
    events = (
        "select workflow_instance_id::text from taskflow.events"
        " where event = 'sla_missed' and workflow_instance_id::text = any(%s)"
    )
    found = [run_id for (run_id,) in rows.found(cluster.dsn, events, list(run_ids))]
    assert len(found) == len(set(found))
    return set(found)


def missed_slas(cluster: ServiceCluster) -> int:
    return cluster.log("coordinator").count("a run has not begun within its sla")


@pytest.mark.feature("S1.3", "R17", "R19")
def test_a_workflow_s_schedule_fires_between_its_start_and_its_end_one_run_at_a_time(
    cluster: ServiceCluster, tf: TaskFlow
) -> None:
    ((now,),) = rows.found(cluster.dsn, "select taskflow.now()")
    start, end = now + timedelta(minutes=15), now + timedelta(minutes=45)
    times = {"cron": "*/10 * * * *", "start": start.isoformat(), "end": end.isoformat()}
    steps = [{"name": "w", "kind": "wait", "meta": {"signal": "go"}}]
    put = tf.workflows.put({"name": "seasonal", "steps": steps, "schedule": times})
    assert put.next_run_at is not None and start <= put.next_run_at < end

    tf.advance_clock(timedelta(minutes=26), step=60)

    (first,) = eventually(lambda: list(tf.workflows.runs("seasonal", states=["running"])), timeout=30)
    by_hand = tf.workflows.start("seasonal")
    (schedule,) = tf.schedules.list(workflow="seasonal")
    tf.advance_clock(timedelta(minutes=40), step=60)
    eventually(lambda: tf.schedules.get(schedule.id).next_run_at is None, timeout=30)
    ledger = list(tf.schedules.firings(schedule.id))
    assert all(start <= firing.instant <= end for firing in ledger) and len(ledger) == 3
    assert [str(firing.state) for firing in reversed(ledger)] == ["fired", "skipped_overlap", "skipped_overlap"]
    assert str(tf.workflows.get_run(by_hand.id).state) == "new", "a scheduled workflow has one run at a time"
    tf.workflows.signal(first.id, "go")
    eventually(lambda: str(tf.workflows.get_run(by_hand.id).state) == "running", timeout=30)
    tf.workflows.cancel(by_hand.id)


@pytest.mark.feature("S1.4", "S1.5")
def test_a_workflow_runs_by_its_own_schedule_and_by_schedules_that_name_it(tf: TaskFlow) -> None:
    steps = [task("a", "add", "{{ input }}")]
    own = {"cron": "*/10 * * * *", "input": [1, 2], "metadata": {"of": "itself"}}
    put = tf.workflows.put({"name": "regular", "steps": steps, "schedule": own})
    assert (put.cron, put.next_run_at is not None) == ("*/10 * * * *", True)
    other = tf.schedules.create(workflow="regular", cron="*/10 * * * *", payload=[5], metadata={"user": "u7"})

    tf.advance_clock(timedelta(minutes=11), step=60)

    def done(**metadata: str) -> list[RunInfo]:
        return list(tf.workflows.runs("regular", states=["succeeded"], metadata=metadata))

    eventually(lambda: len(done(of="itself")) >= 1 and len(done(user="u7")) >= 1, timeout=30)
    run = tf.workflows.get_run(done(user="u7")[0].id)
    assert (run.trigger, run.schedule_id, run.input) == ("schedule", other.id, [5])
    (*_, first) = tf.schedules.firings(other.id)
    assert first.run_id in {r.id for r in done(user="u7")}
    tf.schedules.delete(other.id)
    changed = tf.workflows.put({"name": "regular", "steps": steps})
    assert (changed.cron, list(tf.schedules.list(workflow="regular"))) == ("", [])
    with pytest.raises(NotFound):
        tf.schedules.create(workflow="no-such-workflow", cron="@daily")


def scheduled(cluster: ServiceCluster, where: str, *values: object) -> dict[str, Any]:
    """The one row of taskflow.schedule_task that fits, its payloads read."""
    columns = "id task_id task_type task_payload pre_task_payload workflow_payload workflow_json run_id due_at job_id"
    query = f"select {columns.replace(' ', ', ')}, schedule_id from taskflow.schedule_task where {where}"  # noqa: S608  ours
    (row,) = rows.found(cluster.dsn, query, *values)
    found = dict(zip([*columns.split(), "schedule_id"], row, strict=True))
    again = rows.found(cluster.dsn, query, *values)
    assert isinstance(found["id"], int) and again[0][0] == found["id"], "a number that stays"
    return {name: json.loads(value) if isinstance(value, str) and name.endswith(("_payload", "_json")) else value
            for name, value in found.items()}  # fmt: skip


@pytest.mark.feature("S0.7")
def test_what_is_scheduled_is_read_from_the_view(cluster: ServiceCluster, tf: TaskFlow) -> None:
    long = {"text": "y" * 10_000}
    tf.workflows.put({
        "name": "seen",
        "steps": [
            task("say", "shout", {"text": "{{ input.text }}"}),
            {"name": "pause", "kind": "wait", "meta": {"duration": "1d"}, "depends_on": ["say"]},
            {"name": "ask", "kind": "wait", "meta": {"signal": "answered"}, "depends_on": ["say"]},
            task("next", "nobody", long, depends_on=["say"]) | {"queue": "unserved"},
        ],
    })  # fmt: skip
    text = "x" * 45_000
    run = tf.workflows.start("seen", {"text": text})
    for step, state in (("pause", StepState.WAITING), ("ask", StepState.WAITING), ("next", StepState.RUNNING)):
        in_state(tf, run, step, state)

    for step, kind, payload, due in (
        ("pause", "wait", {"duration": "1d"}, True),
        ("ask", "wait", {"signal": "answered"}, False),
        ("next", "task", {"task": "nobody", "input": long}, False),
    ):
        found = scheduled(cluster, "run_id = %s and task_id = %s", run.id, step)
        assert (found["task_type"], found["task_payload"]) == (kind, payload)
        assert found["pre_task_payload"] == {"text": text.upper()} and len(str(text)) == 45_000
        assert found["workflow_payload"] == {"text": text} and found["workflow_json"]["name"] == "seen"
        assert (found["due_at"] is not None) is due
    tf.workflows.signal(run.id, "answered")
    in_state(tf, run, "ask", StepState.SUCCEEDED)
    left = rows.found(cluster.dsn, "select task_id from taskflow.schedule_task where run_id = %s", run.id)
    assert sorted(left) == [("next",), ("pause",)]
    tf.workflows.cancel(run.id)


@pytest.mark.feature("S0.7")
def test_a_group_that_waits_for_its_retry_is_in_the_view_as_itself(cluster: ServiceCluster, tf: TaskFlow) -> None:
    steps = [task("one", "add", [1]), task("two", "fail", "{{ input }}", depends_on=["one"])]
    group = {"name": "both", "steps": ["one", "two"], "retries": 1, "backoff": {"first": 3600.0, "limit": 3600.0}}
    tf.workflows.put({"name": "again-later", "steps": steps, "groups": [group]})
    run = tf.workflows.start("again-later", "g")
    eventually(lambda: rows.found(cluster.dsn, "select from taskflow.run_timers where run_id = %s", run.id), timeout=30)

    found = scheduled(cluster, "run_id = %s", run.id)

    assert (found["task_id"], found["task_type"], found["task_payload"]) == ("both", "group", group)
    assert (found["pre_task_payload"], found["due_at"] is not None) == (1, True), "what its failed step resumes with"
    tf.workflows.cancel(run.id)


@pytest.mark.feature("S0.7")
def test_schedules_and_delayed_jobs_are_in_the_view(cluster: ServiceCluster, tf: TaskFlow) -> None:
    tf.workflows.put({"name": "planned", "steps": [{"name": "w", "kind": "wait", "meta": {"signal": "go"}}]})
    tf.tasks.create("planned-task", target="add", queue="steps", schedule="0 0 1 1 *")
    flow = tf.schedules.create(workflow="planned", cron="0 0 1 1 *", payload={"gift": "tea"})
    once = tf.schedules.create("add", at=datetime(2999, 1, 1, tzinfo=UTC), payload=[1, 2])
    job = tf.new_job("unserved", {"a": 1}, task="later", delay=3600)

    found = scheduled(cluster, "schedule_id = %s", flow.id)
    assert (found["task_id"], found["task_type"], found["workflow_payload"]) == ("planned", "workflow", {"gift": "tea"})
    assert found["workflow_json"]["name"] == "planned" and found["due_at"] == flow.next_run_at
    found = scheduled(cluster, "schedule_id = %s", once.id)
    assert (found["task_id"], found["task_type"], found["task_payload"]) == ("add", "task", [1, 2])
    assert found["due_at"] == datetime(2999, 1, 1, tzinfo=UTC)
    found = scheduled(cluster, "task_id = %s", "planned-task")
    assert found["task_type"] == "task" and found["due_at"] == tf.tasks.get("planned-task").next_run_at
    found = scheduled(cluster, "job_id = %s", job.id)
    assert (found["task_id"], found["task_type"], found["task_payload"]) == ("later", "job", {"a": 1})

    tf.schedules.pause(flow.id)
    tf.tasks.update("planned-task", active=False)
    job.cancel()
    gone = "select from taskflow.schedule_task where schedule_id = %s or job_id = %s or task_id = 'planned-task'"
    eventually(lambda: not rows.found(cluster.dsn, gone, flow.id, job.id), timeout=30)


@pytest.mark.feature("S0.8")
def test_the_app_ends_schedules_and_waiting_runs_by_its_own_attributes(tf: TaskFlow) -> None:
    tf.workflows.put({"name": "asks", "steps": [{"name": "w", "kind": "wait", "meta": {"signal": "answered"}}]})
    mine, other = {"user": "u1", "campaign": "c9"}, {"user": "u2", "campaign": "c9"}
    waits = tf.workflows.start("asks", metadata=mine)
    stays = tf.workflows.start("asks", metadata=other)
    schedule = tf.schedules.create(workflow="asks", cron="@daily", metadata=mine)
    for run in (waits, stays):
        in_state(tf, run, "w", StepState.WAITING)

    ended = tf.schedules.delete(metadata=mine)

    assert set(ended) == {waits.id, schedule.id}
    with pytest.raises(RunCancelled):
        tf.workflows.wait(waits.id, TIMEOUT)
    assert tf.workflows.get_run(stays.id).state is RunState.RUNNING
    tf.workflows.cancel(stays.id)


@pytest.mark.feature("S0.9")
def test_a_namespace_has_an_app_url_for_relative_calls(tf: TaskFlow) -> None:
    tf.namespaces.create("shop", app_url="http://127.0.0.1:1/api")
    tf.workflows.put(
        {
            "name": "shop/call",
            "steps": [{"name": "c", "kind": "task_flow", "queue": "nobody", "meta": {"calls": [{"url": "/x"}]}}],
        }
    )

    run = tf.workflows.start("shop/call")
    in_state(tf, run, "c", StepState.RUNNING)

    job = tf.jobs.get(tf.workflows.get_run(run.id).step("c").jobs[0].job_id)
    assert (job.namespace, job.queue, job.task) == ("shop", "nobody", "http.call")
    assert job.payload["url"] == "http://127.0.0.1:1/api/x"
    tf.workflows.cancel(run.id)
    with pytest.raises(AlreadyExists):
        tf.namespaces.create("shop")
    with pytest.raises(InvalidArgument, match="app_url"):
        tf.namespaces.update("shop", app_url="ftp://x")
    assert tf.namespaces.update("shop", app_url="").app_url == ""


@pytest.mark.feature("S2.7", "S1.4")
def test_a_run_can_be_decided_by_an_executor_and_starts_tasks_waits_and_runs(tf: TaskFlow) -> None:
    tf.workflows.put({"name": "counted", "steps": [task("a", "add", "{{ input }}")], "output": "{{ steps.a.result }}"})
    tf.workflows.put({"name": "decided", "decider": {"timeout": 30, "retries": 2}})
    tf.tasks.create("shout", queue="steps")

    done = tf.workflows.wait(tf.workflows.start("decided").id, TIMEOUT)

    assert done.output == ["task-completed", "task-completed", "workflow-completed"]
    (child,) = tf.workflows.runs("counted", states=["succeeded"])
    assert (child.parent_run_id, child.trigger) == (done.id, "workflow")
    assert child.id in {job.run_id for step in done.steps for job in step.jobs}
    tf.tasks.remove("shout")


@pytest.mark.feature("S1.4", "M.4")
@pytest.mark.parametrize("service", ["coordinator", "queue", "scheduler"])
def test_a_run_goes_on_after_any_service_was_killed(cluster: ServiceCluster, tf: TaskFlow, service: str) -> None:
    names = [f"s{n}" for n in range(12)]
    chain = [task(name, "add", [1], depends_on=names[n - 1 : n]) for n, name in enumerate(names)]
    tf.workflows.put({"name": "chain", "steps": chain})
    runs = [tf.workflows.start("chain") for _ in range(10)]
    in_state(tf, runs[0], "s1", StepState.SUCCEEDED)

    cluster.kill(service, signal.SIGKILL)
    cluster.start(service)
    cluster.wait_healthy(service)

    for run in runs:
        done = tf.workflows.wait(run.id, 120)
        assert set(states(done).values()) == {"succeeded"}
        assert all(len(step.jobs) == 1 for step in done.steps)

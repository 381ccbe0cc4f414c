"""Runs whose executor decides: each event a decision task, one at a time, and the actions that answer it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskflow._policy import Outcome
from taskflow_server.core.workflow import (
    CancelJob,
    CancelTimer,
    CreateJob,
    Limits,
    Note,
    SetTimer,
    StartRun,
    StepChanged,
    StepStatus,
)
from taskflow_server.core.workflow.engine import broken
from taskflow_server.core.workflow.events import JobFinished, RetryRequested, Started, TimerDue
from tests.support.workflows import World

ACTION = "awf.workflow.action/"
INIT = {"event": "awf.workflow.event/workflow-init"}
DECIDED = {"name": "notification/appointment-created", "decider": {"timeout": 60}}


def schedule(definition: str, params: Any = None, **more: Any) -> dict[str, Any]:
    request = {"definition": definition, **({"params": params} if params is not None else {}), **more}
    return {"action": f"{ACTION}schedule-task", "task-request": request}


def complete(result: Any = None) -> dict[str, Any]:
    return {"action": f"{ACTION}complete-workflow", "result": result}


def started() -> World:
    return World(DECIDED, {"id": 7}).start()


def decide(world: World, *actions: Any) -> list[Any]:
    """The executor's answer to the decision that is open."""
    return world.finish("decision", list(actions))


def asked(world: World) -> Any:
    """The payload of the open decision."""
    (job,) = [job for job in world.jobs.values() if job.step == "decision"]
    assert isinstance(job, CreateJob)
    return job.payload


def test_the_first_decision_is_asked_for_when_the_run_begins() -> None:
    world = started()

    job = world.job("decision")

    assert (job.task, job.workflow) == ("awf.workflow/decision-task", "notification/appointment-created")
    assert (job.payload, job.timeout, job.retries) == (INIT, 60, 2)


def test_a_task_is_started_its_end_is_news_and_the_run_ends_when_the_executor_says_so() -> None:
    world = started()

    decide(world, schedule("notification/send-email", {"to": "ada"}, label="mail"))
    job = world.job("task-1")
    assert (job.task, job.payload, job.label, job.retries) == ("notification/send-email", {"to": "ada"}, "mail", None)
    world.finish("task-1", {"sent": True})
    assert asked(world) == {"event": "awf.workflow.event/task-completed", "task-id": "id of task-1/1/0"}
    decide(world, complete({"mails": 1}))

    assert (world.status, world.ends[0].output, world.jobs) == ("succeeded", {"mails": 1}, {})


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.TIMED_OUT, Outcome.CANCELLED])
def test_the_end_of_a_task_is_an_event_with_any_outcome(outcome: Outcome) -> None:
    world = started()
    decide(world, schedule("a"))

    world.fail("task-1", outcome=outcome)

    assert asked(world)["task-id"] == "id of task-1/1/0"


def test_decisions_are_asked_for_one_at_a_time_in_the_order_of_their_events() -> None:
    world = started()
    decide(world, schedule("a"), schedule("b"), schedule("c"))

    for step in ("task-2", "task-1", "task-3"):
        world.finish(step)
    seen = []
    for _ in range(3):
        seen.append(asked(world)["task-id"])
        decide(world)

    assert seen == ["id of task-2/1/0", "id of task-1/1/0", "id of task-3/1/0"]
    assert [job.iteration for job in world.made if job.step == "decision"] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("params", "seconds"),
    [({"duration": {"hours": 1, "minutes": 0, "seconds": 30}}, 3630), ({"until": "2026-05-04T08:01:00Z"}, 60)],
)
def test_a_wait_is_a_task_too(params: Any, seconds: int) -> None:
    world = started()

    (timer,) = [c for c in decide(world, schedule("awf.task/wait", params)) if isinstance(c, SetTimer)]
    assert (timer.due - world.now).total_seconds() == seconds
    world.pass_time("task-1")

    assert asked(world) == {"event": "awf.workflow.event/task-completed", "task-id": "run-1.task-1"}


def unmade(changes: list[Any]) -> list[tuple[str, Any]]:
    """The steps that changes say have failed, with their errors."""
    return [(c.step, c.error) for c in changes if isinstance(c, StepChanged) and c.status is StepStatus.FAILED]


@pytest.mark.feature("S2.7")
@pytest.mark.parametrize("definition", ["awf.task/subscribe", "aidbox.task/anything", "awf.workflow/decision-task"])
@pytest.mark.parametrize("kind", ["task", "workflow"])
def test_an_action_for_a_built_in_definition_is_an_event_with_its_error(definition: str, kind: str) -> None:
    world = started()
    action = {"action": f"{ACTION}schedule-{kind}", "task-request": {"definition": definition}}

    ((step, error),) = unmade(decide(world, action))

    event = asked(world)
    assert (event["event"], event[f"{kind}-id"]) == (f"awf.workflow.event/{kind}-completed", "run-1.task-1")
    assert "TaskFlow has only awf.task/wait" in event["error"]["message"]
    assert (step, error) == ("task-1", {**event["error"], "kind": kind})
    assert error["definition"] == definition and world.made[-1].step == "decision"


@pytest.mark.feature("S2.7")
def test_a_task_that_cannot_be_made_is_an_event_with_its_error() -> None:
    """Its owner says so by an end without a job."""
    world = started()
    decide(world, schedule("a"))
    job = world.jobs.pop("task-1/1/0")
    error = {"type": "bad_job", "message": "too large", "definition": "a"}

    changes = world.send(JobFinished(job.step, 1, 0, Outcome.FAILED, error=error))

    assert unmade(changes) == [("task-1", {**error, "kind": "task"})]
    assert asked(world) == {"event": "awf.workflow.event/task-completed", "task-id": "run-1.task-1", "error": error}


def test_waits_are_steps_of_their_run_that_end_with_it() -> None:
    world = started()
    steps = [c for c in decide(world, schedule("awf.task/wait", {"duration": 60})) if isinstance(c, StepChanged)]
    assert [(c.step, c.status, c.due) for c in steps] == [("task-1", StepStatus.WAITING, "2026-05-04T08:01:00+00:00")]

    ended = [c for c in world.cancel() if isinstance(c, StepChanged)]

    assert [(c.step, c.status) for c in ended] == [("task-1", StepStatus.CANCELLED)]


def test_a_workflow_is_started_and_its_end_is_news() -> None:
    world = started()
    action = {"action": f"{ACTION}schedule-workflow", "task-request": {"definition": "other", "params": {"n": 1}}}

    decide(world, action)
    child = world.jobs["task-1/1/0"]
    assert isinstance(child, StartRun) and (child.workflow, child.input) == ("other", {"n": 1})
    world.end("task-1/1/0")

    assert asked(world) == {"event": "awf.workflow.event/workflow-completed", "workflow-id": "id of task-1/1/0"}


@pytest.mark.parametrize(
    ("answer", "made"),
    [
        (None, 0),
        ({}, 0),
        ([], 0),
        ({"action": f"{ACTION}do-nothing"}, 0),
        (schedule("a"), 1),
        ([schedule("a"), schedule("b")], 2),
        ({"actions": [schedule("a")]}, 1),
        ({"action": "taskflow.workflow.action/schedule-task", "task-request": {"definition": "a"}}, 1),
        ({"action": "schedule-task", "task-request": {"definition": "a", "more": "is ignored"}}, 1),
    ],
)
def test_an_answer_is_one_action_or_a_list_or_nothing(answer: Any, made: int) -> None:
    world = started()

    world.finish("decision", answer)

    assert (world.status, len(world.jobs)) == ("running", made)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("go", "actions[0].action: 'None' is not a valid action; use schedule-task, schedule-workflow, do-nothing,"),
        ({"action": "explode"}, "actions[0].action: 'explode' is not a valid action; use schedule-task,"),
        ([complete, 1][1:], "actions[0].action: 'None' is not a valid action"),
        ({"action": "schedule-task"}, "actions[0].task-request: must be an object with definition and params"),
        (schedule("no such name"), "actions[0].task-request.definition: 'no such name' is not a valid name"),
        (schedule("awf.task/wait", {}), "actions[0].task-request.params: None is not a number"),
        (schedule("awf.task/wait", {"until": "soon"}), "actions[0].task-request.params: 'soon' is not a time"),
        (schedule("a", {"x": "y" * 200}), "actions[0].task-request.params: is larger than 100 bytes"),
        (complete("y" * 200), "actions[0].result: is larger than 100 bytes"),
        ([schedule("a")] * 1001, "actions: 1001 actions exceed the limit of 1000"),
    ],
)
def test_an_answer_that_is_wrong_fails_the_run_at_its_path(answer: Any, message: str) -> None:
    world = World(DECIDED, limits=Limits(payload=100)).start()

    world.finish("decision", answer)

    assert world.status == "failed"
    assert world.ends[0].error is not None and world.ends[0].error["message"].startswith(message)


@pytest.mark.parametrize(("action", "type_"), [("fail", "failed_by_executor"), ("unknown-error", "unknown_error")])
def test_the_executor_fails_the_run(action: str, type_: str) -> None:
    world = started()

    decide(world, {"action": f"{ACTION}{action}", "error": {"message": "no patient", "code": 9}})

    assert world.status == "failed"
    assert world.ends[0].error == {"type": type_, "message": "no patient", "code": 9}


def test_what_is_under_way_when_the_run_is_ended_is_cancelled_first() -> None:
    world = started()
    decide(world, schedule("a"), schedule("awf.task/wait", {"duration": 60}))
    world.signal("go")

    changes = decide(world, complete(1))
    assert CancelJob("task-1", 1, 0) in changes
    assert (world.status, world.timers, world.ends) == ("ending", {}, [])
    world.fail("task-1", outcome=Outcome.CANCELLED)

    assert (world.status, world.ends[0].output) == ("succeeded", 1)


def test_actions_after_the_one_that_ends_the_run_are_not_done() -> None:
    world = started()

    decide(world, complete(), schedule("a"))

    assert (world.status, world.jobs) == ("succeeded", {})


def test_a_decision_that_fails_for_good_fails_the_run_and_is_asked_for_again_by_hand() -> None:
    world = started()
    decide(world, schedule("a"))
    world.finish("task-1")
    world.fail("decision", outcome=Outcome.TIMED_OUT, error={"message": "nobody answered"})
    assert world.ends[0].error is not None
    assert world.ends[0].error["message"] == "the decision failed: nobody answered"

    world.retry()
    assert asked(world)["task-id"] == "id of task-1/1/0"
    assert world.send(RetryRequested(0)) == []
    decide(world, complete())

    assert (world.status, world.ends[1].error) == ("succeeded", None)


def test_a_cancelled_run_ends_with_all_that_is_under_way() -> None:
    world = started()
    decide(world, schedule("a"), schedule("awf.task/wait", {"duration": 60}))
    world.signal("go")
    assert len(world.jobs) == 2

    world.cancel()
    assert world.cancelling == {"task-1/1/0", "decision/2/0"}
    world.fail("task-1", outcome=Outcome.CANCELLED)
    world.finish("decision", [schedule("b")])

    assert (world.status, world.timers, world.jobs) == ("cancelled", {}, {})


def test_a_run_that_is_given_up_cancels_what_is_under_way_and_can_be_retried() -> None:
    world = started()
    decide(world, schedule("a"), schedule("awf.task/wait", {"duration": 60}))
    world.signal("go")

    end = broken(world.state, "no such decider")
    assert list(end.changes[:3]) == [CancelJob("decision", 2, 0), CancelJob("task-1", 1, 0), CancelTimer("task-2", 1)]
    world.state, world.timers, world.jobs = end.state, {}, {}
    world.retry()

    assert asked(world)["event"] == "awf.workflow.event/signal"


def test_a_repeated_signal_is_one_event_with_its_payload() -> None:
    world = started()
    world.signal("answered", {"by": "ada"}, id="s1")
    world.signal("answered", {"by": "ada"}, id="s1")

    decide(world)
    assert asked(world) == {"event": "awf.workflow.event/signal", "signal": "answered", "payload": {"by": "ada"}}
    decide(world, complete())

    (note,) = world.signal("late")
    assert isinstance(note, Note) and "the run is succeeded" in note.message


def test_what_a_run_has_under_way_is_bounded() -> None:
    world = started()
    decide(world, *[schedule("a")] * 1000)
    world.signal("more")

    decide(world, schedule("a"))

    assert world.status == "ending"
    for key in list(world.jobs):
        world.end(key, outcome=Outcome.CANCELLED)
    assert world.ends[0].error is not None
    assert "1000 at once" in world.ends[0].error["message"]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_run_ends_as_decided_whatever_the_order_and_duplicates_change_nothing(data: st.DataObject) -> None:
    world = started()
    past: list[Any] = [Started()]
    answers = [[], [schedule("a")], [schedule("a"), schedule("awf.task/wait", {"duration": 5})], [complete(1)]]
    while world.jobs or world.timers:
        key = data.draw(st.sampled_from([*world.jobs, *world.timers]))
        if key in world.timers:
            past.append(TimerDue(world.timers[key].name, 1))
            world.due(key)
        else:
            job = world.jobs[key]
            answer = data.draw(st.sampled_from(answers if len(past) < 30 else answers[3:]))
            past.append(JobFinished(job.step, job.iteration, 0, Outcome.SUCCEEDED, answer, None, f"id of {key}"))
            world.end(key, answer)
        before = world.state
        assert world.send(data.draw(st.sampled_from(past))) == []
        assert world.state == before
        if not world.ends and data.draw(st.integers(0, 20)) == 0:
            world.cancel()

    assert world.status in ("succeeded", "cancelled", "running")
    assert len(world.ends) == (0 if world.status == "running" else 1)

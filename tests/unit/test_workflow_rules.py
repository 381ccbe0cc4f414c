"""R23, R24 and what else a run does, each on the smallest workflow that shows it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from taskflow._policy import Backoff, Outcome
from taskflow_server.core.workflow import (
    CancelJob,
    CancelTimer,
    Definition,
    Run,
    RunState,
    Started,
    WrongDefinition,
    advance,
)
from taskflow_server.core.workflow.changes import CreateJob, RunFinished, SetTimer
from taskflow_server.core.workflow.engine import broken
from taskflow_server.core.workflow.events import RetryRequested, TimerDue
from taskflow_server.core.workflow.planning import Limits
from tests.support.workflows import NOW, World, edges, task, wait, workflow

R23 = pytest.mark.feature("R23")
R24 = pytest.mark.feature("R24")


def group(*steps: str, **more: Any) -> dict[str, Any]:
    return {"name": "g", "steps": list(steps), "retries": 1, **more}


# R24: when a step runs


@R24
@pytest.mark.feature("S0.2")
@pytest.mark.parametrize(
    ("arrows", "a", "then"),
    [
        (["a -> b"], "succeeds", "b running"),
        (["a -> b"], "fails", "b skipped"),
        (["a -failure-> b"], "succeeds", "b skipped"),
        (["a -failure-> b"], "fails", "b running"),
        (["a -always-> b"], "succeeds", "b running"),
        (["a -always-> b"], "fails", "b running"),
        (["a -> b", "a -failure-> b"], "fails", "b running"),
    ],
)
def test_an_edge_is_taken_by_its_outcome(arrows: list[str], a: str, then: str) -> None:
    world = World(workflow("a", "b", edges=edges(*arrows))).start()

    world.succeed("a") if a == "succeeds" else world.fail("a")

    assert world.steps.endswith(then)


@R24
def test_without_edges_all_steps_begin_at_once_and_the_run_ends_with_the_last() -> None:
    world = World(workflow("a", "b", "c")).start()
    assert world.open == ["a", "b", "c"]

    world.succeed("b", "a")
    assert (world.status, world.ends) == ("running", [])
    world.succeed("c")

    assert (world.status, len(world.ends)) == ("succeeded", 1)


@R24
@pytest.mark.parametrize("order", [("b", "c"), ("c", "b")])
def test_what_depends_on_several_runs_once_when_the_last_has_succeeded(order: tuple[str, str]) -> None:
    document = workflow("a", "b", "c", task("d", depends_on=["b", "c"]), edges=edges("a -> b", "a -> c"))
    world = World(document).start()
    world.succeed("a", order[0])
    assert world.open == [order[1]]

    world.succeed(order[1])

    assert [job.step for job in world.made] == ["a", "b", "c", "d"]
    assert world.job("d").after == ("b", "c")


@pytest.mark.feature("A11")
@R24
def test_two_children_that_end_at_once_pass_the_join_once_in_either_order() -> None:
    """Two owners read the same inbox one after the other; the second hears again what the first has heard (A11)."""
    definition = Definition.parse(workflow("b", "c", task("d", depends_on=["b", "c"])))
    for order in (["b", "c"], ["c", "b"]):
        world = World(definition).start()
        world.succeed(*order)

        assert [job.step for job in world.made] == ["b", "c", "d"]


@R24
def test_what_depends_on_a_failed_step_is_skipped_and_so_is_all_behind_it() -> None:
    world = World(workflow("a", "b", task("c", depends_on=["a", "b"]), task("d", depends_on=["c"]))).start()

    world.fail("a")

    assert world.steps == "a failed, b running, c skipped, d skipped"
    world.succeed("b")
    assert world.status == "failed"


@R24
def test_edges_join_ways_a_step_waits_until_all_are_decided_and_runs_if_one_is_taken() -> None:
    document = workflow(
        "a", "thank", "excuse", "log", edges=edges("a -> thank", "a -failure-> excuse", "thank -> log", "excuse -> log")
    )
    world = World(document).start()

    world.fail("a")
    assert world.steps == "a failed, thank skipped, excuse running, log pending"
    world.succeed("excuse")

    assert world.job("log").after == ("excuse",)


@R24
def test_an_edge_and_a_dependency_must_both_allow_a_step() -> None:
    document = workflow("a", "b", task("c", depends_on=["a"]), edges=edges("b -failure-> c"))
    world = World(document).start()
    world.succeed("a")
    assert world.steps == "a succeeded, b running, c pending"

    world.succeed("b")

    assert (world.steps, world.status) == ("a succeeded, b succeeded, c skipped", "succeeded")


@R24
def test_always_does_not_lead_on_from_a_step_that_was_skipped() -> None:
    world = World(workflow("a", "b", "c", edges=edges("a -> b", "b -always-> c"))).start()

    world.fail("a")

    assert world.steps == "a failed, b skipped, c skipped"


@R24
def test_a_run_goes_on_only_with_the_document_that_it_began_with() -> None:
    first, second = Definition.parse(workflow("a", "b")), Definition.parse(workflow("a", "c"))
    state = advance(first, Run("r"), RunState(), Started(), NOW).state

    with pytest.raises(WrongDefinition, match="run r started with document"):
        advance(second, Run("r"), state, Started(), NOW)


# R23: failures, innermost first


@R23
def test_first_come_the_retries_of_the_step_s_own_jobs() -> None:
    """They are the job's: the engine hears of the last try only."""
    step = task("a", retries=3, backoff={"first": 2, "factor": 3, "limit": 60}, timeout=5, priority="high", queue="q")
    world = World(workflow(step)).start()

    job = world.job("a")

    assert (job.retries, job.backoff, job.timeout) == (3, Backoff(2, 3, 60, 0.1), 5)
    assert (job.queue, job.priority) == ("q", 7)


@R23
def test_then_the_step_s_failure_edge_handles_it_and_its_group_does_not_see_it() -> None:
    document = workflow("a", "excuse", edges=edges("a -failure-> excuse"), groups=[group("a", retries=5)])
    world = World(document).start()

    world.fail("a")
    assert world.steps == "a failed, excuse running"
    world.succeed("excuse")

    assert (world.status, world.timers) == ("succeeded", {})


@R23
def test_an_always_edge_handles_nothing() -> None:
    world = World(workflow("a", "b", edges=edges("a -always-> b"))).start()

    world.fail("a")
    world.succeed("b")

    assert world.status == "failed"


@R23
def test_then_its_group_is_retried_from_the_failed_step() -> None:
    document = workflow("a", task("b", depends_on=["a"]), task("c", depends_on=["b"]), groups=[group("a", "b", "c")])
    world = World(document).start()
    world.succeed("a")

    world.fail("b")
    assert world.steps == "a succeeded, b held, c pending"
    world.pass_time("g")
    world.succeed("b", "c")

    assert [(job.step, job.iteration) for job in world.made] == [("a", 1), ("b", 1), ("b", 2), ("c", 1)]
    assert world.status == "succeeded"


@R23
def test_or_from_its_start_if_it_says_so() -> None:
    groups = [group("a", "b", **{"from": "start"})]
    document = workflow("a", task("b", depends_on=["a"]), task("c", depends_on=["g"]), groups=groups)
    world = World(document).start()
    world.succeed("a")

    world.fail("b")
    world.pass_time("g")
    assert world.steps == "a running, b pending, c pending"
    world.succeed("a", "b", "c")

    assert [(job.step, job.iteration) for job in world.made] == [("a", 1), ("b", 1), ("a", 2), ("b", 2), ("c", 1)]
    assert world.status == "succeeded"


@R23
def test_a_group_waits_longer_before_each_retry_and_is_retried_no_more_often_than_it_says() -> None:
    groups = [group("a", retries=3, backoff={"first": 10, "factor": 4, "limit": 100})]
    world = World(workflow("a", groups=groups)).start()
    waits = []

    for _ in range(3):
        world.fail("a")
        waits.append(world.wait_for("g").total_seconds())
        world.pass_time("g")
    world.fail("a")

    assert waits == [10, 40, 100]
    assert (world.status, len(world.made), world.timers) == ("failed", 4, {})


@R23
def test_a_group_is_retried_when_nothing_of_it_runs_any_more() -> None:
    world = World(workflow("a", "b", "other", groups=[group("a", "b")])).start()

    world.fail("a")
    assert (world.steps, world.timers) == ("a held, b running, other running", {})
    world.fail("b")

    assert world.wait_for("g") == timedelta(seconds=1)
    world.pass_time("g")
    assert world.open == ["a", "b", "other"]
    world.succeed("a", "b", "other")
    assert world.status == "succeeded"


@R23
def test_a_step_that_fails_while_its_group_waits_is_retried_with_it() -> None:
    document = workflow("x", "a", task("b", depends_on=["x"]), groups=[group("a", "b")])
    world = World(document).start()
    world.fail("a")
    world.succeed("x")

    world.pass_time("g")
    assert world.steps == "x succeeded, a held, b running", "b runs: the group waits for it"
    world.fail("b")

    assert world.open == ["a", "b"], "one retry for both"
    world.succeed("a", "b")
    assert world.status == "succeeded"


@R23
def test_then_the_group_s_failure_edge_handles_it() -> None:
    document = workflow("a", "excuse", "thank", edges=edges("g -failure-> excuse", "g -> thank"), groups=[group("a")])
    world = World(document).start()
    world.fail("a")
    world.pass_time("g")

    world.fail("a")
    assert world.steps == "a failed, excuse running, thank skipped"
    world.succeed("excuse")

    assert world.status == "succeeded"


@R23
def test_a_group_has_succeeded_when_all_in_it_are_final_and_every_failure_in_it_is_handled() -> None:
    document = workflow(
        "a", "fix", "b", "c", edges=edges("a -failure-> fix", "g -> c"), groups=[group("a", "fix", "b", retries=0)]
    )
    world = World(document).start()
    world.fail("a")
    world.succeed("fix")
    assert world.steps.endswith("c pending")

    world.succeed("b")

    assert world.open == ["c"]


@R24
def test_what_follows_a_group_in_which_all_was_skipped_is_skipped() -> None:
    document = workflow("a", "b", "c", edges=edges("a -failure-> b", "g -always-> c"), groups=[group("b")])
    world = World(document).start()

    world.succeed("a")

    assert (world.steps, world.status) == ("a succeeded, b skipped, c skipped", "succeeded")


@R23
def test_at_last_the_run_fails_and_says_which_step_and_why() -> None:
    world = World(workflow("a", "b")).start()

    world.fail("a", error={"type": "Refused", "message": "no such address"})
    world.succeed("b")

    (end,) = world.ends
    assert end.error is not None
    assert (end.error["type"], end.error["step"]) == ("step_failed", "a")
    assert end.error["message"] == "step 'a' failed: no such address"
    assert end.error["error"] == {"type": "Refused", "message": "no such address", "step": "a"}


@pytest.mark.parametrize("outcome", [Outcome.TIMED_OUT, Outcome.LOST, Outcome.CANCELLED])
def test_a_job_that_timed_out_was_lost_or_cancelled_fails_its_step(outcome: Outcome) -> None:
    world = World(workflow("a")).start()

    world.fail("a", outcome=outcome)

    assert (world.steps, world.status) == ("a failed", "failed")
    assert world.error("a")["type"] == outcome.name.lower()


# Waits and signals


@pytest.mark.parametrize(
    ("meta", "seconds"),
    [
        ({"duration": 90}, 90),
        ({"duration": "1d 12h"}, 129_600),
        ({"duration": {"hours": 1, "minutes": 30}}, 5_400),
        ({"duration": "{{ input.pause }}"}, 900),
        ({"until": "2026-05-04T10:00:00+01:00"}, 3_600),
        ({"until": "2026-05-04T09:00:00"}, 3_600),
        ({"until": "{{ input.meeting }}", "offset": "-1h"}, 82_800),
        ({"until": 1777885200}, 3_600),
    ],
)
def test_a_wait_lasts_a_duration_or_until_a_time_also_one_of_the_run_s_data(meta: Any, seconds: float) -> None:
    input = {"pause": "15m", "meeting": "2026-05-05T08:00:00Z"}
    world = World(workflow(wait("w", **meta), task("b", depends_on=["w"])), input).start()

    assert (world.steps, world.wait_for("w").total_seconds()) == ("w waiting, b pending", seconds)
    world.pass_time("w")

    assert world.steps == "w succeeded, b running"


def test_a_time_that_has_passed_is_no_wait() -> None:
    world = World(workflow(wait("w", until="2020-01-01T00:00:00Z"))).start()

    assert (world.status, world.timers) == ("succeeded", {})


def test_a_signal_ends_the_wait_for_it_with_its_payload() -> None:
    document = workflow(wait("w", signal="answered"), output="{{ steps.w.result.by }}")
    world = World(document).start()
    world.signal("other")
    assert world.steps == "w waiting"

    world.signal("answered", {"by": "ada"})

    assert world.ends[0].output == "ada"


def test_a_signal_that_comes_before_its_wait_is_kept_for_it() -> None:
    document = workflow("a", wait("w", signal="go", duration="1d", depends_on=["a"]), output="{{ steps.w.result }}")
    world = World(document).start()
    world.signal("go", 1)
    world.signal("go", 2)

    world.succeed("a")

    assert (world.status, world.timers, world.ends[0].output) == ("succeeded", {}, 1)
    assert world.state.signals == (("go", 2),)


def test_a_wait_for_a_signal_fails_when_its_time_is_over_and_so_branches() -> None:
    document = workflow(
        wait("answer", signal="answered", duration="3d"),
        "thank",
        "remind",
        edges=edges("answer -> thank", "answer -failure-> remind"),
    )
    in_time, late = World(document).start(), World(document).start()

    in_time.signal("answered")
    late.pass_time("answer")

    assert (in_time.open, in_time.timers) == (["thank"], {})
    assert late.open == ["remind"]
    assert late.error("answer")["message"] == "there was no signal 'answered' by 2026-05-07T08:00:00+00:00"


def test_one_signal_ends_all_waits_for_it() -> None:
    world = World(workflow(wait("v", signal="go"), wait("w", signal="go"))).start()

    world.signal("go")

    assert world.status == "succeeded"


def test_signals_that_nobody_waits_for_are_bounded() -> None:
    world = World(workflow("a"), limits=Limits(signal=100, signals=150)).start()

    assert world.signal("s", "x" * 90) == []
    (too_many,) = world.signal("s", "x" * 90)
    (too_large,) = world.signal("s", "x" * 200)

    assert "the run's backlog of events is larger than 150 bytes" in too_many.message  # type: ignore[union-attr]
    assert "its payload is larger than 100 bytes" in too_large.message  # type: ignore[union-attr]
    assert len(world.state.signals) == 1


# Calls


def calls(*urls: str, **meta: Any) -> dict[str, Any]:
    meta = {"calls": [{"url": f"https://x.example/{url}", "name": url} for url in urls], **meta}
    return workflow({"name": "a", "kind": "task_flow", "meta": meta}, output="{{ steps.a.result }}")


@pytest.mark.feature("S0.1")
def test_calls_are_made_one_after_the_other_and_their_results_listed() -> None:
    world = World(calls("x", "y")).start()
    assert [job.payload["url"] for job in world.made] == ["https://x.example/x"]  # type: ignore[union-attr]

    world.finish("a", {"status": 200, "body": 1})
    assert world.job("a", 1).label == "y"
    world.finish("a", {"status": 201, "body": 2}, index=1)

    assert world.ends[0].output == [{"name": "x", "status": 200, "body": 1}, {"name": "y", "status": 201, "body": 2}]


@pytest.mark.feature("S0.1")
def test_the_first_failed_call_fails_the_step_and_no_other_follows() -> None:
    world = World(calls("x", "y", "z")).start()
    world.succeed("a")

    world.fail("a", index=1, error={"type": "status", "message": "503", "status": 503})

    assert (world.status, len(world.made)) == ("failed", 2)
    assert world.error("a") == {"type": "status", "message": "503", "status": 503, "index": 1, "step": "a"}


def test_parallel_calls_are_made_at_once_and_a_failed_one_cancels_the_others() -> None:
    world = World(calls("x", "y", "z", parallel=True)).start()
    assert len(world.jobs) == 3
    world.finish("a", {}, index=2)

    changes = world.fail("a", index=1, error={"message": "503"})
    assert changes == [CancelJob("a", 1, 0)]
    assert world.steps == "a running", "until the cancelled one has ended"
    world.fail("a", index=0, outcome=Outcome.CANCELLED)

    assert world.error("a")["message"] == "503"
    assert world.status == "failed"


@pytest.mark.feature("S0.1")
@pytest.mark.parametrize("parallel", [False, True])
def test_with_continue_on_failure_all_calls_are_made_and_the_step_succeeds(parallel: bool) -> None:
    world = World(calls("x", "y", parallel=parallel, continue_on_failure=True)).start()

    world.fail("a", index=0, error={"type": "status", "message": "503"})
    world.finish("a", {"status": 200}, index=1)

    error = {"type": "status", "message": "503"}
    assert world.ends[0].output == [{"name": "x", "error": error}, {"name": "y", "status": 200}]


# Values


def test_a_missing_value_names_step_path_and_expression_and_fails_only_that_step() -> None:
    document = workflow(task("a", meta={"input": {"to": ["x", "{{ input.usr }}"]}}), "b")
    world = World(document, {"user": "ada"}).start()

    assert world.error("a") == {
        "type": "missing_value",
        "message": "steps[0].meta.input.to[1]: {{ input.usr }}: there is no 'usr'; it has user",
        "path": "steps[0].meta.input.to[1]",
        "expression": "input.usr",
        "step": "a",
    }
    assert world.steps == "a failed, b running"


def test_a_value_that_does_not_fit_fails_the_step_at_its_path() -> None:
    document = workflow(wait("w", duration="{{ input.pause }}"), task("t", depends_on=["w"]))

    world = World(document, {"pause": "soon"}).start()

    assert world.status == "failed"
    assert world.error("w")["message"].startswith("steps[0].meta.duration: 'soon' is not a duration; use")


def test_an_output_that_cannot_be_made_fails_the_run() -> None:
    world = World(workflow("a", output={"sum": "{{ input.total }}"})).start()

    world.succeed("a")

    assert world.ends[0].error is not None
    assert (
        world.ends[0].error["message"] == "output.sum: {{ input.total }}: there is no 'total': null stands in its place"
    )


def test_results_and_errors_flow_to_later_steps() -> None:
    document = workflow(
        "a",
        "b",
        task("c", meta={"input": {"id": "{{ steps.a.result.id }}", "why": "{{ steps.b.error.message }}"}}),
        edges=edges("b -failure-> c"),
    )
    document["steps"][2]["depends_on"] = ["a"]
    world = World(document).start()

    world.finish("a", {"id": 7})
    world.fail("b", error={"message": "no"})

    assert world.job("c").payload == {"id": 7, "why": "no"}


def test_a_template_over_all_steps_sees_those_that_have_ended() -> None:
    world = World(workflow("a", "b", task("c", depends_on=["a"], meta={"input": "{{ steps }}"}))).start()

    world.finish("a", 1)

    assert world.job("c").payload == {"a": {"outcome": "succeeded", "result": 1}}


def test_only_results_that_a_template_reads_are_kept() -> None:
    document = workflow("a", "b", task("c", depends_on=["a", "b"], meta={"input": "{{ steps.a.result }}"}))
    world = World(document).start()

    world.finish("a", "kept")
    world.finish("b", "left")

    assert world.state.results == {"a": "kept"}


def test_a_step_that_runs_again_and_fails_has_no_result_any_more() -> None:
    document = workflow(
        "a",
        task("b", depends_on=["a"]),
        task("c", meta={"input": "{{ steps.a.result || 'none' }}"}),
        edges=edges("a -failure-> c"),
        groups=[group("a", "b", "c", **{"from": "start"})],
    )
    world = World(document).start()
    world.finish("a", "old")
    world.fail("b")
    world.pass_time("g")

    world.fail("a")

    assert world.job("c").payload == "none"


@pytest.mark.parametrize(
    ("result", "why"),
    [
        ("x" * 101, "is larger than 100 bytes"),
        ({"deep": [[["x\x00"]]]}, "holds \\u0000"),
        (["\ud800"], "half a surrogate pair"),
    ],
)
def test_a_result_that_cannot_be_kept_fails_the_step_if_a_template_reads_it(result: Any, why: str) -> None:
    read = World(workflow("a", output="{{ steps.a.result }}"), limits=Limits(result=100)).start()
    unread = World(workflow("a"), limits=Limits(result=100)).start()

    read.finish("a", result)
    unread.finish("a", result)

    assert why in read.error("a")["message"]
    assert (read.status, unread.status) == ("failed", "succeeded")


def test_all_results_together_are_bounded_calls_under_way_too() -> None:
    document = calls("x", "y", "z")
    world = World(document, limits=Limits(result=100, results=100)).start()
    world.finish("a", {"body": "x" * 40})

    world.finish("a", {"body": "x" * 60}, index=1)

    assert "the result, which a template reads, is larger than" in world.error("a")["message"]


def test_a_payload_that_is_too_large_fails_its_step_before_a_job_is_made() -> None:
    document = workflow(task("a", meta={"input": ["{{ input }}", "{{ input }}"]}))
    world = World(document, "x" * 60, limits=Limits(payload=100)).start()

    assert (world.status, world.made) == ("failed", [])
    assert world.error("a")["message"].startswith("steps[0].meta: the payload of job 1 is larger than 100 bytes")


def test_all_payloads_that_one_event_makes_are_bounded() -> None:
    steps = [task(f"s{n}", meta={"input": "{{ input }}"}) for n in range(4)]
    world = World(workflow(*steps), "x" * 98, limits=Limits(payload=100, payloads=250)).start()

    assert world.open == ["s0", "s1"]
    assert world.error("s2")["message"].startswith("steps[2].meta: the payload of job 1 is larger than 50 bytes")


# Cancel, and retry by hand


def test_a_cancelled_run_ends_when_all_that_was_under_way_has_ended() -> None:
    document = workflow("a", wait("w", duration=60), task("b", depends_on=["a"]))
    world = World(document).start()

    world.cancel()
    assert (world.status, world.cancelling, world.timers) == ("cancelling", {"a/1/0"}, {})
    assert world.steps == "a running, w cancelled, b cancelled"
    world.fail("a", outcome=Outcome.CANCELLED)

    assert (world.steps, world.status) == ("a cancelled, w cancelled, b cancelled", "cancelled")


def test_a_job_that_succeeded_before_the_cancel_reached_it_did_succeed() -> None:
    world = World(workflow("a", task("b", depends_on=["a"]))).start()
    world.cancel()

    world.finish("a", "done")

    assert (world.steps, world.status) == ("a succeeded, b cancelled", "cancelled")


def test_a_group_that_waits_for_its_retry_is_not_retried_after_a_cancel() -> None:
    world = World(workflow("a", groups=[group("a")])).start()
    world.fail("a")
    (timer,) = world.timers.values()

    world.cancel()

    assert (world.status, world.timers) == ("cancelled", {})
    assert world.send(TimerDue(timer.name, timer.iteration)) == []


def test_a_run_that_is_cancelled_before_it_begins_never_begins() -> None:
    world = World(workflow("a"))

    world.cancel()

    assert (world.status, world.made) == ("cancelled", [])
    assert world.send(Started()) == []


@R23
def test_a_retry_by_hand_goes_on_from_the_failed_step_with_all_retries_anew() -> None:
    document = workflow("a", task("b", depends_on=["a"]), task("c", depends_on=["b"]), groups=[group("a", "b", "c")])
    world = World(document).start()
    world.succeed("a")
    world.fail("b")
    world.pass_time("g")
    world.fail("b")
    assert (world.steps, world.status) == ("a succeeded, b failed, c skipped", "failed")

    world.retry()
    world.fail("b")
    world.pass_time("g")
    world.succeed("b", "c")

    assert [(job.step, job.iteration) for job in world.made[1:]] == [("b", 1), ("b", 2), ("b", 3), ("b", 4), ("c", 1)]
    assert (world.status, [end.status.value for end in world.ends]) == ("succeeded", ["failed", "succeeded"])


def test_a_retry_by_hand_runs_all_again_that_comes_after_the_failed_step_and_nothing_else() -> None:
    document = workflow("a", "b", "tidy", "report", edges=edges("a -always-> tidy", "b -> report"))
    world = World(document).start()
    world.fail("a")
    world.succeed("b", "report", "tidy")

    world.retry()

    assert world.steps == "a running, b succeeded, tidy pending, report succeeded"


def test_a_retry_by_hand_runs_again_what_comes_after_the_failed_step_s_group() -> None:
    world = World(workflow("a", "tidy", edges=edges("g -always-> tidy"), groups=[group("a", retries=0)])).start()
    world.fail("a")
    world.succeed("tidy")

    world.retry()

    assert world.steps == "a running, tidy pending"


def test_a_handled_failure_is_not_retried_by_hand() -> None:
    document = workflow("a", "excuse", "b", edges=edges("a -failure-> excuse"))
    world = World(document).start()
    world.fail("a")
    world.fail("b")
    world.succeed("excuse")

    world.retry()

    assert world.steps == "a failed, excuse succeeded, b running"


def test_a_cancelled_run_goes_on_with_what_was_cancelled() -> None:
    world = World(workflow("a", wait("w", duration=60, depends_on=["a"]), task("b", depends_on=["w"]))).start()
    world.succeed("a")
    world.cancel()

    world.retry()
    world.pass_time("w")
    world.succeed("b")

    assert (world.status, [job.step for job in world.made]) == ("succeeded", ["a", "b"])


def test_a_run_that_succeeded_or_that_runs_is_not_retried_nor_one_of_another_round() -> None:
    world = World(workflow("a")).start()
    assert world.retry() == []
    world.fail("a")
    assert world.send(RetryRequested(1)) == []

    world.retry()
    assert world.send(RetryRequested(0)) == []
    world.succeed("a")

    assert (world.retry(), world.status) == ([], "succeeded")


# Guarantees for the owner


def test_a_timer_of_an_earlier_iteration_changes_nothing() -> None:
    steps = [wait("w", duration=60), task("b", depends_on=["w"])]
    world = World(workflow(*steps, groups=[group("w", "b", retries=2, **{"from": "start"})])).start()
    world.pass_time("w")
    world.fail("b")
    world.pass_time("g")
    assert world.steps == "w waiting, b pending"

    assert world.send(TimerDue("w", 1)) == []
    world.pass_time("w")
    world.fail("b")
    assert world.send(TimerDue("g", 1)) == []

    assert world.steps == "w succeeded, b held"


def test_changes_come_with_what_the_step_resumes_from() -> None:
    document = workflow("a", wait("w", duration=5, depends_on=["a"]), task("b", depends_on=["w"]))
    world = World(document).start()

    (timer,) = [c for c in world.finish("a") if isinstance(c, SetTimer)]
    (job,) = [c for c in world.pass_time("w") if isinstance(c, CreateJob)]

    assert (timer.after, job.after) == (("a",), ("w",))


def test_a_run_whose_document_cannot_be_read_any_more_fails_alone_and_can_be_retried() -> None:
    document = workflow(
        "a",
        "b",
        wait("w", duration=9),
        "x",
        task("c", depends_on=["b"]),
        groups=[group("x"), {"name": "h", "steps": ["b"]}],
    )
    world = World(document).start()
    world.succeed("a")
    world.fail("x")

    end = broken(world.state, "there is no kind 'mail'")
    assert end.state.status.value == "failed"
    assert [c for c in end.changes if isinstance(c, CancelJob)] == [CancelJob("b", 1, 0)]
    assert {c.name for c in end.changes if isinstance(c, CancelTimer)} == {"w", "g"}
    finished = end.changes[-1]
    assert isinstance(finished, RunFinished) and finished.error is not None
    assert finished.error["message"] == "there is no kind 'mail'"
    assert broken(end.state, "again").changes == ()

    world.state, world.timers = RunState.from_json(end.state.to_json()), {}
    assert world.fail("b", outcome=Outcome.CANCELLED) == []
    world.retry()
    world.succeed("b", "x", "c")
    world.pass_time("w")
    assert (world.status, [job.step for job in world.made]) == ("succeeded", ["a", "b", "x", "b", "x", "c"])

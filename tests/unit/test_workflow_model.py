"""Random workflows under random outcomes, orders, duplicates and cancels, against R23 and R24 read from the document.

The oracle below looks at the document itself and at the log of what the engine said; it shares no code with the engine.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from taskflow._policy import Outcome
from taskflow_server.core.workflow import BadDocument, Change, Definition, Run, RunState, StepChanged, advance
from taskflow_server.core.workflow.changes import CancelJob, CreateJob, RunFinished, SetTimer
from taskflow_server.core.workflow.events import CancelRequested, JobFinished, RetryRequested, Signal, Started, TimerDue
from taskflow_server.core.workflow.values import size_of
from tests.support.workflows import NOW, World, task, wait

FINAL = {"succeeded", "failed", "skipped", "cancelled"}
MANY = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
BAD = [Outcome.FAILED, Outcome.TIMED_OUT, Outcome.LOST, Outcome.CANCELLED]


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    names = [f"s{n}" for n in range(draw(st.integers(1, 7)))]
    steps = [draw(some_step(name)) for name in names]
    edges = []
    for n, step in enumerate(steps):
        for other in names[:n]:
            match draw(st.sampled_from(["", "", "", "depends", "success", "failure", "always"])):
                case "":
                    pass
                case "depends":
                    step.setdefault("depends_on", []).append(other)
                case on:
                    edges.append({"from": other, "to": step["name"], "on": on})
    groups = draw(some_groups(names))
    for group in groups:
        last = max(names.index(name) for name in group["steps"])
        for name in names[last + 1 :]:
            if draw(st.booleans()):
                edges.append({"from": group["name"], "to": name, "on": draw(st.sampled_from(["success", "failure"]))})
    return {"name": "flow", "steps": steps, "edges": edges, "groups": groups}


@st.composite
def some_step(draw: st.DrawFn, name: str) -> dict[str, Any]:
    match draw(st.sampled_from(["task", "task", "task", "calls", "duration", "signal"])):
        case "calls":
            calls = [{"url": f"https://x.example/{n}"} for n in range(draw(st.integers(1, 3)))]
            meta = {"calls": calls, "parallel": draw(st.booleans()), "continue_on_failure": draw(st.booleans())}
            return {"name": name, "kind": "task_flow", "meta": meta}
        case "duration":
            return wait(name, duration=draw(st.sampled_from([0, 60])))
        case "signal":
            return wait(name, signal=draw(st.sampled_from(["yes", "no"])), duration=60)
    return task(name)


@st.composite
def some_groups(draw: st.DrawFn, names: list[str]) -> list[dict[str, Any]]:
    place = [draw(st.sampled_from(["", "g", "h"])) for _ in names]
    found = []
    for group in ("g", "h"):
        steps = [name for name, where in zip(names, place, strict=True) if where == group]
        if steps:
            come_from = draw(st.sampled_from(["failed", "start"]))
            found.append({"name": group, "steps": steps, "retries": draw(st.integers(0, 2)), "from": come_from})
    return found


class Oracle:
    """The transitions that a document allows, by the letter of R23 and R24."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.steps = {step["name"]: step for step in document["steps"]}
        self.edges: list[dict[str, str]] = document["edges"]
        self.groups = {group["name"]: group for group in document["groups"]}
        self.status = dict.fromkeys(self.steps, "pending")
        self.iteration = dict.fromkeys(self.steps, 0)
        self.round = 0

    def group_of(self, name: str) -> dict[str, Any] | None:
        return next((group for group in self.groups.values() if name in group["steps"]), None)

    def handled(self, name: str) -> bool:
        return any(edge["from"] == name and edge["on"] == "failure" for edge in self.edges)

    def ended(self, name: str) -> str:
        """How a step or a group ended; empty while it has not."""
        if name in self.steps:
            return self.status[name] if self.status[name] in FINAL else ""
        members = self.groups[name]["steps"]
        if any(self.status[member] not in FINAL for member in members):
            return ""
        if any(self.status[member] == "failed" and not self.handled(member) for member in members):
            return "failed"
        return "skipped" if all(self.status[member] == "skipped" for member in members) else "succeeded"

    def allows(self, name: str) -> str:
        """`run`, `skip` or `later`."""
        wants = {"success": {"succeeded"}, "failure": {"failed"}, "always": {"succeeded", "failed"}}
        depends = [self.ended(other) for other in self.steps[name].get("depends_on", [])]
        ways = [(self.ended(edge["from"]), wants[edge["on"]]) for edge in self.edges if edge["to"] == name]
        if any(end not in ("", "succeeded") for end in depends):
            return "skip"
        if any(not end for end, _ in ways):
            return "later"
        if ways and not any(end in wanted for end, wanted in ways):
            return "skip"
        return "later" if "" in depends else "run"

    def hear(self, change: Change) -> None:
        """A step has another status: was that allowed?"""
        if not isinstance(change, StepChanged):
            return
        name, before, now = change.step, self.status[change.step], change.status.value
        group = self.group_of(name)
        assert before not in FINAL or now == "pending", f"{name} ended twice"
        if before == "pending" and now in ("running", "waiting", "succeeded", "failed", "held"):
            assert self.allows(name) == "run", f"{name} began before its edges allowed it"
            assert change.iteration == self.iteration[name] + 1
        elif now == "skipped":
            assert (before, self.allows(name)) == ("pending", "skip")
        if now == "held":
            assert group and group["retries"] and not self.handled(name)
        most = (1 + (group["retries"] if group else 0)) * (1 + self.round)
        assert change.iteration <= most, f"{name} begins more often than its group may be retried"
        self.status[name], self.iteration[name] = now, change.iteration

    def outcome(self) -> str:
        for name, status in self.status.items():
            group = self.group_of(name)
            if status == "failed" and not self.handled(name) and not (group and self.handled(group["name"])):
                return "failed"
        return "succeeded"


class Walk:
    """One run, driven at random until nothing is left to happen."""

    def __init__(self, document: dict[str, Any]) -> None:
        try:
            definition = Definition.parse(document)
        except BadDocument as error:
            assert all("never run" in p.message or "may run again" in p.message for p in error.problems), str(error)
            assume(False)
        self.world = World(definition)
        self.oracle = Oracle(document)
        self.heard = 0
        self.past: list[Any] = []

    def step(self, choice: str, key: str, outcome: Outcome) -> None:
        world = self.world
        before = len(world.log)
        match choice:
            case "job":
                job = world.jobs[key]
                index = job.index if isinstance(job, CreateJob) else 0
                self.past.append(JobFinished(job.step, job.iteration, index, outcome, None, None, f"id of {key}"))
                world.end(key, outcome=outcome)
            case "timer":
                self.past.append(TimerDue(world.timers[key].name, world.timers[key].iteration))
                world.due(key)
            case "signal":
                signal = Signal(key, None, f"id-{len(self.past)}")
                self.past += [signal] if world.status == "running" else []
                world.send(signal)
            case "cancel":
                world.cancel()
        for change in world.log[before:]:
            self.oracle.hear(change)
        self.check()

    def check(self) -> None:
        shown = {name: self.world.state.step(name).status.value for name in self.oracle.steps}
        assert shown == self.oracle.status
        if self.world.status in ("succeeded", "failed", "cancelled"):
            assert not self.world.jobs and not self.world.timers, "a final run has something open"
            assert set(shown.values()) <= FINAL
        else:
            assert self.world.jobs or self.world.timers, f"nothing will ever happen again: {shown}"
            if self.world.status == "running":
                assert not [n for n, s in shown.items() if s == "pending" and self.oracle.allows(n) != "later"]

    def again(self, event: Any) -> None:
        before = self.world.state
        assert self.world.send(event) == [], f"{event} was heard twice"
        assert self.world.state == before

    def start(self) -> None:
        self.world.start()
        for change in self.world.log:
            self.oracle.hear(change)
        self.past.append(Started())
        self.check()

    def run(self, data: st.DataObject, *, cancel: bool = False, bad: bool = True) -> None:
        outcomes = [Outcome.SUCCEEDED, Outcome.SUCCEEDED, *(BAD if bad else [])]
        while self.world.status in ("running", "cancelling"):
            choices = [("job", key) for key in self.world.jobs] + [("timer", key) for key in self.world.timers]
            choices += [("signal", "yes"), ("signal", "no")] if len(self.past) < 100 and bad else []
            choices += [("cancel", "")] if cancel else []
            choice, key = data.draw(st.sampled_from(choices))
            if choice == "timer" and not bad and self.world.state.step(self.world.timers[key].name).signal:
                choice, key = "signal", self.world.state.step(self.world.timers[key].name).signal or ""
            self.step(choice, key, data.draw(st.sampled_from(outcomes)))
            if data.draw(st.booleans()):
                self.again(data.draw(st.sampled_from(self.past)))


@pytest.mark.feature("R23", "R24")
@MANY
@given(documents(), st.data())
def test_every_run_ends_each_step_ends_once_and_none_begins_before_it_may(
    document: dict[str, Any], data: st.DataObject
) -> None:
    walk = Walk(document)
    walk.start()

    walk.run(data)

    assert walk.world.status == walk.oracle.outcome()
    assert len(walk.world.ends) == 1


@MANY
@given(documents(), st.data())
def test_a_cancel_at_any_time_ends_the_run_and_nothing_begins_after_it(
    document: dict[str, Any], data: st.DataObject
) -> None:
    walk = Walk(document)
    walk.start()

    walk.run(data, cancel=True)

    assert walk.world.status in ("cancelled", walk.oracle.outcome())
    log = walk.world.log
    cancelled = next((n for n, c in enumerate(log) if getattr(c, "status", "") == "cancelling"), len(log))
    assert not [c for c in log[cancelled:] if isinstance(c, CreateJob | SetTimer)]
    if cancelled < len(log):
        walk.again(Signal("yes", None, walk.past[-1].id) if isinstance(walk.past[-1], Signal) else Started())


@pytest.mark.feature("R23")
@MANY
@given(documents(), st.data())
def test_a_retry_by_hand_goes_on_and_succeeds_when_nothing_fails_any_more(
    document: dict[str, Any], data: st.DataObject
) -> None:
    walk = Walk(document)
    walk.start()
    walk.run(data, cancel=data.draw(st.booleans()))
    assume(walk.world.status != "succeeded")
    done = {n for n, s in walk.oracle.status.items() if s == "succeeded"}
    made = len(walk.world.made)

    walk.oracle.round += 1
    before = len(walk.world.log)
    walk.world.retry()
    for change in walk.world.log[before:]:
        walk.oracle.hear(change)
    walk.again(RetryRequested(0))
    reset = {c.step for c in walk.world.log[before:] if isinstance(c, StepChanged) and c.status.value == "pending"}
    walk.run(data, bad=False)

    assert walk.world.status == "succeeded"
    again = {job.step for job in walk.world.made[made:]}
    assert not again & (done - reset), "what had succeeded, and comes after no failure, ran again"


texts = st.sampled_from(["a", "b", "w", "g", "decision", "task-1", "", "\x00", "\ud800", "x" * 70_000])
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts | st.just("action"), inner, max_size=3),
    max_leaves=8,
)
answers = anything | st.lists(
    st.fixed_dictionaries(
        {"action": st.sampled_from(["schedule-task", "schedule-workflow", "complete-workflow", "fail"])},
        optional={
            "task-request": st.fixed_dictionaries(
                {"definition": st.sampled_from(["a", "awf.task/wait"])},
                optional={"params": anything, "label": anything},
            ),
            "result": anything,
            "error": anything,
        },
    ),
    max_size=3,
)
any_event = (
    st.builds(
        JobFinished, texts, st.integers(0, 3), st.integers(-1, 3), st.sampled_from(list(Outcome)), answers, anything
    )
    | st.builds(TimerDue, texts, st.integers(0, 3))
    | st.builds(Signal, texts, anything, texts)
    | st.sampled_from([Started(), CancelRequested(), RetryRequested(0), RetryRequested(1)])
)
READS_ALL = {
    "name": "flow",
    "steps": [
        task("a"),
        wait("w", signal="a", duration=60),
        {"name": "b", "kind": "task_flow", "depends_on": ["a"], "meta": {
            "parallel": True, "continue_on_failure": True,
            "calls": [{"url": "https://x/{{ steps.a.result }}", "body": "{{ steps }}"}, {"url": "/{{ input }}"}]}},
        {"name": "s", "kind": "shell", "meta": {"command": ["{{ input }}"], "cwd": "{{ input }}"}},
        task("c", depends_on=["w", "b"], meta={"input": ["{{ steps.w.result }}", "{{ steps.b.result[0].status }}"]}),
        task("d", meta={"input": "{{ steps.a.error.message || 'none' }}"}),
    ],
    "groups": [{"name": "g", "steps": ["a", "b"], "retries": 2}],
    "edges": [{"from": "g", "to": "d", "on": "failure"}],
    "output": "{{ steps.*.result }}",
}  # fmt: skip


@settings(MANY, max_examples=100)
@given(st.booleans(), st.lists(any_event, max_size=12), anything)
def test_no_event_makes_the_engine_raise_and_every_state_can_be_stored_as_jsonb(
    steps: bool, events: list[Any], input: Any
) -> None:
    definition = Definition.parse(READS_ALL if steps else {"name": "flow", "decider": {}})
    run = Run("r", input, {"app_url": input})
    state = advance(definition, run, RunState(), Started(), NOW).state

    for event in events:
        new = advance(definition, run, state, event, NOW)

        state = RunState.from_json(json.loads(json.dumps(new.state.to_json(), allow_nan=False)))
        size_of(state.to_json(), 4 << 20)
        for change in new.changes:
            if isinstance(change, CreateJob):
                size_of([change.payload, change.label], 4 << 20)
            if isinstance(change, StepChanged | RunFinished):
                size_of([change.error, getattr(change, "output", None)], 4 << 20)


def test_the_oracle_sees_a_step_that_begins_too_early() -> None:
    """The model's own check can fail: it is fed a log that breaks R24."""
    oracle = Oracle({"steps": [task("a"), task("b", depends_on=["a"])], "edges": [], "groups": []})
    world = World({"name": "flow", "steps": [task("b")]}).start()

    with pytest.raises(AssertionError, match="b began before its edges allowed it"):
        for change in world.log:
            oracle.hear(change)
    assert not [c for c in world.log if isinstance(c, CancelJob)]

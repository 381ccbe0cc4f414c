"""A kind of step of the user's own, in real services: loaded by a setting, checked, run, no danger to other runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from taskflow import InvalidArgument, RunFailed, TaskFlow
from taskflow_server.core.workflow import Jobs, Kind, Strict
from taskflow_server.runtime import step_kinds
from tests.support.cluster import ServiceCluster
from tests.support.docs import ROOT, blocks
from tests.support.workers import working

VARIABLE = "TASKFLOW_STEP_KINDS"
NAMES = "tests.support.step_kinds:Letters, tests.system.test_step_kinds:Broken"


class Broken(Kind):
    """Its plan raises."""

    name = "broken"
    meta = type("BrokenMeta", (Strict,), {})

    def plan(self, meta: Any, moment: Any) -> Jobs:
        raise LookupError("a fault of the kind's own")


class NoPlan(Kind):
    name = "no-plan"


@pytest.mark.feature("S0.1")
def test_a_kind_of_the_users_own_is_checked_and_run(make_cluster: Callable[..., ServiceCluster]) -> None:
    cluster = make_cluster(env={name: {VARIABLE: NAMES} for name in ("scheduler", "coordinator")})
    cluster.start_all()
    tf = TaskFlow(cluster.scheduler_address)

    @tf.task(queue="letters", name="write-letter")
    def write(to: str, text: str) -> str:
        return f"dear {to}, {text}"

    meta = {"to": ["ada", "bob"], "text": "{{ input }}"}
    step = {"name": "tell", "kind": "letters", "queue": "letters", "meta": meta}
    with tf, working(tf):
        with pytest.raises(InvalidArgument, match=re.escape("steps[0].meta.too: is not a valid field; use to, text")):
            tf.workflows.put({"name": "wrong", "steps": [{**step, "meta": {"too": []}}]})
        tf.workflows.put({"name": "news", "steps": [step], "output": "{{ steps.tell.result }}"})
        tf.workflows.put({"name": "broken", "steps": [{"name": "a", "kind": "broken", "meta": {}}]})

        told = tf.workflows.wait(tf.workflows.start("news", "hello").id, 30)
        assert told.output == {"letters": 2}
        jobs = [tf.jobs.get(job.job_id) for job in told.step("tell").jobs]
        assert sorted(job.result for job in jobs) == ["dear ada, hello", "dear bob, hello"]

        with pytest.raises(RunFailed, match=r"steps\[0\].meta.text"):
            tf.workflows.wait(tf.workflows.start("news", "").id, 30)
        with pytest.raises(RunFailed, match="LookupError"):
            tf.workflows.wait(tf.workflows.start("broken").id, 30)


@pytest.mark.feature("S0.1")
def test_the_kind_of_the_docs_is_the_one_that_is_tested() -> None:
    shown = blocks(ROOT / "docs" / "concepts" / "workflows.md", "python")
    assert shown[0] == (ROOT / "tests" / "support" / "step_kinds.py").read_text()


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("tests.support.step_kinds", "is not module:Class, as in shop.kinds:Ticket"),
        ("no_such_module:Letters", "cannot be imported (ModuleNotFoundError: No module named 'no_such_module')"),
        ("tests.support.step_kinds:LettersMeta", "'LettersMeta' of tests.support.step_kinds is not a Kind of steps"),
        ("tests.system.test_step_kinds:NoPlan", "has no meta"),
        ("taskflow_server.core.workflow.kinds:Shell", "the kind 'shell' already exists"),
    ],
)
def test_what_is_no_kind_ends_the_start_with_one_line(
    names: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        step_kinds.load(names)

    assert (ended.value.code, capsys.readouterr().err) == (2, f"{VARIABLE}: {names}: {said}\n")

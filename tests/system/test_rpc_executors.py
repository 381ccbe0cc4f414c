"""Executors in other languages, as the docs give them, against a real cluster: sh with curl, and Node (S2.8)."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from taskflow import JobState, TaskFlow
from tests.support.cluster import ROOT, SPINE, Program, ServiceCluster
from tests.support.rpc import Rpc
from tests.support.waiting import eventually

pytestmark = pytest.mark.feature("S2.8")

EXAMPLES = ROOT / "examples" / "executors"
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not on this machine")
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not on this machine")


@pytest.fixture(scope="module")
def running(make_cluster: Callable[..., ServiceCluster]) -> ServiceCluster:
    cluster = make_cluster(services=(*SPINE, "gateway"), env={"scheduler": {"TASKFLOW_CLOCK": "manual"}})
    cluster.start_all()
    return cluster


@pytest.fixture(scope="module")
def tf(running: ServiceCluster) -> Iterator[TaskFlow]:
    with TaskFlow(running.scheduler_address) as client:
        yield client


@pytest.fixture
def rpc(running: ServiceCluster) -> Rpc:
    return Rpc(running.address("gateway"))


@pytest.fixture
def start(running: ServiceCluster, tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Starts an executor; all end with the test."""
    started: list[Program] = []

    def run(*command: str) -> Program:
        env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "RPC_URL": f"http://{running.address('gateway')}/rpc"}
        where = [shutil.which(command[0]) or command[0], *command[1:]]
        program = Program(where, tmp_path / f"{len(started)}.log", env, cwd=tmp_path)
        started.append(program)
        return program

    yield run
    for program in started:
        program.stop(grace=5)


@needs_curl
@pytest.mark.feature("S2.5", "M.10")
def test_a_worker_of_sh_and_curl_completes_jobs(start: Callable[..., Program], rpc: Rpc, tf: TaskFlow) -> None:
    worker = start("sh", str(EXAMPLES / "worker.sh"))
    texts = ["one", "it's three words", "ü 'quoted' \"text\": with a colon", "words " * 200]
    jobs = [tf.new_job("default", {"text": text}, task="count-words") for text in texts]
    bad = rpc("awf.task/create-and-execute", definition="count-words", params={})["resource"]

    assert [job.wait(timeout=60).result["words"] for job in jobs] == [1, 3, 6, 200]
    eventually(lambda: tf.jobs.get(bad["id"]).state is JobState.FAILED, 30)
    failed = rpc("awf.task/status", id=bad["id"])["resource"]
    assert (failed["error"]["message"], failed["retryCount"]) == ("there is no text", 1)
    assert worker.alive and worker.output == ""


@needs_curl
@pytest.mark.feature("S2.6", "R4", "M.10")
def test_workers_of_sh_that_are_killed_lose_no_job(start: Callable[..., Program], rpc: Rpc, tf: TaskFlow) -> None:
    """The tasks of a killed executor are back in time, and done by another."""
    rpc("awf.task/poll", taskDefinitions=["count-words"])
    workers = [start("sh", str(EXAMPLES / "worker.sh")) for _ in range(3)]
    ids = [
        rpc("awf.task/create-and-execute", definition="count-words", params={"text": "a b"})["resource"]["id"]
        for _ in range(30)
    ]
    for worker in workers[:2]:
        eventually(lambda: any(tf.jobs.get(id).state.final for id in ids), 30)
        worker.kill()
    tf.advance_clock(150, step=30)

    eventually(lambda: all(tf.jobs.get(id).state.final for id in ids) or tf.advance_clock(5) is None, 90)
    assert {tf.jobs.get(id).state for id in ids} == {JobState.SUCCEEDED}


@needs_node
@pytest.mark.feature("S2.7")
def test_an_executor_in_node_decides_a_workflow_and_runs_its_tasks(
    running: ServiceCluster, start: Callable[..., Program], rpc: Rpc
) -> None:
    node = start("node", str(EXAMPLES / "executor.mjs"))
    orders = [{"item": f"book {n}", "amount": 10, "to": "Ada"} for n in range(5)]
    runs = [begin(rpc, order) for order in orders]
    poor = begin(rpc, {"item": "yacht", "amount": 10**6, "to": "Bob"})

    ended = [done(rpc, run) for run in runs]

    assert [run["result"] for run in ended] == [{"parcel": f"book {n} for Ada"} for n in range(5)]
    for run in runs:
        seen = rpc("awf.workflow/status", {"id": run, "include-activities?": True, "include-decisions?": True})
        assert sorted(task["definition"] for task in seen["activities"]) == [
            "orders/charge", "orders/reserve", "orders/ship",
        ]  # fmt: skip
        assert len(seen["decisions"]) in (3, 4)  # a task may end before the other's end is decided upon
    assert node.alive

    for _ in range(2):  # its further tries
        eventually(lambda: charged(rpc, poor) in ("waiting", "done"), 30)
        with TaskFlow(running.scheduler_address) as tf:
            tf.advance_clock(11)
    failed = done(rpc, poor)
    assert (failed["outcome"], failed["error"]["message"]) == (
        "failed", "orders/charge: the card has no such cover",
    )  # fmt: skip


@needs_node
@pytest.mark.feature("S2.7", "M.4")
def test_a_workflow_goes_on_when_its_executor_is_killed_and_another_starts(
    start: Callable[..., Program], rpc: Rpc, tf: TaskFlow
) -> None:
    first = start("node", str(EXAMPLES / "executor.mjs"))
    runs = [begin(rpc, {"item": f"pen {n}", "amount": 1, "to": "Cy"}) for n in range(10)]
    eventually(lambda: rpc("awf.workflow/status", id=runs[0])["resource"]["status"] == "in-progress", 30)
    first.kill()
    start("node", str(EXAMPLES / "executor.mjs"))
    tf.advance_clock(150, step=30)
    assert {done(rpc, run)["outcome"] for run in runs} == {"succeeded"}


@needs_node
def test_what_is_no_javascript_would_be_seen() -> None:
    subprocess.run(["node", "--check", str(EXAMPLES / "executor.mjs")], check=True, timeout=60)


def begin(rpc: Rpc, order: dict[str, object]) -> str:
    return str(rpc("awf.workflow/create-and-execute", definition="orders/fulfil", params=order)["resource"]["id"])


def done(rpc: Rpc, run: str) -> dict[str, object]:
    eventually(lambda: rpc("awf.workflow/status", id=run)["resource"]["status"] == "done", 60)
    found: dict[str, object] = rpc("awf.workflow/status", id=run)["resource"]
    return found


def charged(rpc: Rpc, run: str) -> str:
    """How the task that charges stands."""
    tasks = rpc("awf.workflow/status", {"id": run, "include-activities?": True})["activities"]
    return next((str(task["status"]) for task in tasks if task["definition"] == "orders/charge"), "")

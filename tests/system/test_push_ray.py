"""Ray as a destination, by itself and against a real cluster: what its API is asked for, what its answers mean.

They prove no row of the feature table: where the program `ray` is not, they are skipped.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from taskflow_server.cluster.ports import free_ports
from taskflow_server.worker.push import destination_types
from taskflow_server.worker.push.destination import (
    Away,
    Destination,
    External,
    Order,
    Phase,
    Refused,
    Ticket,
    name_of,
)
from taskflow_server.worker.push.ray_jobs import RayTask
from tests.support.marathon import GATED
from tests.support.processes import runs
from tests.support.ray_cluster import RAY, RayCluster
from tests.support.waiting import eventually

Make = Callable[..., Destination]
needs_ray = pytest.mark.skipif(RAY is None, reason="the program ray is not on this machine: pip install 'ray[default]'")


@pytest.fixture(scope="module")
def cluster_of_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    found = RayCluster(tmp_path_factory.mktemp("ray"))
    yield found
    found.close()


@pytest.fixture
def make(cluster_of_ray: RayCluster) -> Make:
    def destination(owner: str = "me", **more: Any) -> Destination:
        return built(owner, cluster_of_ray.destination("here", tasks={"task": {}}, keep=False) | more)

    return destination


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """Opened at the end, for what still waits there."""
    found = tmp_path / "gate"
    yield found
    found.write_text("0")


def built(owner: str, settings: dict[str, Any]) -> Destination:
    (found,) = destination_types.build(owner, destination_types.read(json.dumps({"etl": settings})))
    return found


def order(payload: Any, **task: Any) -> Order:
    ticket = Ticket(secrets.token_bytes(16), secrets.token_bytes(16))
    return Order(ticket, "queue", "task", 1, payload, RayTask.model_validate({"command": GATED, **task}))


def seen(destination: Destination, job: External) -> External:
    return destination.look([job])[job.id]


def becomes(destination: Destination, job: External, phase: Phase) -> External:
    return eventually(lambda: (now := seen(destination, job)).phase is phase and now, 60)  # type: ignore[return-value]


@needs_ray
def test_a_job_of_ray_runs_once_is_found_by_its_ticket_and_is_ended(make: Make, gate: Path) -> None:
    mine, other, wanted = make("me"), make("you"), order({"gate": str(gate)})

    made = mine.submit(wanted)
    again = mine.submit(wanted)
    foreign = other.submit(order({"gate": str(gate)}))

    assert made.id == again.id == name_of("me", wanted.ticket)
    assert [job.ticket for job in mine.find(wanted.ticket)] == [wanted.ticket]
    assert [job.id for job in mine.unfinished()] == [made.id]
    assert [job.id for job in other.unfinished()] == [foreign.id]
    pid = gate.with_suffix(".pid")
    process = int(eventually(lambda: pid.exists() and pid.read_text().strip(), 60))
    assert becomes(mine, made, Phase.RUNNING).log_url.endswith(f"/#/jobs/{made.id}")
    for _ in range(2):
        mine.terminate(made, "its attempt has ended")
    ended = becomes(mine, made, Phase.FAILED)
    assert not runs(process)
    for _ in range(2):
        mine.forget(ended)
    mine.terminate(made, "again")
    assert list(mine.find(wanted.ticket)) == list(mine.unfinished()) == []
    other.terminate(foreign, "no more of it")


@needs_ray
@pytest.mark.parametrize(("script", "phase", "code"), [("exit 0", Phase.SUCCEEDED, 0), ("exit 3", Phase.FAILED, 3)])
def test_an_end_is_told_with_its_exit_code_and_the_last_lines(make: Make, script: str, phase: Phase, code: int) -> None:
    words = ["sh", "-c", f'echo first; echo "it\'s" $0 $TASKFLOW_ATTEMPT $COLOUR; {script}', "Ref::text"]
    destination = make(log_lines=3, log_url="https://logs.example/{id}")
    wanted = order({"text": "'; exit 9 #"}, command=words, environment={"COLOUR": "red"})

    done = becomes(destination, destination.submit(wanted), phase)

    assert done.exit_code == code
    assert "it's '; exit 9 # 1 red" in done.tail.splitlines()  # among lines of Ray's own
    assert len(done.tail.splitlines()) == 3
    assert done.log_url == f"https://logs.example/{done.id}"
    assert done.reason == (
        f"JOB_ENTRYPOINT_COMMAND_ERROR: Job entrypoint command failed with exit code {code}" if code else ""
    )


@needs_ray
def test_a_job_that_no_node_can_take_is_queued_and_says_so(make: Make) -> None:
    destination = make()

    made = destination.submit(order({"gate": "x"}, cpus=1000))

    waits = seen(destination, made)
    assert (waits.phase, waits.log_url) == (Phase.QUEUED, "")
    assert waits.reason.startswith("Job has not started yet. It may be waiting for resources")
    destination.terminate(made, "its attempt has ended")  # heard when it starts, or when Ray gives it up
    assert made.id in {job.id for job in destination.unfinished()}


@needs_ray
@pytest.mark.parametrize(
    ("payload", "task", "complaint"),
    [
        ({"push": {"gpus": 1}}, {}, "payload.push.gpus: destination etl lets a job say cpus"),
        ({"push": {"cpus": -1}}, {}, "payload.push.cpus: input should be greater than or equal to 0"),
        ({}, {}, "payload.gate: the command needs it"),
    ],
)
def test_an_order_that_cannot_be_taken_is_refused_by_the_member_at_fault(
    make: Make, payload: Any, task: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(Refused) as refused:
        make(overrides=["cpus"]).submit(order(payload, **task))

    assert str(refused.value).startswith(complaint)


def test_a_cluster_that_is_away_is_no_order_s_fault() -> None:
    (nobody,) = free_ports(1)
    gone = built("me", {"kind": "ray", "url": f"http://127.0.0.1:{nobody}", "command": ["true"]})

    with pytest.raises(Away, match="Failed to establish a new connection"):
        gone.submit(replace(order({}), options=RayTask(command=["true"])))
    with pytest.raises(Away, match="Failed to establish a new connection"):
        list(gone.unfinished())


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"url": "http://user:word@head"}, "etl.url: string should match pattern"),
        ({"authorization_file": "/nowhere"}, "etl: /nowhere: No such file or directory"),
        ({"command": None}, "etl: it needs a command"),
        ({"tasks": {"task": {"runtime_env": {"env_vars": {}}}}}, "etl.tasks.task.runtime_env: env_vars cannot be set"),
        ({"log_url": "https://{node}"}, "etl.log_url: 'https://{node}' is not a valid template of {id}"),
    ],
)
def test_a_wrong_setting_is_refused_by_the_name_of_the_member_at_fault(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError) as refused:
        built("me", {"kind": "ray", "url": "http://head:8265", "command": ["true"], **given})

    assert str(refused.value).startswith(complaint)

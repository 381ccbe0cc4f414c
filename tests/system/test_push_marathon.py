"""Marathon as a destination, by itself: what its API is asked for, and what its answers mean."""

from __future__ import annotations

import json
import secrets
import zlib
from collections.abc import Callable, Iterator
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
from taskflow_server.worker.push.marathon import MarathonTask
from tests.support.marathon import GATED, SECRET, MarathonServer
from tests.support.processes import runs
from tests.support.waiting import eventually

Make = Callable[..., Destination]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MarathonServer]:
    found = MarathonServer(tmp_path_factory.mktemp("marathon"))
    yield found
    found.close()


@pytest.fixture
def home(request: pytest.FixtureRequest) -> str:
    """A group of the test's own."""
    return f"g{zlib.crc32(request.node.name.encode())}"


@pytest.fixture
def make(server: MarathonServer, home: str) -> Make:
    def destination(owner: str = "me", **more: Any) -> Destination:
        settings = server.destination(home, tasks={"task": {}}) | more
        (found,) = destination_types.build(owner, destination_types.read(json.dumps({"etl": settings})))
        return found

    return destination


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """Opened at the end, for what still waits there."""
    found = tmp_path / "gate"
    yield found
    found.write_text("0")


def order(payload: Any, **task: Any) -> Order:
    ticket = Ticket(secrets.token_bytes(16), secrets.token_bytes(16))
    return Order(ticket, "queue", "task", 1, payload, MarathonTask.model_validate({"command": GATED, **task}))


def seen(destination: Destination, job: External) -> External:
    return destination.look([job])[job.id]


def becomes(destination: Destination, job: External, phase: Phase) -> External:
    return eventually(lambda: (now := seen(destination, job)).phase is phase and now, 30)  # type: ignore[return-value]


def process_at(gate: Path) -> int:
    pid = gate.with_suffix(".pid")
    return int(eventually(lambda: pid.exists() and pid.read_text().strip(), 30))


@pytest.mark.feature("S1.8")
def test_an_order_is_an_app_that_is_not_started_again(
    server: MarathonServer, make: Make, home: str, gate: Path
) -> None:
    gate.write_text("0")
    wanted = order({"gate": str(gate)}, cpus=2, image="example/extract", app={"constraints": [["rack", "LIKE", "a"]]})

    made = make().submit(wanted)

    sent = json.loads(server.requests("POST", "/v2/apps")[-1]["body"])
    assert sent["id"] == made.id == f"/{home}/{name_of('me', wanted.ticket)}"
    assert sent["labels"] == {"taskflow-owner": "me", "taskflow-job-id": wanted.ticket.job,
                              "taskflow-exec-id": wanted.ticket.exec_id.hex()}  # fmt: skip
    assert (sent["instances"], sent["backoffSeconds"], sent["unreachableStrategy"]) == (1, 604_800, "disabled")
    assert (sent["cpus"], sent["mem"]) == (2, 256)
    assert sent["container"] == {"type": "MESOS", "docker": {"image": "example/extract"}}
    assert sent["constraints"] == [["rack", "LIKE", "a"]]


@pytest.mark.feature("S1.8")
@pytest.mark.parametrize(
    ("script", "phase", "code"),
    [
        ("exit 0", Phase.SUCCEEDED, 0),
        ("exit 3", Phase.FAILED, 3),
        ("exit 113", Phase.FAILED, 1),  # the shell's own word for success
        ("kill -KILL $$", Phase.FAILED, 137),
    ],
)
def test_an_end_is_told_with_its_exit_code_and_the_last_lines(make: Make, script: str, phase: Phase, code: int) -> None:
    words = ["sh", "-c", f'echo first; echo "it\'s" $0 $TASKFLOW_ATTEMPT; {script}', "Ref::text"]
    destination = make(log_lines=2 if code == 137 else 1)  # the shell says that it was killed

    done = becomes(destination, destination.submit(order({"text": "'; exit 9 #"}, command=words)), phase)

    assert (done.exit_code, done.tail.splitlines()[0]) == (code, "it's '; exit 9 # 1")
    assert "/files/download?path=%2Fframeworks%2F" in done.log_url


@pytest.mark.feature("S1.8", "M.9")
def test_an_app_that_exists_is_the_answer_to_a_second_submit_and_to_one_without_an_answer(
    server: MarathonServer, make: Make, gate: Path
) -> None:
    destination, wanted = make(), order({"gate": str(gate)})
    server.fail("POST", "/v2/apps", 504, message="no answer from the leader", late=True)

    with pytest.raises(Away, match="504: no answer from the leader"):
        destination.submit(wanted)
    (there,) = destination.find(wanted.ticket)
    again = destination.submit(wanted)

    assert (again.id, again.ticket) == (there.id, wanted.ticket)
    assert [each["status"] for each in server.requests("POST", "/v2/apps")[-2:]] == [504, 409]
    assert [job.id for job in destination.unfinished()] == [there.id]


@pytest.mark.feature("S1.8", "M.9")
def test_apps_of_others_are_not_seen_and_an_id_that_another_took_is_no_app_of_ours(
    server: MarathonServer, make: Make, home: str, gate: Path
) -> None:
    mine, other, wanted = make("me"), make("you"), order({"gate": str(gate)})
    foreign = other.submit(order({"gate": str(gate)}))
    server.submit({"id": f"/{home}/{name_of('me', wanted.ticket)}", "cmd": "sleep 0.1", "backoffSeconds": 60})
    for name, job in (("by-hand", "none"), ("by-another-hand", wanted.ticket.job)):
        labels = {"taskflow-owner": "me", "taskflow-job-id": job, "taskflow-exec-id": "0"}
        server.submit({"id": f"/{home}/{name}", "cmd": "sleep 0.1", "backoffSeconds": 60, "labels": labels})

    assert list(mine.unfinished()) == []
    assert list(mine.find(wanted.ticket)) == []
    assert [job.id for job in other.unfinished()] == [foreign.id]
    with pytest.raises(Away, match=r"exists that bears no labels of this pusher"):
        mine.submit(wanted)


@pytest.mark.feature("S1.8")
@pytest.mark.parametrize(
    ("status", "message", "after"),
    [
        (429, "too many requests", 7.0),
        (503, "no leader is elected", 0.0),
        (403, "Not Authorized to perform this action!", 0.0),
        (409, "App is locked by one or more deployments.", 0.0),
    ],
)
def test_what_passes_is_no_order_s_fault_and_is_asked_once(
    server: MarathonServer, make: Make, status: int, message: str, after: float
) -> None:
    destination = make()
    before = len(server.requests("POST", "/v2/apps"))
    server.fail("POST", "/v2/apps", status, message=message, headers={"Retry-After": f"{after:g}"} if after else None)

    with pytest.raises(Away) as away:
        destination.submit(order({"gate": "x"}))

    assert (str(away.value), away.value.after) == (f"{status}: {message}", after)
    assert len(server.requests("POST", "/v2/apps")) == before + 1


@pytest.mark.feature("S1.8")
@pytest.mark.parametrize(
    ("payload", "task", "complaint"),
    [
        ({"push": {"image": "x"}}, {}, "payload.push.image: destination etl lets a job say memory"),
        ({"push": {"memory": 1}}, {}, "payload.push.memory: input should be greater than or equal to 4"),
        ({}, {}, "payload.gate: the command needs it"),
        ({"gate": "x"}, {"app": {"colour": "red"}}, "400: Invalid JSON; /: Additional properties are not allowed"),
    ],
)
def test_an_order_that_cannot_be_taken_is_refused_by_the_member_at_fault(
    make: Make, payload: Any, task: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(Refused) as refused:
        make(overrides=["memory"]).submit(order(payload, **task))

    assert str(refused.value).startswith(complaint)


@pytest.mark.feature("S1.8")
def test_an_image_that_cannot_be_had_is_a_failure(make: Make) -> None:
    destination = make()

    failed = becomes(destination, destination.submit(order({"gate": "x"}, image="missing/extract:7")), Phase.FAILED)

    assert "Failed to fetch image 'missing/extract:7'" in failed.reason
    assert failed.exit_code is None


@pytest.mark.feature("S1.8", "M.9")
def test_a_task_whose_agent_is_silent_counts_as_running_until_it_is_lost(
    server: MarathonServer, make: Make, gate: Path
) -> None:
    destination = make()
    made = destination.submit(order({"gate": str(gate)}))
    process = process_at(gate)

    server.do("vanish", job=made.id)
    silent = eventually(lambda: (now := seen(destination, made)).reason and now, 30)
    assert isinstance(silent, External)
    assert (silent.phase, silent.reason) == (Phase.RUNNING, "TASK_UNREACHABLE: 127.0.0.1 does not answer")
    assert runs(process)
    server.do("lose", job=made.id)

    failed = becomes(destination, made, Phase.FAILED)
    assert failed.reason == "TASK_LOST: Agent removed: health check timed out"


@pytest.mark.feature("S1.8", "M.9")
def test_what_is_ended_is_shown_until_its_task_is_gone_and_then_nothing_is_left(
    server: MarathonServer, make: Make, home: str, gate: Path
) -> None:
    destination = make(grace=2)
    stubborn = ["sh", "-c", 'trap "" TERM; ' + GATED[2], "Ref::gate"]
    made = destination.submit(order({"gate": str(gate)}, command=stubborn))
    process = process_at(gate)

    for _ in range(2):
        destination.terminate(made, "its attempt has ended")
    assert seen(destination, made).phase is Phase.RUNNING
    assert runs(process)
    assert len(server.requests("PUT", made.id)) == 1  # a second would begin the deployment anew

    ended = becomes(destination, made, Phase.FAILED)
    assert ended.reason == "it was scaled to no instances"
    assert not runs(process)
    for _ in range(2):
        destination.forget(ended)
    destination.terminate(made, "again")
    eventually(lambda: server.left(home) == [], 30)


@pytest.mark.feature("S1.8")
def test_an_app_waits_for_an_offer_as_queued(server: MarathonServer, make: Make, gate: Path) -> None:
    destination = make()
    server.hold(True)
    try:
        made = destination.submit(order({"gate": str(gate)}))
        assert seen(destination, made).phase is Phase.QUEUED
        destination.terminate(made, "its attempt has ended")
        assert becomes(destination, made, Phase.FAILED).log_url == ""
    finally:
        server.hold(False)
    assert not gate.with_suffix(".pid").exists()


@pytest.mark.feature("S1.8")
def test_the_link_to_a_log_follows_the_operator_s_template(make: Make, gate: Path) -> None:
    gate.write_text("0")
    destination = make(log_url="https://logs.example/{host}/{agent}/{framework}?task={task}&app={app}")

    done = becomes(destination, destination.submit(order({"gate": str(gate)})), Phase.SUCCEEDED)

    assert done.log_url.startswith("https://logs.example/127.0.0.1/7f1a-S1/7f1a-0001?task=g")
    assert done.log_url.endswith(f"&app={done.id}")


@pytest.mark.feature("S1.8")
def test_an_agent_that_does_not_answer_is_no_fault_of_the_job_and_gets_no_credentials(
    server: MarathonServer, make: Make, gate: Path
) -> None:
    gate.write_text("3")
    (nobody,) = free_ports(1)
    away = make(agent_port=nobody)

    failed = becomes(away, away.submit(order({"gate": str(gate)})), Phase.FAILED)

    assert (failed.exit_code, failed.tail) == (3, "")
    assert seen(make(), failed).tail == "at the gate"
    assert server.requests("GET", "/files/read")
    assert not any(each["authorized"] for each in server.requests("GET", "/files/read"))


@pytest.mark.feature("S1.8")
def test_a_server_that_is_away_and_one_that_does_not_let_us_in_are_no_order_s_fault(make: Make, tmp_path: Path) -> None:
    (nobody,) = free_ports(1)
    older = tmp_path / "authorization"
    older.write_text("token=older")
    closed = make(authorization_file=str(older))

    with pytest.raises(Away, match="Failed to establish a new connection"):
        make(url=f"http://127.0.0.1:{nobody}").submit(order({"gate": "x"}))
    with pytest.raises(Away, match=r"^401: Unauthorized$"):
        list(closed.unfinished())
    older.write_text(f"{SECRET}\n")  # it is read at each call
    assert list(closed.unfinished()) == []


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"url": "http://user:word@marathon"}, "etl.url: string should match pattern"),
        ({"group": "No_1"}, "etl.group: string should match pattern"),
        ({"authorization_file": "/nowhere"}, "etl: /nowhere: No such file or directory"),
        ({"tasks": {"task": {}}}, "etl: it needs a command, or one for task"),
        ({"tasks": {"task": {"command": []}}}, "etl.tasks.task.command: give a program"),
        ({"tasks": {"task": {"app": {"instances": 2}}}}, "etl.tasks.task.app: instances cannot be set here"),
        ({"log_url": "https://{node}"}, "etl.log_url: 'https://{node}' is not a valid template of {host}"),
    ],
)
def test_a_wrong_setting_is_refused_by_the_name_of_the_member_at_fault(
    make: Make, given: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError) as refused:
        make(**given)

    assert str(refused.value).startswith(complaint)

"""Kubernetes Jobs as a destination, by itself: what the API server is asked for, and what its answers mean."""

from __future__ import annotations

import json
import secrets
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from taskflow_server.cluster.ports import free_ports
from taskflow_server.worker.push import destination_types, kubernetes_jobs
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
from taskflow_server.worker.push.kubernetes_settings import KubernetesTask
from tests.support.kube import GATED, TOKEN, KubeServer
from tests.support.processes import runs
from tests.support.waiting import eventually

Make = Callable[..., Destination]
SHOW = ["sh", "-c", 'env > "$0"; echo first; echo last', "Ref::file"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeServer]:
    found = KubeServer(tmp_path_factory.mktemp("kube"))
    yield found
    found.close()


@pytest.fixture
def home(request: pytest.FixtureRequest) -> str:
    """A namespace of the test's own."""
    return f"n{zlib.crc32(request.node.name.encode())}"


@pytest.fixture
def make(server: KubeServer, home: str) -> Make:
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


def order(payload: Any, timeout: float | None = None, **task: Any) -> Order:
    ticket = Ticket(secrets.token_bytes(16), secrets.token_bytes(16))
    options = KubernetesTask.model_validate({"command": GATED, **task})
    return Order(ticket, "queue", "task", 1, payload, options, timeout)


def seen(destination: Destination, job: External) -> External:
    return destination.look([job])[job.id]


def becomes(destination: Destination, job: External, phase: Phase) -> External:
    return eventually(lambda: (now := seen(destination, job)).phase is phase and now, 30)  # type: ignore[return-value]


def process_at(gate: Path) -> int:
    pid = gate.with_suffix(".pid")
    return int(eventually(lambda: pid.exists() and pid.read_text().strip(), 30))


@pytest.mark.feature("S1.8")
def test_an_order_is_a_job_that_runs_once_without_rights_and_ends_in_time(
    server: KubeServer, make: Make, gate: Path
) -> None:
    gate.write_text("0")
    wanted = order({"gate": str(gate)}, timeout=1.5, cpu="500m", memory="64Mi", pod={"nodeSelector": {"disk": "ssd"}})

    made = make(labels={"team": "permits"}).submit(wanted)

    sent = json.loads(server.requests("POST", "/jobs")[-1]["body"])
    spec, template = sent["spec"], sent["spec"]["template"]
    assert sent["metadata"]["name"] == made.id == name_of("me", wanted.ticket)
    assert sent["metadata"]["labels"] == template["metadata"]["labels"] == {
        "team": "permits", "taskflow/owner": "me", "taskflow/job-id": wanted.ticket.job,
        "taskflow/exec-id": wanted.ticket.exec_id.hex(), "app.kubernetes.io/managed-by": "taskflow",
    }  # fmt: skip
    assert (spec["backoffLimit"], spec["podReplacementPolicy"], template["spec"]["restartPolicy"]) == (
        0, "Failed", "Never",
    )  # fmt: skip
    assert (spec["activeDeadlineSeconds"], spec["ttlSecondsAfterFinished"]) == (32, 604_800)
    assert template["spec"]["nodeSelector"] == {"disk": "ssd"}
    assert template["spec"]["automountServiceAccountToken"] is False
    (container,) = template["spec"]["containers"]
    assert container["resources"] == {"requests": {"cpu": "500m", "memory": "64Mi"}, "limits": {"memory": "64Mi"}}
    assert container["securityContext"] == {"allowPrivilegeEscalation": False}


@pytest.mark.feature("S1.8")
def test_a_pod_has_its_variables_as_they_are_and_its_log_s_end_comes_back(make: Make, tmp_path: Path) -> None:
    file = tmp_path / "environment"
    destination = make(log_lines=1, overrides=["environment"])
    payload = {"file": str(file), "text": "$(TASKFLOW_JOB_ID) $$ $x", "push": {"environment": {"SIZE": "$(COLOUR)"}}}
    wanted = order(payload, command=SHOW, environment={"COLOUR": "red", "TWICE": "$(COLOUR)"}, secrets=["database"])

    done = becomes(destination, destination.submit(wanted), Phase.SUCCEEDED)

    told = dict(line.split("=", 1) for line in file.read_text().splitlines())
    assert json.loads(told["TASKFLOW_PAYLOAD"]) == payload
    assert (told["COLOUR"], told["TWICE"], told["SIZE"]) == ("red", "red", "$(COLOUR)")  # a job's is not expanded
    assert told["DATABASE_PASSWORD"] == "hunter2"
    assert (done.exit_code, done.tail) == (0, "last")


@pytest.mark.feature("S1.8", "M.9")
def test_a_job_that_exists_is_the_answer_to_a_second_submit_and_to_one_without_an_answer(
    server: KubeServer, make: Make, gate: Path
) -> None:
    destination, wanted = make(), order({"gate": str(gate)})
    server.fail("POST", "/jobs", 504, reason="Timeout", message="request did not complete", late=True)

    with pytest.raises(Away, match="504 Timeout: request did not complete"):
        destination.submit(wanted)
    (there,) = destination.find(wanted.ticket)
    again = destination.submit(wanted)

    assert (again.id, again.ticket) == (there.id, wanted.ticket)
    assert [each["status"] for each in server.requests("POST", "/jobs")[-2:]] == [504, 409]
    assert [job.id for job in destination.unfinished()] == [there.id]


@pytest.mark.feature("S1.8", "M.9")
def test_jobs_of_others_are_not_seen_and_a_name_that_another_took_is_no_job_of_ours(
    server: KubeServer, make: Make, home: str, gate: Path
) -> None:
    mine, other, wanted = make("me"), make("you"), order({"gate": str(gate)})
    foreign = other.submit(order({"gate": str(gate)}))
    server.submit(name_of("me", wanted.ticket), home, {"app": "nightly"}, ["true"])
    for name, job in (("by-hand", "none"), ("by-another-hand", wanted.ticket.job)):
        labels = {"taskflow/owner": "me", "taskflow/job-id": job, "taskflow/exec-id": "0"}
        server.submit(name, home, labels, ["true"])

    assert list(mine.unfinished()) == []
    assert list(mine.find(wanted.ticket)) == []
    assert [job.id for job in other.unfinished()] == [foreign.id]
    with pytest.raises(Away, match=r"exists that bears no labels of this pusher"):
        mine.submit(wanted)


@pytest.mark.feature("S1.8")
def test_a_list_whose_next_page_has_expired_is_read_from_its_start(
    server: KubeServer, make: Make, gate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes_jobs.KubernetesJobs, "batch", 2)
    destination = make()
    made = {destination.submit(order({"gate": str(gate)})).id for _ in range(5)}
    gone = {"reason": "Expired", "message": "The provided continue parameter is too old", "query": "continue="}

    server.fail("GET", "/jobs", 410, **gone)
    assert {job.id for job in destination.unfinished()} == made
    server.fail("GET", "/jobs", 410, times=10, **gone)
    with pytest.raises(Away, match="410 Expired"):
        list(destination.unfinished())


@pytest.mark.feature("S1.8")
@pytest.mark.parametrize(
    ("status", "reason", "message", "after"),
    [
        (429, "TooManyRequests", "Too many requests, please try again later.", 7.0),
        (403, "Forbidden", 'jobs.batch is forbidden: User "pusher" cannot create resource "jobs"', 0.0),
        (403, "Forbidden", 'pods "x" is forbidden: exceeded quota: jobs', 0.0),
        (409, "Conflict", "Operation cannot be fulfilled on resourcequotas: the object has been modified", 0.0),
        (404, "NotFound", 'namespaces "etl" not found', 0.0),
        (500, "InternalError", "etcdserver: request timed out", 0.0),
    ],
)
def test_what_passes_is_no_order_s_fault_and_is_asked_once(
    server: KubeServer, make: Make, status: int, reason: str, message: str, after: float
) -> None:
    destination = make()
    before = len(server.requests("POST", "/jobs"))
    headers = {"Retry-After": f"{after:g}"} if after else None
    server.fail("POST", "/jobs", status, reason=reason, message=message, headers=headers)

    with pytest.raises(Away) as away:
        destination.submit(order({"gate": "x"}))

    assert (str(away.value), away.value.after) == (f"{status} {reason}: {message}", after)
    assert len(server.requests("POST", "/jobs")) == before + 1


@pytest.mark.feature("S1.8")
def test_a_throttled_list_is_not_waited_for_in_here(server: KubeServer, make: Make) -> None:
    destination = make()
    server.fail("GET", "/jobs", 429, reason="TooManyRequests", message="slow down", headers={"Retry-After": "30"})

    with pytest.raises(Away, match="slow down") as away:
        list(destination.unfinished())

    assert away.value.after == 30


@pytest.mark.feature("S1.8")
@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        ({"gate": "x", "push": {"command": ["sh"]}}, "payload.push.command: destination etl lets a job say image, m"),
        ({"gate": "x", "push": {"memory": "much"}}, "payload.push.memory: 'much' is not a valid quantity"),
        ({}, "payload.gate: the command needs it"),
        ({"gate": "x", "text": "x" * (4 << 20)}, "413 "),
    ],
)
def test_an_order_that_cannot_be_taken_is_refused_by_the_member_at_fault(
    make: Make, payload: Any, complaint: str
) -> None:
    with pytest.raises(Refused) as refused:
        make(overrides=["image", "memory"]).submit(order(payload))

    assert str(refused.value).startswith(complaint)


@pytest.mark.feature("S1.8")
def test_an_invalid_job_is_refused_with_what_the_api_server_says(server: KubeServer, make: Make) -> None:
    server.fail("POST", "/jobs", 422, reason="Invalid", message="Job.batch is invalid: spec.template: Required value")

    with pytest.raises(Refused, match=r"^422 Invalid: Job.batch is invalid: spec.template: Required value$"):
        make().submit(order({"gate": "x"}))


@pytest.mark.feature("S1.8")
def test_an_eviction_is_a_failure_with_its_reason(server: KubeServer, make: Make, gate: Path) -> None:
    destination = make()
    made = destination.submit(order({"gate": str(gate)}))
    process = process_at(gate)

    server.do("evict", job=made.id)

    failed = becomes(destination, made, Phase.FAILED)
    assert failed.reason.startswith("Evicted: The node was low on resource: memory.")
    assert failed.exit_code == 143
    assert not runs(process)


@pytest.mark.feature("S1.8")
@pytest.mark.parametrize(
    ("task", "reason"),
    [
        ({"image": "missing/extract:7"}, 'ImagePullBackOff: Back-off pulling image "missing/extract:7"'),
        ({"secrets": ["nobody-s"]}, 'CreateContainerConfigError: secret "nobody-s" not found'),
    ],
)
def test_what_a_pod_needs_and_cannot_get_is_said_while_it_waits_and_fails_it_in_the_end(
    make: Make, task: dict[str, Any], reason: str
) -> None:
    patient, hasty = make(), make(image_timeout=0)
    made = patient.submit(order({"gate": "x"}, **task))

    waits = eventually(lambda: (now := seen(patient, made)).reason and now, 30)
    assert isinstance(waits, External)
    assert (waits.phase, waits.reason) == (Phase.QUEUED, reason)
    failed = becomes(hasty, made, Phase.FAILED)
    assert failed.reason == f"{reason} (for more than 0 s)"
    patient.forget(failed)
    eventually(lambda: list(patient.unfinished()) == [], 30)


@pytest.mark.feature("S1.8", "M.9")
def test_a_pod_whose_node_vanished_counts_as_running_until_it_certainly_does_not(
    server: KubeServer, make: Make, gate: Path
) -> None:
    destination = make()
    made = destination.submit(order({"gate": str(gate)}))
    process = process_at(gate)

    server.do("vanish", job=made.id)
    silent = eventually(lambda: (now := seen(destination, made)).reason and now, 30)
    assert isinstance(silent, External)
    assert silent.phase is Phase.RUNNING
    assert silent.reason.startswith("DeletionByTaintManager: ")
    assert runs(process)
    server.do("remove_node", job=made.id)

    failed = becomes(destination, made, Phase.FAILED)
    assert failed.reason.startswith("DeletionByPodGC: ")
    assert failed.exit_code is None


@pytest.mark.feature("S1.8")
def test_a_pod_that_no_node_takes_says_so(server: KubeServer, make: Make, gate: Path) -> None:
    destination = make()
    server.hold(True)
    try:
        made = destination.submit(order({"gate": str(gate)}))
        waits = eventually(lambda: (now := seen(destination, made)).reason and now, 30)
        assert isinstance(waits, External)
        assert (waits.phase, waits.reason) == (Phase.QUEUED, "Unschedulable: 0/1 nodes are available")
    finally:
        server.hold(False)


@pytest.mark.feature("S1.8", "M.9")
def test_what_is_ended_is_shown_until_its_pod_is_gone_and_then_nothing_is_left(
    server: KubeServer, make: Make, gate: Path
) -> None:
    destination = make(grace=2)
    stubborn = ["sh", "-c", 'trap "" TERM; ' + GATED[2], "Ref::gate"]
    made = destination.submit(order({"gate": str(gate)}, command=stubborn))
    process = process_at(gate)

    for _ in range(2):
        destination.terminate(made, "its attempt has ended")
    assert seen(destination, made).phase is Phase.RUNNING
    assert runs(process)

    eventually(lambda: destination.look([made]) == {}, 30)
    assert not runs(process)
    destination.terminate(made, "again")
    destination.forget(made)
    assert server.left(made.id) == []


@pytest.mark.feature("S1.8")
def test_the_link_to_a_log_follows_the_operator_s_template(make: Make, gate: Path) -> None:
    gate.write_text("0")
    destination = make(log_url="https://logs.example/{namespace}/{pod}/{container}?node={node}&job={job}")

    done = becomes(destination, destination.submit(order({"gate": str(gate)})), Phase.SUCCEEDED)

    assert done.log_url.startswith("https://logs.example/n")
    assert done.log_url.endswith(f"/job?node=node-1&job={done.id}")


@pytest.mark.feature("S1.8")
def test_a_log_that_may_not_be_read_is_no_fault_of_the_job(server: KubeServer, make: Make, gate: Path) -> None:
    gate.write_text("3")
    destination = make()
    server.fail("GET", "/log", 403, times=100, reason="Forbidden", message="pods/log is forbidden")

    failed = becomes(destination, destination.submit(order({"gate": str(gate)})), Phase.FAILED)

    assert (failed.exit_code, failed.tail) == (3, "")


@pytest.mark.feature("S1.8")
def test_a_server_that_is_away_and_one_that_does_not_let_us_in_are_no_order_s_fault(
    server: KubeServer, make: Make, tmp_path: Path
) -> None:
    text = server.kubeconfig.read_text()
    gone, closed = tmp_path / "gone", tmp_path / "closed"
    (nobody,) = free_ports(1)
    gone.write_text(text.replace(f":{server.port}", f":{nobody}"))
    closed.write_text(text.replace(TOKEN, "an-older-token"))

    with pytest.raises(Away, match="Failed to establish a new connection"):
        make(kubeconfig=str(gone)).submit(order({"gate": "x"}))
    with pytest.raises(Away, match="401 Unauthorized") as away:
        list(make(kubeconfig=str(closed)).unfinished())
    assert "an-older-token" not in str(away.value)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"image": ""}, "etl: it needs an image, or one for task"),
        ({"namespace": "No_1"}, "etl.namespace: string should match pattern"),
        ({"kubeconfig": "/nowhere"}, "etl: Invalid kube-config file. No configuration found."),
        ({"tasks": {"task": {"cpu": "much"}}}, "etl.tasks.task.cpu: 'much' is not a valid quantity, such as 500m"),
        ({"tasks": {"task": {"pod": {"containers": []}}}}, "etl.tasks.task.pod: containers cannot be set here"),
        ({"tasks": {"task": {"pod": {"nodeSelektor": {}}}}}, "etl: tasks.task: spec.template.spec.nodeSelektor: extra"),
        ({"labels": {"taskflow/owner": "x"}}, "etl.labels: taskflow/owner is the pusher's own"),
        ({"log_url": "https://{host}"}, "etl.log_url: 'https://{host}' is not a valid template of {namespace}"),
    ],
)
def test_a_wrong_setting_is_refused_by_the_name_of_the_member_at_fault(
    make: Make, given: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError) as refused:
        make(**given)

    assert str(refused.value).startswith(complaint)

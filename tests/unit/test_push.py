"""Pushing, decided: what a look at an external job means, which of several is kept, what settings are taken."""

from __future__ import annotations

import json
import re
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskflow.v1 import jobs_pb2
from taskflow_server.runtime.clock import RealClock
from taskflow_server.worker.push import destination_types
from taskflow_server.worker.push.attempt import MISSING, MOST_REASONS, PushedAttempt, learn, outcome_of
from taskflow_server.worker.push.aws_batch import AwsBatch, BatchTask
from taskflow_server.worker.push.destination import (
    Away,
    External,
    Phase,
    Refused,
    Ticket,
    exec_id_of,
    name_of,
    sort_out,
)
from taskflow_server.worker.push.destination_calls import DestinationCalls
from taskflow_server.worker.push.kubernetes_jobs import KubernetesJobs
from taskflow_server.worker.push.marathon import Marathon
from taskflow_server.worker.push.ray_jobs import RayJobs

TICKET = Ticket(bytes(range(16)), bytes(range(16, 32)))
BATCH = {"kind": "aws-batch", "job_queue": "q", "job_definition": "d"}
KUBERNETES = {"kind": "kubernetes", "image": "i"}
MARATHON = {"kind": "marathon", "url": "http://marathon:8080", "command": ["true"]}
RAY = {"kind": "ray", "url": "http://head:8265", "command": ["true"]}
owners = st.from_regex(r"[a-z0-9](?:[a-z0-9-]{0,18}[a-z0-9])?", fullmatch=True)
tickets = st.builds(Ticket, st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16))


def external(phase: Phase, **facts: Any) -> External:
    return External("x-1", TICKET, phase, **facts)


def held_with(*looks: External | None) -> PushedAttempt:
    held = PushedAttempt(TICKET, started=True)
    for seen in looks:
        learn(held, seen, "etl")
    return held


# -- what a look means -------------------------------------------------------------------------------------------------


def test_each_phase_is_told_once_with_the_link_to_the_log() -> None:
    queued, running = external(Phase.QUEUED), external(Phase.RUNNING, log_url="https://log/1")

    held = held_with(queued, queued, running, running)

    assert [text for _, text in held.lines] == [
        "queued at etl as x-1",
        "running at etl as x-1",
        "log: https://log/1",
    ]
    assert held.progress == "running at etl"
    assert held.verdict is None


def test_why_it_waits_is_told_once_for_each_sort_of_reason_and_only_so_many() -> None:
    pulls = [external(Phase.QUEUED, reason=f"{sort}: {n}") for n in range(3) for sort in ("ErrImagePull", "BackOff")]
    many = [external(Phase.RUNNING, reason=f"Reason{n}: it changes") for n in range(2 * MOST_REASONS)]

    assert [text for _, text in held_with(external(Phase.QUEUED), *pulls).lines] == [
        "queued at etl as x-1",
        "queued at etl as x-1: ErrImagePull: 0",
        "queued at etl as x-1: BackOff: 0",
    ]
    assert len(held_with(*many).lines) == MOST_REASONS


def test_the_last_lines_of_the_program_are_told_at_its_end() -> None:
    lines = held_with(external(Phase.RUNNING), external(Phase.FAILED, exit_code=3, tail="one\ntwo")).lines

    assert [text for _, text in lines] == [
        "running at etl as x-1", "failed at etl as x-1, exit code 3", "its last lines:\none\ntwo"
    ]  # fmt: skip


def test_a_success_is_the_result_with_exit_code_and_log() -> None:
    held = held_with(external(Phase.SUCCEEDED, exit_code=0, log_url="https://log/1"))

    outcome = outcome_of(held)
    assert outcome.outcome == jobs_pb2.OUTCOME_SUCCEEDED
    assert json.loads(outcome.result) == {
        "destination": "etl", "id": "x-1", "exit_code": 0, "log_url": "https://log/1"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "type", "message"),
    [
        pytest.param(
            {"exit_code": 3, "reason": "Essential container in task exited", "log_url": "https://log/1"},
            "ExitCode", "etl: exit code 3: Essential container in task exited; log: https://log/1", id="exit-code",
        ),
        pytest.param({"reason": "Host EC2 terminated"}, "External", "etl: Host EC2 terminated", id="reason"),
        pytest.param({"exit_code": 0, "reason": "Job attempt duration exceeded timeout"}, "External",
                     "etl: exit code 0: Job attempt duration exceeded timeout", id="code-zero"),
        pytest.param({}, "External", "etl: it failed, and does not say why", id="nothing"),
    ],
)  # fmt: skip
def test_a_failure_says_why(facts: dict[str, Any], type: str, message: str) -> None:
    outcome = outcome_of(held_with(external(Phase.RUNNING), external(Phase.FAILED, **facts)))

    assert outcome.outcome == jobs_pb2.OUTCOME_FAILED
    assert (outcome.error.type, outcome.error.message) == (type, message)
    assert not outcome.error.final
    assert json.loads(outcome.error.details)["exit_code"] == facts.get("exit_code")


def test_one_look_that_misses_it_means_nothing_and_several_in_a_row_that_it_is_gone() -> None:
    there = external(Phase.RUNNING)
    almost = [None] * (MISSING - 1)

    assert held_with(there, *almost, there, *almost).verdict is None
    assert outcome_of(held_with(there, *almost, None)).error.message == "etl: it is not there any more"


def test_a_verdict_stands_whatever_is_seen_later() -> None:
    held = held_with(external(Phase.SUCCEEDED))
    verdict = held.verdict

    learn(held, external(Phase.FAILED), "etl")

    assert held.verdict is verdict


@given(st.lists(st.one_of(st.none(), st.builds(external, st.sampled_from(Phase))), max_size=20))
def test_whatever_is_seen_it_ends_at_most_once_and_only_for_a_reason(looks: list[External | None]) -> None:
    held = PushedAttempt(TICKET, started=True)
    verdicts = []
    for seen in looks:
        learn(held, seen, "etl")
        verdicts.append(held.verdict)

    ended = [verdict for verdict in verdicts if verdict is not None]
    assert all(verdict is ended[0] for verdict in ended)
    if ended:
        cause = looks[len(verdicts) - len(ended)]
        assert cause is None or cause.phase.over


# -- names and twins ---------------------------------------------------------------------------------------------------


@given(owners, tickets)
def test_a_name_leads_back_to_its_attempt_for_its_owner_alone(owner: str, ticket: Ticket) -> None:
    name = name_of(owner, ticket)

    assert re.fullmatch(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", name)  # a DNS label: the narrowest of destinations
    assert exec_id_of(owner, name) == ticket.exec_id
    assert exec_id_of(owner + "x", name) is None
    assert exec_id_of(owner, name + "0") is None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), max_size=12), st.randoms())
def test_of_twins_the_same_one_is_kept_in_whatever_order_they_are_listed(made: list[tuple[str, int]], rng: Any) -> None:
    jobs = [
        External(f"id-{n}", Ticket(letter.encode() * 16, b""), Phase.RUNNING, created=created)
        for n, (letter, created) in enumerate(made)
    ]
    shuffled = rng.sample(jobs, len(jobs))

    twins = sort_out([*shuffled, *jobs[:3]])  # some are listed twice

    assert twins.first == sort_out(jobs).first
    assert sorted([*twins.first.values(), *twins.spare], key=lambda job: job.id) == sorted(jobs, key=lambda job: job.id)
    for job in jobs:
        assert twins.first[job.ticket].created <= job.created


# -- settings ----------------------------------------------------------------------------------------------------------


def test_destinations_are_read_from_text_and_from_a_file(tmp_path: Path) -> None:
    text = json.dumps(
        {"etl": BATCH | {"tasks": {"extract": {"job_definition": "extract:3", "vcpus": 2}}}, "big": BATCH}
    )
    (tmp_path / "push.json").write_text(text)

    found = destination_types.read(text)

    assert found == destination_types.read(str(tmp_path / "push.json"))
    assert dict(found["etl"].routes("etl")) == {"extract": BatchTask(job_definition="extract:3", vcpus=2)}
    assert dict(found["big"].routes("big")) == {"big": BatchTask()}
    assert destination_types.read("  ") == {}


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("{", "not JSON"),
        ("push.json", "'push.json' is neither a JSON object nor a file: No such file or directory"),
        ({"a b": BATCH}, "'a b': a destination's name is letters, digits, - and _, up to 128"),
        ({"etl": {"kind": "aws"}}, "etl.kind: 'aws' is none of aws-batch, kubernetes, marathon, ray, and no module:"),
        ({"etl": 5}, "etl.kind: None is none of aws-batch, kubernetes, marathon, ray, and no module:Class"),
        ({"etl": {"kind": "nowhere:It"}}, "etl.kind: nowhere cannot be imported: ModuleNotFoundError: No module"),
        ({"etl": {"kind": "json:loads"}}, "etl.kind: 'loads' of json is not a Destination"),
        ({"etl": {"kind": "aws-batch"}}, "etl.job_queue: field required"),
        ({"etl": {"kind": "aws-batch", "job_queue": "q"}}, "etl: it needs a job_definition"),
        (
            {"etl": BATCH | {"job_definition": "", "tasks": {"x": {"job_definition": "d"}, "y": {}}}},
            "etl: it needs a job_definition, or one for y",
        ),
        ({"etl": BATCH | {"quue": "x"}}, "etl.quue: extra inputs are not permitted; there are kind, limit, tasks"),
        ({"etl": BATCH | {"limit": 0}}, "etl.limit: input should be greater than or equal to 1"),
        ({"etl": BATCH | {"tasks": {"x": {"vcpus": 0}}}}, "etl.tasks.x.vcpus: input should be greater than 0"),
        ({"etl": BATCH | {"tasks": {"x.y": {}}}}, "etl.tasks: 'x.y' is not a valid name of a task"),
        ({"etl": BATCH | {"log_url": "https://{host}"}}, "etl.log_url: 'https://{host}' is not a valid template of"),
        ({"a": BATCH | {"tasks": {"b": {}}}, "b": BATCH}, "b.tasks: 'b' is already routed to a"),
    ],
)
def test_a_wrong_destination_is_refused_by_the_name_of_the_member_at_fault(given: Any, complaint: str) -> None:
    with pytest.raises(ValueError) as refused:
        destination_types.read(given if isinstance(given, str) else json.dumps(given))

    assert str(refused.value).startswith(complaint)


@pytest.mark.parametrize("owner", ["", "Etl", "a_b", "-a", "a-", "a" * 21, "a.b"])
def test_an_owner_must_fit_into_every_destination_s_names(owner: str) -> None:
    with pytest.raises(ValueError, match="up to 20 small letters"):
        destination_types.check_owner(owner)


def test_the_kinds_are_listed_by_their_names() -> None:
    kinds = {"aws-batch": AwsBatch, "kubernetes": KubernetesJobs, "marathon": Marathon, "ray": RayJobs}
    assert kinds == destination_types.KINDS


@pytest.mark.parametrize(
    ("module", "settings", "complaint"),
    [
        ("boto3", BATCH, "AWS Batch needs boto3: pip install boto3"),
        ("kubernetes", KUBERNETES, "Kubernetes needs its Python client: pip install kubernetes"),
        ("urllib3", MARATHON, "Marathon needs urllib3: pip install urllib3"),
        ("urllib3", RAY, "Ray needs urllib3: pip install urllib3"),
    ],
)
def test_without_a_library_the_start_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, module: str, settings: dict[str, Any], complaint: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(ValueError, match=f"^etl: {complaint}$"):
        list(destination_types.build("me", destination_types.read(json.dumps({"etl": settings}))))


# -- calls -------------------------------------------------------------------------------------------------------------


class Clock(RealClock):
    now = 100.0

    def monotonic(self) -> float:
        return self.now


def calls(clock: RealClock, timeout: float = 5.0) -> DestinationCalls:
    settings = destination_types.read(json.dumps({"etl": BATCH | {"region": "eu-central-1"}}))
    (destination,) = destination_types.build("me", settings)
    return DestinationCalls(destination, timeout, 8.0, clock)


async def test_a_call_ends_in_time_and_a_fault_of_a_destination_is_no_answer() -> None:
    over = threading.Event()
    call = calls(RealClock(), timeout=0.2)

    assert await call(lambda: 5) == 5
    with pytest.raises(Away, match=r"no answer within 0\.2 s"):
        await call(over.wait, 30)
    with pytest.raises(Away, match="KeyError: 'status'"):
        await call(lambda: {}["status"])
    with pytest.raises(Refused, match="never"):
        await call(raising, Refused("never"))

    over.set()
    call.close()


def raising(error: Exception) -> None:
    raise error


async def test_the_pause_after_a_failure_grows_to_its_limit_and_begins_anew_after_a_success() -> None:
    clock = Clock()
    call = calls(clock)

    def pause(after: float = 0.0) -> float:
        call.failed(Away("no", after))
        assert call.resting
        assert not call.usable
        began = clock.now
        while call.resting:
            clock.now += 0.05
        return clock.now - began

    pauses = [pause() for _ in range(6)]
    call.worked()

    assert [0.8 * 2**n <= pauses[n] + 0.06 and pauses[n] <= 2**n + 0.06 for n in range(3)] == [True] * 3
    assert all(6.3 <= each <= 8.06 for each in pauses[3:])
    assert call.usable
    assert pause() <= 1.06
    assert 29.9 <= pause(after=30.0) <= 30.06  # as long as the destination asks for, within reason
    assert 299.9 <= pause(after=86_400.0) <= 300.06
    call.close()

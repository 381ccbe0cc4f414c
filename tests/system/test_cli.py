"""The client's commands against a real cluster, with a worker that `taskflow worker` runs."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import UUID, Cli, command_of, environment, failed_in_one_line
from tests.support.cluster import ROOT, Program, ServiceCluster
from tests.support.processes import connected
from tests.support.waiting import eventually

ABSENT = "01980a2c-7d1e-7c43-9b1f-0c5d2f6a7b8c"


@pytest.fixture(scope="module")
def cli(cluster: ServiceCluster) -> Cli:
    return command_of(cluster)


@pytest.fixture(scope="module")
def worker(cluster: ServiceCluster) -> Program:
    return cluster.run(
        "cli-worker", "-m", "taskflow._cli", "worker", "tests.support.cli_app:app", "--name", "smith",
        env={"TASKFLOW_ADDRESS": cluster.scheduler_address},
    )  # fmt: skip


def new(cli: Cli, *words: str) -> str:
    answer = cli("job", "new", *words)
    assert answer.returncode == 0, answer.stderr
    assert UUID.fullmatch(answer.stdout.strip())
    return answer.stdout.strip()


def show(cli: Cli, id: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(cli("job", "show", id, "--json").stdout)
    return document


@pytest.mark.feature("S3.1", "X.11")
def test_a_job_is_submitted_and_run_and_its_result_printed(cli: Cli, worker: Program) -> None:
    person = cli("job", "new", "sums", '{"a": 2, "b": 3}', "--task", "add", "--wait")
    program = cli("--json", "job", "new", "sums", "-", "--task", "add", "--wait", stdin='{"a": 4, "b": 5}')

    assert (person.returncode, person.stdout) == (0, "5\n")
    assert UUID.search(person.stderr)
    document = json.loads(program.stdout)
    assert (program.returncode, program.stderr) == (0, "")
    assert (document["result"], document["state"], document["payload"]) == (9, "succeeded", {"a": 4, "b": 5})


@pytest.mark.feature("R14")
@pytest.mark.parametrize(
    ("words", "arrives"),
    [(["{}"], {}), (["[1, null]"], [1, None]), (['"hi"'], "hi"), ([], None), (["x: {", "--text"], "x: {"), (["0"], 0)],
)
def test_a_payload_arrives_as_it_was_given(cli: Cli, worker: Program, words: list[str], arrives: object) -> None:
    answer = cli("job", "new", "sums", *words, "--task", "echo", "--wait", "--json")

    assert json.loads(answer.stdout)["result"] == arrives


def test_a_job_by_its_tasks_name_goes_to_the_tasks_queue_with_its_options(cli: Cli, worker: Program) -> None:
    added = json.loads(cli("job", "new", "--task", "add", '{"a": 1, "b": 2}', "--wait", "--json").stdout)
    assert (added["queue"], added["result"]) == ("sums", 3)
    assert show(cli, new(cli, "sums", '{"text": "no"}', "--task", "boom"))["retries"] == 1
    assert show(cli, new(cli, "sums", '{"text": "no"}', "--task", "boom", "--retries", "0"))["retries"] == 0
    piped = cli("job", "new", "-", "--task", "echo", "--wait", stdin="[1]")
    assert piped.stdout == "[1]\n"
    failed_in_one_line(cli("job", "new"), 2, "missing argument QUEUE")


def test_a_wait_has_its_own_limit_and_timeout_is_the_attempts(cli: Cli, worker: Program) -> None:
    late = cli("job", "new", "nobody", "--wait", "--wait-timeout", "100ms", "--timeout", "90s", "--json")
    failed_in_one_line(late, 4, "is ready after 0.1 s")
    found = UUID.search(late.stderr)
    assert found is not None
    id = found[0]
    assert show(cli, id)["timeout"] == 90
    failed_in_one_line(cli("job", "new", "nobody", "--wait-timeout", "1s"), 2, "--wait-timeout is for --wait")


@pytest.mark.feature("R12")
def test_a_job_that_nobody_runs_is_made_with_a_warning(cli: Cli, worker: Program) -> None:
    eventually(lambda: "near" in cli("job", "new", "misspelt", "--task", "ecko").stderr, timeout=30)
    made = cli("job", "new", "misspelt", "--task", "ecko")
    assert (made.returncode, made.stderr) == (
        0, "warning: no worker has ever had a handler for task 'ecko'; near in name: 'echo'\n",
    )  # fmt: skip
    shown = cli("job", "show", made.stdout.strip()).stdout
    assert re.search(r"^warning +no worker has ever had a handler for task 'ecko'", shown, re.MULTILINE)
    assert re.search(r"^warning +no worker has ever", cli("queue", "show", "misspelt").stdout, re.MULTILINE)
    document = json.loads(cli("job", "new", "misspelt", "--json").stdout)
    assert [warning["reason"] for warning in document["warnings"]] == ["NO_LIVE_WORKER"]
    late = cli("job", "wait", document["id"], "--wait-timeout", "100ms")
    failed_in_one_line(late, 4, "no live worker has a handler for jobs without a task in queue 'misspelt'")


def test_a_job_of_the_command_line_is_found_by_its_metadata_and_tags(cli: Cli) -> None:
    words = ["--metadata", "customer=c9", "--metadata", "a=b", "--tag", "nightly", "--run-at", "2099-01-01T00:00:00Z"]
    id = cli("job", "new", "later", *words).stdout.strip()

    found = cli("job", "list", "--metadata", "customer=c9", "--tag", "nightly", "--json").stdout.splitlines()
    assert [json.loads(line)["id"] for line in found] == [id]
    assert show(cli, id)["state"] == "scheduled"
    failed_in_one_line(cli("job", "new", "later", "--metadata", "customer"), 2, "--metadata")


def test_a_payload_from_a_file(cli: Cli, worker: Program, tmp_path: Path) -> None:
    (tmp_path / "sum.json").write_text('{"a": 40,\n "b": 2}')

    assert cli("job", "new", "sums", f"@{tmp_path}/sum.json", "--task", "add", "--wait").stdout == "42\n"


def test_a_job_that_fails_is_exit_code_1_and_says_why(cli: Cli, worker: Program) -> None:
    person = cli("job", "new", "trouble", '{"text": "no\\nway"}', "--task", "boom", "--wait")
    program = cli("job", "new", "trouble", '{"text": "no way"}', "--task", "boom", "--wait", "--json")

    assert person.returncode == program.returncode == 1
    assert re.search(r"taskflow: job \S+ failed in attempt 1: Fail: no way\n$", person.stderr)
    document = json.loads(program.stdout)
    assert document["error"]["message"] == "no way"
    assert "in boom\n    raise Fail(text)" in cli("job", "show", document["id"]).stdout


@pytest.mark.feature("S3.4")
def test_jobs_are_listed_by_queue_state_and_task(cli: Cli, cluster: ServiceCluster) -> None:
    ids = [new(cli, "listed", str(n), "--task", "nobody", "--delay", "1h") for n in range(3)]
    other = new(cli, "listed", "--task", "somebody")

    found = cli("job", "list", "--queue", "listed", "--state", "scheduled", "--json")
    table = cli("job", "list", "--queue", "listed", "--task", "somebody", "--state", "ready,running")
    capped = cli("job", "list", "--queue", "listed", "--limit", "2")
    none = cli("job", "list", "--queue", "listed", "--state", "failed")

    assert [json.loads(line)["id"] for line in found.stdout.splitlines()] == ids[::-1]
    head, line = table.stdout.splitlines()
    assert head.split() == ["ID", "QUEUE", "TASK", "STATE", "ATTEMPT", "CREATED", "ERROR"]
    assert line.split()[:5] == [other, "listed", "somebody", "ready", "0"]
    assert (len(capped.stdout.splitlines()), "there are more" in capped.stderr) == (3, True)
    assert (none.returncode, none.stdout, none.stderr) == (0, "", "no such jobs\n")


@pytest.mark.feature("S3.4")
def test_a_job_is_shown_with_its_attempts_and_logs(cli: Cli, worker: Program) -> None:
    id = new(cli, "long", '{"seconds": 0}', "--task", "wait_for_it", "--priority", "high", "--key", uuid.uuid4().hex)
    assert cli("job", "wait", id).stdout == "waited\n"

    text = cli("job", "show", id).stdout
    document = show(cli, id)
    lines = cli("job", "logs", id)
    objects = [json.loads(line) for line in cli("job", "logs", id, "--json").stdout.splitlines()]

    assert re.search(r"^state +succeeded$", text, re.MULTILINE)
    assert re.search(r"^priority +7$", text, re.MULTILINE)
    assert re.search(r"^1 +succeeded ", text, re.MULTILINE)
    assert [attempt["outcome"] for attempt in document["attempts"]] == ["succeeded"]
    assert document["attempts"][0]["worker"] == "smith"
    eventually(lambda: cli("job", "logs", id).stdout.count("\n") == 2)
    assert lines.returncode == 0
    assert [(line["level"], line["message"]) for line in objects] == [
        ("info", "waiting for 0 s"),
        ("warning", "be patient"),
    ] or objects == []  # log lines travel on their own; the loop above has seen them arrive


@pytest.mark.feature("X.10", "R7", "R8", "S3.4")
def test_a_running_job_is_waited_for_cancelled_and_retried(cli: Cli, worker: Program) -> None:
    id = new(cli, "long", '{"seconds": 60}', "--task", "wait_for_it")
    eventually(lambda: show(cli, id)["state"] == "running")
    assert id in eventually(lambda: cli("job", "list", "--running-longer", "200ms").stdout)
    assert not cli("job", "list", "--worker", "nobody", "--running-longer", "1h").stdout

    failed_in_one_line(cli("job", "wait", id, "--wait-timeout", "200ms"), 4, id, "running")
    assert cli("job", "retry", id).returncode == 1
    cancelled = cli("job", "cancel", id, "--reason", "enough")
    assert (cancelled.returncode, id in cancelled.stdout) == (0, True)
    failed_in_one_line(cli("job", "wait", id, "--wait-timeout", "30s"), 1, id, "was cancelled")
    failed_in_one_line(cli("job", "cancel", id), 1, id)
    again = cli("job", "retry", id, "--json")

    assert json.loads(again.stdout)["id"] == id
    eventually(lambda: show(cli, id)["state"] == "running")
    assert show(cli, id)["attempt"] == 2
    cli("job", "cancel", id)
    eventually(lambda: show(cli, id)["state"] == "cancelled")


@pytest.mark.feature("X.3")
def test_a_key_names_one_job(cli: Cli, cluster: ServiceCluster) -> None:
    key = uuid.uuid4().hex

    assert new(cli, "keyed", "1", "--key", key) == new(cli, "keyed", "1", "--key", key)


@pytest.mark.feature("S3.5", "X.1")
def test_a_job_for_a_time_says_when_it_is_due(cli: Cli, cluster: ServiceCluster) -> None:
    id = new(cli, "later", "--at", "2099-12-24T18:00:00")

    assert (show(cli, id)["state"], show(cli, id)["run_time"]) == ("scheduled", "2099-12-24T18:00:00Z")
    assert cli("job", "cancel", id).stdout == f"job {id} is cancelled\n"


@pytest.mark.feature("S3.4")
def test_queues_and_workers_are_listed(cli: Cli, worker: Program) -> None:
    new(cli, "counted", "1")
    new(cli, "counted", "1", "--delay", "1h")

    found = {each["name"]: each for each in map(json.loads, cli("queue", "list", "--json").stdout.splitlines())}
    table = cli("queue", "list").stdout.splitlines()
    shown = cli("queue", "show", "counted").stdout
    workers = [json.loads(line) for line in cli("workers", "list", "--json").stdout.splitlines()]

    assert (found["counted"]["ready"], found["counted"]["scheduled"]) == (1, 1)
    assert table[0].split() == ["QUEUE", "READY", "SCHEDULED", "RUNNING", "REQUESTED", "OLDEST", "WORKERS", "MEMORY"]
    assert any(line.split()[:5] == ["counted", "1", "1", "0", "0"] for line in table)
    assert re.search(r"^ready +1$", shown, re.MULTILINE)
    assert [(each["name"], sorted(each["tasks"])) for each in workers] == [
        ("smith", ["add", "boom", "echo", "wait_for_it"])
    ]
    assert "smith" in cli("workers", "list").stdout


def test_a_reader_that_leaves_is_no_error(cli: Cli, cluster: ServiceCluster) -> None:
    for n in range(3):
        new(cli, "piped", str(n))
    command = f"{sys.executable} -m taskflow._cli job list --json | head -n 1"

    answer = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        capture_output=True, text=True, timeout=60, cwd=ROOT, env=environment(cluster),
    )  # fmt: skip

    assert (answer.stdout.count("\n"), answer.stderr) == (1, "")
    assert answer.returncode == 0


def test_ctrl_c_ends_a_wait_with_130_and_one_line(cli: Cli, cluster: ServiceCluster) -> None:
    id = new(cli, "nobody_serves_this")
    waiting = subprocess.Popen(
        [sys.executable, "-m", "taskflow._cli", "job", "wait", id],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment(cluster),
    )  # fmt: skip
    eventually(lambda: connected(waiting.pid, int(cluster.scheduler_address.rpartition(":")[2])))

    waiting.send_signal(signal.SIGINT)
    out, err = waiting.communicate(timeout=10)

    assert (waiting.returncode, out, err) == (130, "", "taskflow: interrupted\n")


@pytest.mark.feature("X.22")
def test_a_worker_drains_on_sigterm_and_serves_only_the_queues_named(
    cluster: ServiceCluster, cli: Cli, tmp_path: Path
) -> None:
    program = cluster.run(
        "cli-drained", "-m", "taskflow._cli", "worker", "tests.support.cli_drained:app", "--queues", "drained",
        "--concurrency", "1",
        env={"TASKFLOW_ADDRESS": cluster.scheduler_address},
    )  # fmt: skip
    payload = json.dumps({"seconds": 4, "started": f"{tmp_path}/started"})
    other = new(cli, "undrained", "--task", "other_nap")
    running, waiting = (new(cli, "drained", payload, "--task", "nap") for _ in range(2))
    eventually((tmp_path / "started").exists)

    program.signal(signal.SIGTERM)

    assert program.wait() == 0
    assert show(cli, running)["state"] == "succeeded"
    assert show(cli, waiting)["state"] == show(cli, other)["state"] == "ready"
    assert "draining" in program.output

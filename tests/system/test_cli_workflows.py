"""`taskflow workflow` and `taskflow namespace` against a real cluster, with a worker that runs the steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import UUID, Cli, command_of, failed_in_one_line
from tests.support.cluster import Program, ServiceCluster
from tests.support.waiting import eventually

ABSENT = "01980a2c-7d1e-7c43-9b1f-0c5d2f6a7b8c"


@pytest.fixture(scope="module")
def cli(cluster: ServiceCluster) -> Cli:
    return command_of(cluster)


@pytest.fixture(scope="module")
def app(cluster: ServiceCluster) -> Program:
    return cluster.run("app", "-m", "tests.support.workflow_app", cluster.scheduler_address)


def stored(cli: Cli, folder: Path, document: dict[str, Any]) -> None:
    file = folder / "document.json"
    file.write_text(json.dumps(document))
    answer = cli("workflow", "put", str(file))
    assert answer.returncode == 0, answer.stderr


def shown(cli: Cli, *words: str) -> dict[str, Any]:
    answer = cli(*words, "--json")
    assert (answer.returncode, answer.stderr) == (0, "")
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def document(name: str, *more: dict[str, Any]) -> dict[str, Any]:
    add = {"name": "add", "kind": "task", "queue": "steps", "meta": {"task": "add", "input": "{{ input }}"}}
    return {"name": name, "title": "Sums", "steps": [add, *more], "output": "{{ steps.add.result }}"}


@pytest.mark.feature("R12")
def test_a_workflow_whose_steps_nobody_runs_is_stored_with_a_warning(cli: Cli, app: Program, tmp_path: Path) -> None:
    eventually(lambda: "add" in cli("workers", "list", "--json").stdout)
    file = tmp_path / "document.json"
    file.write_text(json.dumps({"name": "typo", "steps": [{"name": "sum", "kind": "task", "meta": {"task": "ad"}}]}))
    said = "step 'sum': no worker has ever had a handler for task 'ad'; near in name: 'add'"
    for check in ([], ["--check"]):
        answer = cli("workflow", "put", str(file), *check)
        assert (answer.returncode, answer.stderr) == (0, f"warning: {said}\n")
    assert f"warning   {said}" in cli("workflow", "show", "typo").stdout
    made = cli("schedule", "create", "--workflow", "typo", "0 0 1 1 *")
    assert (made.returncode, made.stderr) == (0, f"warning: {said}\n")


WAIT = {"name": "wait", "kind": "wait", "meta": {"signal": "go"}, "depends_on": ["add"]}


@pytest.mark.feature("S0.6", "S1.4", "S0.10")
def test_a_workflow_is_put_listed_shown_drawn_run_and_deleted(cli: Cli, app: Program, tmp_path: Path) -> None:
    stored(cli, tmp_path, document("sums"))

    again = cli("workflow", "put", str(tmp_path / "document.json"))
    done = cli("workflow", "run", "sums", "[1, 2]", "--metadata", "user=u1", "--label", "mine", "--wait")
    listed = cli("workflow", "list").stdout
    runs = cli("workflow", "runs", "sums", "--metadata", "user=u1").stdout

    assert again.stdout == "sums, version 1\n"
    assert (done.returncode, done.stdout) == (0, "3\n")
    assert "Sums" in listed
    assert "succeeded" in runs and "mine" in runs
    assert shown(cli, "workflow", "show", "sums")["document"] == document("sums")
    assert cli("workflow", "graph", "sums").stdout.startswith("flowchart TD\n  s0[")
    stale = "its latest version is 1, not version 2"
    failed_in_one_line(cli("workflow", "put", str(tmp_path / "document.json"), "--if-version", "2"), 1, stale)
    failed_in_one_line(cli("workflow", "delete", "sums", "--if-version", "2"), 1, stale)
    assert cli("workflow", "delete", "sums", "--if-version", "1").returncode == 0
    failed_in_one_line(cli("workflow", "run", "sums"), 1, "there is no workflow 'sums'")


@pytest.mark.feature("S0.4", "S0.5")
def test_a_run_is_shown_signalled_cancelled_and_retried(cli: Cli, app: Program, tmp_path: Path) -> None:
    stored(cli, tmp_path, document("waits", WAIT))
    id = cli("workflow", "run", "waits", "[4]").stdout.strip()
    assert UUID.fullmatch(id)
    eventually(lambda: shown(cli, "workflow", "show", id)["signals"] == ["go"], timeout=30)

    assert "running, waiting" in cli("workflow", "show", id).stdout
    assert "waiting" in cli("workflow", "graph", id).stdout
    cancelled = cli("workflow", "cancel", id)
    assert (cancelled.returncode, cancelled.stdout) == (0, "cancelled\n")
    failed_in_one_line(cli("workflow", "signal", id, "go"), 1, "too late")
    assert cli("workflow", "retry", id).stdout.strip() == id
    assert cli("workflow", "signal", id, "go", '{"by": "hand"}').returncode == 0
    eventually(lambda: shown(cli, "workflow", "show", id)["state"] == "succeeded", timeout=30)
    assert shown(cli, "workflow", "show", id)["output"] == 4


@pytest.mark.feature("S0.6")
def test_what_is_wrong_is_said_in_lines_and_stored_nowhere(cli: Cli, tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    late = {"name": "x", "kind": "wait", "meta": {"duration": "3 days"}}
    bad.write_text(json.dumps(document("bad", late) | {"sla": -1}))

    answer = cli("workflow", "put", str(bad))

    assert answer.returncode == 2
    head, *lines = answer.stderr.splitlines()
    assert head == "taskflow: the document is wrong:"
    assert {line.partition(":")[0].strip() for line in lines} == {"sla", "steps[1].meta.duration"}
    failed_in_one_line(cli("workflow", "put", str(tmp_path / "none.json")), 2, "none.json")
    failed_in_one_line(cli("workflow", "put", "-", stdin="{"), 2, "JSON")
    failed_in_one_line(cli("workflow", "show", "bad"), 1, "there is no workflow 'bad'")
    failed_in_one_line(cli("workflow", "show", ABSENT), 1, "there is no run")
    failed_in_one_line(cli("workflow", "runs", "--state", "asleep"), 2, "asleep", "cancelled")
    assert cli("workflow", "put", str(bad), "--check").returncode == 2


@pytest.mark.feature("S0.9")
def test_namespaces_are_made_changed_and_listed(cli: Cli) -> None:
    assert cli("namespace", "create", "shop", "--app-url", "https://shop.example.org").returncode == 0
    assert cli("namespace", "update", "default", "--app-url", "https://app.example.org/api").returncode == 0

    listed = cli("namespace", "list").stdout

    assert "https://shop.example.org" in listed and "https://app.example.org/api" in listed
    failed_in_one_line(cli("namespace", "create", "shop"), 1, "shop")
    failed_in_one_line(cli("namespace", "update", "none", "--app-url", "https://x.example"), 1, "none")
    failed_in_one_line(cli("namespace", "create", "x", "--app-url", "ftp://x"), 2, "app_url")


@pytest.mark.feature("S4.6")
def test_quotas_are_set_shown_and_taken_away(cli: Cli) -> None:
    assert cli("namespace", "create", "apps", "--quota-preset", "app-tasks").returncode == 0
    more = ("--quota-waiting-jobs", "20", "--quota-payload-bytes", "9")
    assert cli("namespace", "update", "apps", *more).returncode == 0

    spaces = map(json.loads, cli("namespace", "list", "--json").stdout.splitlines())
    (shown,) = [space for space in spaces if space["name"] == "apps"]

    assert shown["quotas"] == {"tasks": 5, "waiting_jobs": 20, "payload_bytes": 9}
    heads, *lines = cli("namespace", "list").stdout.splitlines()
    assert heads.split() == ["NAMESPACE", "APP", "URL", "TASKS", "WAITING", "JOBS", "PAYLOAD", "BYTES", "CREATED"]
    assert [line.split()[1:4] for line in lines if line.startswith("apps")] == [["5", "20", "9"]]
    assert cli("namespace", "update", "apps", "--quota-tasks", "none", "--quota-waiting-jobs", "none").returncode == 0
    failed_in_one_line(
        cli("job", "new", "apps/q", '"0123456789"'), 1, "10 bytes exceed the quota of namespace 'apps'"
    )
    failed_in_one_line(cli("namespace", "update", "apps"), 2, "nothing to change")
    failed_in_one_line(cli("namespace", "update", "apps", "--quota-tasks", "-1"), 2, "--quota-tasks -1", "none")
    failed_in_one_line(cli("namespace", "update", "apps", "--quota-preset", "free"), 2, "app-tasks")

"""`taskflow task` and `taskflow schedule` against a real cluster, with a worker that runs what they make."""

from __future__ import annotations

import json
import re
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
def worker(cluster: ServiceCluster, cli: Cli) -> Program:
    program = cluster.run(
        "cli-worker", "-m", "taskflow._cli", "worker", "tests.support.cli_app:app", "--name", "smith",
        env={"TASKFLOW_ADDRESS": cluster.scheduler_address},
    )  # fmt: skip
    eventually(lambda: "smith" in cli("workers", "list").stdout)
    return program


def made(cli: Cli, *words: str) -> str:
    """The id that `create` prints."""
    answer = cli(*words)
    assert answer.returncode == 0, answer.stderr
    assert UUID.fullmatch(answer.stdout.strip())
    return answer.stdout.strip()


def document(cli: Cli, *words: str) -> dict[str, Any]:
    (found,) = documents(cli, *words)
    return found


def documents(cli: Cli, *words: str) -> list[dict[str, Any]]:
    answer = cli(*words, "--json")
    assert (answer.returncode, answer.stderr) == (0, "")
    return [json.loads(line) for line in answer.stdout.splitlines()]


@pytest.mark.feature("S4.1", "S4.3", "S1.1")
def test_a_task_is_made_listed_shown_changed_and_removed(cli: Cli, worker: Program) -> None:
    id = made(cli, "task", "create", "add", "--queue", "sums", "--title", "Sums", "--retries", "2", "--schedule",
              "0 8 * * mon", "--zone", "Europe/Berlin", "--priority", "high", "--timeout", "90s")  # fmt: skip

    shown = document(cli, "task", "show", "add")
    text = cli("task", "show", id).stdout
    head, *lines = cli("task", "list").stdout.splitlines()

    assert (shown["id"], shown["retries"], shown["priority"], shown["active"]) == (id, 2, 7, True)
    assert re.search(r"^schedule +0 8 \* \* mon\nzone +Europe/Berlin$", text, re.MULTILINE)
    assert re.match(r"TASK +QUEUE +ACTIVE +SCHEDULE +ZONE +LAST RUN +NEXT RUN +TITLE$", head)
    assert [line.split()[:3] for line in lines if line.startswith("add ")] == [["add", "sums", "yes"]]
    assert [task["name"] for task in documents(cli, "task", "list")] == ["add"]

    changed = document(cli, "task", "update", "add", "--inactive", "--title", "More sums", "--priority", "0")
    assert (changed["active"], changed["next_run_at"], changed["title"]) == (False, None, "More sums")
    assert (changed["retries"], changed["priority"], changed["queue"]) == (2, 0, "sums")
    assert document(cli, "task", "update", id, "--active", "--name", "addition")["next_run_at"] is not None
    assert document(cli, "task", "update", id, "--schedule", "")["next_run_at"] is None
    assert cli("task", "remove", "addition").stdout == "task addition is removed\n"
    failed_in_one_line(cli("task", "show", "addition"), 1, "there is no task 'addition'")
    assert cli("task", "list").stderr == "no tasks yet; make one with: taskflow task create NAME\n"


@pytest.mark.feature("S1.1")
def test_the_sla_the_start_and_the_end_of_a_task_are_given_shown_and_taken_away(cli: Cli, worker: Program) -> None:
    made(cli, "task", "create", "advent", "--target", "echo", "--schedule", "@daily", "--start", "2099-12-01", "--end",
         "2099-12-24T18:00:00+01:00", "--sla", "10m", "--priority", "low")  # fmt: skip

    shown = document(cli, "task", "show", "advent")
    text = cli("task", "show", "advent").stdout

    assert (shown["sla"], shown["start"], shown["end"]) == (600, "2099-12-01T00:00:00Z", "2099-12-24T17:00:00Z")
    assert shown["next_run_at"] == "2099-12-01T00:00:00Z"
    assert re.search(r"^start +2099-12-01 00:00:00Z\nend +2099-12-24 17:00:00Z$", text, re.MULTILINE)
    assert re.search(r"^sla +600 s$", text, re.MULTILINE)
    assert re.search(r"^priority +2 \(low\)$", text, re.MULTILINE)
    changed = document(cli, "task", "update", "advent", "--sla", "none", "--start", "none", "--end", "2099-12-31")
    assert (changed["sla"], changed["start"], changed["end"]) == (None, None, "2099-12-31T00:00:00Z")
    job = made(cli, "job", "new", "nobody", "1", "--sla", "100ms")
    eventually(lambda: document(cli, "job", "show", job)["sla_missed"], timeout=30)
    assert re.search(r"^sla +0.10s, missed$", cli("job", "show", job).stdout, re.MULTILINE)
    cli("job", "cancel", job)
    cli("task", "remove", "advent")


@pytest.mark.feature("S4.1")
def test_tasks_of_one_name_in_two_namespaces_are_told_apart(cli: Cli, worker: Program) -> None:
    for name in ("add", "books/add"):
        made(cli, "task", "create", name, "--target", "echo")
    names = [line.split()[0] for line in cli("task", "list").stdout.splitlines()[1:]]
    assert names == ["add", "books/add"]
    assert "task         books/add" in re.sub(" +", " " * 9, cli("task", "show", "books/add").stdout)
    job = document(cli, "task", "run", "books/add", '"x"')
    assert document(cli, "job", "wait", job["id"])["result"] == "x"
    for name in names:
        cli("task", "remove", name)


def test_a_task_without_a_handler_is_made_with_a_remark_or_refused(cli: Cli, worker: Program) -> None:
    made_so = cli("task", "create", "unseen", "--inactive")

    assert (made_so.returncode, made_so.stderr) == (0, "no worker has ever registered the handler unseen\n")
    assert document(cli, "task", "show", "unseen")["active"] is False
    failed_in_one_line(cli("task", "create", "required", "--require-handler"), 1, "no worker has ever registered")
    failed_in_one_line(cli("task", "create", "unseen"), 1, "the task 'unseen' already exists")
    cli("task", "remove", "unseen")


@pytest.mark.feature("S4.2", "S4.7")
def test_a_task_is_run_by_name_and_its_result_printed(cli: Cli, worker: Program, tmp_path: Path) -> None:
    made(cli, "task", "create", "plus", "--target", "add", "--queue", "sums")
    (tmp_path / "sum.json").write_text('{"a": 40, "b": 2}')

    person = cli("task", "run", "plus", '{"a": 2, "b": 3}', "--wait")
    program = document(cli, "task", "run", "plus", f"@{tmp_path}/sum.json", "--result", "--wait-timeout", "30s")
    piped = cli("task", "run", "plus", "-", "--result", stdin='{"a": 1, "b": 1}')
    id = made(cli, "task", "run", "plus", '{"a": 5, "b": 5}')

    assert (person.returncode, person.stdout, bool(UUID.search(person.stderr))) == (0, "5\n", True)
    assert (program["result"], program["state"]) == (42, "succeeded")
    assert piped.stdout == "2\n"
    assert cli("job", "wait", id).stdout == "10\n"


@pytest.mark.feature("S4.2", "S4.4")
def test_a_run_that_fails_is_status_1_one_that_goes_on_4_and_both_are_in_the_logs(cli: Cli, worker: Program) -> None:
    made(cli, "task", "create", "bang", "--target", "boom", "--queue", "trouble")
    made(cli, "task", "create", "waits", "--target", "wait_for_it", "--queue", "long")

    unwaited = cli("task", "run", "waits", '{"seconds": 0}', "--wait-timeout", "5s")
    failed_in_one_line(unwaited, 2, "--wait-timeout is for --wait")
    for verb in (["task", "run", "waits"], ["job", "wait", ABSENT], ["workflow", "run", "any", "--wait"]):
        failed_in_one_line(cli(*verb, "--timeout", "5s"), 2, "limit of an attempt", "--wait-timeout")
    late = cli("task", "run", "waits", '{"seconds": 60}', "--wait", "--wait-timeout", "200ms", "--json")
    failed_in_one_line(late, 4)
    failed = cli("task", "run", "bang", '{"text": "no way"}', "--wait")
    assert (failed.returncode, "failed in attempt 1: Fail: no way" in failed.stderr) == (1, True)
    cli("task", "run", "waits", '{"seconds": 0}', "--wait")

    (bang,) = documents(cli, "task", "logs", "bang")
    assert (bang["type"], bang["error"]["message"]) == ("app.task.failed", "no way")
    (done,) = documents(cli, "task", "logs", "waits", "--type", "completed")
    assert (done["result"], done["error"]) == ("waited", None)
    table = cli("task", "logs", "--limit", "1")
    assert re.search(r"waits +\S+ \S+ +completed +waited$", table.stdout.strip())
    assert re.fullmatch(r"\d+ in all\n", table.stderr)
    assert cli("task", "logs", "waits", "--type", "failed").stderr == "no runs have ended\n"
    cli("job", "cancel", late_job(cli))


def late_job(cli: Cli) -> str:
    (job,) = documents(cli, "job", "list", "--queue", "long", "--state", "running")
    return str(job["id"])


@pytest.mark.feature("S4.1", "S1.5")
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["task", "create", "bad", "--schedule", "61 * * * *"], 2, "task.schedule"),
        (["task", "create", "bad name"], 2, "task.name"),
        (["task", "create", "bad", "--priority", "urgent"], 2, "--priority urgent"),
        (["task", "create", "bad", "--timeout", "soon"], 2, "--timeout soon"),
        (["task", "create", "bad", "--sla", "soon"], 2, "--sla soon"),
        (["task", "create", "bad", "--start", "soon", "--schedule", "@daily"], 2, "--start soon"),
        (["task", "create", "bad", "--end", "2099-01-01"], 2, "task.end_time: needs a schedule"),
        (["task", "update", "bad"], 2, "nothing to change"),
        (["task", "update", "bad", "--title", "x"], 1, "there is no task 'bad'"),
        (["task", "run", "bad"], 1, "there is no task 'bad'"),
        (["task", "run", "bad", "{to: ada}"], 2, "is not JSON"),
        (["task", "logs", "bad"], 1, "there is no task 'bad'"),
        (["task", "logs", "--type", "done"], 2, "neither completed nor failed"),
        (["task", "remove", ABSENT], 1, ABSENT),
        (["schedule", "create", "add"], 2, "give either a cron expression or --at"),
        (["schedule", "create", "add", "@daily", "--at", "2099-01-01"], 2, "either a cron expression or --at"),
        (["schedule", "create", "add", "61 * * * *"], 2, "schedule.cron"),
        (["schedule", "create", "add", "@daily", "--zone", "Europe/Berlln"], 2, "schedule.time_zone"),
        (["schedule", "create", "add", "@daily", "--overlap", "maybe"], 2, "overlap: 'maybe' is none of skip, allow"),
        (["schedule", "create", "add", "--at", "soon"], 2, "--at soon"),
        (["schedule", "create", "add", "@daily", "--metadata", "user"], 2, "--metadata user: give it as key=value"),
        (["schedule", "preview", "every day"], 2, "cron"),
        (["schedule", "preview", ABSENT], 1, ABSENT),
        (["schedule", "preview", ABSENT, "--zone", "UTC"], 2, "a schedule has its own"),
        (["schedule", "show", "x"], 2, "x"),
        (["schedule", "show", ABSENT], 1, ABSENT),
        (["schedule", "pause", ABSENT], 1, ABSENT),
        (["schedule", "resume", ABSENT], 1, ABSENT),
        (["schedule", "firings", ABSENT], 1, ABSENT),
        (["schedule", "delete", ABSENT], 1, ABSENT),
        (["schedule", "delete"], 2, "give either an id or --metadata"),
        (["schedule", "delete", ABSENT, "--metadata", "a=b"], 2, "give either an id or --metadata"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_one_line_and_a_status(cli: Cli, words: list[str], code: int, said: str) -> None:
    answer = cli(*words)

    failed_in_one_line(answer, code, said)
    assert answer.stdout == ""


@pytest.mark.feature("S1.5", "M.7")
def test_a_schedule_fires_is_paused_resumed_and_deleted(cli: Cli, worker: Program) -> None:
    id = made(cli, "schedule", "create", "echo", "* * * * * *", "--payload", '{"kind": "tick"}', "--metadata",
              "user=u1", "--overlap", "allow")  # fmt: skip
    eventually(lambda: len(documents(cli, "schedule", "firings", id)) >= 2)

    paused = cli("schedule", "pause", id)
    (latest,) = documents(cli, "schedule", "firings", id, "--limit", "1")
    table = cli("schedule", "firings", id, "--limit", "1")

    assert paused.stdout == f"schedule {id} is paused\n"
    assert latest["state"] == "fired"
    job = document(cli, "job", "show", latest["job_id"])
    assert (job["payload"], job["task"], job["metadata"]["user"]) == ({"kind": "tick"}, "echo", "u1")
    assert re.match(r"INSTANT +STATE +COUNT +JOB +REASON\n\S+ \S+ +fired +1 +" + latest["job_id"], table.stdout)
    assert "there are more" in table.stderr
    shown = document(cli, "schedule", "show", id)
    assert (shown["active"], shown["next_run_at"], shown["overlap"]) == (False, None, "allow")
    assert re.search(r"^active +no$", cli("schedule", "show", id).stdout, re.MULTILINE)
    assert re.fullmatch(rf"schedule {id} is active; next run \S+ \S+Z\n", cli("schedule", "resume", id).stdout)
    assert cli("schedule", "delete", id).stdout == f"{id}\n"
    failed_in_one_line(cli("schedule", "show", id), 1, id)


@pytest.mark.feature("S0.8", "S1.5")
def test_schedules_are_listed_and_deleted_by_metadata(cli: Cli, cluster: ServiceCluster) -> None:
    spring, autumn = (
        made(cli, "schedule", "create", "mail", "@daily", "--metadata", "user=u1", "--metadata", f"campaign={name}")
        for name in ("spring", "autumn")
    )
    once = made(cli, "schedule", "create", "mail", "--at", "2099-12-24T18:00:00+01:00", "--paused")

    assert [s["id"] for s in documents(cli, "schedule", "list", "--task", "mail")] == [spring, autumn, once]
    assert [s["id"] for s in documents(cli, "schedule", "list", "--metadata", "campaign=autumn")] == [autumn]
    rows = cli("schedule", "list", "--task", "mail", "--limit", "2")
    assert [line.split()[0] for line in rows.stdout.splitlines()] == ["ID", spring, autumn]
    assert "there are more" in rows.stderr
    assert (document(cli, "schedule", "show", once)["at"], document(cli, "schedule", "show", once)["active"]) == (
        "2099-12-24T17:00:00Z", False,
    )  # fmt: skip
    both = ["--metadata", "user=u1", "--metadata", "campaign=spring"]
    assert cli("schedule", "delete", *both).stdout == f"{spring}\n"
    none = cli("schedule", "delete", *both)
    assert (none.returncode, none.stdout, none.stderr) == (0, "", "no such schedules\n")
    assert documents(cli, "schedule", "delete", "--metadata", "user=u1") == [{"id": autumn}]


@pytest.mark.feature("S1.5")
def test_a_preview_shows_instants_also_in_the_zone(cli: Cli, cluster: ServiceCluster) -> None:
    """Over the change of hour of 28 March 2027."""
    words = ["schedule", "preview", "0 8 * * mon", "--zone", "Europe/Berlin", "-n", "2", "--after", "2027-03-20"]
    id = made(cli, "schedule", "create", "later", "0 8 * * mon", "--zone", "Europe/Berlin")

    assert cli(*words).stdout.splitlines() == [
        "UTC                   EUROPE/BERLIN",
        "2027-03-22 07:00:00Z  Mon 2027-03-22 08:00:00 +0100",
        "2027-03-29 06:00:00Z  Mon 2027-03-29 08:00:00 +0200",
    ]
    instants = [{"instant": "2027-03-22T07:00:00Z"}, {"instant": "2027-03-29T06:00:00Z"}]
    assert documents(cli, *words) == instants
    assert documents(cli, "schedule", "preview", id, "-n", "2", "--after", "2027-03-20") == instants
    assert cli("schedule", "preview", "@daily", "-n", "1", "--after", "2027-03-20").stdout == (
        "UTC\n2027-03-21 00:00:00Z\n"
    )

"""`shell.run` through a real cluster, with real processes: what comes of a command, and that nothing of it is left."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from taskflow import JobHandle, JobInfo, JobState, JobUnsuccessful, Outcome, TaskFlow
from tests.support.cli import command_of
from tests.support.cluster import ServiceCluster
from tests.support.processes import descendants, parent, peak_memory, runs
from tests.support.waiting import eventually

pytestmark = pytest.mark.feature("S1.9")

EVERYTHING = ("queue", "coordinator", "scheduler", "worker")

# A command, its child, a child's child in a session of its own, and one that nobody waits for. None minds SIGTERM.
TREE = """
trap '' TERM
note() { echo $BASHPID >> "$NOTES"; }
note
(note; sleep 1000) &
setsid bash -c 'trap "" TERM; echo $$ >> "$NOTES"; (echo $BASHPID >> "$NOTES"; sleep 1000) & sleep 1000' &
(setsid bash -c 'trap "" TERM; echo $$ >> "$NOTES"; sleep 1000' &)
while [ $(wc -l < "$NOTES") -lt 5 ]; do sleep 0.01; done
echo planted
while :; do sleep 1; done
"""
TREE_SIZE = 5


def cluster_with(
    make_cluster: Callable[..., ServiceCluster], folder: Path, lease: str = "15", **worker: str
) -> ServiceCluster:
    """One that runs scripts, and is started."""
    settings = {
        "TASKFLOW_BUILTINS": "shell",
        "TASKFLOW_SHELL_SCRIPTS": "on",
        "TASKFLOW_SHELL_ALLOW": f"echo, cat, env, false, {sys.executable}",
        "TASKFLOW_SHELL_FOLDERS": str(folder),
        "TASKFLOW_SHELL_PASS_ENV": "PASSED_ON, NOT_SET",
        "PASSED_ON": "yes",
        "NOT_PASSED_ON": "secret",
        "TASKFLOW_SECRET_X": "secret",
        "LANG": "C.UTF-8",
    }
    env = {"worker": {**settings, **worker}, "coordinator": {"TASKFLOW_LEASE": lease}}
    cluster = make_cluster(services=EVERYTHING, env=env)
    cluster.start_all()
    return cluster


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one that a command's `cwd` may lie in."""
    return tmp_path_factory.mktemp("folders")


@pytest.fixture(scope="module")
def running(make_cluster: Callable[..., ServiceCluster], folder: Path) -> ServiceCluster:
    return cluster_with(make_cluster, folder, TASKFLOW_SHELL_MAX_LOG_BYTES="200000")


@pytest.fixture(scope="module")
def tf(running: ServiceCluster) -> Iterator[TaskFlow]:
    with TaskFlow(running.scheduler_address) as app:
        yield app


def new(tf: TaskFlow, options: dict[str, Any] | None = None, /, **payload: Any) -> JobHandle:
    return tf.new_job("commands", payload, task="shell.run", **(options or {}))


def ended(job: JobHandle, timeout: float = 30) -> JobInfo:
    try:
        return job.wait(timeout)
    except JobUnsuccessful as error:
        return error.job


def ran(tf: TaskFlow, **payload: Any) -> JobInfo:
    return ended(new(tf, **payload))


def log(tf: TaskFlow, job: JobHandle | JobInfo) -> list[tuple[str, str]]:
    return [(line.level, line.message) for line in tf.jobs.logs(job.id)]


def is_final(job: JobInfo, kind: str, *words: str) -> None:
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert (job.error.type, job.error.final, job.attempt) == (kind, True, 1), job.error
    for word in words:
        assert word in job.error.message


# -- what comes of it ------------------------------------------------------------------------------------------------


def test_a_command_s_output_is_in_its_log_and_the_end_of_it_in_its_result(
    tf: TaskFlow, running: ServiceCluster
) -> None:
    job = new(tf, script="echo one; echo two >&2; printf 'three without an end'")

    done = ended(job)

    assert done.state is JobState.SUCCEEDED, done.error
    assert done.result == {
        "exit_code": 0,
        "stdout_tail": "one\nthree without an end",
        "stderr_tail": "two\n",
    }
    shown = command_of(running)("job", "logs", job.id).stdout
    assert sorted(line.split()[-1] for line in shown.splitlines()) == ["end", "one", "two"]
    assert sorted(log(tf, job)) == [("info", "one"), ("info", "three without an end"), ("warning", "two")]


@pytest.mark.parametrize(
    "payload",
    [
        {"command": ["echo", "a b", "$HOME;"]},
        {"command": "echo", "args": ["a b", "$HOME;"]},
        {"command": [shutil.which("echo"), "a b", "$HOME;"]},
    ],
)
def test_a_command_is_run_without_a_shell(tf: TaskFlow, payload: dict[str, Any]) -> None:
    assert ran(tf, **payload).result["stdout_tail"] == "a b $HOME;\n"


@pytest.mark.feature("S1.1")
def test_a_named_task_runs_a_command_instead_of_a_handler(tf: TaskFlow) -> None:
    tf.tasks.create("greet", target="shell.run", queue="commands", payload={"command": ["echo", "hello"]})

    assert tf.tasks.run_with_result("greet", timeout=30)["stdout_tail"] == "hello\n"


def test_a_script_takes_arguments_and_input(tf: TaskFlow) -> None:
    done = ran(tf, script='cat; echo "$0 $2 $1"', args=["a b", "$(c)"], stdin="in\n" * 50_000)

    assert done.result["stdout_tail"].endswith("in\nin\nscript $(c) a b\n")


def test_a_command_without_input_finds_it_empty(tf: TaskFlow) -> None:
    assert ran(tf, command=["cat"]).result["stdout_tail"] == ""


def test_the_environment_holds_what_the_operator_and_the_job_give_and_no_more(tf: TaskFlow) -> None:
    job = new(tf, command=["env"], env={"MINE": "1 2"})

    found = dict(line.split("=", 1) for line in ended(job).result["stdout_tail"].splitlines())

    attempt = next(iter(tf.jobs.attempts(job.id)))
    assert found == {
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "PASSED_ON": "yes",
        "MINE": "1 2",
        "TASKFLOW_JOB_ID": job.id,
        "TASKFLOW_EXEC_ID": attempt.exec_id,
        "TASKFLOW_ATTEMPT": "1",
    }


def test_who_started_it_has_nothing_in_its_environment(tf: TaskFlow) -> None:
    """A parent with the worker's environment would show all its secrets."""
    assert ran(tf, script="cat /proc/$PPID/environ; echo; echo end").result["stdout_tail"] == "\nend\n"


def test_without_a_folder_it_runs_in_an_empty_one_that_is_gone_afterwards(tf: TaskFlow) -> None:
    done = ran(tf, script="pwd; ls -A; touch here; mkdir -p deep/er")

    (where,) = done.result["stdout_tail"].splitlines()
    assert where.startswith(os.path.realpath("/tmp"))
    assert not Path(where).exists()


def test_it_runs_in_the_folder_that_it_asks_for_where_that_is_allowed(tf: TaskFlow, folder: Path) -> None:
    (folder / "inside").mkdir(exist_ok=True)

    assert ran(tf, script="pwd; touch kept", cwd=str(folder / "inside")).result["stdout_tail"] == f"{folder}/inside\n"
    assert (folder / "inside" / "kept").exists()


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({"script": "echo before; echo why >&2; exit 7"}, ("exit code 7", "it said last: why")),
        ({"script": "exit 139"}, ("exit code 139", "SIGSEGV")),
        ({"script": "kill -KILL $$"}, ("ended by SIGKILL",)),
        ({"script": "kill -KILL 0"}, ("ended by SIGKILL",)),
        ({"script": "nonsense-4711"}, ("exit code 127", "nonsense-4711")),
        ({"command": ["false"]}, ("exit code 1",)),
    ],
)
def test_another_exit_code_or_a_signal_fails_the_attempt(
    tf: TaskFlow, payload: dict[str, Any], words: tuple[str, ...]
) -> None:
    done = ran(tf, **payload)

    assert done.error is not None
    assert (done.error.type, done.error.final) == ("ExitCode", False)
    for word in words:
        assert word in done.error.message


def test_a_failed_command_is_tried_again(tf: TaskFlow, folder: Path) -> None:
    script = 'echo "try $TASKFLOW_ATTEMPT"; mkdir once 2>/dev/null && exit 1; rmdir once'

    done = ended(new(tf, {"retries": 1}, script=script, cwd=str(folder)))

    assert (done.state, done.attempt, done.result["stdout_tail"]) == (JobState.SUCCEEDED, 2, "try 2\n")


# -- bounds ----------------------------------------------------------------------------------------------------------


def test_a_long_line_becomes_several_and_no_character_is_split(tf: TaskFlow) -> None:
    job = new(tf, command=[sys.executable, "-c", "print('ü' * 5000)"])
    ended(job)

    lines = [message for _, message in log(tf, job)]

    assert [len(line) for line in lines] == [2000, 2000, 1000]
    assert "".join(lines) == "ü" * 5000


def test_output_beyond_the_limit_is_counted_and_fills_no_memory(tf: TaskFlow, running: ServiceCluster) -> None:
    ran(tf, script="echo warm")
    before = peak_memory(running.pid("worker"))

    job = new(tf, script="seq 1000000; head -c 100000000 /dev/zero; echo; echo last")
    done = ended(job, 60)

    assert done.state is JobState.SUCCEEDED, done.error
    assert done.result["stdout_tail"].endswith("\nlast\n") and len(done.result["stdout_tail"]) <= 8192
    lines = log(tf, job)
    assert [message for _, message in lines[:3]] == ["1", "2", "3"]
    level, note = lines[-1]
    assert level == "warning" and "more lines were left out" in note and "TASKFLOW_SHELL_MAX_LOG_BYTES" in note
    kept = [message for _, message in lines[:-1]]
    assert kept == [str(n + 1) for n in range(len(kept))], "what is kept is whole, and in order"
    assert len(kept) > 2_000, "more than the worker takes at once: the command waited"
    assert sum(map(len, kept)) <= 200_000
    assert peak_memory(running.pid("worker")) - before < 20 << 20


# -- what is not allowed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({"command": ["rm", "-rf", "/"]}, ("payload.command", "'rm'", "TASKFLOW_SHELL_ALLOW", "echo")),
        ({"command": ["/bin/../bin/echo"]}, ("payload.command",)),
        ({"command": ["./echo"]}, ("payload.command",)),
        ({"command": ["/tmp/echo"]}, ("payload.command",)),
        ({"command": "echo x"}, ("payload.command",)),
        ({"script": "pwd", "cwd": "/etc"}, ("payload.cwd", "TASKFLOW_SHELL_FOLDERS")),
        ({"script": "pwd", "cwd": "FOLDER/.."}, ("payload.cwd",)),
        ({"script": "pwd", "cwd": "FOLDER/out"}, ("payload.cwd",)),
        ({"script": "pwd", "cwd": "FOLDER/nothing"}, ("payload.cwd",)),
        ({"script": "pwd", "cwd": "."}, ("payload.cwd",)),
    ],
)
def test_what_the_operator_does_not_allow_ends_the_job(
    tf: TaskFlow, folder: Path, payload: dict[str, Any], words: tuple[str, ...]
) -> None:
    if not (folder / "out").is_symlink():
        (folder / "out").symlink_to("/etc")
    payload = {k: v.replace("FOLDER", str(folder)) if isinstance(v, str) else v for k, v in payload.items()}

    is_final(ended(new(tf, {"retries": 2}, **payload)), "Forbidden", *words)


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({}, ("either command or script",)),
        ({"command": ["echo"], "script": "echo"}, ("either command or script",)),
        ({"command": []}, ("command is empty",)),
        ({"command": ["echo"], "args": ["x"]}, ("args",)),
        ({"command": ["echo", 1]}, ("payload.command",)),
        ({"command": ["echo", "a\0b"]}, ("payload.command", "zero byte")),
        ({"command": ["env"], "env": {"LD_PRELOAD": "/tmp/x.so"}}, ("payload.env", "LD_PRELOAD")),
        ({"command": ["env"], "env": {"BASH_ENV": "x"}}, ("payload.env", "TASKFLOW_SHELL_PASS_ENV")),
        ({"command": ["env"], "env": {"PATH": "/tmp"}}, ("payload.env",)),
        ({"command": ["env"], "env": {"A=B": "x"}}, ("payload.env",)),
        ({"command": ["env"], "timeout": 3}, ("payload.timeout", "there is no such field")),
    ],
)
def test_a_payload_that_does_not_fit_ends_the_job_and_names_the_field(
    tf: TaskFlow, payload: dict[str, Any], words: tuple[str, ...]
) -> None:
    is_final(ended(new(tf, {"retries": 2}, **payload)), "InvalidPayload", *words)


def test_an_argument_list_that_the_system_does_not_take_ends_the_job(tf: TaskFlow) -> None:
    is_final(ran(tf, command=["echo", "x" * 200_000]), "CannotStart", "Argument list too long")


def test_scripts_and_commands_are_off_by_default(make_cluster: Callable[..., ServiceCluster], tmp_path: Path) -> None:
    cluster = make_cluster(services=EVERYTHING, env={"worker": {"TASKFLOW_BUILTINS": "http, shell"}})
    cluster.start_all()
    with TaskFlow(cluster.scheduler_address) as tf:
        is_final(ran(tf, script="true"), "Forbidden", "payload.script", "TASKFLOW_SHELL_SCRIPTS")
        is_final(ran(tf, command=["echo"]), "Forbidden", "payload.command", "TASKFLOW_SHELL_ALLOW): none")
        is_final(ran(tf, command=["bash", "-c", "true"]), "Forbidden")
    assert "accepts no command" in cluster.log("worker")
    cluster.close()


def test_it_runs_beside_an_app_whose_handlers_are_in_another_thread(
    make_cluster: Callable[..., ServiceCluster], tmp_path: Path
) -> None:
    settings = {"TASKFLOW_BUILTINS": "shell", "TASKFLOW_SHELL_SCRIPTS": "on", "TASKFLOW_SHELL_FOLDERS": str(tmp_path)}
    cluster = make_cluster(services=EVERYTHING, app="tests.support.cli_drained:app", env={"worker": settings})
    cluster.start_all()
    with TaskFlow(cluster.scheduler_address) as tf:
        nap = tf.new_job("drained", {"seconds": 0, "started": str(tmp_path / "started")}, task="nap")
        job, pids = planted(tf, tmp_path, {"timeout": 3})

        assert nap.wait(timeout=20).state is JobState.SUCCEEDED
        assert ran(tf, script="echo beside").result["stdout_tail"] == "beside\n"
        assert ended(job).error.type == "TimedOut"  # type: ignore[union-attr]
        eventually(lambda: dead(pids), 2)
    cluster.close()


# -- how it ends -----------------------------------------------------------------------------------------------------


def planted(tf: TaskFlow, folder: Path, options: dict[str, Any] | None = None) -> tuple[JobHandle, list[int]]:
    """A job whose tree of processes stands, and their ids."""
    notes = folder / f"{os.urandom(4).hex()}.pids"
    notes.touch()
    job = new(tf, options, script=TREE, env={"NOTES": str(notes)})
    pids = eventually(lambda: found if len(found := numbers(notes)) >= TREE_SIZE else None, 20)
    assert all(runs(pid) for pid in pids)
    return job, pids


def numbers(notes: Path) -> list[int]:
    return [int(line) for line in notes.read_text().split()]


def dead(pids: list[int]) -> bool:
    return not any(runs(pid) for pid in pids)


def test_a_tree_that_ignores_sigterm_is_dead_after_its_timeout(tf: TaskFlow, folder: Path) -> None:
    job, pids = planted(tf, folder, {"timeout": 3})

    done = ended(job, 20)

    assert (done.state, done.error.type) == (JobState.FAILED, "TimedOut")  # type: ignore[union-attr]
    eventually(lambda: dead(pids), 2)
    assert ("info", "planted") in log(tf, job)


def test_a_cancelled_command_may_end_by_itself_within_the_grace(tf: TaskFlow, folder: Path) -> None:
    said = folder / "said"
    script = 'trap "echo bye > said; exit 0" TERM; echo ready > started; while :; do sleep 0.05; done'
    job = new(tf, script=script, cwd=str(folder))
    eventually((folder / "started").exists)

    job.cancel()

    assert ended(job, 20).state is JobState.CANCELLED
    assert said.read_text() == "bye\n"


def test_a_cancelled_tree_is_dead(tf: TaskFlow, folder: Path) -> None:
    job, pids = planted(tf, folder)

    job.cancel()

    assert ended(job, 20).state is JobState.CANCELLED
    eventually(lambda: dead(pids), 3)


def test_what_a_command_leaves_behind_ends_with_it(tf: TaskFlow, folder: Path) -> None:
    """And its result does not wait for what holds its output open."""
    notes = folder / "left"
    script = "(setsid sleep 1000 & echo $! >> left; sleep 1000 & echo $! >> left); echo done"

    done = ran(tf, script=script, cwd=str(folder))

    assert (done.state, done.result["stdout_tail"]) == (JobState.SUCCEEDED, "done\n")
    assert len(numbers(notes)) == 2
    assert dead(numbers(notes))


def test_one_command_s_end_leaves_the_others_alone(tf: TaskFlow, folder: Path) -> None:
    (folder / "go").unlink(missing_ok=True)
    waits = new(tf, script="while [ ! -e go ]; do sleep 0.02; done; echo went", cwd=str(folder))
    job, pids = planted(tf, folder)

    job.cancel()
    ended(job, 20)
    eventually(lambda: dead(pids), 3)
    (folder / "go").touch()

    assert ended(waits).result["stdout_tail"] == "went\n"


# -- and what ends the worker, too: each on a cluster of its own ----------------------------------------------------


@pytest.fixture
def own(make_cluster: Callable[..., ServiceCluster], tmp_path: Path) -> Iterator[tuple[ServiceCluster, TaskFlow]]:
    cluster = cluster_with(make_cluster, tmp_path, TASKFLOW_GRACE="0.5")
    with TaskFlow(cluster.scheduler_address) as tf:
        yield cluster, tf
    cluster.close()


def test_nothing_outlives_a_worker_that_is_killed(own: tuple[ServiceCluster, TaskFlow], tmp_path: Path) -> None:
    cluster, tf = own
    _, pids = planted(tf, tmp_path)
    keepers = descendants(cluster.pid("worker"))

    cluster.kill("worker", signal.SIGKILL)

    eventually(lambda: dead([*pids, *keepers]), 5)


def test_a_command_whose_keeper_is_killed_dies_and_fails(own: tuple[ServiceCluster, TaskFlow], tmp_path: Path) -> None:
    cluster, tf = own
    before = set(descendants(cluster.pid("worker")))
    job = new(tf, script="echo $$ > pid; exec sleep 1000", cwd=str(tmp_path))
    (pid,) = eventually(lambda: numbers(tmp_path / "pid") if (tmp_path / "pid").exists() else None)
    keeper = parent(pid)
    assert keeper in set(descendants(cluster.pid("worker"))) - before

    os.kill(keeper, signal.SIGKILL)

    done = ended(job)
    assert done.error is not None
    assert done.error.type == "ExitCode" and "was killed" in done.error.message
    eventually(lambda: dead([pid]), 3)


def test_the_end_of_a_drain_ends_the_tree_and_uses_no_try(own: tuple[ServiceCluster, TaskFlow], tmp_path: Path) -> None:
    cluster, tf = own
    job, pids = planted(tf, tmp_path)

    assert cluster.stop("worker") == 0

    eventually(lambda: dead(pids), 3)
    (attempt,) = tf.jobs.attempts(job.id)
    assert attempt.outcome is Outcome.RETURNED
    assert job.get().state is JobState.READY


def test_a_worker_that_is_cut_off_ends_the_tree_before_its_lease_is_over(
    make_cluster: Callable[..., ServiceCluster], tmp_path: Path
) -> None:
    cluster = cluster_with(make_cluster, tmp_path, lease="6")
    with TaskFlow(cluster.scheduler_address) as tf:
        _, pids = planted(tf, tmp_path)

        cluster.kill("coordinator", signal.SIGKILL)

        eventually(lambda: dead(pids), 6)
        assert cluster.alive("worker")
        cluster.kill("worker")  # it would wait for the coordinator, to give back what it has
    cluster.close()

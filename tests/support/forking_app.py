"""The app of tests/system/test_sdk_forks.py: handlers of four kinds that fork, and start programs.

    python -m tests.support.forking_app
"""

import asyncio
import contextlib
import contextvars
import locale
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from taskflow import FailedPrecondition, Job, TaskFlow

tf = TaskFlow(os.environ.get("TASKFLOW_SCHEDULER_ADDRESS"))
FORK = multiprocessing.get_context("fork")
SEEN = contextvars.ContextVar("SEEN", default="")


def _sleep() -> None:
    time.sleep(60)


def pool(job: Job) -> Any:
    with FORK.Pool(2) as processes:
        return processes.map(abs, [-1, -2])


def terminated_fork(job: Job) -> Any:
    """Without a moment between the fork and its end."""
    process = FORK.Process(target=_sleep, daemon=True)
    process.start()
    process.terminate()
    process.join(5)
    code = process.exitcode
    process.kill()
    return code


def terminated_program(job: Job) -> Any:
    with subprocess.Popen(["sleep", "60"]) as program:
        program.terminate()
        try:
            return program.wait(5)
        except subprocess.TimeoutExpired:
            program.kill()
            raise


def interrupted_fork(job: Job) -> Any:
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            os.write(write, b"x")
            time.sleep(10)
        except KeyboardInterrupt:
            os._exit(7)
        os._exit(0)
    os.read(read, 1)
    os.kill(pid, signal.SIGINT)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def returning_fork(job: Job) -> Any:
    """It returns once the file is there, and the handler at once."""
    go = Path(job.payload["file"])
    if os.fork() == 0:
        while not go.exists():
            time.sleep(0.01)
        return "of the fork"
    return "of the handler"


def raising_fork(job: Job) -> Any:
    if (pid := os.fork()) == 0:
        raise SystemExit(5)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def fork_with_notes(job: Job) -> Any:
    """The error that a fork gets when it speaks for the job."""
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(read)
        for note in (lambda: job.log("x"), lambda: job.progress(1), job.heartbeat):
            try:
                note()
            except FailedPrecondition as error:
                os.write(write, error.reason.encode() + b" ")
        os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    with open(read) as said:
        return said.read().split()


def crash(job: Job) -> Any:
    """Its fork lives on."""
    if os.fork() == 0:
        _sleep()
    os._exit(7)


def become(job: Job) -> Any:
    os.execvp("sleep", ["sleep", "60"])


def plant(job: Job) -> Any:
    """A program in a session of its own, and one whose parent has ended. Tells them, and goes on."""
    script = 'echo $$ >> "$0"; (setsid bash -c \'trap "" TERM; echo $$ >> "$0"; sleep 60\' "$0" &) ; sleep 60'
    program = subprocess.Popen(["bash", "-c", script, job.payload["file"]], start_new_session=True)
    program.wait()


def daemonise(job: Job) -> Any:
    """Twice forked, in a session of its own; the answer is the daemon's pid."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(write, str(os.getpid()).encode())
            _sleep()
        os._exit(0)
    with contextlib.suppress(ChildProcessError):  # another handler, which reaps all, was quicker
        os.waitpid(child, 0)
    return int(os.read(read, 20))


def change(job: Job) -> Any:
    """Leaves behind what a job may leave."""
    SEEN.set("changed")
    if threading.current_thread() is threading.main_thread() and "process" in job.task:
        os.chdir("/")
        os.environ["LEFT"] = "behind"
        os.environ.pop("HOME", None)
        os.umask(0o777)
        locale.setlocale(locale.LC_ALL, "C.UTF-8" if locale.setlocale(locale.LC_ALL) == "C" else "C")
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.alarm(1)
        sys.path.insert(0, "/left")
        sys.argv.append("left")


def state(job: Job) -> Any:
    os.umask(umask := os.umask(0))
    found = [SEEN.get(), os.getcwd(), os.environ.get("LEFT"), "HOME" in os.environ, umask]
    found += [locale.setlocale(locale.LC_ALL), signal.getsignal(signal.SIGUSR1).name, signal.alarm(0)]  # type: ignore
    return [*found, "/left" in sys.path, "left" in sys.argv]


def ping(job: Job) -> Any:
    return "pong"


DOES: dict[str, Callable[[Job], Any]] = {
    each.__name__: each
    for each in (
        pool, terminated_fork, terminated_program, interrupted_fork, returning_fork, raising_fork, fork_with_notes,
        crash, become, plant, daemonise, change, state, ping,
    )
}  # fmt: skip


@tf.task(queue="forks")
def in_thread(job: Job) -> Any:
    return DOES[job.payload["do"]](job)


@tf.task(queue="forks")
async def on_loop(job: Job) -> Any:
    return DOES[job.payload["do"]](job)


@tf.task(queue="forks", processes=1)
def in_process(job: Job) -> Any:
    return DOES[job.payload["do"]](job)


@tf.task(queue="forks", processes=1)
async def in_process_loop(job: Job) -> Any:
    return DOES[job.payload["do"]](job)


@tf.task(queue="forks")
async def reap(job: Job) -> None:
    """From now on somebody else waits for all children of the worker, or nobody can."""
    if job.payload == "ignore":
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        return

    def wait_for_all() -> None:
        while True:
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                time.sleep(0.01)

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    threading.Thread(target=wait_for_all, daemon=True).start()
    await asyncio.sleep(0)


if __name__ == "__main__":
    tf.run(concurrency=4)

"""The handler `shell.run`: a command as a job, its output in the job's log, its exit code as the outcome."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import tempfile
from typing import Any, NoReturn

from taskflow import Job
from taskflow_server.worker.failures import give_up, read, try_again
from taskflow_server.worker.settings import WorkerSettings
from taskflow_server.worker.shell.command import Command, Ending, Kept
from taskflow_server.worker.shell.output import Budget, Output
from taskflow_server.worker.shell.rules import ShellPayload, argv_of, environment_of, folder_of

_NO_ROOM = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ETXTBSY}
_SHOWN = 1_000  # characters of the end of its output in an error


class ShellRunner:
    """Callable with a job. One per worker."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings

    async def __call__(self, job: Job) -> dict[str, Any]:
        settings = self._settings
        command = self._command(job)
        budget = Budget(settings.shell_max_log_bytes, job.log)
        stdout, stderr = Output(budget, "info"), Output(budget, "warning")
        try:
            kept = Kept(command, stdout.feed, stderr.feed)
        except OSError as error:
            shutil.rmtree(command.folder, ignore_errors=True)
            raise try_again("CannotStart", f"{command.argv[0]}: {error.strerror}") from None
        try:
            ending = await kept.wait()
        except asyncio.CancelledError:
            budget.hurry()
            await kept.stop(settings.shell_kill_grace)
            raise
        finally:
            await stdout.close()
            await stderr.close()
            budget.close()
        if ending != Ending("exit", 0):
            _failed(command, ending, stderr.tail or stdout.tail)
        return {"exit_code": 0, "stdout_tail": stdout.tail, "stderr_tail": stderr.tail}

    def _command(self, job: Job) -> Command:
        payload = read(ShellPayload, job.payload)
        argv = argv_of(payload, self._settings)
        cwd = folder_of(payload, self._settings)
        attempt = {"TASKFLOW_JOB_ID": job.id, "TASKFLOW_EXEC_ID": job.exec_id, "TASKFLOW_ATTEMPT": str(job.attempt)}
        env = {**environment_of(payload, self._settings), **attempt}
        folder = tempfile.mkdtemp(prefix="taskflow-") if cwd is None else ""
        return Command(argv, env, cwd or folder, folder, payload.stdin or "")


def _failed(command: Command, ending: Ending, tail: str) -> NoReturn:
    name, number = command.argv[0], ending.number
    if ending.kind == "error":
        message = f"{name}: {os.strerror(number)}"
        raise try_again("CannotStart", message) if number in _NO_ROOM else give_up("CannotStart", message)
    if ending.kind == "lost":
        raise try_again("ExitCode", f"{name}: the process that kept it was killed; how it ended is not known")
    how = f"exit code {number}"
    if ending.kind == "signal":
        how = f"ended by {_signal(number)}"
    elif 128 < number <= 128 + signal.SIGRTMAX:
        how += f" (a shell says so of {_signal(number - 128)})"
    said = tail.strip()[-_SHOWN:]
    raise try_again("ExitCode", f"{name}: {how}" + (f"; it said last: {said}" if said else ""))


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

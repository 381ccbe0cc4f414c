"""The handlers that TaskFlow brings along, `http.call`, `shell.run` and `taskflow.alert`, as tasks of an app."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taskflow import AsyncTaskFlow, Job, TaskFlow
from taskflow_server.runtime import logs
from taskflow_server.worker.settings import WorkerSettings

if TYPE_CHECKING:
    from taskflow_server.worker.http.alert import AlertSender
    from taskflow_server.worker.http.call import HttpCaller

log = logs.get("builtins")


def register(app: TaskFlow | AsyncTaskFlow, settings: WorkerSettings) -> None:
    """Those that the settings name."""
    if "http" in settings.builtin_names:
        _register_http(app, settings)
    if "alert" in settings.builtin_names:
        _register_alert(app, settings)
    if "shell" in settings.builtin_names:
        _register_shell(app, settings)


def _register_http(app: TaskFlow | AsyncTaskFlow, settings: WorkerSettings) -> None:
    caller: HttpCaller | None = None

    async def http_call(job: Job) -> dict[str, Any]:
        nonlocal caller
        if caller is None:
            from taskflow_server.worker.http.call import (
                HttpCaller,  # aiohttp takes 0.2 s, which most workers never need
            )

            caller = HttpCaller(settings)
        return await caller(job)

    app.task(name="http.call")(http_call)


def _register_alert(app: TaskFlow | AsyncTaskFlow, settings: WorkerSettings) -> None:
    sender: AlertSender | None = None

    async def taskflow_alert(job: Job) -> dict[str, Any]:
        nonlocal sender
        if sender is None:
            from taskflow_server.worker.http.alert import AlertSender  # likewise

            sender = AlertSender(settings)
        return await sender(job)

    app.task(name="taskflow.alert")(taskflow_alert)


def _register_shell(app: TaskFlow | AsyncTaskFlow, settings: WorkerSettings) -> None:
    from taskflow_server.worker.shell.run import ShellRunner

    if not settings.programs and settings.shell_scripts == "off":
        log.warning("shell.run accepts no command: TASKFLOW_SHELL_ALLOW is empty, and TASKFLOW_SHELL_SCRIPTS off")
    runner = ShellRunner(settings)

    async def shell_run(job: Job) -> dict[str, Any]:
        return await runner(job)

    app.task(name="shell.run", timeout=settings.shell_timeout)(shell_run)

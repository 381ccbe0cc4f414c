"""The app of a packaged worker, which runs until it is asked to drain."""

from __future__ import annotations

import asyncio

from taskflow import AsyncTaskFlow, TaskFlow, apps
from taskflow_server.runtime import logs
from taskflow_server.worker import builtins
from taskflow_server.worker.settings import WorkerSettings

log = logs.get("worker")


def load_app(settings: WorkerSettings) -> TaskFlow | AsyncTaskFlow | None:
    """The app that the settings name, against their scheduler, with the built-in handlers that they name.

    None if they name neither. InvalidArgument in one line.
    """
    app: TaskFlow | AsyncTaskFlow
    if settings.app:
        app = apps.load(settings.app, scheduler=settings.scheduler_address)
    else:
        app = AsyncTaskFlow(settings.scheduler_address)
    builtins.register(app, settings)
    return app if settings.app or settings.builtin_names else None


class Running:
    """`run` ends after `drain`, or with the error that ended the app."""

    def __init__(self, app: TaskFlow | AsyncTaskFlow | None, settings: WorkerSettings) -> None:
        self._app = app
        self._settings = settings
        self._draining = asyncio.Event()
        self._ended = asyncio.Event()

    async def run(self) -> None:
        try:
            if self._app is None:
                if not self._settings.destinations:
                    log.info("TASKFLOW_APP names no app, and TASKFLOW_BUILTINS no built-in handler: nothing to run")
                await self._draining.wait()
            else:
                named = {"app": self._settings.app or None, "builtins": self._settings.builtins or None}
                named = {key: value for key, value in named.items() if value}
                log.info("worker started", **named, scheduler=self._settings.scheduler_address)
                await self._run(self._app)
        finally:
            self._ended.set()

    async def _run(self, app: TaskFlow | AsyncTaskFlow) -> None:
        given = self._settings
        if isinstance(app, AsyncTaskFlow):
            await app.run(
                concurrency=given.concurrency,
                queues=given.queue_names,
                grace=given.grace,
                prefetch=given.prefetch,
                strict=given.strict,
                strict_after=given.strict_after,
                name=given.name,
            )
        else:
            await asyncio.to_thread(
                app.run,
                concurrency=given.concurrency,
                queues=given.queue_names,
                grace=given.grace,
                prefetch=given.prefetch,
                strict=given.strict,
                strict_after=given.strict_after,
                name=given.name,
            )

    async def drain(self) -> None:
        """Takes no new jobs, lets running ones finish within the grace, and returns the rest; then it returns."""
        self._draining.set()
        if self._app is not None:
            self._app.stop()
        await self._ended.wait()

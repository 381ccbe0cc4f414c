"""The pushers of a packaged worker: one for each destination, over one connection to TaskFlow."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from taskflow_server.runtime import logs
from taskflow_server.runtime.clock import RealClock
from taskflow_server.worker.push import destination_types
from taskflow_server.worker.push.destination import Destination
from taskflow_server.worker.push.executor import Executor
from taskflow_server.worker.push.pusher import Pusher
from taskflow_server.worker.push.rules import Rules
from taskflow_server.worker.settings import WorkerSettings

log = logs.get("push")


def load_destinations(settings: WorkerSettings) -> list[Destination]:
    """Those that the settings name. ValueError in one line, that begins with the setting at fault."""
    if not settings.destinations:
        return []
    try:
        destination_types.check_owner(settings.owner)
    except ValueError as error:
        raise ValueError(f"TASKFLOW_PUSH_OWNER: {error}") from None
    try:
        return list(destination_types.build(settings.owner, settings.destinations))
    except ValueError as error:
        raise ValueError(f"TASKFLOW_PUSH_DESTINATIONS: {error}") from None


class Pushing:
    """`run` ends after `drain`, or with the error of a pusher."""

    def __init__(self, destinations: list[Destination], settings: WorkerSettings) -> None:
        self._destinations = destinations
        self._settings = settings
        self._pushers: list[Pusher] = []
        self._ended = asyncio.Event()

    async def run(self) -> None:
        given = self._settings
        executor = Executor(given.scheduler_address, given.owner, given.push_in_progress_timeout)
        try:
            async with asyncio.TaskGroup() as pushers:
                for each in self._destinations:
                    routes = dict(given.destinations[each.name].routes(each.name))
                    pusher = Pusher(each, executor, routes, self._rules(each.name), RealClock())
                    self._pushers.append(pusher)
                    pushers.create_task(pusher.run(), name=f"push-{each.name}")
                    log.info(
                        "push destination started",
                        destination=each.name, kind=each.kind, owner=each.owner, tasks=sorted(routes),
                    )  # fmt: skip
        finally:
            self._ended.set()
            await executor.close()

    def _rules(self, name: str) -> Rules:
        given = self._settings
        return Rules(
            limit=given.destinations[name].limit,
            poll_interval=given.push_poll_interval,
            sweep_interval=given.push_sweep_interval,
            settle=given.push_settle,
            call_timeout=given.push_call_timeout,
            longest_pause=given.push_longest_pause,
        )

    async def drain(self) -> None:
        """Takes no new attempts; returns those that were not submitted. Submitted ones continue.

        Returns after the worker's grace at the latest: what hangs then is as after a crash.
        """
        for pusher in self._pushers:
            pusher.stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.grace):
                await self._ended.wait()

"""The handlers that workers have registered, with the options for the jobs of their tasks, as last read."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence, Set
from typing import Any

from taskflow_server.core.errors import InvalidArgument
from taskflow_server.core.names import qualify
from taskflow_server.rpc.defaults import NOTHING, Defaults, defaults_of
from taskflow_server.runtime import logs
from taskflow_server.runtime.batcher import Batcher
from taskflow_server.runtime.clock import SystemClock
from taskflow_server.store.database import Database
from taskflow_server.store.errors import FAULTS

log = logs.get("handlers")

LOOK_PATIENCE = 1.0  # seconds that a job of an unknown task waits for a read


class Handlers:
    """`interval`: minimum seconds between two reads by `look`."""

    def __init__(self, db: Database, clock: SystemClock, interval: float) -> None:
        self._db = db
        self._clock = clock
        self._interval = interval
        self._version = -1
        self._of: dict[str, Defaults] = {}
        self._looked_at = float("-inf")
        self._away = False  # the last read failed
        self._looks: Batcher[None, None] = Batcher(self._look, limit=100_000)

    def known(self, task: str) -> bool:
        """Whether a worker has ever registered it, as last read."""
        return _stored(task) in self._of

    def of(self, task: str) -> Defaults:
        return self._of.get(_stored(task), NOTHING) if task else NOTHING

    @property
    def names(self) -> Set[str]:
        """All handlers that a worker has ever registered."""
        return self._of.keys()

    async def refresh(self, version: int | None = None) -> None:
        """Reads them if they have changed. `version`: as just read; None: it is to be read."""
        if version is None:
            version = (await self._db.rows("handlers_version"))[0]["version"]
        if version != self._version:
            self._of = {row["name"]: _readable(row) for row in await self._db.rows("list_handlers")}
            self._version = version
        self._away = False

    async def look(self) -> None:
        """Reads them, unless they were read a moment ago: an unknown one may have been registered since."""
        if self._away or self._clock.real.monotonic() - self._looked_at <= self._interval:
            return
        try:
            async with asyncio.timeout(LOOK_PATIENCE):
                await asyncio.shield(self._looks.submit([None]))
        except (TimeoutError, *FAULTS):
            self._away = True  # until a read succeeds: a job that cannot be stored is refused without this wait

    async def _look(self, waiting: Sequence[None]) -> Sequence[None]:
        if self._clock.real.monotonic() - self._looked_at > self._interval:
            await self.refresh()
            self._looked_at = self._clock.real.monotonic()
        return waiting


def _readable(row: dict[str, Any]) -> Defaults:
    """The options of a row, or none if it cannot be read: one bad row must not prevent reading all others."""
    try:
        return defaults_of(row)
    except Exception as error:
        log.error("a handler's options cannot be read", task=row["name"], why=f"{type(error).__name__}: {error}"[:300])
        return NOTHING


def _stored(task: str) -> str:
    """The stored form of a name; an invalid name is returned as it is: no handler has it."""
    try:
        return qualify(task, field="task")
    except InvalidArgument:
        return task

"""Rows of `members`: detects stopped processes, and allows one process at a time under a name (protocol B1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from taskflow._process.identity import Process, is_gone, own
from taskflow_server.coordinator.shared import Shared
from taskflow_server.runtime import logs
from taskflow_server.store.errors import FAULTS

log = logs.get("membership")

READS = 3  # successful reads of an unchanged beat before a member counts as stopped
LOOK = 0.25  # seconds between checks of a name that another process has


class Beats:
    """Detects stopped members by this process's monotonic clock: no clocks are compared."""

    def __init__(self, monotonic: Callable[[], float], owner_timeout: float) -> None:
        self._monotonic = monotonic
        self._timeout = owner_timeout
        self._seen: dict[str, tuple[tuple[UUID, int], float, int]] = {}  # by name: beat, since when, successful reads

    def has_stopped(self, member: dict[str, Any]) -> bool:
        """Whether its process is proved dead, or its beat has not moved for the owner timeout, in several reads."""
        process = Process(member["pid_namespace"] or "", member["pid"] or 0, member["pid_started"] or 0)
        if is_gone(process):
            return True
        now, beat = self._monotonic(), (member["incarnation"], member["beat"])
        known, since, reads = self._seen.get(member["name"], (None, now, 0))
        if known != beat:
            self._seen[member["name"]] = (beat, now, 1)
            return False
        self._seen[member["name"]] = (beat, since, reads + 1)
        return now - since >= self._timeout and reads + 1 >= READS


async def take_name(shared: Shared, beats: Beats, incarnation: UUID) -> None:
    """Returns once this process's row is in `members`.

    A former process of this name is replaced when it has left, when it is proved dead, or when its beat has stopped.
    While it lives this one waits: two that a supervisor starts under one name would otherwise end each other for ever.
    Raises FAULTS before the wait; an outage during the wait is waited out.
    """
    settings, process = shared.settings, own()
    mine = {
        "name": settings.name,
        "kind": "coordinator",
        "incarnation": incarnation,
        "addresses": settings.addresses,
        "pid_namespace": process.namespace or None,
        "pid": process.pid or None,
        "pid_started": process.started or None,
    }
    outage = shared.readiness.outage(log, "this process cannot take its name")
    waits = False
    while True:
        try:
            found = await shared.db.rows("find_member", name=settings.name)
            former = found[0] if found else None
            if former is not None and former["incarnation"] == incarnation:
                return  # the answer to the write was lost
            if former is None or beats.has_stopped(former):
                replaced = {"former": former["incarnation"], "beat": former["beat"]} if former else _NOBODY
                if await shared.db.run("take_name", **mine, **replaced):
                    return
            elif not waits:
                waits = True
                log.warning("another process runs under this name; waiting until it ends", name=settings.name)
            outage.over()
        except FAULTS as error:
            if not waits:
                raise  # at the start: the process ends with the error
            outage.failed(error)
        await shared.clock.real.sleep(LOOK)


_NOBODY: dict[str, Any] = {"former": None, "beat": None}

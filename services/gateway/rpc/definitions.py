"""Definitions: the first poll or job of one over /rpc registers it as a task, which people then see and change."""

from __future__ import annotations

from collections.abc import Iterable

from taskflow.v1 import tasks_pb2
from taskflow_server.gateway.errors import Failure
from taskflow_server.gateway.gateway import Gateway

MOST = 10_000  # limit of the remembered names; beyond it the memory is cleared


class Definitions:
    def __init__(self, gateway: Gateway) -> None:
        self._upstream = gateway.upstream
        self._known: set[str] = set()

    async def learn(self, names: Iterable[str]) -> None:
        """Registers those that are not there."""
        for name in names:
            if name in self._known:
                continue
            try:
                await self._upstream.call(self._upstream.tasks.GetTask, tasks_pb2.GetTaskRequest(task=name))
            except Failure as failure:
                if failure.code != "NOT_FOUND":
                    raise
                await self.register(name)
            if len(self._known) >= MOST:
                self._known.clear()
            self._known.add(name)

    async def register(self, name: str) -> None:
        """As many may at once."""
        request = tasks_pb2.CreateTaskRequest(task=tasks_pb2.Task(name=name), first_seen=True)
        try:
            await self._upstream.call(self._upstream.tasks.CreateTask, request)
        except Failure as failure:
            if failure.code != "ALREADY_EXISTS":
                raise

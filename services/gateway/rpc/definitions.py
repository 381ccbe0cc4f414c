"""Definitions: the first poll or job of one over /rpc registers it as a task, which people then see and change."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.duration_pb2 import Duration

from services.gateway.errors import Failure
from services.gateway.gateway import Gateway
from taskflow.v1 import jobs_pb2, tasks_pb2

RETRIES = 2
DELAY = Duration(seconds=10)  # before each further try
MOST = 10_000  # names remembered; beyond, all are asked for anew


class Definitions:
    def __init__(self, gateway: Gateway) -> None:
        self._upstream = gateway.upstream
        self._known: set[str] = set()

    async def learn(self, names: Iterable[str]) -> None:
        """Registers those that are not there, with two retries, ten seconds apart."""
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
        backoff = jobs_pb2.Backoff(first=DELAY, limit=DELAY, factor=1, jitter=0)
        task = tasks_pb2.Task(name=name, retries=RETRIES, options=jobs_pb2.JobOptions(backoff=backoff))
        try:
            await self._upstream.call(self._upstream.tasks.CreateTask, tasks_pb2.CreateTaskRequest(task=task))
        except Failure as failure:
            if failure.code != "ALREADY_EXISTS":
                raise

"""Messages of the queue service to one coordinator, gathered into few."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from taskflow.v1.queue_pb2 import FeedResponse, Took
from taskflow.v1.worker_pb2 import Executor, ShardEpoch


class CoordinatorLink:
    """The events of one turn of the event loop are sent in one message."""

    def __init__(self) -> None:
        self._news = asyncio.Event()
        self._took: defaultdict[bytes, list[bytes]] = defaultdict(list)
        self._took_without_session: list[Took] = []
        self._removed: list[bytes] = []
        self._superseded: list[ShardEpoch] = []
        self._closed = False
        self.paused: frozenset[str] = frozenset()  # queues of its shards of which nothing is handed out

    def took(self, worker: bytes, exec_ids: list[bytes]) -> None:
        self._took[worker].extend(exec_ids)
        self._news.set()

    def took_without_session(self, executor: Executor, exec_ids: list[bytes]) -> None:
        self._took_without_session.append(Took(executor=executor, exec_ids=exec_ids))
        self._news.set()

    def removed(self, exec_ids: list[bytes]) -> None:
        self._removed.extend(exec_ids)
        self._news.set()

    def superseded(self, shard: int, epoch: int) -> None:
        self._superseded.append(ShardEpoch(shard=shard, epoch=epoch))
        self._news.set()

    def close(self) -> None:
        self._closed = True
        self._news.set()

    async def next(self) -> FeedResponse | None:
        """The next message; None when the link is closed."""
        await self._news.wait()
        self._news.clear()
        if self._closed:
            return None
        answer = FeedResponse(took=self._took_without_session, removed=self._removed, superseded=self._superseded)
        for worker, exec_ids in self._took.items():
            answer.took.add(worker_id=worker, exec_ids=exec_ids)
        self._took.clear()
        self._took_without_session, self._removed, self._superseded = [], [], []
        return answer

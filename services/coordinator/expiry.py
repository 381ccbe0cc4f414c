"""Jobs with a `start_by`: not started by then, they are cancelled, reason `expired` (R7)."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from services.coordinator.state import State
from services.core.book import Entry, Phase
from services.rpc.values import timestamp_us


class Expiry:
    def __init__(self, state: State) -> None:
        self._state = state
        self._heap: list[tuple[int, bytes]] = []

    def consider(self, entry: Entry) -> None:
        """Only before its first start: a retry has met the condition."""
        if entry.attempt == 1 and entry.spec.HasField("options") and entry.spec.options.HasField("start_by"):
            heapq.heappush(self._heap, (timestamp_us(entry.spec.options.start_by, "start_by"), entry.job_id))

    async def run(self, expire: Callable[[Entry], None]) -> None:
        state = self._state
        while True:
            await state.clock.sleep(0.25)
            now = state.clock.now_us()
            while self._heap and self._heap[0][0] <= now:
                _, job_id = heapq.heappop(self._heap)
                entry = state.book.by_job.get(job_id)
                if entry is None or entry.attempt != 1:
                    continue
                if entry.phase is Phase.QUEUED:
                    expire(entry)
                elif entry.phase is Phase.HELD or (entry.phase is Phase.TAKEN and not entry.started):
                    # It may have started, which is known as soon as its shard is settled; or may come back unstarted.
                    heapq.heappush(self._heap, (now + 1_000_000, job_id))

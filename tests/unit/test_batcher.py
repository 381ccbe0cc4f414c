"""Group commit: who is flushed with whom, and what becomes of callers that leave, and of failures."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from taskflow_server.runtime.batcher import Batcher


class Disk:
    """Takes batches, each when it is let."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may_end = asyncio.Event()

    async def flush(self, items: list[int]) -> Sequence[int]:
        self.batches.append(items)
        await self.may_end.wait()
        return [item * 10 for item in items]


async def test_what_arrives_during_a_flush_is_the_next_one_and_each_caller_gets_its_own_results() -> None:
    disk = Disk()
    batcher: Batcher[int, int] = Batcher(disk.flush)

    first = batcher.submit([1])
    await asyncio.sleep(0)
    others = [batcher.submit([2, 3]), batcher.submit([4])]
    waiting = batcher.backlog
    disk.may_end.set()

    assert [await each for each in (first, *others)] == [[10], [20, 30], [40]]
    assert disk.batches == [[1], [2, 3, 4]]
    assert (waiting, batcher.backlog) == (3, 0)


async def test_a_caller_that_leaves_before_its_batch_begins_is_left_out_of_it_and_later_is_not() -> None:
    disk = Disk()
    batcher: Batcher[int, int] = Batcher(disk.flush)

    under_way = batcher.submit([1])
    await asyncio.sleep(0)
    left, stayed = batcher.submit([2]), batcher.submit([3])
    under_way.cancel()
    left.cancel()
    disk.may_end.set()

    assert await stayed == [30]
    assert disk.batches == [[1], [3]]
    assert batcher.backlog == 0


async def test_nobody_waits_for_what_follows_a_batch_and_nobody_hears_of_its_failure() -> None:
    disk, followed = Disk(), list[tuple[list[int], Sequence[int]]]()
    may_follow = asyncio.Event()

    async def follow(items: list[int], results: Sequence[int]) -> None:
        followed.append((items, results))
        await may_follow.wait()
        raise RuntimeError("the line to the coordinator is cut")

    batcher: Batcher[int, int] = Batcher(disk.flush, then=follow)
    disk.may_end.set()

    answer = await batcher.submit([1])
    later = batcher.submit([2])
    may_follow.set()

    assert (answer, await later) == ([10], [20])
    await batcher.idle()
    assert followed == [([1], [10]), ([2], [20])]


async def test_a_failed_flush_is_the_failure_of_every_caller_in_it_and_of_nobody_else() -> None:
    async def flush(items: list[int]) -> Sequence[int]:
        if 1 in items:
            raise RuntimeError("disk full")
        return items

    batcher: Batcher[int, int] = Batcher(flush, limit=2)

    futures = [batcher.submit([n]) for n in (1, 2, 3)]
    answers = await asyncio.gather(*futures, return_exceptions=True)

    assert [str(answer) for answer in answers] == ["disk full", "disk full", "[3]"]

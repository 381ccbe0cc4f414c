"""A worker of the real SDK in its own process: an async handler that notes that it ran, and does nothing or waits."""

import argparse
import asyncio
from pathlib import Path

from benchmarks.board import Board
from taskflow import Job, TaskFlow

_LOOK = 0.005  # seconds between looks at a shut gate


def main() -> None:
    """Until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--scheduler", required=True)
    parser.add_argument("--queue", required=True)
    parser.add_argument("--board", required=True, type=Path)
    parser.add_argument("--slot", required=True, type=int)
    parser.add_argument("--concurrency", required=True, type=int)
    parser.add_argument("--takes", default=0.0, type=float, help="seconds that a handler waits, once it is noted")
    arguments = parser.parse_args()
    board, slot = Board(arguments.board), arguments.slot

    async def handler(job: Job) -> None:
        if board.is_shut(slot):
            board.hold(slot)
            while board.is_shut(slot):  # noqa: ASYNC110 - another process opens it
                await asyncio.sleep(_LOOK)
        board.note(slot, job.payload["n"])
        if arguments.takes:
            await asyncio.sleep(arguments.takes)

    with TaskFlow(arguments.scheduler) as tf:
        tf.run(arguments.queue, handler=handler, concurrency=arguments.concurrency, grace=2.0, name=f"bench-{slot}")


if __name__ == "__main__":
    main()

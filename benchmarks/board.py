"""A file that workers write and the harness reads: how many jobs each has begun, and when each job was.

One writer a slot, and one a job; times are of the monotonic clock, which on Linux all processes share. A worker whose
gate is shut holds its jobs before their first line, so that several workers can be let go together.
"""

import mmap
import time
from pathlib import Path

SLOTS = 8
_COUNTS, _SHUT, _HELD = 0, SLOTS, 2 * SLOTS  # where each kind of number begins, one a slot
_HEAD = 3 * SLOTS


class Board:
    """`jobs` is the most jobs of one shape; their numbers run from 0."""

    def __init__(self, path: Path, jobs: int = 0) -> None:
        if jobs:
            path.write_bytes(bytes((_HEAD + jobs) * 8))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        whole = memoryview(self._map)
        self._numbers = whole[: _HEAD * 8].cast("q")
        self._times = whole[_HEAD * 8 :].cast("d")
        self.path = path

    # -- for workers ---------------------------------------------------------------------------------------------

    def note(self, slot: int, number: int) -> None:
        """A handler has begun with the job of this number."""
        self._times[number] = time.monotonic()
        self._numbers[slot] += 1

    def is_shut(self, slot: int) -> bool:
        """Whether jobs are to be held."""
        return self._numbers[_SHUT + slot] != 0

    def hold(self, slot: int) -> None:
        """A job stands at the shut gate."""
        self._numbers[_HELD + slot] += 1

    # -- for the harness -----------------------------------------------------------------------------------------

    def clear(self, slot: int, *, shut: bool = False) -> None:
        """Forget the slot's counts, and all times."""
        self._numbers[_COUNTS + slot] = self._numbers[_HELD + slot] = 0
        self._numbers[_SHUT + slot] = int(shut)
        self._map[_HEAD * 8 :] = bytes(len(self._times) * 8)

    def open(self, slot: int) -> None:
        """Let what is held go."""
        self._numbers[_SHUT + slot] = 0

    def count(self, slot: int) -> int:
        """Handlers that the worker of this slot has begun."""
        return self._numbers[_COUNTS + slot]

    def held(self, slot: int) -> int:
        """Jobs that have come to its shut gate."""
        return self._numbers[_HELD + slot]

    def times(self, jobs: int) -> list[float]:
        """When each of the first `jobs` jobs was begun; 0.0: not yet."""
        return list(self._times[:jobs])

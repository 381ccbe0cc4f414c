"""Output of a command: line by line to the job's log, within bounds, and the end of it for the result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

MAX_LINE = 4_000  # bytes; a longer line becomes several
TAIL = 8 << 10  # bytes of each of stdout and stderr that the result holds
LINES_PER_SECOND = 1_000  # limit of the lines that the worker forwards; a command that writes faster waits
_BURST = 500
_PER_LINE = 64  # bytes that a line costs besides its text

Add = Callable[[str, str], None]


class Budget:
    """The budget that one attempt still has in the log, for both streams together."""

    def __init__(self, limit: int, add: Add) -> None:
        self._limit = self._left = limit
        self._add = add
        self._burst = 0
        self._dropped = 0
        self._paced = True

    def hurry(self) -> None:
        """Call when the command is being ended: its last lines are not waited for."""
        self._paced = False

    async def line(self, level: str, text: str, size: int) -> None:
        """One line, at a pace. When the budget is used up it is only counted."""
        if self._dropped or size + _PER_LINE > self._left:
            self._dropped += 1
            return
        self._left -= size + _PER_LINE
        self._add(text, level)
        self._burst += 1
        if self._paced and self._burst % _BURST == 0:
            await asyncio.sleep(_BURST / LINES_PER_SECOND)

    def close(self) -> None:
        """Says how much was left out."""
        if self._dropped:
            more = f"{self._dropped:,} more lines were left out: the log of an attempt holds {self._limit:,} bytes"
            self._add(f"{more} (TASKFLOW_SHELL_MAX_LOG_BYTES)", "warning")


class Output:
    """One of the two streams. `level` is that of its lines."""

    def __init__(self, budget: Budget, level: str) -> None:
        self._budget = budget
        self._level = level
        self._line = bytearray()
        self._tail = bytearray()

    async def feed(self, chunk: bytes) -> None:
        self._tail += chunk
        del self._tail[:-TAIL]
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            self._line += line
            await self._flush()
        self._line += rest
        while len(self._line) > MAX_LINE:
            await self._emit(self._cut())

    async def close(self) -> None:
        """A last line without its end is one, too."""
        if self._line:
            await self._flush()

    async def _flush(self) -> None:
        while len(self._line) > MAX_LINE:
            await self._emit(self._cut())
        await self._emit(bytes(self._line))
        self._line.clear()

    def _cut(self) -> bytes:
        """The first MAX_LINE bytes, or some fewer, so that no character of UTF-8 is split."""
        end = MAX_LINE
        while end > MAX_LINE - 4 and self._line[end : end + 1] and self._line[end] & 0xC0 == 0x80:
            end -= 1
        part = bytes(self._line[:end])
        del self._line[:end]
        return part

    async def _emit(self, line: bytes) -> None:
        """Emits the text that a terminal would show last where lines overwrite each other."""
        text = line.rstrip(b"\r").rpartition(b"\r")[2]
        await self._budget.line(self._level, text.decode("utf-8", "replace"), len(text))

    @property
    def tail(self) -> str:
        return bytes(self._tail).decode("utf-8", "replace")

"""A TCP link that can be cut and stalled, as between a worker and its coordinator."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Self


class Link:
    """Listens on a free port of loopback and forwards to `target`, in a thread of its own. A context manager.

    `cut` breaks every connection and refuses new ones; `stall` keeps them open and passes nothing on; `delay` is how
    many seconds late everything arrives.
    """

    def __init__(self, delay: float = 0.0) -> None:
        self.delay = delay
        self.target = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._port = 0

    @property
    def address(self) -> str:
        """Where it listens, as host:port."""
        return f"127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self.mend()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def mend(self) -> None:
        """New connections are accepted, and stalled ones go on."""
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()

    def cut(self) -> None:
        asyncio.run_coroutine_threadsafe(self._break(), self._loop).result()

    def stall(self) -> None:
        self._loop.call_soon_threadsafe(self._flowing.clear)

    async def _listen(self) -> None:
        self._flowing.set()
        if not self._port or self._server is None:
            self._server: asyncio.Server | None = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
            self._port = self._server.sockets[0].getsockname()[1]

    async def _break(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._writers:
            writer.transport.abort()
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        host, _, port = self.target.rpartition(":")
        writers = {writer}
        try:
            with suppress(OSError):
                upstream, out = await asyncio.open_connection(host, int(port))
                writers.add(out)
                self._writers |= writers
                ways = [asyncio.create_task(self._pass(reader, out)), asyncio.create_task(self._pass(upstream, writer))]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()
        finally:
            for each in writers:
                each.transport.abort()
            self._writers -= writers
            self._tasks.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                await self._flowing.wait()
                await asyncio.sleep(self.delay)
                writer.write(data)
                await writer.drain()

"""A TCP proxy before Postgres that cuts a connection at a chosen message, as a network does at the worst moment."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit, urlunsplit

_SSL_REQUEST = 80877103
_COPY_DONE, _PARSE, _BIND, _SYNC = b"c", b"P", b"B", b"S"


class PostgresProxy:
    """Forwards to the server of `dsn`, in a thread of its own. A context manager."""

    def __init__(self, dsn: str) -> None:
        parts = urlsplit(dsn)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 5432)
        self._dsn = parts
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._links: dict[_Link, asyncio.Task[None]] = {}
        self._server: asyncio.Server | None = None
        self.cut_table = ""
        self.cuts = 0
        self.at_once = False

    @property
    def dsn(self) -> str:
        """The same database, through the proxy."""
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        who = self._dsn.netloc.rpartition("@")[0]
        return urlunsplit(self._dsn._replace(netloc=f"{who}@127.0.0.1:{port}"))

    def cut_next_commit(self, table: str) -> None:
        """With the next new rows of `table`: COMMIT reaches the server, its answer reaches nobody. `cuts` counts."""
        self.cut_table, self.at_once = table, False

    def lose_next_commit(self, table: str) -> None:
        """The same, but the client's side is reset as soon as COMMIT is sent, while the server may still work on it."""
        self.cut_table, self.at_once = table, True

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        serving = list(self._links.values())
        for link in list(self._links):
            link.cut()
        await asyncio.gather(*serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(self, (reader, writer), upstream)
        task = asyncio.current_task()
        assert task is not None
        self._links[link] = task
        try:
            await link.run()
        finally:
            del self._links[link]


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Link:
    """One connection. Reads along what the client says, message by message."""

    def __init__(self, proxy: PostgresProxy, client: Stream, server: Stream) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._begun = False  # the start-up message has passed
        self._copying = self._copied = self._bound = False
        self._inserts: dict[bytes, bytes] = {}  # prepared statements by name: inserts that come with their COMMIT
        self._doomed = False  # COMMIT has been sent: what the server says is for nobody
        self._lost = False  # the client has been cut off, and the server does not know it yet

    def cut(self) -> None:
        for _, writer in (self._client, self._server):
            writer.transport.abort()

    async def run(self) -> None:
        up, down = asyncio.create_task(self._up()), asyncio.create_task(self._down())
        await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        if self._lost:  # the server reads to the end what was sent, and then that nobody is there any more
            with suppress(ConnectionError, OSError):
                self._server[1].write_eof()
            await down
        for task in (up, down):
            task.cancel()
        await asyncio.gather(up, down, return_exceptions=True)
        self.cut()

    async def _up(self) -> None:
        reader, writer = self._client[0], self._server[1]
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                kind = await reader.readexactly(1) if self._begun else b""
                size = await reader.readexactly(4)
                body = await reader.readexactly(int.from_bytes(size, "big") - 4)
                self._note(kind, body)
                writer.write(kind + size + body)
                await writer.drain()
                if self._doomed and self._proxy.at_once:
                    self._lost = True
                    self._proxy.cuts += 1
                    self._client[1].transport.abort()
                    return

    def _note(self, kind: bytes, body: bytes) -> None:
        if not self._begun:
            self._begun = int.from_bytes(body[:4], "big") != _SSL_REQUEST
            return
        table = self._proxy.cut_table
        if kind == _PARSE:
            name, text = body.split(b"\0", 2)[:2]
            upsert = b"on conflict" in text and b"insert into taskflow.counts " not in text
            self._inserts[name] = text if b"insert into" in text and not upsert else b""
        elif table and kind == _BIND:
            text = self._inserts.get(body.split(b"\0", 2)[1], b"")
            self._bound = self._bound or f"insert into {table} ".encode() in text
        if table and f"copy {table} ".encode() in body:
            self._copying, self._copied, self._bound = True, False, False
        elif self._copying and kind == _COPY_DONE:
            self._copied = True
        elif self._copied and kind == _BIND:
            self._bound = True
        elif self._bound and kind == _SYNC and table:
            self._proxy.cut_table = ""
            self._doomed = True

    async def _down(self) -> None:
        reader, writer = self._server[0], self._client[1]
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                if self._lost:
                    continue
                if self._doomed:
                    self._proxy.cuts += 1
                    return
                writer.write(data)
                await writer.drain()

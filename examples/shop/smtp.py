"""A mail receiver with moods: it really speaks SMTP, keeps what it accepts, and answers 451 to a share of deliveries.

It stands for the world outside, which fails now and then. No mail is refused for ever: a recipient is put off at
most `patience` times, as greylisting does. Recipients in the domain `nowhere.invalid` are refused for good (550).
"""

import argparse
import asyncio
import random
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message

LIMIT = 1 << 20  # bytes of one mail, and of one line
IDLE = 30.0  # seconds that a silent client is kept


@dataclass
class Mailbox:
    """Messages that the receiver has accepted, by recipient, and how often it refused one."""

    mails: dict[str, list[Message]] = field(default_factory=lambda: defaultdict(list))
    put_off: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)

    @property
    def received(self) -> int:
        return sum(len(mails) for mails in self.mails.values())


class FlakyReceiver:
    """An SMTP server on loopback. About `share` of the deliveries are put off with 451, at RCPT or after DATA."""

    def __init__(self, *, share: float = 0.25, patience: int = 4, seed: int | None = None) -> None:
        self.mailbox = Mailbox()
        self.port = 0
        self._share = share
        self._patience = patience
        self._random = random.Random(seed)
        self._server: asyncio.Server | None = None
        self.stopped = asyncio.Event()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listens; with port 0 on a free one, which `port` then names."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=LIMIT)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _Conversation(self, reader, writer).run()
        except (ConnectionError, asyncio.IncompleteReadError, TimeoutError, ValueError):
            pass  # the client went away, fell silent or sent a line without end: it will come again
        finally:
            writer.close()

    def verdict(self, recipient: str, stage_share: float) -> str | None:
        """The reply with which a delivery to `recipient` is refused at this stage, or None if it may pass."""
        if recipient.endswith("@nowhere.invalid"):
            self.mailbox.refused[recipient] += 1
            return "550 5.1.1 no such mailbox"
        if self.mailbox.put_off[recipient] >= self._patience or self._random.random() >= self._share * stage_share:
            return None
        self.mailbox.put_off[recipient] += 1
        return "451 4.3.0 try again later"

    def keep(self, recipients: list[str], data: bytes) -> None:
        for recipient in recipients:
            self.mailbox.mails[recipient].append(message_from_bytes(data))


class _Conversation:
    """One connection: RFC 5321's commands as far as a client needs them to deliver."""

    def __init__(self, server: FlakyReceiver, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._server, self._reader, self._writer = server, reader, writer
        self._sender: str | None = None
        self._recipients: list[str] = []

    async def run(self) -> None:
        await self._say("220 receiver.example ESMTP, in a mood")
        while line := await self._line():
            verb, _, rest = line.decode("utf-8", "replace").strip().partition(" ")
            verb = verb.upper()
            if verb == "QUIT":
                return await self._say("221 2.0.0 bye")
            await self._say(await self._answer(verb, rest))

    async def _answer(self, verb: str, rest: str) -> str:
        match verb:
            case "EHLO":
                return f"250-receiver.example\r\n250-SIZE {LIMIT}\r\n250 8BITMIME"
            case "HELO" | "NOOP":
                return "250 2.0.0 ok"
            case "RSET":
                self._sender, self._recipients = None, []
                return "250 2.0.0 ok"
            case "MAIL":
                self._sender, self._recipients = _address(rest), []
                return "250 2.1.0 ok"
            case "RCPT" if self._sender is not None:
                recipient = _address(rest)
                if refusal := self._server.verdict(recipient, 0.5):
                    return refusal
                self._recipients.append(recipient)
                return "250 2.1.5 ok"
            case "DATA" if self._recipients:
                await self._say("354 end with a dot on a line of its own")
                return await self._data()
            case "RCPT" | "DATA":
                return "503 5.5.1 bad sequence of commands"
            case _:
                return "500 5.5.2 command not known"

    async def _data(self) -> str:
        lines: list[bytes] = []
        size = 0
        while (line := await self._line()) != b".\r\n":
            if not line:
                raise ConnectionError("cut off in the middle of a mail")
            size += len(line)
            if size <= LIMIT:
                lines.append(line[1:] if line.startswith(b".") else line)
        recipients, self._sender, self._recipients = self._recipients, None, []
        if size > LIMIT:
            return f"552 5.3.4 more than {LIMIT} bytes"
        if refusal := next(filter(None, (self._server.verdict(each, 0.5) for each in recipients)), None):
            return refusal
        self._server.keep(recipients, b"".join(lines))
        return "250 2.0.0 kept"

    async def _line(self) -> bytes:
        async with asyncio.timeout(IDLE):
            return await self._reader.readline()

    async def _say(self, reply: str) -> None:
        self._writer.write(reply.encode() + b"\r\n")
        await self._writer.drain()


def _address(rest: str) -> str:
    """The address in `FROM:<ada@example.org> SIZE=10`."""
    return rest.partition(":")[2].strip().partition(" ")[0].strip("<>").lower()


@contextmanager
def receiving(*, share: float = 0.25, seed: int | None = None) -> Iterator[FlakyReceiver]:
    """A receiver on a free port, in a thread of its own, as long as the block lasts."""
    receiver = FlakyReceiver(share=share, seed=seed)
    started: Future[asyncio.AbstractEventLoop] = Future()

    async def live() -> None:
        await receiver.start()
        started.set_result(asyncio.get_running_loop())
        await receiver.stopped.wait()
        await receiver.stop()

    def thread() -> None:
        try:
            asyncio.run(live())
        except BaseException as error:
            if not started.done():
                started.set_exception(error)

    runner = threading.Thread(target=thread, name="smtp", daemon=True)
    runner.start()
    loop = started.result(timeout=10)
    try:
        yield receiver
    finally:
        loop.call_soon_threadsafe(receiver.stopped.set)
        runner.join(timeout=5)


async def _main(port: int, share: float) -> None:
    receiver = FlakyReceiver(share=share)
    await receiver.start(port=port)
    print(f"receiving mail on 127.0.0.1:{receiver.port}; {share:.0%} is put off with 451", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="a flaky SMTP receiver on loopback")
    parser.add_argument("--port", type=int, default=2525)
    parser.add_argument("--share", type=float, default=0.25, help="of the deliveries that are put off (0–1)")
    arguments = parser.parse_args()
    try:
        asyncio.run(_main(arguments.port, arguments.share))
    except KeyboardInterrupt:
        pass

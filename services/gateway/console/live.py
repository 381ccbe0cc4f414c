"""Pages kept up to date by server-sent events.

Viewers of the same page share one poll of the scheduler and one rendering; it stops when the last of them
leaves. Someone slow gets the latest state and not each one in between, so nothing gathers. Streams are bounded in
number, and end at a stop: browsers come back by themselves.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Receive, Scope, Send

from taskflow_server.gateway.console.render import MARK
from taskflow_server.gateway.errors import Failure
from taskflow_server.gateway.gateway import Gateway
from taskflow_server.runtime import logs, metrics

log = logs.get("console")

PING = 15.0  # seconds of silence after which a stream shows that it lives
COME_BACK = 3_000  # ms after which a browser tries again
PATIENCE = 30.0  # seconds that a browser may take nothing of what it is sent
SPARE = 4.0  # pause after a poll, as a multiple of its duration: a slow scheduler is polled less often
_LINE_END = re.compile(r"\r\n|\r|\n")

Render = Callable[[], Awaitable[str]]


@dataclass(eq=False)
class Topic:
    """The state of one page. `event` is the last that was sent, as it goes over the wire but for the viewer's token."""

    event: str = ""
    version: int = 0
    viewers: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    def say(self, event: str) -> None:
        if event != self.event:
            self.event, self.version = event, self.version + 1
            self.changed.set()
            self.changed = asyncio.Event()


class Live:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._settings = gateway.settings
        self._topics: dict[str, Topic] = {}
        self._streams = 0
        self._polls = 0
        metrics.follow({metrics.live_streams: lambda: self._streams, metrics.live_pages: lambda: self._polls})

    def stream(self, key: str, render: Render, token: str) -> Stream:
        """The stream of updates of the page `key` for a browser. Failure when there are too many."""
        if self._streams >= self._settings.live_streams:
            words = "too many pages are open: this one shows how things stood when it was loaded"
            raise Failure(503, "RESOURCE_EXHAUSTED", words, reason="TOO_MANY_STREAMS", retry_after=30.0)
        return Stream(self, key, render, token)

    def enter(self, key: str, render: Render) -> Topic:
        self._streams += 1
        topic = self._topics.get(key)
        if topic is None:
            topic = self._topics[key] = Topic()
            topic.task = self._gateway.tasks.start(self._poll(topic, render), f"live {key}")
        topic.viewers += 1
        return topic

    def leave(self, key: str, topic: Topic) -> None:
        self._streams -= 1
        topic.viewers -= 1
        if not topic.viewers:
            del self._topics[key]
            if topic.task is not None:
                topic.task.cancel()

    async def _poll(self, topic: Topic, render: Render) -> None:
        self._polls += 1
        try:
            await self._keep_polling(topic, render)
        finally:
            self._polls -= 1

    async def _keep_polling(self, topic: Topic, render: Render) -> None:
        clock = self._gateway.clock.real
        took = 0.0
        while True:
            await clock.sleep(max(self._settings.live_interval, took * SPARE))
            began = clock.monotonic()
            try:
                topic.say(_event("page", await render()))
            except Failure as failure:
                topic.say(_event("away", failure.message))
            except Exception as error:  # it must not end the service
                log.error("a page cannot be kept up to date", exc_info=error)
                topic.say(_event("away", "an error of the gateway's own; its log has the details"))
            took = clock.monotonic() - began

    @property
    def closing(self) -> asyncio.Event:
        return self._gateway.closing


class Stream:
    """An ASGI answer: the topic's latest event whenever there is another, until either side ends it."""

    def __init__(self, live: Live, key: str, render: Render, token: str) -> None:
        self._live = live
        self._key = key
        self._render = render
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        topic = self._live.enter(self._key, self._render)
        gone = asyncio.create_task(_gone(receive))
        closing = asyncio.create_task(self._live.closing.wait())
        try:
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await _send(send, f"retry: {COME_BACK}\n\n")
            version = 0
            while not gone.done() and not closing.done():
                if topic.version != version:
                    version = topic.version
                    await _send(send, topic.event.replace(MARK, self._token))
                    continue
                changed = asyncio.create_task(topic.changed.wait())
                waited: set[asyncio.Task[Any]] = {changed, gone, closing}
                done, _ = await asyncio.wait(waited, timeout=PING, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                if not done:
                    await _send(send, ":\n\n")
            await send({"type": "http.response.body", "body": b""})
        except OSError:
            pass  # they have left
        finally:
            gone.cancel()
            closing.cancel()
            self._live.leave(self._key, topic)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(send: Send, text: str) -> None:
    """TimeoutError, an OSError, when the other side takes nothing."""
    async with asyncio.timeout(PATIENCE):
        await send({"type": "http.response.body", "body": text.encode(), "more_body": True})


def _event(name: str, text: str) -> str:
    data = "".join(f"data: {line}\n" for line in _LINE_END.split(text))
    return f"event: {name}\n{data}\n"

"""One pusher: polls for jobs of a destination's tasks, submits them there, and reports their outcomes to TaskFlow.

Three loops over the attempts that it holds: `_take` brings new ones, `Reconciler` makes the destination do what they
need, `_speak` keeps TaskFlow informed and hears from it which are over. Invariants:

- While the destination is away nothing is taken, and what was taken waits: no try is used.
- An attempt is held until TaskFlow has its outcome on disk or says that it is stale, and prolonged until then.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

from taskflow_server.runtime import failpoints, logs
from taskflow_server.runtime.clock import RealClock
from taskflow_server.worker.push import attempt as verdicts
from taskflow_server.worker.push.attempt import PushedAttempt
from taskflow_server.worker.push.destination import Destination, Order, TaskOptions
from taskflow_server.worker.push.executor import Executor, Note, Unreachable
from taskflow_server.worker.push.reconciler import Reconciler
from taskflow_server.worker.push.rules import Rules

log = logs.get("push")

POLL = 20.0  # seconds of one long poll


class Pusher:
    """`run` until `stop`."""

    def __init__(
        self,
        destination: Destination,
        executor: Executor,
        routes: dict[str, TaskOptions],
        rules: Rules,
        clock: RealClock,
    ) -> None:
        self._name = destination.name
        self._executor = executor
        self._routes = routes
        self._rules = rules
        self._clock = clock
        self._there = Reconciler(destination, executor, rules, clock)
        self._held = self._there.held
        self._news = asyncio.Event()
        self._stopping = asyncio.Event()
        self._mute = logs.Outage(log, f"destination {destination.name}: TaskFlow does not answer")

    async def run(self) -> None:
        """Returns after `stop`: submitted jobs continue, all others are returned."""
        await self._recover()
        async with asyncio.TaskGroup() as loops:
            taking = loops.create_task(self._take())
            others = [
                loops.create_task(self._forever(self._tend, self._there.more)),
                loops.create_task(self._forever(self._speak, self._news)),
            ]
            await self._stopping.wait()
            taking.cancel()
            await asyncio.wait(others)
        for held in self._held.values():
            if held.wants_a_place and not held.doubtful:
                held.verdict = verdicts.returned(self._name)
        try:
            await self._speak()
        except Unreachable as error:
            self._mute.failed(error)
        submitted = sum(held.external is not None for held in self._held.values())
        if submitted:
            log.info("external jobs go on; start the pusher again for them", destination=self._name, jobs=submitted)
        self._there.call.close()

    def stop(self) -> None:
        for each in (self._stopping, self._there.more, self._news):
            each.set()

    async def _forever(self, step: Callable[[], Coroutine[Any, Any, None]], wake: asyncio.Event) -> None:
        while not self._stopping.is_set():
            wake.clear()
            try:
                await step()
            except Unreachable as error:
                self._mute.failed(error)
            await self._pause(wake)

    async def _pause(self, wake: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(self._rules.poll_interval * random.uniform(0.9, 1.1)):
                await wake.wait()
        except TimeoutError:
            pass

    # -- taking ------------------------------------------------------------------------------------------------------

    async def _recover(self) -> None:
        """Attempts that an earlier process of this name had started."""
        while not self._stopping.is_set():
            try:
                orders = await self._executor.running(self._routes)
            except Unreachable as error:
                self._mute.failed(error)
                await self._pause(self._stopping)
                continue
            until = self._clock.monotonic() + self._rules.settle
            for order in orders:
                held = PushedAttempt(order.ticket, order, started=True, doubtful=True, not_before=until)
                self._held[order.ticket.exec_id] = held
            if orders:
                log.info("resumed attempts of an earlier process", destination=self._name, jobs=len(orders))
            return

    async def _take(self) -> None:
        while True:
            room = self._rules.limit - len(self._held)
            if not self._there.call.usable or room <= 0:
                await asyncio.sleep(min(1.0, self._rules.poll_interval))
                continue
            try:
                orders = await self._executor.poll(self._routes, room, POLL)
                self._mute.over()
            except Unreachable as error:
                self._mute.failed(error)
                await asyncio.sleep(self._rules.poll_interval)
                continue
            if self._there.call.usable:  # else they go back by themselves, and use no try
                await asyncio.gather(*map(self._begin, orders))

    async def _begin(self, order: Order) -> None:
        await failpoints.reach("push.took")
        held = self._held[order.ticket.exec_id] = PushedAttempt(order.ticket, order, starting=True)
        try:
            await self._there.start(held)
        except Unreachable as error:
            self._mute.failed(error)  # the next pass asks again
        held.starting = False
        self._there.more.set()

    # -- the two sides -----------------------------------------------------------------------------------------------

    async def _tend(self) -> None:
        await self._there.tend()
        self._news.set()

    async def _speak(self) -> None:
        """Extends the attempts, reports their progress and outcomes, and learns which ones have ended for TaskFlow."""
        told = [(held, len(held.lines)) for held in self._held.values() if held.started]
        answers = {}
        if told:
            answers = await self._executor.notify([Note(h.ticket, h.lines[:count], h.progress) for h, count in told])
            self._mute.over()
        for held, count in told:
            why = answers.get(held.ticket.exec_id)
            if why == "":
                del held.lines[:count]
            elif why == "NOT_STARTED":
                held.started = False
            elif why is not None and held.verdict is not None:
                held.lines.clear()  # its outcome may be on disk already, which the report will learn
            elif why is not None:
                self._there.drop(held)
        await self._report()

    async def _report(self) -> None:
        ended = [held for held in self._held.values() if held.verdict is not None and not held.lines]
        if not ended:
            return
        await failpoints.reach("push.ended")
        answers = await self._executor.report([verdicts.outcome_of(held) for held in ended])
        await failpoints.reach("push.reported")
        for held in ended:
            why = answers.get(held.ticket.exec_id)
            if why == "NOT_STARTED":
                held.started = False
            elif why is not None:
                self._held.pop(held.ticket.exec_id, None)
                if why:
                    log.warning("an outcome was refused", job=held.ticket.job, destination=self._name, why=why)
                await self._there.forget(held)

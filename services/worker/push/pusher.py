"""One pusher: takes jobs of a destination's tasks, has them run there, and tells TaskFlow what became of them.

Three loops over the attempts that it holds: `_take` brings new ones, `_tend` makes the destination do what they need,
`_speak` keeps TaskFlow informed and hears from it which are over. Each pass looks at what is there and does what is
missing, so that a start after a crash is no special case. What holds:

- An external job is submitted for a started attempt alone. Where one may exist already (after a start of this process
  or a submit without an answer), it is looked for first, for `settle` seconds, and the one that is found is taken.
- Of several with one name the earliest is kept and the others are ended.
- What TaskFlow calls stale is ended at the destination, again at each pass until it has ended.
- While the destination is away nothing is taken, and what was taken waits: no try is used.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from services.runtime import failpoints, logs
from services.runtime.clock import RealClock
from services.worker.push import held as verdicts
from services.worker.push.calls import Calls
from services.worker.push.destination import Away, Destination, External, Order, Refused, TaskOptions, sort_out
from services.worker.push.executor import Executor, Note, Unreachable
from services.worker.push.held import Held, learn

log = logs.get("push")

POLL = 20.0  # seconds of one long poll
PLACED_AT_ONCE = 50  # submits of one pass


@dataclass(frozen=True, slots=True)
class Rules:
    """Times in seconds; see the settings."""

    limit: int
    poll_interval: float
    sweep_interval: float
    settle: float
    call_timeout: float
    longest_pause: float


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
        self._at = destination
        self._executor = executor
        self._routes = routes
        self._rules = rules
        self._clock = clock
        self._held: dict[bytes, Held] = {}
        self._doomed: dict[str, tuple[External, str]] = {}  # to be ended, and why
        self._strangers: set[str] = set()  # external jobs of another TaskFlow, by id
        self._call = Calls(destination, rules.call_timeout, rules.longest_pause, clock)
        self._work, self._news = asyncio.Event(), asyncio.Event()
        self._stopping = asyncio.Event()
        self._swept_at = float("-inf")
        self._mute = logs.Outage(log, f"destination {destination.name}: TaskFlow does not answer")

    async def run(self) -> None:
        """Returns after `stop`: what was submitted goes on, what was not is given back."""
        await self._recover()
        async with asyncio.TaskGroup() as loops:
            taking = loops.create_task(self._take())
            others = [loops.create_task(self._forever(self._tend, self._work, self._rules.poll_interval))]
            others += [loops.create_task(self._forever(self._speak, self._news, self._rules.poll_interval))]
            await self._stopping.wait()
            taking.cancel()
            for each in others:
                await asyncio.wait({each})
        for held in self._held.values():
            if held.external is None and not held.doubtful and held.verdict is None:
                held.verdict = verdicts.returned(self._at.name)
        try:
            await self._speak()
        except Unreachable as error:
            self._mute.failed(error)
        submitted = sum(held.external is not None for held in self._held.values())
        if submitted:
            log.info("external jobs go on; start the pusher again for them", destination=self._at.name, jobs=submitted)
        self._call.close()

    def stop(self) -> None:
        self._stopping.set()
        self._work.set()
        self._news.set()

    async def _forever(self, step: Callable[[], Coroutine[Any, Any, None]], wake: asyncio.Event, every: float) -> None:
        while not self._stopping.is_set():
            wake.clear()
            try:
                await step()
            except Unreachable as error:
                self._mute.failed(error)
            await self._pause(wake, every * random.uniform(0.9, 1.1))

    async def _pause(self, wake: asyncio.Event, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
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
                await self._pause(self._stopping, self._rules.poll_interval)
                continue
            until = self._clock.monotonic() + self._rules.settle
            for order in orders:
                held = Held(order.ticket, order, started=True, doubtful=True, not_before=until)
                self._held[order.ticket.exec_id] = held
            if orders:
                log.info("attempts of an earlier process", destination=self._at.name, jobs=len(orders))
            return

    async def _take(self) -> None:
        while True:
            room = self._rules.limit - len(self._held)
            if not self._call.usable or room <= 0:
                await asyncio.sleep(min(1.0, self._rules.poll_interval))
                continue
            try:
                orders = await self._executor.poll(self._routes, room, POLL)
                self._mute.over()
            except Unreachable as error:
                self._mute.failed(error)
                await asyncio.sleep(self._rules.poll_interval)
                continue
            if self._call.usable:  # else they go back by themselves, and use no try
                await asyncio.gather(*map(self._begin, orders))

    async def _begin(self, order: Order) -> None:
        await failpoints.reach("push.took")
        held = self._held[order.ticket.exec_id] = Held(order.ticket, order, starting=True)
        try:
            await self._start(held)
        except Unreachable as error:
            self._mute.failed(error)  # `_place` asks again
        held.starting = False
        self._work.set()

    async def _start(self, held: Held) -> None:
        held.started = await self._executor.start(held.ticket)
        if held.started:
            await failpoints.reach("push.started")
        else:
            self._drop(held, "it was started too late")

    # -- the destination ---------------------------------------------------------------------------------------------

    async def _tend(self) -> None:
        if self._call.resting:
            return
        try:
            if not self._call.usable or self._clock.monotonic() - self._swept_at >= self._rules.sweep_interval:
                await self._sweep()
            self._call.worked()
            await self._place()
            await self._look()
            await self._end()
        except Away as error:
            self._call.failed(error)
        self._news.set()

    async def _sweep(self) -> None:
        """Looks at all external jobs of ours: takes those of attempts that are current, ends all others."""
        listed = sort_out(await self._call(lambda: list(self._at.unfinished())))
        for spare in listed.spare:
            self._doom(spare, "there is an earlier one of the same attempt")
        spare_ids = {job.id for job in listed.spare}
        self._strangers &= {job.id for job in listed.first.values()}
        unknown = []
        for ticket, job in listed.first.items():
            held = self._held.get(ticket.exec_id)
            if held is None:
                if job.id not in self._doomed and job.id not in self._strangers:
                    unknown.append(job)
            elif held.external is None:
                self._adopt(held, job)
            elif held.external.id in spare_ids:
                held.external = job
            elif held.external.id != job.id:
                self._doom(job, "there is an earlier one of the same attempt")
        await self._judge(unknown)
        self._swept_at = self._clock.monotonic()

    async def _judge(self, unknown: list[External]) -> None:
        """Adopts what is current, dooms what is stale."""
        answers = await self._executor.notify([Note(job.ticket) for job in unknown]) if unknown else {}
        for job in unknown:
            why = answers.get(job.ticket.exec_id, "not known")
            if why == "":
                self._adopt(self._held.setdefault(job.ticket.exec_id, Held(job.ticket, started=True)), job)
            elif not await self._executor.knows(job.ticket):
                self._strangers.add(job.id)
                log.warning(
                    "an external job of a job that this TaskFlow does not know is left alone; two pushers of "
                    "different clusters must not have one owner's name",
                    job=job.ticket.job, destination=self._at.name, id=job.id,
                )  # fmt: skip
            elif why == "STALE_EXEC_ID":
                self._doom(job, "its attempt is over")

    def _adopt(self, held: Held, job: External) -> None:
        held.say("info", f"found at {self._at.name} as {job.id}")
        log.info("adopted", job=job.ticket.job, destination=self._at.name, id=job.id)
        learn(held, job, self._at.name)

    async def _place(self) -> None:
        """Finds or submits what has no external job yet."""
        waiting = [h for h in self._held.values() if h.wants_a_place][:PLACED_AT_ONCE]
        if not waiting:
            return
        results = await asyncio.gather(*map(self._place_one, waiting), return_exceptions=True)
        errors = [each for each in results if isinstance(each, BaseException)]
        for error in sorted(errors, key=lambda e: isinstance(e, Away | Unreachable)):
            raise error  # what nobody expected, before what passes
        if len(waiting) == PLACED_AT_ONCE:
            self._work.set()

    async def _place_one(self, held: Held) -> None:
        if not held.started:
            await self._start(held)
            if not held.started:
                return
        if held.doubtful:
            if await self._find(held) or self._clock.monotonic() < held.not_before:
                return
            held.doubtful = False
        assert held.order is not None
        try:
            external = await self._call(self._at.submit, held.order)
        except Refused as error:
            held.verdict = verdicts.refused(self._at.name, str(error))
            return
        except Away:
            held.doubtful, held.not_before = True, self._clock.monotonic() + self._rules.settle
            raise
        await failpoints.reach("push.submitted")
        log.info("submitted", job=held.ticket.job, destination=self._at.name, id=external.id)
        if self._held.get(held.ticket.exec_id) is not held:
            self._doom(external, "its attempt is over")
        elif held.external is None:  # else a sweep was quicker
            learn(held, external, self._at.name)

    async def _find(self, held: Held) -> bool:
        found = sort_out(await self._call(self._at.find, held.ticket))
        for spare in found.spare:
            self._doom(spare, "there is an earlier one of the same attempt")
        job = found.first.get(held.ticket)
        if job is not None:
            self._adopt(held, job)
        return job is not None

    async def _look(self) -> None:
        """What became of those that run there."""
        there = [h for h in self._held.values() if h.external is not None and h.verdict is None]
        for start in range(0, len(there), self._at.batch):
            batch = there[start : start + self._at.batch]
            seen = await self._call(self._at.look, [h.external for h in batch if h.external])
            for held in batch:
                assert held.external is not None
                learn(held, seen.get(held.external.id), self._at.name)

    def _doom(self, job: External, why: str) -> None:
        if job.id not in self._doomed:
            log.info("is to be ended", job=job.ticket.job, destination=self._at.name, id=job.id, why=why)
            self._doomed[job.id] = (job, why)
            self._work.set()

    async def _end(self) -> None:
        """Ends what is doomed, until the destination shows that it has ended."""
        doomed = list(self._doomed.values())
        for start in range(0, len(doomed), self._at.batch):
            batch = doomed[start : start + self._at.batch]
            seen = await self._call(self._at.look, [job for job, _ in batch])
            for job, why in batch:
                now = seen.get(job.id)
                if now is None or now.phase.over:
                    del self._doomed[job.id]
                    log.info("has ended", job=job.ticket.job, destination=self._at.name, id=job.id)
                else:
                    await failpoints.reach("push.doomed")
                    await self._call(self._at.terminate, job, f"TaskFlow: {why}")

    # -- TaskFlow ----------------------------------------------------------------------------------------------------

    async def _speak(self) -> None:
        """Prolongs what is held, tells what is new, hears what is over, reports what has ended."""
        told = [(h, len(h.lines)) for h in self._held.values() if h.started]
        notes = [Note(h.ticket, h.lines[:count], h.progress) for h, count in told]
        answers = {}
        if notes:
            answers = await self._executor.notify(notes)
            self._mute.over()
        for held, count in told:
            why = answers.get(held.ticket.exec_id)
            if why == "":
                del held.lines[:count]
            elif why == "NOT_STARTED":
                held.started = False
            elif why is not None and held.verdict is not None:
                held.lines.clear()  # its outcome may be on disk already: that is for the report to hear
            elif why is not None:
                self._drop(held, "its attempt is over")
        await self._report()

    async def _report(self) -> None:
        ended = [h for h in self._held.values() if h.verdict is not None and not h.lines]
        if not ended:
            return
        await failpoints.reach("push.ended")
        answers = await self._executor.report([verdicts.outcome_of(h) for h in ended])
        await failpoints.reach("push.reported")
        for held in ended:
            why = answers.get(held.ticket.exec_id)
            if why == "NOT_STARTED":
                held.started = False
            elif why is not None:
                self._held.pop(held.ticket.exec_id, None)
                if why:
                    log.warning("an outcome was refused", job=held.ticket.job, destination=self._at.name, why=why)
                await self._forget(held)

    async def _forget(self, held: Held) -> None:
        if held.external is None or not held.external.phase.over:
            return
        try:
            await self._call(self._at.forget, held.external)
        except Away as error:
            log.warning("what is left of it stays", destination=self._at.name, id=held.external.id, why=str(error))

    def _drop(self, held: Held, why: str) -> None:
        """TaskFlow wants no more of it."""
        self._held.pop(held.ticket.exec_id, None)
        if held.external is not None and not held.external.phase.over:
            self._doom(held.external, why)

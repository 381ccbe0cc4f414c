"""The destination's side of a pusher: each pass finds, submits, checks and ends external jobs.

A pass starts from what is held and from what the destination shows, never from what an earlier pass meant to do, so
that a start after a crash is no special case. Invariants:

- An external job is submitted for a started attempt alone. Where one may exist already (after a start of this process,
  or a submit without an answer), it is looked for first, for `settle` seconds, and what is found is taken.
- The earliest of several with one name is kept and the others are ended.
- An attempt that is over for TaskFlow is ended, again at each pass until the destination shows its end.
"""

from __future__ import annotations

import asyncio
from itertools import islice

from taskflow_server.runtime import failpoints, logs
from taskflow_server.runtime.clock import RealClock
from taskflow_server.worker.push import attempt as verdicts
from taskflow_server.worker.push.attempt import PushedAttempt, learn
from taskflow_server.worker.push.destination import Away, Destination, External, Refused, sort_out
from taskflow_server.worker.push.destination_calls import DestinationCalls
from taskflow_server.worker.push.executor import Executor, Note, Unreachable
from taskflow_server.worker.push.rules import Rules

log = logs.get("push")

PLACED_AT_ONCE = 50  # attempts that one pass finds or submits
OVER, TWIN = "its attempt has ended", "there is an earlier one of the same attempt"


class Reconciler:
    """`held`: the attempts to answer for, by exec_id. `more` is set when another pass should follow at once."""

    def __init__(self, at: Destination, executor: Executor, rules: Rules, clock: RealClock) -> None:
        self._at = at
        self._executor = executor
        self._rules = rules
        self._clock = clock
        self.call = DestinationCalls(at, rules.call_timeout, rules.longest_pause, clock)
        self.held: dict[bytes, PushedAttempt] = {}
        self.more = asyncio.Event()
        self._doomed: dict[str, tuple[External, str]] = {}  # to be ended, and why
        self._strangers: set[str] = set()  # external jobs of another TaskFlow, by id
        self._swept_at = float("-inf")

    async def tend(self) -> None:
        """One pass. Unreachable when TaskFlow does not say what is current."""
        if self.call.resting:
            return
        try:
            if not self.call.usable or self._clock.monotonic() - self._swept_at >= self._rules.sweep_interval:
                await self._sweep()
            self.call.worked()
            await self._place()
            await self._look()
            await self._end()
        except Away as error:
            self.call.failed(error)

    async def start(self, held: PushedAttempt) -> None:
        """Asks TaskFlow for the attempt; drops it where it is stale."""
        held.started = await self._executor.start(held.ticket)
        if held.started:
            await failpoints.reach("push.started")
        else:
            self.drop(held)

    def drop(self, held: PushedAttempt) -> None:
        """TaskFlow wants no more of it."""
        self.held.pop(held.ticket.exec_id, None)
        if held.external is not None:
            self._doom(held.external, OVER)

    # -- what is there -----------------------------------------------------------------------------------------------

    async def _sweep(self) -> None:
        """Checks all external jobs of this owner: adopts those of current attempts, ends all others."""
        pages, shown = iter(self._at.unfinished()), list[External]()
        while page := await self.call(lambda: list(islice(pages, self._at.batch))):
            shown += page
        listed = sort_out(shown)
        self._strangers &= {job.id for job in shown}
        unknown, spare = [], {job.id for job in listed.spare}
        for twin in listed.spare:
            self._doom(twin, TWIN)
        for ticket, job in listed.first.items():
            held = self.held.get(ticket.exec_id)
            if held is None:
                if job.id not in self._doomed and job.id not in self._strangers:
                    unknown.append(job)
            elif held.verdict is None and (held.external is None or held.external.id in spare):
                held.external, held.doubtful = None, True  # there may be an earlier one that has ended: see `_find`
            elif held.external is None or held.external.id != job.id:
                self._doom(job, TWIN)
        await self._judge(unknown)
        self._swept_at = self._clock.monotonic()

    async def _judge(self, unknown: list[External]) -> None:
        """Takes what is current, dooms what is stale, leaves alone what is another TaskFlow's."""
        answers = await self._executor.notify([Note(job.ticket) for job in unknown]) if unknown else {}
        for job in unknown:
            why = answers.get(job.ticket.exec_id, "not known")
            if why == "":
                self.held.setdefault(job.ticket.exec_id, PushedAttempt(job.ticket, started=True, doubtful=True))
            elif not await self._executor.knows(job.ticket):
                self._strangers.add(job.id)
                log.warning(
                    "an external job of a job that this TaskFlow does not know is not changed; pushers of "
                    "different clusters must not share an owner's name",
                    job=job.ticket.job, destination=self._at.name, id=job.id,
                )  # fmt: skip
            elif why == "STALE_EXEC_ID":
                self._doom(job, OVER)

    async def _look(self) -> None:
        """Asks for the external jobs of the attempts that run there."""
        there = [(h, h.external) for h in self.held.values() if h.external is not None and h.verdict is None]
        for start in range(0, len(there), self._at.batch):
            batch = there[start : start + self._at.batch]
            seen = await self.call(self._at.look, [external for _, external in batch])
            for held, external in batch:
                learn(held, seen.get(external.id), self._at.name)

    # -- what is to be there -----------------------------------------------------------------------------------------

    async def _place(self) -> None:
        """Finds or submits attempts without an external job; first those that need no look-up."""
        waiting = sorted((h for h in self.held.values() if h.wants_a_place), key=lambda h: h.doubtful)[:PLACED_AT_ONCE]
        results = await asyncio.gather(*map(self._place_one, waiting), return_exceptions=True)
        errors = [each for each in results if isinstance(each, BaseException)]
        for error in sorted(errors, key=lambda e: isinstance(e, Away | Unreachable)):
            raise error  # unexpected errors before temporary ones
        if len(waiting) == PLACED_AT_ONCE and True in results:
            self.more.set()

    async def _place_one(self, held: PushedAttempt) -> bool:
        """Whether it needs no more of this."""
        if not held.started:
            await self.start(held)
            if not held.started:
                return True
        if held.doubtful:
            if await self._find(held):
                return True
            if held.order is None or self._clock.monotonic() < held.not_before:
                return False
            held.doubtful = False
        assert held.order is not None
        try:
            external = await self.call(self._at.submit, held.order)
        except Refused as error:
            held.verdict = verdicts.refused(self._at.name, str(error))
            return True
        except Away:
            held.doubtful, held.not_before = True, self._clock.monotonic() + self._rules.settle
            raise
        await failpoints.reach("push.submitted")
        log.info("external job submitted", job=held.ticket.job, destination=self._at.name, id=external.id)
        learn(held, external, self._at.name)
        if self.held.get(held.ticket.exec_id) is not held:
            self._doom(external, OVER)
        return True

    async def _find(self, held: PushedAttempt) -> bool:
        found = sort_out(await self.call(self._at.find, held.ticket))
        for twin in found.spare:
            self._doom(twin, TWIN)
        job = found.first.get(held.ticket)
        if job is None:
            return False
        if self.held.get(held.ticket.exec_id) is held:
            log.info("external job adopted", job=job.ticket.job, destination=self._at.name, id=job.id)
            held.say("info", f"found at {self._at.name} as {job.id}")
            learn(held, job, self._at.name)
        else:
            self._doom(job, OVER)
        return True

    # -- what is not to be there -------------------------------------------------------------------------------------

    def _doom(self, job: External, why: str) -> None:
        if job.id not in self._doomed:
            self._doomed[job.id] = (job, why)
            self.more.set()
            if not job.phase.over:
                log.info("ending external job", job=job.ticket.job, destination=self._at.name, id=job.id, why=why)

    async def _end(self) -> None:
        doomed = list(self._doomed.values())
        for start in range(0, len(doomed), self._at.batch):
            batch = doomed[start : start + self._at.batch]
            seen = await self.call(self._at.look, [job for job, _ in batch])
            for job, why in batch:
                now = seen.get(job.id)
                if now is not None and not now.phase.over:
                    await failpoints.reach("push.doomed")
                    await self.call(self._at.terminate, job, f"TaskFlow: {why}")
                    continue
                del self._doomed[job.id]
                if now is not None:
                    log.info("external job ended", job=job.ticket.job, destination=self._at.name, id=job.id)
                    await self.call(self._at.forget, now)

    async def forget(self, held: PushedAttempt) -> None:
        """Its outcome is on disk."""
        if held.external is None or not held.external.phase.over:
            return
        try:
            await self.call(self._at.forget, held.external)
        except Away as error:
            log.warning("could not delete external job", destination=self._at.name, id=held.external.id, why=str(error))

"""Quotas of jobs: the number of waiting jobs in a namespace, and the size of a payload.

The quotas are read with the topology. Where a namespace has none, a job costs nothing here. The number of waiting jobs
is an estimate: the last count plus the jobs accepted since. It is too high by what has ended since the count, and too
low by what other schedulers accepted since.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from taskflow_server.core.errors import ResourceExhausted, TaskFlowFault, Unavailable
from taskflow_server.core.names import namespace_of
from taskflow_server.runtime import logs
from taskflow_server.runtime.batcher import Batcher
from taskflow_server.runtime.clock import RealClock
from taskflow_server.store.database import Database
from taskflow_server.store.jobs import NewJob, Result, Stored

log = logs.get("quotas")

SHARE = 10  # at most 1/SHARE of the time is spent on counting one namespace whose quota seems used up

Checked = list[NewJob | TaskFlowFault]
Count = Callable[[str], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class Quotas:
    """The limits of a namespace's jobs. None: unlimited."""

    waiting_jobs: int | None
    payload_bytes: int | None


class Waiting:
    """The waiting jobs of one namespace, as far as this scheduler knows."""

    __slots__ = ("added", "added_to_next", "again_at", "counted", "in_flight", "stale_at")

    def __init__(self) -> None:
        self.counted = 0
        self.added = 0  # accepted since the last count began, including those that were being stored then
        self.added_to_next = 0  # the same for the count in progress; meaningless without one
        self.in_flight = 0  # being stored now: a count may or may not include them
        self.stale_at = float("-inf")  # time from which a count is due
        self.again_at = float("-inf")  # time from which a quota that seems used up may cause a count

    @property
    def jobs(self) -> int:
        return self.counted + self.added

    def add(self, jobs: int) -> None:
        """Counts accepted jobs; a negative number takes back jobs that were not stored."""
        self.added += jobs
        self.added_to_next += jobs


@dataclass(slots=True)
class Reserved:
    """The quota that a call has reserved: the indexes of its jobs by namespace."""

    taken: dict[str, Sequence[int]]
    quotas: JobQuotas

    def settle(self, results: Sequence[Result] | None) -> None:
        """Releases the quota of jobs that were stored before or were refused. None: the results are unknown."""
        for space, places in self.taken.items():
            waiting = self.quotas.waiting(space)
            waiting.in_flight -= len(places)
            if results is not None:
                waiting.add(-sum(not _is_new(results[place]) for place in places))

    def give_back(self) -> None:
        """Releases all: nothing was stored."""
        for space, places in self.taken.items():
            waiting = self.quotas.waiting(space)
            waiting.in_flight -= len(places)
            waiting.add(-len(places))


class JobQuotas:
    """`count` returns the number of waiting jobs of a namespace. `interval`: seconds for which a count is used."""

    def __init__(self, db: Database, clock: RealClock, count: Count, interval: float) -> None:
        self._db = db
        self._clock = clock
        self._count = count
        self._interval = interval
        self._waiting: dict[str, Waiting] = {}
        self._counts: Batcher[str, None] = Batcher(self._recount)
        self.limited: dict[str, Quotas] = {}  # namespaces that have a quota of jobs

    async def refresh(self) -> None:
        """Reads the quotas: with each read of the topology, and after a change of one."""
        rows = await self._db.rows("quotas_of_jobs")
        self.limited = {r["name"]: Quotas(r["quota_waiting_jobs"], r["quota_payload_bytes"]) for r in rows}
        for space in self._waiting.keys() - self.limited.keys():
            if not self._waiting[space].in_flight:
                del self._waiting[space]

    def waiting(self, space: str) -> Waiting:
        found = self._waiting.get(space)
        if found is None:
            found = self._waiting[space] = Waiting()
        return found

    def check_payload(self, queue: str, payload: bytes, field: str) -> None:
        """ResourceExhausted if jobs with this payload of a named task would exceed their namespace's quota."""
        space = namespace_of(queue)
        quotas = self.limited.get(space)
        if quotas is not None and (fault := _payload_fault(space, quotas, payload, field)):
            raise fault

    # -- calls ---------------------------------------------------------------------------------
    async def admit(self, checked: Checked, field: Callable[[int], str]) -> Reserved:
        """Replaces each job that exceeds a quota by an error, and reserves quota for the others. `field`: the path of a
        job in the request. A job that is already stored is never refused."""
        groups: defaultdict[str, list[int]] = defaultdict(list)
        for place, job in enumerate(checked):
            if isinstance(job, NewJob) and (space := namespace_of(job.queue)) in self.limited:
                groups[space].append(place)
        reserved = Reserved({}, self)
        try:
            for space, places in groups.items():
                if (quotas := self.limited.get(space)) is not None:
                    fit = await self._fitting(checked, space, quotas, places, field)
                    if quotas.waiting_jobs is not None:
                        reserved.taken[space] = await self._take(checked, space, quotas.waiting_jobs, fit)
        except BaseException:  # Postgres is unreachable, or the caller has disconnected
            reserved.give_back()
            raise
        return reserved

    async def _fitting(
        self, checked: Checked, space: str, quotas: Quotas, places: list[int], field: Callable[[int], str]
    ) -> list[int]:
        """The jobs whose payloads are within the quota; the others become errors, unless they are already stored."""
        faults = {}
        for place in places:
            job = checked[place]
            assert isinstance(job, NewJob)
            if fault := _payload_fault(space, quotas, job.payload, f"{field(place)}.payload"):
                faults[place] = fault
        if not faults:
            return places
        for place in faults.keys() - await self._stored(checked, faults):
            checked[place] = faults[place]
        return [place for place in places if isinstance(checked[place], NewJob)]

    async def _take(self, checked: Checked, space: str, limit: int, places: list[int]) -> list[int]:
        """Reserves quota for these jobs, in order, as far as it reaches; the others become errors, unless they are
        already stored. Nothing is awaited between the last check of the quota and the reservation."""
        now = self._clock.monotonic
        waiting = self.waiting(space)
        if now() >= waiting.stale_at:
            await self._counts.submit([space])
        if waiting.jobs + len(places) > limit:
            if now() >= waiting.again_at:
                await self._counts.submit([space])
            stored = await self._stored(checked, places)
            places = [place for place in places if place not in stored]
        room = max(limit - waiting.jobs, 0)
        if len(places) > room:
            again = max(waiting.again_at - now(), self._interval / SHARE)
            fault = _waiting_fault(space, limit, waiting.jobs, len(places), again)
            for place in places[room:]:
                checked[place] = fault
            places = places[:room]
        waiting.add(len(places))
        waiting.in_flight += len(places)
        return places

    async def _stored(self, checked: Checked, places: Sequence[int] | Mapping[int, object]) -> set[int]:
        """The jobs that are already stored: by an earlier try of the call, or under the same key."""
        looked_up = list(places)
        jobs = [job for place in looked_up if isinstance(job := checked[place], NewJob)]
        rows = await self._db.rows(
            "stored_jobs",
            ids=[UUID(bytes=job.id) for job in jobs],
            namespaces=[namespace_of(job.queue) for job in jobs],
            keys=[job.key for job in jobs],
        )
        return {looked_up[row["place"]] for row in rows}

    # -- schedules -----------------------------------------------------------------------------
    async def freshen(self) -> None:
        """Call before schedules are fired: counts the namespaces whose count is due."""
        due = [s for s, q in self.limited.items() if q.waiting_jobs is not None]
        due = [space for space in due if self._clock.monotonic() >= self.waiting(space).stale_at]
        if due:
            await self._counts.submit(due)

    def exceeded(self, job: NewJob) -> ResourceExhausted | None:
        """The quota that this job of a schedule exceeds; None: the job is now counted as waiting."""
        space = namespace_of(job.queue)
        quotas = self.limited.get(space)
        if quotas is None:
            return None
        if fault := _payload_fault(space, quotas, job.payload, "payload"):
            return fault
        if quotas.waiting_jobs is not None:
            waiting = self.waiting(space)
            if waiting.jobs >= quotas.waiting_jobs:
                return _waiting_fault(space, quotas.waiting_jobs, waiting.jobs, 1, self._interval)
            waiting.add(1)  # stays counted until the next count if its transaction fails
        return None

    # -- counting ------------------------------------------------------------------------------
    async def _recount(self, spaces: Sequence[str]) -> Sequence[None]:
        """Counts one namespace after the other. Callers that ask during a count share it, or the next one."""
        for space in set(spaces):
            waiting = self.waiting(space)
            begun = self._clock.monotonic()
            if begun < waiting.again_at:
                continue
            waiting.added_to_next = waiting.in_flight
            try:
                waiting.counted = await self._count(space)
                waiting.added = waiting.added_to_next
            except Unavailable as error:
                # The old count is used for another interval: no call may fail because counting failed.
                log.warning("waiting jobs could not be counted", namespace=space, error=str(error))
            ended = self._clock.monotonic()
            waiting.stale_at = ended + max(self._interval, (ended - begun) * SHARE)
            waiting.again_at = ended + max(self._interval / SHARE, (ended - begun) * SHARE)
        return [None] * len(spaces)


def _is_new(result: Result) -> bool:
    return isinstance(result, Stored) and result.tx != 0


def _payload_fault(space: str, quotas: Quotas, payload: bytes | None, field: str) -> ResourceExhausted | None:
    size, limit = len(payload or b""), quotas.payload_bytes
    if limit is None or size <= limit:
        return None
    return ResourceExhausted(
        f"{field}: {size} bytes exceed the quota of namespace {space!r}: a payload may have {limit} bytes",
        "QUOTA_PAYLOAD_BYTES",
        {"namespace": space, "quota": "payload_bytes", "used": str(size), "limit": str(limit)},
    )


def _waiting_fault(space: str, limit: int, used: int, wanted: int, again: float) -> ResourceExhausted:
    more = "1 more job" if wanted == 1 else f"{wanted} more jobs"
    return ResourceExhausted(
        f"{more} would exceed the quota of namespace {space!r}: about {used} of {limit} waiting jobs are used;"
        " retry when some have run, or raise the quota",
        "QUOTA_WAITING_JOBS",
        {"namespace": space, "quota": "waiting_jobs", "used": str(used), "limit": str(limit)},
        again,
    )

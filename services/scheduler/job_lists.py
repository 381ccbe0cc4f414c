"""Lists of jobs, newest first, without a scan of history (docs/protocol.md, part D).

A source proposes ids in falling order: from the small tables, the marks or a partial index where they have the state,
else from the lanes of a queue. `matching_jobs` decides about each id by the facts, and the owners' memory overrides it
for jobs that are handed out.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from taskflow._policy import STATES, JobState
from taskflow.v1 import jobs_pb2 as pb
from taskflow.v1.dispatch_pb2 import LiveJob
from taskflow_server.core import ids
from taskflow_server.core.errors import InvalidArgument
from taskflow_server.core.names import qualify
from taskflow_server.rpc.values import seconds, timestamp_us
from taskflow_server.runtime.clock import SystemClock
from taskflow_server.scheduler import resources
from taskflow_server.scheduler.coordinators import Coordinators
from taskflow_server.store import jobs as store
from taskflow_server.store.database import Database
from taskflow_server.store.tags import words

LIST_BYTES = 1024  # of a payload or a result in a list
DAYS = 7  # without `create_after`, a list of finished jobs goes back this far
FIRST_LOOK, LONGEST_LOOK = 200, 5_000  # candidates that are read from a source at once
MOST_CANDIDATES = 20_000  # checked for one page
MOST_READY = 2_000  # candidates beyond the marks; with more, nearly all of the newest jobs are ready

_LIVE = frozenset({JobState.REQUESTED, JobState.RUNNING})
_DEFERRED = frozenset({JobState.SCHEDULED, JobState.RETRYING})
_UNSUCCESSFUL = frozenset({JobState.FAILED, JobState.CANCELLED})
_DAY_US = 86_400_000_000

Source = Callable[[bytes, int], Awaitable[list[bytes]]]  # (below, count) -> ids, falling


@dataclass(frozen=True, slots=True)
class JobFilter:
    queue: str
    task: str
    states: frozenset[JobState]
    after: bytes  # ids at or above this one
    before: bytes
    tags: tuple[str, ...]
    metadata: dict[str, str]
    error: str
    worker: str
    running_us: int  # running for longer than this; -1: any

    @property
    def live(self) -> bool:
        """Whether only the owners' memory can answer."""
        return bool(self.worker) or self.running_us >= 0


class JobLists:
    def __init__(self, db: Database, clock: SystemClock, coordinators: Coordinators) -> None:
        self._db = db
        self._clock = clock
        self._coordinators = coordinators

    async def page(self, request: pb.ListJobsRequest) -> pb.ListJobsResponse:
        size = page_size(request.page_size)
        wanted = self._wish(request)
        source = await self._source(wanted)
        found: list[pb.Job] = []
        before, looked, look, more = wanted.before, 0, max(FIRST_LOOK, 2 * size), True
        while more and len(found) <= size and looked < MOST_CANDIDATES:
            candidates = await source(before, look)
            more = len(candidates) == look
            before = candidates[-1] if candidates else before
            looked, look = looked + len(candidates), min(4 * look, LONGEST_LOOK)
            found += await self._matching(wanted, candidates, size + 1 - len(found))
        if len(found) > size:
            return pb.ListJobsResponse(jobs=found[:size], next_page_token=found[size - 1].id)
        return pb.ListJobsResponse(jobs=found, next_page_token=ids.show(before) if more else "")

    def _wish(self, request: pb.ListJobsRequest) -> JobFilter:
        states = frozenset(_state(s) for s in request.states) or _implied(request)
        if (request.worker or request.HasField("running_longer_than")) and not states <= _LIVE:
            field = "worker" if request.worker else "running_longer_than"
            raise InvalidArgument(f"states: {field} applies to requested and running jobs only", "states")
        waits = states and states <= _LIVE | _DEFERRED | {JobState.READY}
        after = 0 if waits else self._clock.real_now_us() - DAYS * _DAY_US
        if request.HasField("create_after"):
            after = timestamp_us(request.create_after, "create_after")
        before = _page_token(request.page_token)
        if request.HasField("create_before"):
            before = min(before, _first_id(timestamp_us(request.create_before, "create_before")))
        return JobFilter(
            queue=qualify(request.queue, field="queue") if request.queue else "",
            task=qualify(request.task, field="task") if request.task else "",
            states=states,
            after=_first_id(after),
            before=before,
            tags=tuple(request.tags),
            metadata=dict(request.metadata),
            error=request.error,
            worker=request.worker,
            running_us=int(seconds(request.running_longer_than, "running_longer_than") * 1e6)
            if request.HasField("running_longer_than")
            else -1,
        )

    # -- candidates --------------------------------------------------------------------------
    async def _source(self, wanted: JobFilter) -> Source:
        if wanted.states and wanted.states <= _LIVE:
            return _of(await self._handed_out(wanted), wanted.after)
        if wanted.tags or wanted.metadata:
            return self._query("tagged_jobs", wanted, word=await self._rarest(wanted))
        if wanted.states and wanted.states <= _DEFERRED:
            if wanted.queue:
                return self._query("deferred_jobs_of_queue", wanted, queue=wanted.queue)
            return self._query("deferred_jobs", wanted)
        if wanted.states and wanted.states <= _UNSUCCESSFUL:
            return self._query("unsuccessful_jobs", wanted)
        if wanted.states == {JobState.READY}:
            beyond = await self._rows("jobs_beyond_marks", queue=wanted.queue, task=wanted.task, limit=MOST_READY)
            if len(beyond) < MOST_READY:
                return _of(beyond, wanted.after)
        return self._recent(wanted)

    def _recent(self, wanted: JobFilter) -> Source:
        if wanted.queue or wanted.task:
            return self._query("jobs_of_lanes", wanted, queue=wanted.queue, task=wanted.task)
        return self._query("all_jobs", wanted)

    def _query(self, name: str, wanted: JobFilter, **parameters: Any) -> Source:
        async def read(before: bytes, limit: int) -> list[bytes]:
            after = UUID(bytes=wanted.after)
            return await self._rows(name, after=after, before=UUID(bytes=before), limit=limit, **parameters)

        return read

    async def _rows(self, name: str, **parameters: Any) -> list[bytes]:
        return [row["id"].bytes for row in await self._db.rows(name, **parameters)]

    async def _rarest(self, wanted: JobFilter) -> str:
        asked = words(wanted.tags, wanted.metadata)
        if len(asked) == 1:
            return asked[0]
        after, before = UUID(bytes=wanted.after), UUID(bytes=wanted.before)
        return str((await self._db.rows("rarest_word", words=asked, after=after, before=before))[0]["word"])

    async def _handed_out(self, wanted: JobFilter) -> list[bytes]:
        """Only the owners know the jobs that are handed out."""
        live = await self._coordinators.describe(queue=wanted.queue)
        return [i for i, job in live.items() if STATES[job.state] in wanted.states and _fits(wanted, job)]

    # -- the decision ------------------------------------------------------------------------
    async def _matching(self, wanted: JobFilter, candidates: list[bytes], most: int) -> list[pb.Job]:
        """The candidates that match, in their order, at most `most`."""
        if not candidates:
            return []
        # The facts on disk still say `ready` for jobs that are handed out, so memory decides for these.
        states = wanted.states | {JobState.READY} | _LIVE if wanted.states & _LIVE else wanted.states
        rows = await self._db.rows(
            "matching_jobs", ids=[UUID(bytes=i) for i in candidates], queue=wanted.queue, task=wanted.task,
            states=[state.number for state in states], error=wanted.error, tags=list(wanted.tags),
            metadata=json.dumps(wanted.metadata),
        )  # fmt: skip
        matching = {row["id"].bytes for row in rows}
        kept = [i for i in candidates if i in matching]
        found: list[pb.Job] = []
        for start in range(0, len(kept), most):
            part = kept[start : start + most]
            live = await self._coordinators.describe(part)
            if wanted.live:
                part = [i for i in part if i in live and _fits(wanted, live[i])]
            jobs = await self._overlaid(part, live)
            found += [job for job in jobs if not wanted.states or STATES[job.state] in wanted.states]
            if len(found) >= most:
                break
        return found[:most]

    async def _overlaid(self, page: list[bytes], live: Mapping[bytes, LiveJob]) -> list[pb.Job]:
        rows = await store.get_jobs(self._db, page)
        return [resources.job(rows[i], live.get(i), most=LIST_BYTES) for i in page if i in rows]


def page_size(asked: int, default: int = 100, most: int = 1000, *, field: str = "page_size") -> int:
    if not 0 <= asked <= most:
        raise InvalidArgument(f"{field}: {asked} is not between 1 and {most}", field)
    return asked or default


def _of(found: list[bytes], after: bytes) -> Source:
    ordered = sorted((i for i in found if i >= after), reverse=True)

    async def read(before: bytes, limit: int) -> list[bytes]:
        return [i for i in ordered if i < before][:limit]

    return read


def _first_id(us: int) -> bytes:
    """The smallest UUIDv7 of that instant."""
    return (max(us, 0) // 1000 << 80).to_bytes(16, "big")


def _implied(request: pb.ListJobsRequest) -> frozenset[JobState]:
    """The states that the other filters imply if none is given; empty: all."""
    if request.HasField("running_longer_than"):
        return frozenset({JobState.RUNNING})
    if request.worker:
        return _LIVE
    return _UNSUCCESSFUL if request.error else frozenset()


def _fits(wanted: JobFilter, job: LiveJob) -> bool:
    if wanted.worker not in ("", job.worker):
        return False
    return wanted.running_us < 0 or (STATES[job.state] is JobState.RUNNING and job.running_us > wanted.running_us)


def _state(number: int) -> JobState:
    try:
        return STATES[number]
    except KeyError:
        raise InvalidArgument(f"states: {number} is not a valid state", "states") from None


def _page_token(token: str) -> bytes:
    try:
        return UUID(token).bytes if token else b"\xff" * 16
    except ValueError:
        raise InvalidArgument("page_token: is not a valid token of this method", "page_token") from None

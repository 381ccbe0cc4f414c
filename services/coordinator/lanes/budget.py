"""Budgets of memory for waiting jobs: one here and one in the queue service, shared by the lanes with work.

Invariants: the waiting jobs stay within both budgets, except for the last admitted job; a lane with jobs to read gets
room, even if other lanes have filled the memory with jobs that no worker takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from taskflow_server.coordinator.perform import Performer
from taskflow_server.coordinator.shared import Shared
from taskflow_server.core.dispatch.waiting import JOB_BYTES, Share
from taskflow_server.core.lanes import LaneKey
from taskflow_server.runtime import logs
from taskflow_server.store.lane_reader import Spec

log = logs.get("memory")

MARGIN = 0.8  # usable share of the rest: the next jobs may be larger than the last ones
LANES_A_SWEEP = 100  # limit of the lanes that make room for others
UNKNOWN_BYTES = 128 << 10  # assumed size of a job before the lane's first page


class MemoryBudget:
    def __init__(self, shared: Shared, performer: Performer) -> None:
        self._shared = shared
        self._performer = performer
        self._sharing = 1  # lanes with work, at the last check
        self._mean: dict[LaneKey, float] = {}  # mean bytes of a lane's jobs, from its last pages
        self._gone: dict[LaneKey, int] = {}  # while a lane has no room: jobs that have left each of the others

    # -- room --------------------------------------------------------------------------------
    def room(self, key: LaneKey) -> int:
        """The number of jobs to read for this lane: at least one if it has none and memory has any room."""
        settings = self._shared.settings
        share = self._shared.table.waiting.of(key)
        theirs, ours = self._shares()
        jobs = min(
            settings.lane_depth - share.jobs + share.due,
            MARGIN * (theirs - share.size) / self._mean_of(key, share),
            (ours - share.own_size) / JOB_BYTES,
        )
        return self._within(jobs, bool(share.jobs), self._mean_of(key, share))

    def due_room(self, key: LaneKey) -> int:
        """As `room`, for its due deferred jobs. They have a separate depth, and half of the lane's bytes."""
        share = self._shared.table.waiting.of(key)
        theirs, ours = self._shares()
        jobs = min(
            self._shared.settings.due_depth - share.due,
            MARGIN * (theirs / 2 - share.due_size) / self._mean_of(key, share),
            (ours - share.own_size) / JOB_BYTES,
        )
        return self._within(jobs, bool(share.due), self._mean_of(key, share))

    def wants(self, key: LaneKey) -> bool:
        """Whether it has room for half of its share, so that a page is worth its cost."""
        share = self._shared.table.waiting.of(key)
        return self.room(key) >= max(1, share.jobs - share.due)

    def wants_due(self, key: LaneKey) -> bool:
        """As `wants`, for deferred jobs."""
        return self.due_room(key) >= max(1, self._shared.table.waiting.of(key).due)

    def fits(self, key: LaneKey) -> bool:
        """Whether one more job may be admitted, whose size is known only afterwards."""
        return self.gauge(key)()

    def gauge(self, key: LaneKey) -> Callable[[], bool]:
        """`fits` for jobs that are admitted one after the other, without an await: the shares are the same for all."""
        waiting = self._shared.table.waiting
        theirs, ours = self._shares()
        all_theirs, all_ours = self._shared.queue_memory, self._shared.settings.memory_bytes

        def fits() -> bool:
            if waiting.size >= all_theirs or waiting.own_size >= all_ours:
                return False
            share = waiting.of(key)
            return not share.jobs or (share.size < theirs and share.own_size < ours)

        return fits

    def due_fits(self, key: LaneKey) -> bool:
        """As `fits`, for a deferred job."""
        share = self._shared.table.waiting.of(key)
        theirs, ours = self._shares()
        free = share.due < self._shared.settings.due_depth and share.due_size < theirs / 2 and share.own_size < ours
        return self._any and not self._crowded and (not share.due or free)

    def _within(self, jobs: float, any_there: bool, mean: float) -> int:
        """Limits a number of jobs to the rest of both budgets, which one job may exceed."""
        if not self._any or self._crowded:
            return 0
        waiting, settings = self._shared.table.waiting, self._shared.settings
        theirs, ours = self._shared.queue_memory - waiting.size, settings.memory_bytes - waiting.own_size
        total = min(theirs / mean, ours / JOB_BYTES)
        return int(min(jobs if any_there else max(jobs, 1.0), max(total, 1.0)))

    @property
    def _any(self) -> bool:
        waiting = self._shared.table.waiting
        return waiting.size < self._shared.queue_memory and waiting.own_size < self._shared.settings.memory_bytes

    @property
    def _crowded(self) -> bool:
        """Whether so many jobs wait for a permit that some must move to Postgres before more are read; two of each
        limit stay."""
        limits = self._shared.table.limits
        return limits.blocked >= self._shared.settings.blocked_in_memory + 2 * limits.count

    def _shares(self) -> tuple[float, float]:
        """The share of one lane in bytes, in the queue service and here."""
        settings = self._shared.settings
        theirs = min(settings.lane_bytes, self._shared.queue_memory / self._sharing)
        return theirs, settings.memory_bytes / self._sharing

    def _mean_of(self, key: LaneKey, share: Share) -> float:
        """The mean size of its jobs in bytes."""
        return share.size / share.jobs if share.jobs else self._mean.get(key, UNKNOWN_BYTES)

    def weigh(self, key: LaneKey, specs: Mapping[bytes, Spec]) -> None:
        """Updates the mean size of the lane's jobs; it rises quickly."""
        sizes = [len(spec.payload or b"") for spec in specs.values() if spec.told]
        if sizes:
            mean = sum(sizes) / len(sizes) + JOB_BYTES / 2
            self._mean[key] = max(mean, 0.8 * self._mean.get(key, mean) + 0.2 * mean)

    # -- sharing -----------------------------------------------------------------------------
    def share_out(self, sweep: bool) -> None:
        """Counts the lanes with work; in a sweep, makes room for lanes that have none."""
        shared = self._shared
        waiting = shared.table.waiting
        without = {key for key in shared.hungry if key not in waiting}
        without.update(key for _, key in shared.due_behind if key not in waiting)
        self._sharing = max(1, len(waiting) + len(without))
        if not sweep:
            return
        for key in [k for k in self._mean if k not in waiting and k not in shared.table.lanes]:
            del self._mean[key]
        before, self._gone = self._gone, {}
        if without and not self._any:
            self._gone = {key: waiting.of(key).gone for key in waiting}
            still = [key for key, gone in self._gone.items() if before.get(key) == gone]
            self._send_back(self._victims(still, len(without)))  # the others make room by themselves

    def _victims(self, keys: Sequence[LaneKey], starved: int) -> set[LaneKey]:
        """The largest of these lanes, until the others have room for their shares."""
        waiting = self._shared.table.waiting
        wanted = starved * self._shares()[0]
        found: set[LaneKey] = set()
        for key in sorted(keys, key=lambda key: waiting.of(key).size, reverse=True)[:LANES_A_SWEEP]:
            lane = self._shared.table.lanes.get(key)
            if wanted <= 0:
                break
            if lane is None or not lane.reading:
                found.add(key)
                wanted -= waiting.of(key).size
        return found

    def _send_back(self, keys: set[LaneKey]) -> None:
        """Takes their jobs out of the queue service and out of memory: they wait in Postgres."""
        if not keys:
            return
        before = len(self._shared.table.lanes)
        effects = self._shared.table.make_room(keys)
        for key in keys - self._shared.table.lanes.keys():
            self._shared.hungry.pop(key, None)
        if len(self._shared.table.lanes) < before:
            log.info("lanes leave memory: others need room", lanes=len(keys))
        self._performer.perform(effects)

"""Counts the waiting jobs of each lane in memory: all, the deferred ones, and their bytes.

A lane without waiting jobs has no entry here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from taskflow_server.core.lanes import LaneKey

JOB_BYTES = 1100  # measured, for a waiting job in the coordinator without its options


class Job(Protocol):
    """The counted fields of an entry."""

    @property
    def key(self) -> LaneKey: ...
    @property
    def due(self) -> bool: ...
    @property
    def size(self) -> int: ...
    @property
    def own_size(self) -> int: ...


@dataclass(slots=True)
class Share:
    """The counts of one lane."""

    jobs: int = 0
    due: int = 0  # the jobs that came from `deferred`
    size: int = 0  # bytes of all jobs in the queue service
    due_size: int = 0
    own_size: int = 0  # bytes of all jobs in the coordinator, which does not keep their payloads
    gone: int = 0  # number of jobs that have left since the lane came into memory


class Waiting:
    def __init__(self) -> None:
        self._shares: dict[LaneKey, Share] = {}
        self.size = 0
        self.own_size = 0

    def __getitem__(self, key: LaneKey) -> int:
        """The number of waiting jobs of a lane."""
        share = self._shares.get(key)
        return 0 if share is None else share.jobs

    def __iter__(self) -> Iterator[LaneKey]:
        return iter(self._shares)

    def __len__(self) -> int:
        return len(self._shares)

    def __contains__(self, key: LaneKey) -> bool:
        return key in self._shares

    def of(self, key: LaneKey) -> Share:
        return self._shares.get(key) or Share()

    def add(self, job: Job) -> None:
        share = self._shares.get(job.key)
        if share is None:
            share = self._shares[job.key] = Share()
        size, own_size = job.size, job.own_size
        share.jobs += 1
        share.size += size
        share.own_size += own_size
        self.size += size
        self.own_size += own_size
        if job.due:
            share.due += 1
            share.due_size += size

    def remove(self, job: Job) -> None:
        share = self._shares[job.key]
        size, own_size = job.size, job.own_size
        share.jobs -= 1
        share.gone += 1
        share.size -= size
        share.own_size -= own_size
        self.size -= size
        self.own_size -= own_size
        if job.due:
            share.due -= 1
            share.due_size -= size
        if not share.jobs:
            del self._shares[job.key]

"""What the dispatch table holds: jobs with their attempts, shards, workers, and the limits of keys."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from taskflow_server.core.dispatch.transitions import Phase
from taskflow_server.core.dispatch.waiting import JOB_BYTES
from taskflow_server.core.lanes import LaneKey


@dataclass(slots=True, eq=False)
class Entry:
    """A job in memory, and its attempt that waits or runs. Only this package changes one (`DispatchTable`)."""

    job_id: bytes
    key: LaneKey
    shard: int
    attempt: int
    tries: int  # used before this attempt
    spec: Any = None  # the message for the worker; None until it is loaded
    size: int = JOB_BYTES  # bytes in the queue service; does not change while the job waits
    own_size: int = JOB_BYTES  # bytes here, without its payload
    phase: Phase = Phase.NEW
    exec_id: bytes = b""
    worker: bytes = b""
    taken_at: float = 0.0
    started: bool = False  # as its worker reported, or as follows from the time
    progress: Any = None
    commit: Any = None  # a future: done when its outcome is committed

    # The queue service.
    first: bool = False  # a worker had prefetched it: it goes before the others of its lane
    fed: bool = False  # the queue service has had the payload, which is not kept here
    leaving: bool = False  # asked back from the queue service to make room for other lanes
    expiring: bool = False  # asked back because its `start_by` has passed
    yielding: bool = False  # asked back because another job may have its permit

    # Rows in Postgres.
    due: bool = False  # has a row in `deferred`, which stays until the attempt's outcome (A4)
    due_us: int = 0  # of a deferred job: when this attempt became due, in microseconds since 1970
    run_at_us: int = 0  # of a job with a `run_at`: that instant
    due_tried: bool = False  # may have a row in `deferred`, by a commit of unknown fate: its outcome deletes it
    leased: bool = False  # has a row in `leases`: set after its commit
    lease_tried: bool = False  # may have one, by a commit of unknown fate: its outcome deletes it
    lease_written: Any = None  # the progress that its lease row has
    leased_to: str = ""  # the name of the worker in its lease row, read by a takeover
    lease_first: bool = False  # a former owner may have handed it out: its lease row is written before we do (A12)
    unread: bool = False  # it ends without its lane having read it

    handouts: int = 0  # times that it was handed out without a start (R4)
    counted: bool = False  # the metrics have its start
    cancelling: bool = False
    cancel_reason: str = ""
    void_asked: bool = False
    executor_lease: ExecutorLease | None = None  # of an executor, which has no session
    limit_key: str = ""  # of the limit that it may have: 'task:' and its named task's id
    limited: bool = False  # it was made under such a limit
    limit: Limit | None = None
    blocked_at: float = 0.0  # when it began to wait for a permit

    @property
    def may_leave(self) -> bool:
        """Postgres knows all of it: memory alone knows how often it was handed out, and that it is to end."""
        known = self.leased or self.lease_tried or self.handouts or self.cancelling or self.expiring
        return not known


class Facts(NamedTuple):
    """What Postgres knows of a job, for an attempt that was adopted by the word of its worker."""

    key: LaneKey
    spec: Any
    tries: int
    due: bool
    due_us: int
    run_at_us: int
    leased: bool
    limit_key: str
    limited: bool


@dataclass(slots=True)
class Shard:
    number: int
    epoch: int
    catch_to: int  # transactions from here on began after the takeover
    clean: bool  # its last owner left in order
    opened_at: Any = None  # the database's time of the takeover: what was due by then may have been handed out
    unconfirmed: set[bytes] = field(default_factory=set)
    in_doubt: dict[bytes, Entry] = field(default_factory=dict)
    suspects: Counter[LaneKey] | None = None  # in doubt after an unclean takeover, admitted so far; None: none can be

    @property
    def settled(self) -> bool:
        return not self.unconfirmed


@dataclass(slots=True)
class WorkerRecord:
    """A registered worker, as its coordinator knows it."""

    worker: bytes
    deadline: float  # on the owner's monotonic clock: the end of its lease
    name: str = ""
    sessionless: bool = False  # an executor's: it is here while it has an attempt
    process: Any = None  # the operating system's process, if it said so: the proof of its end
    entries: dict[bytes, Entry] = field(default_factory=dict)  # by exec_id
    confirmed: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Claim:
    """An attempt that a worker reports to have."""

    exec_id: bytes
    job_id: bytes
    attempt: int
    shard: int
    started: bool
    finished: bool


@dataclass(slots=True)
class ExecutorLease:
    """The time-outs of one attempt, in seconds, and when the present one ends."""

    requested: float  # to its start
    silence: float  # between two words of its executor
    timeout: float = math.inf  # of the attempt in all
    until: float = math.inf


class Order(NamedTuple):
    """Who gets a permit first: the highest priority, then the job that was made first."""

    priority: int  # negative
    job_id: bytes


FIRST = Order(-10, b"")  # before every job


def order_of(entry: Entry) -> Order:
    return Order(-entry.key.priority, entry.job_id)


@dataclass(slots=True, eq=False)
class Limit:
    """One key's permits.

    `stored`: jobs beyond this point of the order come after some that wait in Postgres alone; None: there are none.
    """

    key: str
    most: int
    holders: set[Entry] = field(default_factory=set)
    ranks: Counter[int] = field(default_factory=Counter)  # of the holders: how many have each `Order.priority`
    blocked: dict[Entry, Order] = field(default_factory=dict)
    stored: Order | None = FIRST

    @property
    def free(self) -> int:
        return self.most - len(self.holders)

    def give(self, entry: Entry) -> None:
        if entry not in self.holders:
            self.holders.add(entry)
            self.ranks[-entry.key.priority] += 1

    def take(self, entry: Entry) -> None:
        if entry in self.holders:
            self.holders.discard(entry)
            self.ranks[-entry.key.priority] -= 1
            if not self.ranks[-entry.key.priority]:
                del self.ranks[-entry.key.priority]

    def next(self, count: int) -> list[Entry]:
        """Those that get the next permits. Whoever stands behind a job that is in Postgres alone waits for that."""
        first = heapq.nsmallest(count, self.blocked.items(), key=lambda item: item[1])
        return [entry for entry, order in first if self.stored is None or order <= self.stored]

"""The records of the dispatch table: jobs with their attempts, shards, workers, and the limits of keys."""

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
    """A job in memory, with its waiting or running attempt. Only this package changes it (`DispatchTable`)."""

    job_id: bytes
    key: LaneKey
    shard: int
    attempt: int
    tries: int  # tries used before this attempt
    spec: Any = None  # the message for the worker; None until it is loaded
    size: int = JOB_BYTES  # bytes in the queue service; does not change while the job waits
    own_size: int = JOB_BYTES  # bytes in the coordinator, without its payload
    phase: Phase = Phase.NEW
    exec_id: bytes = b""
    worker: bytes = b""
    taken_at: float = 0.0
    started: bool = False  # reported by its worker, or concluded from the time
    progress: Any = None
    commit: Any = None  # a future: done when its outcome is committed

    # The queue service.
    first: bool = False  # a worker had prefetched it: it is dispatched before the others of its lane
    fed: bool = False  # the queue service got the payload, which is not kept here
    leaving: bool = False  # being taken back from the queue service to make room for other lanes
    expiring: bool = False  # being taken back because its `start_by` has passed
    yielding: bool = False  # being taken back because another job may get its permit

    # Rows in Postgres.
    due: bool = False  # has a row in `deferred`, which stays until the attempt's outcome (A4)
    due_us: int = 0  # of a deferred job: when this attempt became due, in microseconds since 1970
    run_at_us: int = 0  # of a job with a `run_at`: that instant
    due_tried: bool = False  # may have a row in `deferred` from a commit in doubt: its outcome deletes it
    leased: bool = False  # has a row in `leases`: set after its commit
    lease_tried: bool = False  # may have one from a commit in doubt: its outcome deletes it
    fenced: bool = False  # its row may say that transactions can be fenced: only an outcome ends it (A17)
    lease_written: Any = None  # the progress in its lease row
    leased_to: str = ""  # the name of the worker in its lease row, read by a takeover
    lease_first: bool = False  # a former owner may have handed it out: write its lease row before a hand-out (A12)
    unread: bool = False  # it ends before its lane has read it

    handouts: int = 0  # hand-outs without a start (R4)
    counted: bool = False  # its start is counted in the metrics
    cancelling: bool = False
    cancel_reason: str = ""
    void_asked: bool = False
    executor_lease: ExecutorLease | None = None  # for an executor, which has no session
    limit_key: str = ""  # key of its limit, if any: 'task:' and the id of its named task
    limited: bool = False  # it was submitted under such a limit
    limit: Limit | None = None
    blocked_at: float = 0.0  # when it started to wait for a permit

    @property
    def may_leave(self) -> bool:
        """Whether Postgres has all of it. Only memory has the number of hand-outs, and a decision to end it."""
        known = self.leased or self.lease_tried or self.handouts or self.cancelling or self.expiring
        return not known


class Facts(NamedTuple):
    """The facts of a job in Postgres, for an attempt that was adopted by its worker's claim."""

    key: LaneKey
    spec: Any
    tries: int
    due: bool
    due_us: int
    run_at_us: int
    leased: bool
    fenced: bool
    limit_key: str
    limited: bool


@dataclass(slots=True)
class Shard:
    number: int
    epoch: int
    catch_to: int  # transactions from here on began after the takeover
    clean: bool  # its last owner handed it over
    opened_at: Any = None  # the database's time of the takeover: jobs due by then may have been handed out
    unconfirmed: set[bytes] = field(default_factory=set)
    in_doubt: dict[bytes, Entry] = field(default_factory=dict)
    suspects: Counter[LaneKey] | None = None  # jobs in doubt after an unclean takeover, admitted so far; None: none

    @property
    def settled(self) -> bool:
        return not self.unconfirmed


@dataclass(slots=True)
class WorkerRecord:
    """A registered worker."""

    worker: bytes
    deadline: float  # on the owner's monotonic clock: the end of its lease
    name: str = ""
    sessionless: bool = False  # an executor, recorded while it has an attempt
    process: Any = None  # its process, if it registered one, to prove its death
    entries: dict[bytes, Entry] = field(default_factory=dict)  # by exec_id
    confirmed: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Claim:
    """An attempt that a worker's heartbeat lists."""

    exec_id: bytes
    job_id: bytes
    attempt: int
    shard: int
    started: bool
    finished: bool


@dataclass(slots=True)
class ExecutorLease:
    """The timeouts of one attempt, in seconds, and the end of the present one."""

    requested: float  # until its start
    silence: float  # between two reports of its executor
    timeout: float = math.inf  # of the whole attempt
    until: float = math.inf


class Order(NamedTuple):
    """The order of permits: the highest priority first, then the oldest job."""

    priority: int  # negative
    job_id: bytes


FIRST = Order(-10, b"")  # before every job


def order_of(entry: Entry) -> Order:
    return Order(-entry.key.priority, entry.job_id)


@dataclass(slots=True, eq=False)
class Limit:
    """The permits of one key.

    `stored`: jobs beyond this point of the order come after some that wait only in Postgres; None: there are none.
    """

    key: str
    most: int
    holders: set[Entry] = field(default_factory=set)
    ranks: Counter[int] = field(default_factory=Counter)  # number of holders by `Order.priority`
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
        """The jobs that get the next permits. A job behind one that is only in Postgres waits for that one."""
        first = heapq.nsmallest(count, self.blocked.items(), key=lambda item: item[1])
        return [entry for entry, order in first if self.stored is None or order <= self.stored]

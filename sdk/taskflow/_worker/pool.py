"""The slots that one kind of poll fills, and the attempts that are prefetched beyond them. On the I/O loop."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, Protocol, TypeVar

from taskflow._worker.prefetch import Prefetch
from taskflow._worker.timers import Wakeup

_TICK = 0.001  # seconds


class Pooled(Protocol):
    """An attempt, as far as a pool knows it."""

    exec_id: bytes
    prefetched: bool
    """It was released before it had a slot."""


A = TypeVar("A", bound=Pooled)


class Pool(Generic[A]):
    """Slots that one kind of poll fills: those of async and thread handlers together, or of one handler's processes.

    Received attempts start in order, as far as there are slots; the others are prefetched: `prefetch` seconds of work.
    """

    def __init__(self, capacity: int, tasks: list[str], queue_handlers: list[str], prefetch: float = 0.0) -> None:
        self.capacity = capacity
        self.tasks = tasks
        self.queue_handlers = queue_handlers
        self.used = 0  # received and not released: in a slot, or prefetched
        self.promised = 0  # slots that polls under way ask for
        self.prefetching = 0  # attempts that they ask for besides
        self.freed = Wakeup()
        self.ended = 0  # slots freed, ever
        self.prefetch = Prefetch(capacity, prefetch)
        self.overdue_handlers = 0  # in slots, whose attempts have ended
        self.watched = False  # a timer will look at the prefetched attempts
        self._prefetched: OrderedDict[bytes, tuple[A, float]] = OrderedDict()  # by exec_id, and since when

    @property
    def free(self) -> int:
        """Slots with no attempt, received or asked for; below 0 by the number of prefetched attempts."""
        return self.capacity - self.used - self.promised

    def prefetchable(self, now: float) -> int:
        """How many more attempts may be prefetched."""
        if self.overdue_handlers >= self.capacity:
            return 0
        return max(0, self.prefetch.allowed(now) + min(0, self.free) - self.prefetching)

    @property
    def prefetched(self) -> int:
        return len(self._prefetched)

    def receive(self, attempt: A, now: float) -> None:
        self.used += 1
        self._prefetched[attempt.exec_id] = attempt, now

    def startable(self) -> list[A]:
        """Takes prefetched attempts for the free slots."""
        slots = self.capacity - (self.used - len(self._prefetched))
        return [self._prefetched.popitem(last=False)[1][0] for _ in range(min(slots, len(self._prefetched)))]

    def release(self, attempt: A) -> None:
        self.used -= 1
        if self._prefetched.pop(attempt.exec_id, None) is None:
            self.ended += 1
        else:
            attempt.prefetched = True
        self.freed.wake()

    def occupy(self) -> None:
        """One slot cannot be used for now."""
        self.used += 1

    def vacate(self) -> None:
        self.used -= 1
        self.freed.wake()

    def overdue(self, now: float) -> list[A]:
        """Prefetched attempts that have waited for too long."""
        before = now - self.prefetch.patience
        return [attempt for attempt, since in self._prefetched.values() if since <= before]

    def patience_left(self, now: float) -> float:
        """Seconds until the first of them is overdue; not less than what a timer can tell apart."""
        _, since = next(iter(self._prefetched.values()))
        return max(_TICK, since + self.prefetch.patience - now)

"""The job as its handler sees it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from taskflow._handlers.fenced import Fenced
from taskflow._messages import ids, payloads
from taskflow._messages.texts import named, text
from taskflow.errors import InvalidArgument

C = TypeVar("C")

_NONE: Mapping[str, str] = MappingProxyType({})
_MAX_UNIT = 64  # characters, as the next three; the middle of what is longer is left out
_MAX_MESSAGE = 1_024
_MAX_LEVEL = 16
_MAX_LINE = 8 << 10
_NUMBER_BITS = 40  # of a hand-out's number below its epoch: enough for a year of 30,000 a second


class JobLink(Protocol):
    """Connects a job to the worker that runs it: directly, or through a pipe. It is given plain numbers, and strings of
    bounded length that can be stored."""

    @property
    def cancelled(self) -> bool: ...

    def progress(self, current: float, total: float, unit: str, message: str) -> None: ...

    def heartbeat(self) -> None: ...

    def log(self, level: str, message: str) -> None: ...

    def fence(self) -> Future[bool]:
        """Done once the start of the attempt is on disk, as `taskflow.assert_current` wants it. False: there is no
        cluster, and nothing to assert."""
        ...


@dataclass(frozen=True, slots=True)
class Caller:
    """Who made a job, as the cluster knows it. There are no tokens yet: everybody is anonymous, and has no roles."""

    name: str
    roles: tuple[str, ...]
    namespace: str


class Job:
    """One attempt at a job. A handler gets it as the parameter annotated `Job`, or named `job`.

    Its methods may be called from async handlers, threads and processes alike, and never block, but for `fenced`.
    """

    __slots__ = (
        "_data",
        "_encoding",
        "_exec_id",
        "_id",
        "_link",
        "_metadata",
        "_payload",
        "_requester",
        "attempt",
        "deadline",
        "queue",
        "retries",
        "task",
    )

    queue: str
    task: str
    """'' for a job without a task."""
    attempt: int
    """Number of this execution, from 1."""
    retries: int
    """Further tries that the job was made with."""
    deadline: datetime | None
    """When this attempt times out; None: never."""

    def __init__(
        self,
        link: JobLink,
        job_id: bytes,
        exec_id: bytes,
        queue: str,
        task: str,
        attempt: int,
        retries: int,
        data: bytes,
        encoding: int,
        deadline: datetime | None,
        requester: bytes = b"",
        metadata: Mapping[str, str] = _NONE,
    ) -> None:
        self._link = link
        self._id = job_id
        self._exec_id = exec_id
        self._data = data
        self._encoding = encoding
        self._payload: Any = _UNREAD
        self._requester = requester
        self._metadata = metadata
        self.queue = queue
        self.task = task
        self.attempt = attempt
        self.retries = retries
        self.deadline = deadline

    @property
    def id(self) -> str:
        """The job's id, the same in all its attempts."""
        return ids.show(self._id)

    @property
    def exec_id(self) -> str:
        """This attempt's id: the key to use where an effect must happen once per attempt."""
        return ids.show(self._exec_id)

    @property
    def fence(self) -> int:
        """A number that rises with each attempt at the job: the token to compare where an effect is outside the
        database. A bigint of Postgres holds it. It says nothing about other jobs."""
        epoch, number = int.from_bytes(self._exec_id[2:6], "big"), int.from_bytes(self._exec_id[6:12], "big")
        return (epoch << _NUMBER_BITS) + number

    def fenced(self, conn: C) -> Fenced[C]:
        """A transaction that is committed only if this attempt is its job's present one: `with job.fenced(conn):`, or
        `async with` for an asynchronous connection.

        `conn` is a connection to TaskFlow's own database, of psycopg, asyncpg, SQLAlchemy (also a Session), Django or
        another driver by DB-API 2. If it is in a transaction already, that one is fenced, and is not committed here.
        Until the transaction ends, the attempt does not end: nobody starts the next one. StaleAttempt when it is not
        the present one any more; Unavailable when no coordinator answers within 15 s.
        """
        return Fenced(self._link.fence, self.id, self.exec_id, conn)

    @property
    def payload(self) -> Any:
        """The job's payload: a JSON value, text or bytes."""
        if self._payload is _UNREAD:
            self._payload = payloads.decode(self._data, self._encoding)
        return self._payload

    @property
    def metadata(self) -> dict[str, str]:
        """The job's metadata, from `metadata=`. A step of a workflow has its run's, `taskflow.run` and
        `taskflow.step`; a firing of a schedule `taskflow.schedule` and `taskflow.instant`."""
        return dict(self._metadata)

    @property
    def caller(self) -> Caller:
        """Who made the job: as long as there are no tokens, `anonymous` in the namespace of its queue."""
        return Caller("anonymous", (), self.queue.rpartition("/")[0] or "default")

    @property
    def requester(self) -> Mapping[str, Any]:
        """Attributes of the user for whom the app made the job: its `requester=`, not verified."""
        found: dict[str, Any] = payloads.decode(self._requester, payloads.JSON) or {}
        return found

    @property
    def cancelled(self) -> bool:
        """Whether the handler should stop: cancelled, timed out, or cut off from the cluster."""
        return self._link.cancelled

    def progress(self, current: float, total: float = 0, unit: str = "", message: str = "") -> None:
        """Reports how far it is. Also the heartbeat. Sent at most twice a second; the last one counts.

        InvalidArgument for a number that is not finite, and for text that cannot be made.
        """
        self._link.progress(
            _number(current, "current"),
            _number(total, "total"),
            _text(unit, "unit", _MAX_UNIT),
            _text(message, "message", _MAX_MESSAGE),
        )

    def heartbeat(self) -> None:
        """Says that it is alive: needed at least every `heartbeat_timeout`, where one is set."""
        self._link.heartbeat()

    def log(self, message: str, level: str = "info") -> None:
        """Adds a line to the job's log, kept with the job and listed by `tf.jobs.logs`.

        InvalidArgument for what cannot be made text.
        """
        self._link.log(_text(level, "level", _MAX_LEVEL), _text(message, "message", _MAX_LINE))

    def __repr__(self) -> str:
        return f"<Job {self.id} queue={self.queue!r} task={self.task!r} attempt={self.attempt}>"


_UNREAD = object()


def _number(value: Any, field: str) -> float:
    try:
        number = float(value)
    except Exception as error:
        raise InvalidArgument(f"{field}: not a number ({named(error, _MAX_MESSAGE)})", field=field) from error
    if not math.isfinite(number):
        raise InvalidArgument(f"{field}: {number} is not a finite number", field=field)
    return number


def _text(value: Any, field: str, limit: int) -> str:
    try:
        return text(str(value), limit)
    except Exception as error:
        raise InvalidArgument(f"{field}: cannot be made text ({named(error, _MAX_MESSAGE)})", field=field) from error

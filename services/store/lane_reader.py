"""Reads lanes and deferred jobs for a coordinator, page by page.

No list is longer than the requested number, however many jobs wait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from psycopg.rows import dict_row

from taskflow_server.core.errors import Unavailable
from taskflow_server.core.lanes import Lane, LaneKey, Page, PageRequest, Position, Snapshot
from taskflow_server.store import raw_ids
from taskflow_server.store.database import Row, Writer
from taskflow_server.store.queries import sql


class Spec(NamedTuple):
    """The parts of a job that a worker gets."""

    payload: bytes | None
    encoding: int
    retries: int
    options: dict[str, Any] | None
    run_at: datetime | None = None
    told: bool = True  # False: payload and options were left out, because the answer would be too long


class DuePlace(NamedTuple):
    """A place in the order of due rows."""

    due_at: datetime
    job_id: bytes


class NewlyDue(NamedTuple):
    """One look at what has become due."""

    now: datetime
    rows: list[Row]
    starts_late: bool  # `late_starts` would find some
    slas_over: bool  # `due_job_slas` would


class DueLane(NamedTuple):
    """A request for due rows of a lane: after a place, up to a number."""

    shard: int
    key: LaneKey
    place: DuePlace
    limit: int


NO_SCANS = {"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off"}


class LaneReader:
    """Reads pages. Its connection has sequential scans disabled: the planner takes a new partition for empty."""

    def __init__(self, url: str, timeout: float) -> None:
        self._writer = Writer(url, timeout=timeout, settings=NO_SCANS, prepare=raw_ids.register)

    async def close(self) -> None:
        await self._writer.reset()

    async def pages(self, wanted: Sequence[tuple[Lane, PageRequest]]) -> list[Page]:
        """One page for each of these lanes, all of one snapshot."""
        parameters = {
            "queues": [lane.key.queue for lane, _ in wanted],
            "tasks": [lane.key.task for lane, _ in wanted],
            "priorities": [lane.key.priority for lane, _ in wanted],
            "txs": [str(r.position.tx) for _, r in wanted],
            "ids": raw_ids.Ids(r.position.id for _, r in wanted),
            "limits": [r.limit for _, r in wanted],
            "catch_tos": [str(r.catch_to) for _, r in wanted],
            "late_of": [n for n, (_, r) in enumerate(wanted, 1) for _ in r.late],
            "late": [str(tx) for _, r in wanted for tx in r.late],
        }
        async with self._writer.transaction() as conn:
            rows = await (await conn.execute(sql("read_lanes"), parameters, binary=True)).fetchall()
        snapshot = Snapshot(0, frozenset())
        ahead: list[list[Position]] = [[] for _ in wanted]
        behind: list[list[Position]] = [[] for _ in wanted]
        for n, tx, job_id, text in rows:
            if n == 0:
                _, xmax, running = text.split(":")
                snapshot = Snapshot(int(xmax) + tx, frozenset(int(x) + tx for x in running.split(",") if x))
            else:
                (ahead if n > 0 else behind)[abs(n) - 1].append(Position(tx, job_id))
        ahead = [sorted(each) for each in ahead]  # UNION ALL does not guarantee the order of its branches
        _refuse_foreign(snapshot, [r.position for _, r in wanted], ahead)
        return [Page(snapshot, a, b, len(a) >= r.limit) for a, b, (_, r) in zip(ahead, behind, wanted, strict=True)]

    async def specs(self, ids: Sequence[bytes], most: int) -> dict[bytes, Spec]:
        """Reads jobs in the order of `ids` until their payloads reach `most` bytes; at least one has its payload."""
        small = {"ids": raw_ids.Ids(ids), "most": most // len(ids)}
        async with self._writer.transaction() as conn:
            rows = await (await conn.execute(sql("load_small_specs"), small, binary=True)).fetchall()
            if not all(row[-1] for row in rows):
                sized = {"ids": raw_ids.Ids(ids), "most": most}
                rows = await (await conn.execute(sql("load_specs"), sized, binary=True)).fetchall()
        return {row[0]: Spec(*row[1:]) for row in rows}

    async def lanes_with_news(self, shards: Sequence[int], after: LaneKey, limit: int) -> list[Row]:
        """Those of the next `limit` lanes that have jobs beyond their marks, and in any case the last of all."""
        return await self._rows("lanes_with_news", shards=raw_ids.Shards(shards), limit=limit, **after._asdict())

    async def lanes_by_key(self, shards: Sequence[int], keys: Sequence[LaneKey]) -> list[Row]:
        """The rows of those of these lanes that exist."""
        return await self._rows("lanes_by_key", shards=list(shards), **_key_columns(keys))

    async def newly_due(self, since: Mapping[int, DuePlace], limit: int, sla_after: float) -> NewlyDue:
        """The database's time, and the next due rows of each shard. `sla_after`: seconds from the end of an sla to its
        look."""
        places = list(since.values())
        first, *rows = sorted(
            await self._rows(
                "newly_due", shards=raw_ids.Shards(since), limit=limit, seconds=sla_after,
                sinces=raw_ids.Instants(place.due_at for place in places),
                ids=raw_ids.Ids(place.job_id for place in places),
            ),
            key=lambda row: (row["job_id"] is not None, row["due_at"], row["job_id"]),
        )  # fmt: skip
        return NewlyDue(first["due_at"], rows, first["starts_late"], first["slas_over"])

    async def due_of_lanes(self, wanted: Sequence[DueLane]) -> list[list[Row]]:
        """The next due rows of each of these lanes."""
        rows = await self._rows(
            "due_of_lanes", shards=[w.shard for w in wanted], limits=[w.limit for w in wanted],
            sinces=[w.place.due_at for w in wanted], ids=raw_ids.Ids(w.place.job_id for w in wanted),
            **_key_columns([w.key for w in wanted]),
        )  # fmt: skip
        found: list[list[Row]] = [[] for _ in wanted]
        for row in rows:
            found[row["n"] - 1].append(row)
        return found

    async def lanes_with_due(self, after: Mapping[int, LaneKey], limit: int) -> list[Row]:
        """The next lanes of each shard with deferred rows, and whether any row is due."""
        return await self._rows("lanes_with_due", shards=list(after), limit=limit, **_key_columns(list(after.values())))

    async def blocked_of_limits(self, keys: Sequence[str], limits: Sequence[int]) -> list[Row]:
        """The next jobs that wait for a permit of each limit, in order."""
        rows = await self._rows("blocked_of_limits", keys=list(keys), limits=list(limits))
        return sorted(rows, key=lambda row: (row["blocked_by"], -row["priority"], row["job_id"]))

    async def late_starts(self, since: Mapping[int, DuePlace], limit: int) -> list[Row]:
        """The next jobs of each shard whose `start_by` has passed."""
        places = list(since.values())
        return await self._rows(
            "late_starts", shards=list(since), sinces=[place.due_at for place in places],
            ids=raw_ids.Ids(place.job_id for place in places), limit=limit,
        )  # fmt: skip

    async def _rows(self, query: str, **parameters: Any) -> list[Row]:
        """Runs a query; ids in the rows are 16 bytes."""
        async with self._writer.transaction() as conn, conn.cursor(binary=True, row_factory=dict_row) as cursor:
            await cursor.execute(sql(query), parameters)
            return await cursor.fetchall()


def _refuse_foreign(snapshot: Snapshot, positions: list[Position], ahead: list[list[Position]]) -> None:
    """Unavailable for transaction numbers that this cluster has not assigned yet (C3). With them a lane would skip new
    jobs, and read the others again with each page."""
    last = max((page[-1].tx for page in ahead if page), default=0)
    if last >= snapshot.xmax or max(position.tx for position in positions) > snapshot.xmax:
        raise Unavailable(
            "the database has transaction numbers of another Postgres cluster, as after a restored dump;"
            " run `taskflow db migrate` or `taskflow db doctor --fix`",
            "FOREIGN_TRANSACTIONS",
        )


def _key_columns(keys: Sequence[LaneKey]) -> dict[str, list[Any]]:
    return {
        "queues": [key.queue for key in keys],
        "tasks": [key.task for key in keys],
        "priorities": [key.priority for key in keys],
    }

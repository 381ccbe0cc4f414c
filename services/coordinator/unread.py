"""Ending jobs that are not in memory: deferred, or waiting in Postgres for room in their lane."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from taskflow_server.coordinator.recovery import spec_of
from taskflow_server.coordinator.state import State
from taskflow_server.core.book import Entry
from taskflow_server.core.lanes import LaneKey
from taskflow_server.store.database import Row

FACTS_A_QUERY = 500  # jobs whose facts are read at a time


def unread_entry(state: State, job_id: bytes, facts: Row) -> Entry:
    """Brings it into memory to be ended at once; if its lane still reads it, it is passed over there."""
    key = LaneKey(facts["queue"], facts["task"], facts["priority"])
    entry = Entry(job_id, key, facts["shard"], 1, 0, spec_of(job_id, facts))
    if facts["due_attempt"] is not None:
        entry.due, entry.attempt, entry.tries = True, facts["due_attempt"], facts["due_tries"]
    else:
        entry.unread = True
        lane = state.book.lanes.get(key)
        if lane is not None:
            lane.drop(job_id)
    state.book.by_job[job_id] = entry
    state.book.waiting.add(entry)
    return entry


async def committed(endings: Sequence[asyncio.Future[Any]]) -> None:
    """When all of them are written: no more of them are in memory at a time. Raises what stopped the first."""
    for ended in await asyncio.gather(*endings, return_exceptions=True):
        if isinstance(ended, BaseException):
            raise ended

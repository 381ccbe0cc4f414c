"""Arrays that are sent as the bytes that Postgres has of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from taskflow_server.store.raw_ids import Ids, Instants, Shards

EAST = timezone(timedelta(hours=9))
IDS = [uuid4(), UUID(int=0)]
INSTANTS = [
    datetime(1970, 1, 1, tzinfo=UTC), datetime(1999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(2000, 1, 1, tzinfo=UTC), datetime(2031, 5, 6, 7, 8, 9, 123_456, tzinfo=EAST),
]  # fmt: skip


@pytest.mark.parametrize(
    ("sent", "kind", "arrives"),
    [
        (Ids(each.bytes for each in IDS), "uuid", IDS),
        (Ids(), "uuid", []),
        (Shards(range(16)), "smallint", list(range(16))),
        (Shards([-1, 32_767]), "smallint", [-1, 32_767]),
        (Shards(), "smallint", []),
        (Instants(INSTANTS), "timestamptz", INSTANTS),
        (Instants(), "timestamptz", []),
    ],
)
def test_an_array_arrives_as_it_was_sent(database: str, sent: Any, kind: str, arrives: list[Any]) -> None:
    with psycopg.connect(database) as conn:
        assert conn.execute(f"select %s::{kind}[]", [sent]).fetchone() == (arrives,)

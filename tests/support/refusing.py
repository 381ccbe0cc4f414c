"""A Postgres that refuses rows with any SQLSTATE, by a trigger of the test's own."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Refusals:
    """One trigger. Its connection is its own."""

    conn: psycopg.Connection[Any]
    name: str

    @property
    def times(self) -> int:
        """Rows refused so far: a sequence counts them, which no rollback resets."""
        count = f"select case when is_called then last_value else 0 end from {self.name}"  # noqa: S608
        return int(self.conn.execute(count).fetchall()[0][0])

    def by(self, sqlstate: str | None) -> None:
        """Refuses with another SQLSTATE from now on; None: nothing any more."""
        self.conn.execute(f"update {self.name}_with set sqlstate = %s", (sqlstate,))  # noqa: S608


@contextmanager
def refusing(dsn: str, table: str, sqlstate: str, *, when: str = "true") -> Iterator[Refusals]:
    """Refuses inserts into a table of ours. `when`: which rows, by `new`. The trigger stays, and lets all pass: to drop
    it takes a lock that the services' statements would have to wait for."""
    number = next(_numbers)
    name = f"public.refusals_{os.getpid()}_{number}"
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"create sequence {name}")
        conn.execute(f"create table {name}_with as select '{sqlstate}'::text as sqlstate")
        conn.execute(
            f"create function {name}_raise() returns trigger language plpgsql security definer as $$"  # noqa: S608
            f" declare code text := (select sqlstate from {name}_with);"
            f" begin if code is null then return new; end if; perform nextval('{name}');"
            f" raise exception 'refused by a test' using errcode = code; end $$"
        )
        conn.execute(
            f"create trigger refused_{number} before insert on taskflow.{table} for each row when ({when})"
            f" execute function {name}_raise()"
        )
        refusals = Refusals(conn, name)
        try:
            yield refusals
        finally:
            refusals.by(None)

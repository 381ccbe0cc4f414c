"""Rows as the parameters of a query over `unnest`: an array for each column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def columns(kind: Any, rows: Sequence[Any]) -> dict[str, list[Any]]:
    """`kind` is the NamedTuple that the rows are; there must be one row at least."""
    return dict(zip(kind._fields, map(list, zip(*rows, strict=True)), strict=True))

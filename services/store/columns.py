"""Rows as the parameters of a query over `unnest`: an array for each column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def columns(kind: Any, rows: Sequence[Any]) -> dict[str, list[Any]]:
    """`kind` is the rows' NamedTuple class; there must be at least one row."""
    return dict(zip(kind._fields, map(list, zip(*rows, strict=True)), strict=True))

"""Output of the commands: tables and field lists for people, JSON for programs.

Results go to standard output, notices and errors to standard error. With --json a single thing is one document and
a list is one document a line, so that `jq` and a shell loop read both. Instants are UTC.
"""

import base64
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

_COLOURS = {
    "succeeded": "green", "failed": "red", "cancelled": "magenta", "running": "cyan", "retrying": "yellow",
    "timed_out": "red", "lost": "red",
}  # fmt: skip


def document(value: Any) -> None:
    """One JSON document on a line; indented where a person reads it."""
    print(as_json(value, indent=2 if sys.stdout.isatty() else None))


def documents(values: Iterable[Any]) -> None:
    """One JSON document a line."""
    for value in values:
        print(as_json(value))


def as_json(value: Any, indent: int | None = None) -> str:
    """JSON that any reader takes: a number that is none of JSON's, which an older version kept, is text."""
    try:
        return json.dumps(value, default=_jsonable, ensure_ascii=False, allow_nan=False, indent=indent)
    except ValueError:
        plain = json.loads(json.dumps(value, default=_jsonable), parse_constant=str)
        return json.dumps(plain, ensure_ascii=False, indent=indent)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str) -> None:
    """A table with one row a thing; `empty` is said on standard error when there is none."""
    cells = [[" ".join(cell(value).split()) for value in row] for row in rows]
    if not cells:
        return notice(empty)
    if not sys.stdout.isatty():  # for grep and awk: columns, but nothing cut off
        widths = [max(len(line[place]) for line in [list(columns), *cells]) for place in range(len(columns))]
        for line in [[name.upper() for name in columns], *cells]:
            print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
        return
    _rich_table(columns, cells)


def _rich_table(columns: Sequence[str], cells: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        whole = column in ("id", "state")
        drawn.add_column(column.upper(), no_wrap=whole, overflow="fold" if whole else "ellipsis")
    for line in cells:
        drawn.add_row(*(Text(text, style=_COLOURS.get(text, "")) for text in line))
    Console().print(drawn)


def fields(pairs: Iterable[tuple[str, Any]]) -> None:
    """Name and value, a line each; those without a value are left out."""
    shown = [(name, cell(value)) for name, value in pairs if value not in (None, "", [], {})]
    width = max((len(name) for name, _ in shown), default=0)
    for name, text in shown:
        first, *more = text.splitlines() or [""]
        print(f"{name.ljust(width)}  {first}")
        for line in more:
            print(f"{'':{width}}  {line}")


def notice(text: str) -> None:
    """A remark that is no result."""
    print(text, file=sys.stderr)


def cell(value: Any) -> str:
    """A value as a person reads it; what others wrote cannot steer the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in _text(value))


def _text(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case Enum():
            return str(value.value)
        case str():
            return value
        case bytes():
            return f"{len(value)} bytes"
        case datetime():
            return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        case timedelta():
            return duration(value.total_seconds())
        case list() | tuple() if all(isinstance(each, str) for each in value):
            return ", ".join(value) or "-"
        case Mapping() | list():
            return as_json(value)
        case _:
            return str(value)


def duration(seconds: float) -> str:
    """`0.25s`, `42s`, `3m10s`, `5h02m`, `3d4h`."""
    if seconds < 10:
        return f"{seconds:.2f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600}h"


def size(amount: int) -> str:
    """`512 B`, `1.5 MiB`."""
    scaled = float(amount)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if scaled < 1024 or unit == "GiB":
            return f"{scaled:.0f} {unit}" if unit == "B" else f"{scaled:.1f} {unit}"
        scaled /= 1024
    raise AssertionError("unreachable")


def shorten(text: str, limit: int = 60) -> str:
    """The first line of a text, cut to `limit`."""
    line = text.strip().partition("\n")[0]
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _jsonable(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, Enum):
        return value.value
    raise TypeError(f"{type(value).__name__} has no JSON form")

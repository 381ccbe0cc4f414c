"""Time zones by name, and the moments at which their clocks are put forward or back.

A zone is one of the IANA database's, never the machine's own (R15). Its file is read once: the only input that this
package takes by itself, and one that does not change while a process lives. Instants and offsets are whole seconds,
instants those since 1970 in UTC.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from difflib import get_close_matches
from functools import cache, lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo, available_timezones

from taskflow_server.core.errors import InvalidArgument

UTC = ZoneInfo("UTC")
DAY = 86_400
_PAGE = 400 * DAY
_SECOND = timedelta(seconds=1)
_NOT_PLACES = {"localtime", "posixrules", "Factory"}  # files beside the zones: what the machine is set to, or nothing
_NEAR = 3
_OFFSET = re.compile(r"(?:utc|gmt|z)?\s*([+-])([0-9]{1,2})(?::?([0-9]{2}))?", re.ASCII | re.IGNORECASE)
# What clocks show for a time of the year, and people take for a zone. Those that are names too, as CET, are zones.
SHORT = {
    "cest": ("Europe/Berlin",), "bst": ("Europe/London",), "west": ("Europe/Lisbon",), "eest": ("Europe/Athens",),
    "msk": ("Europe/Moscow",), "ist": ("Asia/Kolkata", "Europe/Dublin", "Asia/Jerusalem"),
    "est": ("America/New_York",), "edt": ("America/New_York",),
    "cst": ("America/Chicago", "Asia/Shanghai"), "cdt": ("America/Chicago",),
    "mst": ("America/Denver",), "mdt": ("America/Denver",),
    "pst": ("America/Los_Angeles",), "pdt": ("America/Los_Angeles",),
    "akst": ("America/Anchorage",), "akdt": ("America/Anchorage",),
    "ast": ("America/Halifax",), "adt": ("America/Halifax",),
    "nst": ("America/St_Johns",), "ndt": ("America/St_Johns",),
    "jst": ("Asia/Tokyo",), "kst": ("Asia/Seoul",), "hkt": ("Asia/Hong_Kong",), "pkt": ("Asia/Karachi",),
    "wib": ("Asia/Jakarta",), "sast": ("Africa/Johannesburg",), "eat": ("Africa/Nairobi",), "wat": ("Africa/Lagos",),
    "aest": ("Australia/Sydney",), "aedt": ("Australia/Sydney",), "acst": ("Australia/Adelaide",),
    "acdt": ("Australia/Adelaide",), "awst": ("Australia/Perth",),
    "nzst": ("Pacific/Auckland",), "nzdt": ("Pacific/Auckland",),
}  # fmt: skip


class Stretch(NamedTuple):
    """A time during which the clock is not changed: [start, end), `offset` ahead of UTC."""

    start: int
    end: int
    offset: int


def find_zone(name: str, *, field: str = "time_zone") -> ZoneInfo:
    """The zone of that name. InvalidArgument names `field` and the names that come near."""
    if name in _names():
        return ZoneInfo(name)
    raise InvalidArgument(f"{field}: {name[:60]!r} is no time zone; {_cure(name[:60])}", field, "BAD_TIME_ZONE")


def stretches(zone: ZoneInfo, start: int, end: int) -> Iterator[Stretch]:
    """The stretches that touch [start, end), in order and without gaps. One may end without a change of the clock:
    looking ahead costs no more than is used.
    """
    for number in range(start // _PAGE, -(-end // _PAGE)):
        begin, stop = number * _PAGE, (number + 1) * _PAGE
        offset, changes = _page(zone, number)
        for at, after in (*changes, (stop, offset)):
            if begin < end and at > start:
                yield Stretch(begin, at, offset)
            begin, offset = at, after


@cache
def _names() -> frozenset[str]:
    return frozenset(available_timezones() - _NOT_PLACES)  # 60 ms, once


def _cure(name: str) -> str:
    offset = _OFFSET.fullmatch(name.strip())
    if offset:
        hours = int(offset[2]) * (-1 if offset[1] == "-" else 1)
        if not int(offset[3] or 0) and -12 <= hours <= 14:
            side = "behind" if hours < 0 else "ahead of"
            name = f"'Etc/GMT{-hours:+d}', whose sign is the other way round"
            return f"for {abs(hours)} h {side} UTC write {name}, or a place"
        return "an offset is none; use the name of a place, as Asia/Kolkata"
    near = SHORT.get(name.strip().lower()) or _near(name)
    return f"did you mean {' or '.join(near)}?" if near else "use a name of the IANA database, as Europe/Berlin or UTC"


def _near(name: str) -> list[str]:
    """Names that are written alike, the whole of them or their last part: `berlin` means Europe/Berlin."""
    wanted = name[:60].lower().replace(" ", "_")
    by_end: dict[str, list[str]] = {}
    for known in sorted(_names()):
        for key in {known.lower(), known.rpartition("/")[2].lower()}:
            by_end.setdefault(key, []).append(known)
    near = [known for key in get_close_matches(wanted, by_end, n=_NEAR, cutoff=0.8) for known in by_end[key]]
    return list(dict.fromkeys(near))[:_NEAR]


@lru_cache(maxsize=8192)
def _page(zone: ZoneInfo, number: int) -> tuple[int, tuple[tuple[int, int], ...]]:
    """The offset at the start of 400 days, and each later change with what it changes to.

    One look a day finds them all: no two changes of a zone stand nearer than 3.9 days in the database's whole
    history, none nearer than 6.9 since 1970 (a test reads it). 0.3 ms for a page, then it is remembered.
    """
    start = number * _PAGE
    first = offset = _offset(zone, start)
    changes = []
    for day in range(start, start + _PAGE, DAY):
        after = _offset(zone, day + DAY)
        if after != offset:
            changes.append((_change(zone, day, day + DAY), after))
            offset = after
    return first, tuple(changes)


def _change(zone: ZoneInfo, low: int, high: int) -> int:
    """The first second of the offset that holds at `high`; at `low` another one does."""
    after = _offset(zone, high)
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(zone, middle) == after:
            high = middle
        else:
            low = middle
    return high


def _offset(zone: ZoneInfo, instant: int) -> int:
    offset = datetime.fromtimestamp(instant, zone).utcoffset()
    return 0 if offset is None else offset // _SECOND

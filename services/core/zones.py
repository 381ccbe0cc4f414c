"""Time zones by name, and the moments at which their clocks change.

Zones come from the IANA database; the machine's zone is never used (R15). A zone's file is read once: the only I/O of
this package, of data that does not change while a process lives. Instants and offsets are whole seconds; instants count
from 1970 in UTC.
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
_NOT_PLACES = {"localtime", "posixrules", "Factory"}  # files beside the zones: the machine's setting, or none
_NEAR = 3
_OFFSET = re.compile(r"(?:utc|gmt|z)?\s*([+-])([0-9]{1,2})(?::?([0-9]{2}))?", re.ASCII | re.IGNORECASE)
# Abbreviations that are valid for a part of the year only. Some, as CET, are also names of zones.
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
    """A period without a change of the clock: [start, end), `offset` ahead of UTC."""

    start: int
    end: int
    offset: int


def find_zone(name: str, *, field: str = "time_zone") -> ZoneInfo:
    """The zone of that name. InvalidArgument names `field` and similar names."""
    if name in _names():
        return ZoneInfo(name)
    said = f"{field}: {name[:60]!r} is not a known time zone; {_cure(name[:60])}"
    raise InvalidArgument(said, field, "BAD_TIME_ZONE")


def stretches(zone: ZoneInfo, start: int, end: int) -> Iterator[Stretch]:
    """The stretches that overlap [start, end), in order and without gaps. A stretch may end without a change of the
    clock, so that only the needed part is computed.
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
        return "an offset is not a zone; use the name of a place, as Asia/Kolkata"
    near = SHORT.get(name.strip().lower()) or _near(name)
    return f"did you mean {' or '.join(near)}?" if near else "use a name of the IANA database, as Europe/Berlin or UTC"


def _near(name: str) -> list[str]:
    """Names that are similar, as a whole or in their last part: `berlin` means Europe/Berlin."""
    wanted = name[:60].lower().replace(" ", "_")
    by_end: dict[str, list[str]] = {}
    for known in sorted(_names()):
        for key in {known.lower(), known.rpartition("/")[2].lower()}:
            by_end.setdefault(key, []).append(known)
    near = [known for key in get_close_matches(wanted, by_end, n=_NEAR, cutoff=0.8) for known in by_end[key]]
    return list(dict.fromkeys(near))[:_NEAR]


@lru_cache(maxsize=8192)
def _page(zone: ZoneInfo, number: int) -> tuple[int, tuple[tuple[int, int], ...]]:
    """The offset at the start of a page of 400 days, and each later change with its new offset.

    One check a day finds all changes: in the whole database no two changes of a zone are closer than 3.9 days, and
    since 1970 none than 6.9 (a test verifies it). 0.3 ms for a page, which is then cached.
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
    """The first second with the offset of `high`; the offset of `low` is another."""
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

"""Cron expressions: their syntax, and the moments of a wall clock that match.

    second?  minute  hour  day-of-month  month  day-of-week

This module validates an expression item by item, so that an error names the field, the fault and the cure; croniter
expands a valid one into numbers. Syntax about which crons disagree is refused or defined in docs/concepts/schedules.md.
A moment is a number of seconds since 1970 as the wall clock shows it; `taskflow_server.core.timing` handles zones and
instants.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass
from datetime import date
from difflib import get_close_matches
from functools import lru_cache
from typing import Literal

from croniter import croniter

from taskflow_server.core import cron_cures
from taskflow_server.core.errors import InvalidArgument

DAY = 86_400
MAX_LENGTH = 255  # characters; a list of all 60 minutes has 169
ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_EXAMPLE = "minute hour day-of-month month day-of-week, as in '30 8 * * mon-fri'"
_EPOCH = date(1970, 1, 1).toordinal()
_MONTHS_AHEAD = 12 * 41  # 29 February falls on a given weekday within 40 years


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()  # names of the numbers, from `low`
    cyclic: bool = False  # whether a range may wrap around: fri-mon, nov-feb

    @property
    def longest_step(self) -> int:
        """The length of the field where it is constant: `*/60` minutes are an hour, but `*/31` days are not a month."""
        return self.high - self.low + (self.name not in ("day-of-month", "day-of-week"))


_SECOND = _Field("second", 0, 59)
_HOUR = _Field("hour", 0, 23)
_DAY = _Field("day-of-month", 1, 31)
_MONTH = _Field(
    "month", 1, 12, ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), cyclic=True
)
_WEEKDAY = _Field("day-of-week", 0, 7, cron_cures.WEEKDAYS, cyclic=True)
_FIELDS = (_SECOND, _Field("minute", 0, 59), _HOUR, _DAY, _MONTH, _WEEKDAY)

Which = Set[int | Literal["l"]] | None  # numbers of a weekday within the month, as the first Monday; None: all
_WEEKLY = sum(1 << 7 * week for week in range(5))
_ITEM = re.compile(r"(\*|[0-9]+|[a-z]+)(?:-([0-9]+|[a-z]+))?(?:/([0-9]+))?", re.ASCII)
_NTH = re.compile(r"([0-7]|[a-z]+)(?:#([0-9]+)|l)", re.ASCII)


@dataclass(frozen=True, slots=True, eq=False)
class Cron:
    """A valid expression. The tuples of times are sorted."""

    text: str
    seconds: tuple[int, ...]
    minutes: tuple[int, ...]  # of the day: each hour with each minute
    months: frozenset[int]
    days: tuple[int, ...]  # for each kind of month, its matching days: bit n is day n
    follows_clock: bool  # the hours are `*` or steps: fires whenever the wall clock shows a match (R16)

    def first(self, local: int) -> int | None:
        """The first matching moment at or after `local`; None if there is none within 41 years. 4 µs."""
        day, second = divmod(local, DAY)
        found = self._day_from(day)
        if found == day:
            time = self._time_from(second)
            if time is not None:
                return day * DAY + time
            found = self._day_from(day + 1)
        return None if found is None else found * DAY + self.minutes[0] * 60 + self.seconds[0]

    def count(self, low: int, high: int) -> int:
        """The number of matching moments in [low, high). 0.3 µs a month, whatever the number."""
        if high <= low:
            return 0
        (first, begin), (last, end) = divmod(low, DAY), divmod(high, DAY)
        found = self._days_between(first, last) * len(self.minutes) * len(self.seconds)
        if self._day_from(first) == first:
            found -= self._times_before(begin)
        if self._day_from(last) == last:
            found += self._times_before(end)
        return found

    def _day_from(self, day: int) -> int | None:
        at = date.fromordinal(day + _EPOCH)
        year, month, skipped = at.year, at.month, at.day
        for _ in range(_MONTHS_AHEAD):
            kind, begin = _month_of(year, month)
            left = self.days[kind] >> skipped << skipped if month in self.months else 0
            if left:
                return begin + (left & -left).bit_length() - 2
            year, month, skipped = (year, month + 1, 0) if month < 12 else (year + 1, 1, 0)
        return None

    def _days_between(self, first: int, last: int) -> int:
        """The number of matching days in [first, last)."""
        begin, end = date.fromordinal(first + _EPOCH), date.fromordinal(last + _EPOCH)
        begin_month, end_month = begin.year * 12 + begin.month - 1, end.year * 12 + end.month - 1
        found = 0
        for number in range(begin_month, end_month + 1):
            year, month = number // 12, number % 12 + 1
            bits = self.days[_month_of(year, month)[0]] if month in self.months else 0
            if number == end_month:
                bits &= (1 << end.day) - 1
            if number == begin_month:
                bits &= -1 << begin.day
            found += bits.bit_count()
        return found

    def _time_from(self, second: int) -> int | None:
        minute, rest = divmod(second, 60)
        at = bisect_left(self.minutes, minute)
        if at < len(self.minutes) and self.minutes[at] == minute:
            if rest <= self.seconds[-1]:
                return minute * 60 + self.seconds[bisect_left(self.seconds, rest)]
            at += 1
        return self.minutes[at] * 60 + self.seconds[0] if at < len(self.minutes) else None

    def _times_before(self, second: int) -> int:
        minute, rest = divmod(second, 60)
        at = bisect_left(self.minutes, minute)
        whole = at * len(self.seconds)
        if at < len(self.minutes) and self.minutes[at] == minute:
            return whole + bisect_left(self.seconds, rest)
        return whole


def parse_cron(text: str, *, field: str = "cron") -> Cron:
    """Parses `text`. InvalidArgument names the fault, the field and the cure.

    Five fields, or six with the seconds in front; `*`, numbers, names, ranges, steps, lists; `?` for `*` in the day
    fields; `L` as the month's last day; `fri#2` and `friL` as its second and last Friday; `@daily` and its like.
    """
    try:
        return _parse(text)
    except _Wrong as wrong:
        raise InvalidArgument(f"{field}: {wrong}", field, "BAD_CRON") from None


class _Wrong(Exception):
    """The fault of an expression; the text is part of the error message."""


@lru_cache(maxsize=1024)  # 0.2 ms each, most of it croniter's
def _parse(text: str) -> Cron:
    fields = _split(text)
    try:
        checked = [_check(kind, written) for kind, written in zip(_FIELDS, fields, strict=True)]
    except _Wrong as wrong:
        six = len(text.split()) == 6
        foreign = cron_cures.of_command(text.lower().split(), _accepts) if six else None
        raise _Wrong(foreign or (f"{wrong}; seconds come first" if six else str(wrong))) from None
    if fields[3] == "?" and (numbered := cron_cures.of_numbered_days(fields[5])):
        raise _Wrong(numbered)
    expanded, nth = croniter.expand(" ".join(checked), second_at_beginning=True)
    minute, hour, day, month, weekday, second = expanded
    plain: dict[int, Which] = dict.fromkeys(_numbers(weekday, range(7)))
    cron = Cron(
        text=text,
        seconds=_numbers(second, range(60)),
        minutes=tuple(h * 60 + m for h in _numbers(hour, range(24)) for m in _numbers(minute, range(60))),
        months=frozenset(_numbers(month, range(1, 13))),
        days=_days(
            _bits(_numbers(day, range(1, 32))),
            last_day="l" in day,
            weekdays=nth or plain,
            either=not any(set("*?") & set(written) for written in (fields[3], fields[5])),
        ),
        follows_clock=bool(set("*/") & set(fields[2])),
    )
    if cron.first(0) is None:
        raise _Wrong(f"{text!r} never fires: none of its months has such a day")
    return cron


def _split(text: str) -> list[str]:
    """The six fields, in lower case."""
    if len(text) > MAX_LENGTH:
        raise _Wrong(f"{len(text)} characters exceed the limit of {MAX_LENGTH}")
    words = re.findall(r"\S+", text.lower(), re.ASCII)
    if not words:
        raise _Wrong(f"is empty; write {_EXAMPLE}")
    foreign = cron_cures.of_line(text.strip(), _accepts)
    if foreign:
        raise _Wrong(foreign)
    if words[0].startswith("@"):
        words = _alias(words).split()
    foreign = cron_cures.with_year(words, _accepts) if len(words) > 5 else None
    if foreign:
        raise _Wrong(f"{text[:60]!r} has {len(words)} fields; {foreign}")
    if len(words) not in (5, 6):
        foreign = cron_cures.of_command(words, _accepts)
        cure = foreign or f"write {_EXAMPLE}, and seconds in front of them if wanted"
        raise _Wrong(f"{text[:60]!r} has {_count(len(words))}; {cure}")
    return words if len(words) == 6 else ["0", *words]


def _count(fields: int) -> str:
    return f"{fields} field{'s' * (fields != 1)}"


def _accepts(text: str) -> bool:
    """Whether a proposed cure is a valid expression."""
    try:
        _parse(text)
    except _Wrong:
        return False
    return True


def _alias(words: list[str]) -> str:
    word = " ".join(words)
    if word in ALIASES:
        return ALIASES[word]
    foreign = cron_cures.of_alias(word) or (cron_cures.of_command(words, _accepts) if len(words) > 1 else None)
    if foreign:
        raise _Wrong(foreign)
    near = get_close_matches(word[:30], ALIASES, n=1)
    raise _Wrong(f"{word[:30]!r} is not known; {f'did you mean {near[0]}?' if near else 'use ' + ', '.join(ALIASES)}")


def _check(kind: _Field, written: str) -> str:
    """Validates a field and returns it as croniter reads it."""
    if written == "?" and kind in (_DAY, _WEEKDAY):
        return "*"
    try:
        items = [_check_item(kind, item) for item in written.split(",")]
        if kind is _WEEKDAY and len({_NTH.fullmatch(item) is None for item in written.split(",")}) == 2:
            raise _Wrong("mixes plain days with '#' or 'L'; make two schedules instead")
    except _Wrong as wrong:
        raise _Wrong(f"the {kind.name} field {written!r} {wrong}") from None
    return ",".join(items)


def _check_item(kind: _Field, item: str) -> str:
    if kind is _DAY and item == "l":
        return item
    foreign = cron_cures.of_item(kind.name, item)
    if foreign:
        raise _Wrong(foreign)
    nth = _NTH.fullmatch(item) if kind is _WEEKDAY else None
    if nth:
        weekday = _number(kind, nth[1])
        if nth[2] is None:
            return f"l{weekday}"
        if not 1 <= int(nth[2]) <= 5:
            raise _Wrong(f"asks for number {nth[2]} of a weekday; a month has 1 to 5 of each")
        return item
    parts = _ITEM.fullmatch(item)
    if not parts or (parts[1] == "*" and parts[2]):
        raise _Wrong(f"is not understood at {item!r}; use {_wanted(kind)}, lists of them, or '*'")
    if parts[3] and not 1 <= int(parts[3]) <= kind.longest_step:
        raise _Wrong(_step_too_long(kind, int(parts[3])))
    low = kind.low if parts[1] == "*" else _number(kind, parts[1])
    high = _number(kind, parts[2]) if parts[2] else None
    if high == low:
        raise _Wrong(f"has the range {item!r} from a value to itself; write {parts[1]!r}")
    if high is None or low < high:
        return item
    if not kind.cyclic:
        raise _Wrong(f"has the range {item!r}, which runs backwards; write '{low}-{kind.high},{kind.low}-{high}'")
    # wraps around, as fri-mon and nov-feb; with a step (dec-mar/2) croniter is off by one
    size = len(kind.names)
    span = range(low, high + size + 1, int(parts[3] or 1))
    return ",".join(str((number - kind.low) % size + kind.low) for number in span)


def _step_too_long(kind: _Field, step: int) -> str:
    said = (
        f"has a step of {step}; within one field a step lies between 1 and {kind.longest_step}, "
        "and starts anew when the field does"
    )
    cures = cron_cures.every_minutes(step) if step and kind.name == "minute" else []
    return f"{said}; for each {step} minutes write {' and '.join(map(repr, cures))}" if cures else said


def _number(kind: _Field, word: str) -> int:
    if word in kind.names:
        return kind.names.index(word) + kind.low
    if not word.isdigit():
        near = f"did you mean {word[:3]!r}? " if word[:3] in kind.names else ""
        raise _Wrong(f"has the name {word!r}; {near}it takes {_wanted(kind)}")
    if not kind.low <= int(word) <= kind.high:
        raise _Wrong(f"has the value {word}; it takes {_wanted(kind)}")
    return int(word)


def _wanted(kind: _Field) -> str:
    names = f" or {kind.names[0]} to {kind.names[-1]}" if kind.names else ""
    return f"{kind.low} to {kind.high}{names}"


def _numbers(values: Collection[object], whole: range) -> tuple[int, ...]:
    """The numbers of a field that croniter expanded: numbers, '*' for all, 'l'."""
    found = {value for value in values if isinstance(value, int)}
    return tuple(whole) if "*" in values else tuple(sorted(found))


def _days(days: int, *, last_day: bool, weekdays: Mapping[int, Which], either: bool) -> tuple[int, ...]:
    """The matching days for each kind of month. `weekdays`: which of a month's Sundays (0), Mondays (1) … match.

    A day must match both fields; if both are restricted, one of them suffices. A field with a `*` is not restricted.
    Debian's crontab(5) defines it so; croniter alone would take `*/2` as restricted.
    """
    table = []
    for first in range(7):
        for length in range(28, 32):
            of_month = days | (1 << length if last_day else 0)
            of_week = 0
            for weekday, which in weekdays.items():
                of_week |= _dates(1 + (weekday - first - 1) % 7, length, which)
            table.append((of_month | of_week if either else of_month & of_week) & (2 << length) - 2)
    return tuple(table)


def _dates(earliest: int, length: int, which: Which) -> int:
    """The days at whole weeks after `earliest`, limited to `which`, as bits."""
    if which is None:
        return _WEEKLY << earliest
    last = (length - earliest) // 7 + 1
    return _bits(earliest + 7 * ((last if n == "l" else n) - 1) for n in which)


def _bits(numbers: Iterable[int]) -> int:
    return sum(1 << number for number in numbers)


@lru_cache(maxsize=4096)
def _month_of(year: int, month: int) -> tuple[int, int]:
    """A month's kind, by its length and the weekday of its first day (0: Monday), and that day's number since 1970."""
    first = date(year, month, 1)
    after = date(year + month // 12, month % 12 + 1, 1)
    return first.weekday() * 4 + (after - first).days - 28, first.toordinal() - _EPOCH

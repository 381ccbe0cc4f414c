"""When a cron fires, by looking at every moment of the wall clock: rule R16 read once more, without croniter or us.

Slow and plain on purpose. `random_cron` writes expressions of every kind, for the oracle to judge.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from random import Random
from zoneinfo import ZoneInfo

MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
WEEKDAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * sun",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


@dataclass
class Fields:
    seconds: set[int]
    minutes: set[int]
    hours: set[int]
    months: set[int]
    fits_day: Callable[[date], bool]
    fixed: bool
    """The hours are neither a wildcard nor steps."""

    def __contains__(self, wall: datetime) -> bool:
        return (
            wall.minute in self.minutes
            and wall.hour in self.hours
            and wall.second in self.seconds
            and wall.month in self.months
            and self.fits_day(wall.date())
        )


def fires(text: str, zone: str, start: datetime, end: datetime, *, margin: timedelta) -> list[datetime]:
    """The instants in [start, end), whole minutes (or seconds, with six fields). `margin` is as long as what the clock
    is moved by, at least.
    """
    step = timedelta(seconds=1) if len(text.split()) == 6 else timedelta(minutes=1)
    fields = read(text)
    shown, first = wall_clock(zone, start - margin, end + margin, step)
    if not fields.fixed:
        return [instant for instant, wall in shown if start <= instant < end and wall in fields]
    found = set()
    wall, last = shown[0][1], max(first)
    while wall <= last:
        if wall in fields:
            later = wall
            while later not in first:  # skipped: right after the gap
                later += step
            found.add(first[later])
        wall += step
    return sorted(instant for instant in found if start <= instant < end)


@lru_cache(maxsize=4)
def wall_clock(
    zone: str, start: datetime, end: datetime, step: timedelta
) -> tuple[list[tuple[datetime, datetime]], dict[datetime, datetime]]:
    """Each moment with what the zone's clock shows then; and when it shows that for the first time."""
    where = ZoneInfo(zone)
    instants = [start + n * step for n in range((end - start) // step)]
    shown = [(instant, instant.astimezone(where).replace(tzinfo=None, fold=0)) for instant in instants]
    return shown, {wall: instant for instant, wall in reversed(shown)}


@lru_cache(maxsize=4096)
def changes(zone: str, year: int) -> list[tuple[datetime, timedelta]]:
    """The minutes at which the zone's clock is moved, and by how much (forward is positive)."""
    where = ZoneInfo(zone)

    def offset(instant: datetime) -> timedelta:
        return instant.astimezone(where).utcoffset() or timedelta()

    found = []
    day, one = datetime(year, 1, 1, tzinfo=UTC), timedelta(days=1)
    while day.year == year:
        if offset(day) != offset(day + one):
            minutes = (day + timedelta(minutes=n) for n in range(1, 1441))
            at = next(m for m in minutes if offset(m) != offset(day))
            found.append((at, offset(at) - offset(day)))
        day += one
    return found


def read(text: str) -> Fields:
    words = ALIASES.get(text, text).lower().split()
    second, minute, hour, day, month, weekday = words if len(words) == 6 else ["0", *words]
    months = numbers(month, 1, 12, MONTHS)
    # crontab(5): with a star in either of them both must fit, otherwise one is enough
    star = any(mark in field for field in (day, weekday) for mark in "*?")

    def fits_day(at: date) -> bool:
        of_month, of_week = day_fits(day, at), weekday_fits(weekday, at)
        return (of_month and of_week) if star else (of_month or of_week)

    return Fields(
        numbers(second, 0, 59),
        numbers(minute, 0, 59),
        numbers(hour, 0, 23),
        months,
        lru_cache(maxsize=None)(fits_day),
        fixed="*" not in hour and "/" not in hour,
    )


def day_fits(field: str, at: date) -> bool:
    last = calendar.monthrange(at.year, at.month)[1]
    plain = [item for item in field.split(",") if item != "l"]
    return ("l" in field.split(",") and at.day == last) or at.day in numbers(",".join(plain), 1, 31)


def weekday_fits(field: str, at: date) -> bool:
    today = {0, 7} if at.isoweekday() == 7 else {at.isoweekday()}
    last = (at + timedelta(days=7)).month != at.month
    for item in field.split(","):
        name, nth, number = item.partition("#")
        if nth:
            fits = (at.day - 1) // 7 == int(number) - 1
        else:
            name, fits = item.removesuffix("l"), last or not item.endswith("l")
        if fits and today & numbers(name, 0, 7, WEEKDAYS):
            return True
    return False


def numbers(field: str, low: int, high: int, names: list[str] | None = None) -> set[int]:
    """`field` without `L` and `#`. A range that runs backwards goes round by the end: fri-mon, nov-feb."""
    found: set[int] = set()
    for item in filter(None, field.split(",")):
        span, _, step = item.partition("/")
        begin, dash, end = span.partition("-")
        if begin in ("*", "?"):
            first, last = low, high - (high == 7)  # Sunday counts once
        else:
            first = number(begin, low, names)
            last = number(end, low, names) if dash else high - (high == 7) if step else first
        if last < first:
            last += 7 if high == 7 else high - low + 1
        size = 7 if high == 7 else high - low + 1
        found |= {(n - low) % size + low for n in range(first, last + 1, int(step or 1))}
    return found


def number(word: str, low: int, names: list[str] | None) -> int:
    return names.index(word) + low if names and word in names else int(word)


def random_cron(rng: Random, *, seconds: bool = False, plain: bool = False) -> str:
    """An expression that is accepted. `plain`: what every cron knows."""
    if not seconds and not plain and rng.random() < 0.02:
        return rng.choice(list(ALIASES))
    hour = rng.choice([lambda: field(rng, 0, 23), lambda: rng.choice(["0", "1", "2", "3"]), lambda: "*"])()
    day = rng.choice([lambda: "*", lambda: "*", lambda: field(rng, 1, 28)])()
    month = rng.choice([lambda: "*", lambda: "*", lambda: field(rng, 1, 12, MONTHS, around=not plain)])()
    weekday = rng.choice([lambda: "*", lambda: "*", lambda: field(rng, 0, 7, WEEKDAYS, around=not plain)])()
    if not plain and rng.random() < 0.1:
        day = rng.choice(["L", "?", f"L,{rng.randint(1, 31)}", "1-7"])
    if not plain and rng.random() < 0.1:
        which = rng.choice([*WEEKDAYS, *"01234567"])
        weekday = rng.choice(["?", f"{which}#{rng.randint(1, 5)}", f"{which}L", f"{which}#1,{which}L"])
        day = day if "*/" not in day else "*"  # a day that fits both may not exist
    if day == "?" and any(mark.isdigit() for mark in re.sub(r"[#/][0-9]+", "", weekday)):
        day = "*"  # refused: Quartz, whose '?' it is, counts weekdays otherwise
    fields = [field(rng, 0, 59), hour, day, month, weekday]
    text = " ".join([field(rng, 0, 59), *fields] if seconds else fields)
    return text.upper() if rng.random() < 0.1 else text


def field(rng: Random, low: int, high: int, names: list[str] | None = None, *, around: bool = False) -> str:
    items = [item(rng, low, high, names, around=around) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
    return ",".join(items)


def item(rng: Random, low: int, high: int, names: list[str] | None, *, around: bool) -> str:
    def word(n: int) -> str:
        return names[n - low] if names and n - low < len(names) and rng.random() < 0.5 else str(n)

    kind = rng.choice(["*", "*/n", "a", "a", "a-b", "a-b/n", "a/n"])
    step = rng.randint(1, min(high - low, 30))
    if low == 0 and high > 7 and rng.random() < 0.1:
        step = high + 1  # the whole field
    begin, end = sorted(rng.sample(range(low, high + 1), 2))
    if around and end < 7 and rng.random() < 0.3:
        begin, end = end, begin
    written = {"*": "*", "a": word(begin), "a-b": f"{word(begin)}-{word(end)}"}
    whole = kind.removesuffix("/n")
    return written[whole] + (f"/{step}" if kind.endswith("/n") else "")

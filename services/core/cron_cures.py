"""Expressions that other crons accept and TaskFlow refuses: the reason, and the expression to write instead.

Each function handles one kind of text, and returns None for any other. Fields and items are in lower case. `accepts` is
the parser: a cure that it would refuse is not proposed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import lcm

Accepts = Callable[[str], bool]

WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MAX_PARTS = 3  # limit of expressions that together make one interval
_SHOWN = 60  # characters of a text in a message
_ZONE = re.compile(r"(?:cron_)?tz=(\S*)\s*", re.IGNORECASE)
_VARIABLE = re.compile(r"[a-z_][a-z0-9_]*\s*=", re.IGNORECASE | re.ASCII)
_AWS_CRON = re.compile(r"cron\((.*)\)", re.IGNORECASE)
_AWS_RATE = re.compile(r"rate\(\s*([0-9]{1,6})\s+(minute|hour|day)s?\s*\)", re.IGNORECASE | re.ASCII)
_DURATION = re.compile(r"(?:[0-9]{1,6}(?:\.[0-9]{1,3})?[hms])+", re.ASCII)
_UNITS = {"h": 3600, "m": 60, "s": 1, "minute": 60, "hour": 3600, "day": 86_400}
_YEARS = re.compile(r"(?:19|20|21)[0-9]{2}(?:[-,/][0-9]+)*", re.ASCII)
_QUARTZ_DAY = re.compile(r"([0-7])(?:-([0-7]))?(/[0-9]+|#[0-9]+|l)?", re.ASCII)
_HASHED = re.compile(r"h(?:\(([0-9]+-[0-9]+)\))?(/[0-9]+)?", re.ASCII)
_NEAREST = re.compile(r"([0-9]{1,2}|l)w", re.ASCII)


def of_line(text: str, accepts: Accepts) -> str | None:
    """The fault of a text that has more than an expression, or another form."""
    zone = _ZONE.match(text)
    if zone:
        rest = text[zone.end() :].strip()
        alone = f"write {rest!r}, and" if accepts(rest) else "leave it out, and"
        return f"{zone[0].strip()!r} is not part of an expression; {alone} give {zone[1] or 'the zone'} as time_zone"
    if len(text) > 1 and text[0] in "'\"" and text[0] == text[-1] and accepts(text[1:-1]):
        return f"the quotes are not part of an expression; write {text[1:-1]!r} alone"
    if _VARIABLE.match(text):
        return f"{text[:_SHOWN]!r} is a variable of a crontab; write the expression alone"
    if text.startswith("#"):
        return f"{text[:_SHOWN]!r} is a comment of a crontab; write the expression alone"
    rate = _AWS_RATE.fullmatch(text)
    if rate:
        return f"{text!r} is AWS's; {_every(int(rate[1]) * _UNITS[rate[2].lower()])}"
    aws = _AWS_CRON.fullmatch(text)
    if aws:
        words = aws[1].lower().split()
        plain = f"{text[:_SHOWN]!r} is AWS's; write what it encloses, without the year"
        return (with_year(words, accepts) if len(words) == 6 else None) or plain
    return None


def of_alias(word: str) -> str | None:
    if word.split()[0] == "@reboot":
        return "'@reboot' is not supported: a schedule has no machine; submit a job when your app starts"
    if word.startswith("@every"):
        said = f"{word[:30]!r} is not known"
        length = "".join(word.removeprefix("@every").split())
        if not _DURATION.fullmatch(length):
            return f"{said}; write the step into its field, as in '*/5 * * * *' for five minutes"
        parts = re.findall(r"[0-9.]+[hms]", length)
        return f"{said}; {_every(sum(_UNITS[part[-1]] * float(part[:-1]) for part in parts))}"
    return None


def with_year(words: list[str], accepts: Accepts) -> str | None:
    """The fault of six fields in the order of AWS, or seven of Quartz, the last of which is the year. AWS has one `?`
    in the third or fifth field; with seconds in front, no day field would be left.
    """
    if len(words) == 6 and ("?" in (words[2], words[4]) or _YEARS.fullmatch(words[5])):
        whose = "the sixth field of AWS"
    elif len(words) == 7 and all(re.fullmatch(r"[0-9a-z*?,/#-]+", word, re.ASCII) for word in words):
        whose = "the seventh field of Quartz"
    else:
        return None
    *kept, year = words
    if "?" in kept:
        kept[-1] = quartz_days(kept[-1]) or kept[-1]
    cure = " ".join(kept)
    written = f"; write {cure!r}" if accepts(cure) else "; leave it out"
    span = "" if year in ("*", "?") else ", and start and end for the years"
    return f"{year!r} is the year, {whose}, which is not supported{written}{span}"


def of_command(words: list[str], accepts: Accepts) -> str | None:
    """The fault of a line of a crontab with its command."""
    cure = " ".join(words[:1] if words[0].startswith("@") else words[:5])
    rest = words[len(cure.split()) :]
    if not rest or re.fullmatch(r"[0-9*?,#-]+|[0-9*]+/[0-9]+", rest[0], re.ASCII) or not accepts(cure):
        return None
    return f"{rest[0][:40]!r} begins a command, which is not part of an expression; write {cure!r}"


def of_item(kind: str, item: str) -> str | None:
    """The fault of one item of the field `kind`."""
    hashed = _HASHED.fullmatch(item)
    if hashed:
        step = hashed[2] or ""
        cure = f"{hashed[1] or '*'}{step}" if step else (hashed[1] or "17").partition("-")[0]
        cure = cure if step or kind in ("second", "minute") else "3"
        return f"has {item.upper()!r}, for which Jenkins picks a value; write one, as {cure!r}"
    if "~" in item:
        return f"has {item!r}, a random value; write one value, as '{item.partition('~')[0] or '0'}'"
    if item == "?":
        return "is not understood at '?', which stands in the day fields only; write '*'"
    if kind == "day-of-month":
        nearest = _NEAREST.fullmatch(item)
        if nearest:
            cure = "'L', or the last of a weekday in day-of-week, as 'friL'" if nearest[1] == "l" else (
                f"'{nearest[1]}', or a certain weekday in day-of-week, as 'mon#1'")  # fmt: skip
            return f"has {item.upper()!r}, the weekday nearest to a day, which is not supported; write {cure}"
        if re.fullmatch(r"l-[0-9]+", item, re.ASCII):
            return f"has {item.upper()!r}, a day counted from the month's end; write 'L' for its last, or one as '28'"
    if kind == "day-of-week" and item == "l":
        return "has 'L' alone, which Quartz takes for Saturday; write 'sat', or 'satL' for the month's last"
    return None


def of_numbered_days(weekday: str) -> str | None:
    """The fault of numbers as weekdays beside a `?`."""
    quartz, ours = quartz_days(weekday), _named(weekday, 0)
    if ours is None:
        return None
    first = f"write {quartz!r} for their days, {ours!r} for crontab's" if quartz else f"write {ours!r}"
    return (
        f"the day-of-week field {weekday!r} has numbers beside a '?'; Quartz and AWS count them from 1 for Sunday, "
        f"crontab and TaskFlow from 0; {first}"
    )


def quartz_days(weekday: str) -> str | None:
    """The weekdays that Quartz and AWS mean, as names; None without numbers, or with numbers that they refuse."""
    return _named(weekday, 1)


def _named(weekday: str, sunday: int) -> str | None:
    """Replaces numbers of weekdays, where `sunday` is the first, by names; None where that is impossible."""
    found: list[str] = []
    numbers = 0
    for item in weekday.split(","):
        parts = _QUARTZ_DAY.fullmatch(item)
        if not parts:
            found.append(item)
            continue
        numbers += 1
        days = [int(day) - sunday for day in parts.group(1, 2) if day]
        if min(days) < 0:
            return None
        found.append("-".join(WEEKDAYS[day % 7] for day in days) + (parts[3] or "").upper())
    return ",".join(found) if numbers else None


def every_minutes(minutes: int) -> list[str]:
    """Expressions that together fire every `minutes` from midnight; empty if they would exceed _MAX_PARTS."""
    if 60 % minutes == 0:
        return ["0 * * * *" if minutes == 60 else f"*/{minutes} * * * *"]
    hours = lcm(minutes, 60) // 60
    if 24 % hours or hours * 60 // minutes > _MAX_PARTS:
        return []
    found = []
    for at in range(0, hours * 60, minutes):
        hour, minute = divmod(at, 60)
        step = f"{hour}" if hours == 24 else f"{hour}-23/{hours}" if hour else f"*/{hours}"
        found.append(f"{minute} {step} * * *")
    return found


def _every(seconds: float) -> str:
    """The expression to write for an interval."""
    found: list[str] = []
    if seconds >= 60 and not seconds % 60:
        found = every_minutes(int(seconds // 60))
    elif seconds >= 1 and not 60 % seconds:
        found = ["* * * * * *" if seconds == 1 else f"*/{seconds:g} * * * * *"]
    if len(found) > 1:
        return f"make {len(found)} schedules: {', '.join(map(repr, found))}"
    none = "no expression has that interval; choose one that divides an hour or a day"
    return f"write {found[0]!r}" if found else none

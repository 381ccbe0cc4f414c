"""When a schedule fires (R15, R16), against tables written by hand, an oracle of brute force, and cronsim."""

import re
import struct
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from itertools import islice, pairwise
from random import Random
from zoneinfo import ZoneInfo, available_timezones

import pytest
from cronsim import CronSim
from hypothesis import given, settings
from hypothesis import strategies as st

from taskflow_server.core.errors import InvalidArgument
from taskflow_server.core.timing import parse_timing
from taskflow_server.core.zones import find_zone
from tests.support import cron_oracle
from tests.support.docs import ROOT, table
from tests.support.tier import size

PAGE = ROOT / "docs" / "concepts" / "schedules.md"
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
ZONES = [
    *("Europe/Berlin", "Europe/London", "Europe/Dublin", "America/New_York", "America/St_Johns", "America/Havana"),
    *("America/Sao_Paulo", "America/Asuncion", "America/Santiago", "Atlantic/Azores", "Africa/Cairo", "Asia/Kolkata"),
    *("Africa/Casablanca", "Asia/Beirut", "Asia/Gaza", "Asia/Tehran", "Pacific/Chatham", "Pacific/Apia"),
    *("Australia/Lord_Howe", "Antarctica/Troll", "Pacific/Kiritimati", "UTC"),
]

FIVES = " ".join(f"01:{minute:02}" for minute in range(0, 60, 5))

# zone, from, to (by its wall clock), what each of R16's crons fires in between: `day hh:mm`, the day only where it is
# another one than before; + and - say which of two equal times is meant: the first, the second.
TABLE = [
    (
        ("Europe/Berlin", "2026-03-28 22:00", "2026-03-29 06:00"),  # 02:00 becomes 03:00
        {
            "1 0 * * *": "29 00:01",
            "0 * * * *": "28 22:00 23:00 29 00:00 01:00 03:00 04:00 05:00",
            "0 0 1 * *": "",
            "0 0 * * 0": "29 00:00",
            "45 23 * * 6": "28 23:45",
            "*/5 1 * * *": f"29 {FIVES}",
            "0 0 1 1 *": "",
        },
    ),
    (
        ("Europe/Berlin", "2026-10-24 22:00", "2026-10-25 05:00"),  # 03:00 becomes 02:00
        {
            "1 0 * * *": "25 00:01",
            "0 * * * *": "24 22:00 23:00 25 00:00 01:00 02:00+ 02:00- 03:00 04:00",
            "0 0 1 * *": "",
            "0 0 * * 0": "25 00:00",
            "45 23 * * 6": "24 23:45",
            "*/5 1 * * *": f"25 {FIVES}",
            "0 0 1 1 *": "",
        },
    ),
    (
        ("Europe/London", "2026-03-28 23:00", "2026-03-29 04:00"),  # 01:00 becomes 02:00
        {"1 0 * * *": "29 00:01", "0 * * * *": "28 23:00 29 00:00 02:00 03:00", "*/5 1 * * *": "29 02:00"},
    ),
    (
        ("America/New_York", "2026-03-08 00:00", "2026-03-08 05:00"),  # 02:00 becomes 03:00
        {
            "1 0 * * *": "08 00:01",
            "0 * * * *": "08 00:00 01:00 03:00 04:00",
            "0 0 * * 0": "08 00:00",
            "*/5 1 * * *": f"08 {FIVES}",
            "*/5 2 * * *": "08 03:00",
            "30 * * * *": "08 00:30 01:30 03:30 04:30",
            "0 */2 * * *": "08 00:00 04:00",
            "0 1-3 * * *": "08 01:00 03:00",
        },
    ),
    (
        ("America/New_York", "2026-10-31 23:00", "2026-11-01 04:00"),  # 02:00 becomes 01:00
        {
            "1 0 * * *": "01 00:01",
            "0 * * * *": "31 23:00 01 00:00 01:00+ 01:00- 02:00 03:00",
            "0 0 1 * *": "01 00:00",
            "0 0 * * 0": "01 00:00",
            "45 23 * * 6": "31 23:45",
            "*/5 1 * * *": f"01 {FIVES.replace(' ', '+ ')}+",
            "0 0 1 1 *": "",
            "0 1/2 * * *": "31 23:00 01 01:00+ 01:00- 03:00",
        },
    ),
    (
        ("Australia/Lord_Howe", "2026-10-04 00:00", "2026-10-04 05:00"),  # 02:00 becomes 02:30
        {
            "0 * * * *": "04 00:00 01:00 03:00 04:00",
            "*/5 1 * * *": f"04 {FIVES}",
            "15 2 * * *": "04 02:30",
            "15,30,45 2 * * *": "04 02:30 02:45",
            "45 2 * * *": "04 02:45",
        },
    ),
    (
        ("Australia/Lord_Howe", "2026-04-05 00:00", "2026-04-05 05:00"),  # 02:00 becomes 01:30
        {
            "0 * * * *": "05 00:00 01:00 02:00 03:00 04:00",
            "*/5 1 * * *": "05 01:00 01:05 01:10 01:15 01:20 01:25 01:30+ 01:35+ 01:40+ 01:45+ 01:50+ 01:55+",
            "45 * * * *": "05 00:45 01:45+ 01:45- 02:45 03:45 04:45",
        },
    ),
    (
        ("America/Sao_Paulo", "2018-11-03 22:00", "2018-11-04 03:00"),  # midnight becomes 01:00
        {
            "1 0 * * *": "04 01:00",
            "0 * * * *": "03 22:00 23:00 04 01:00 02:00",
            "0 0 * * 0": "04 01:00",
            "45 23 * * 6": "03 23:45",
            "*/5 1 * * *": f"04 {FIVES}",
        },
    ),
    (
        ("America/Sao_Paulo", "2018-02-17 22:00", "2018-02-18 03:00"),  # midnight becomes 23:00
        {
            "1 0 * * *": "18 00:01",
            "0 * * * *": "17 22:00 23:00+ 23:00- 18 00:00 01:00 02:00",
            "0 0 * * 0": "18 00:00",
            "45 23 * * 6": "17 23:45+",
            "45 * * * 6": "17 22:45 23:45+ 23:45-",
        },
    ),
    (
        ("America/Asuncion", "2017-09-30 22:00", "2017-10-01 03:00"),  # midnight of the first becomes 01:00
        {"0 0 1 * *": "01 01:00", "0 0 * * 0": "01 01:00", "0 0 L * *": ""},
    ),
    (
        ("Pacific/Apia", "2011-12-29 21:00", "2011-12-31 03:00"),  # the 30th, a Friday, is left out
        {
            "1 0 * * *": "31 00:00 00:01",
            "0 * * * *": "29 21:00 22:00 23:00 31 00:00 01:00 02:00",
            "0 0 30 * *": "31 00:00",
            "0 12 * * fri": "31 00:00",
            "0 12 * * thu": "",
            "0 1 31 * *": "31 01:00",
        },
    ),
    (
        ("Pacific/Kiritimati", "1994-12-30 22:00", "1995-01-01 03:00"),  # New Year's Eve, a Saturday, is left out
        {"0 0 1 1 *": "01 00:00", "0 0 1 * *": "01 00:00", "45 23 * * 6": "01 00:00", "0 0 * * 0": "01 00:00"},
    ),
    (
        ("UTC", "2026-12-31 22:00", "2027-01-01 02:00"),
        {
            "1 0 * * *": "01 00:01",
            "0 * * * *": "31 22:00 23:00 01 00:00 01:00",
            "0 0 1 * *": "01 00:00",
            "0 0 * * 0": "",
            "45 23 * * 6": "",
            "*/5 1 * * *": f"01 {FIVES}",
            "0 0 1 1 *": "01 00:00",
        },
    ),
]


def as_written(instants: list[datetime], zone: ZoneInfo) -> str:
    """In the table's notation."""
    words, day = [], ""
    for wall in (instant.astimezone(zone) for instant in instants):
        if f"{wall:%d}" != day:
            day = f"{wall:%d}"
            words.append(day)
        twice = wall.replace(fold=0).utcoffset() > wall.replace(fold=1).utcoffset()  # type: ignore[operator]
        words.append(f"{wall:%H:%M}" + ("+-"[wall.fold] if twice else ""))
    return " ".join(words)


@pytest.mark.feature("R16")
@pytest.mark.parametrize(
    ("where", "cron", "expected"),
    [
        pytest.param(where, cron, expected, id=f"{where[0]} {where[2][:7]} {cron}")
        for where, crons in TABLE
        for cron, expected in crons.items()
    ],
)
def test_r16_a_change_of_hour_fires_exactly_what_the_table_says(
    where: tuple[str, str, str], cron: str, expected: str
) -> None:
    zone = ZoneInfo(where[0])
    start, end = (datetime.fromisoformat(wall).replace(tzinfo=zone).astimezone(UTC) for wall in where[1:])
    timing = parse_timing(cron=cron, time_zone=where[0])

    assert as_written(list(timing.instants(start, end)), zone) == expected


@pytest.mark.feature("R16", "S1.5")
def test_r16_the_page_s_examples_are_what_fires() -> None:
    for name, day, cron, expected, _ in table(PAGE, "zone"):
        zone = ZoneInfo(name)
        start = datetime.fromisoformat(day).replace(tzinfo=zone).astimezone(UTC)
        end = (datetime.fromisoformat(day) + DAY).replace(tzinfo=zone).astimezone(UTC)
        timing = parse_timing(cron=cron.strip("`"), time_zone=name)

        fired = as_written(list(timing.instants(start, end)), zone)

        assert fired == f"{day[-2:]} {expected}"


def changed(rng: Random) -> tuple[str, datetime, timedelta]:
    """A zone, and a moment at which its clock is moved, if it is in that year."""
    zone, year = rng.choice(ZONES), rng.randint(1990, 2040)
    moved = cron_oracle.changes(zone, year)
    return (zone, *rng.choice(moved)) if moved else (zone, datetime(year, 7, rng.randint(1, 31), tzinfo=UTC), 0 * DAY)


def same_as_the_oracle(cron: str, zone: str, start: datetime, end: datetime, margin: timedelta) -> int:
    timing = parse_timing(cron=cron, time_zone=zone)
    fired = list(timing.instants(start, end))

    assert fired == cron_oracle.fires(cron, zone, start, end, margin=margin + MINUTE), f"{cron} in {zone} from {start}"
    assert timing.count(start, end) == len(fired)
    assert timing.latest(3, start, end) == fired[-3:]
    following = fired[0] if fired else None
    assert timing.next_after(start - MINUTE / 60) == following or (following is None and not fired)
    return len(fired)


@pytest.mark.longer
@pytest.mark.feature("R16", "S1.5")
def test_r16_random_crons_fire_as_the_oracle_says() -> None:
    fired = 0
    for window in range(size(80, 400)):
        rng = Random(window)
        zone, at, by = changed(rng)
        reach = 3 * HOUR + abs(by)

        for _ in range(25):
            fired += same_as_the_oracle(cron_oracle.random_cron(rng), zone, at - reach, at + reach, abs(by))

    assert fired > size(10_000, 50_000)


@pytest.mark.feature("R16", "S1.5")
def test_r16_random_crons_with_seconds_fire_as_the_oracle_says() -> None:
    fired = 0
    for window in range(10):
        rng = Random(window)
        zone, at, by = next(found for found in iter(lambda: changed(rng), None) if abs(found[2]) <= HOUR)  # noqa: B023

        for _ in range(10):
            cron = cron_oracle.random_cron(rng, seconds=True)
            fired += same_as_the_oracle(cron, zone, at - 20 * MINUTE, at + 20 * MINUTE, abs(by))

    assert fired > 1_000


@pytest.mark.feature("R16")
@given(st.randoms(use_true_random=False), st.integers(-300, 300), st.integers(0, 600))
@settings(max_examples=150, deadline=None)
def test_r16_any_window_at_a_change_of_hour_is_the_oracle_s(rng: Random, since: int, length: int) -> None:
    """A window may begin or end in the middle of what is skipped or shown twice."""
    zone, at, by = changed(rng)
    start = at + since * MINUTE

    same_as_the_oracle(cron_oracle.random_cron(rng), zone, start, start + length * MINUTE, abs(by) + DAY / 4)


@pytest.mark.feature("R16")
def test_r16_cronsim_agrees_where_both_mean_the_same() -> None:
    """It also lets fixed hours follow the clock when the minutes begin with a star, but no steps without a star.

    Its week of `wed/1` has two Sundays, and it calls `1,*` restricted.
    """
    compared = 0
    for seed in range(300):
        rng = Random(seed)
        zone, at, _ = changed(rng)
        cron = cron_oracle.random_cron(rng, plain=True)
        minute, hour, day, _, weekday = cron.split()
        star = hour.startswith("*")
        if star != bool(set("*/") & set(hour)) or (minute.startswith("*") and not star):
            continue
        if any("*" in field[1:] for field in (day, weekday)) or re.search(r"(^|,)\w+/", weekday):
            continue
        start = (at - DAY).astimezone(ZoneInfo(zone))

        theirs = [instant.astimezone(UTC) for instant in islice(CronSim(cron, start), 50)]

        ours = parse_timing(cron=cron, time_zone=zone).instants(start + MINUTE / 60)
        assert list(islice(ours, 50)) == list(dict.fromkeys(theirs)), f"{cron} in {zone} from {start}"
        compared += 1

    assert compared > 100


@pytest.mark.feature("R15")
def test_r15_the_zone_is_utc_or_the_default_and_never_the_machine_s(monkeypatch: pytest.MonkeyPatch) -> None:
    noon = datetime(2026, 10, 16, 12, tzinfo=UTC)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        by_itself = parse_timing(cron="0 8 * * *").next_after(noon)
        by_default = parse_timing(cron="0 8 * * *", default_time_zone="Europe/Berlin").next_after(noon)
        by_wish = parse_timing(
            cron="0 8 * * *", time_zone="America/New_York", default_time_zone="Europe/Berlin"
        ).next_after(noon)
    finally:
        monkeypatch.undo()
        time.tzset()

    assert by_itself == datetime(2026, 10, 17, 8, tzinfo=UTC)
    assert by_default == datetime(2026, 10, 17, 6, tzinfo=UTC)
    assert by_wish == datetime(2026, 10, 17, 12, tzinfo=UTC)
    with pytest.raises(InvalidArgument):
        find_zone("localtime")


@pytest.mark.feature("S1.5")
def test_start_and_end_may_fire_themselves_and_nothing_beyond_them() -> None:
    start, end = datetime(2026, 10, 16, tzinfo=UTC), datetime(2026, 10, 18, tzinfo=UTC)
    timing = parse_timing(cron="@daily", start=start, end=end)

    assert list(timing.instants(start - 9 * DAY)) == [start, start + DAY, end]
    assert timing.next_after(start - 9 * DAY) == start
    assert timing.next_after(end - MINUTE) == end
    assert timing.next_after(end) is None
    assert timing.count(start - 9 * DAY, end + 9 * DAY) == 3
    assert timing.latest(1, start, end) == [start + DAY]


@pytest.mark.feature("S1.5")
def test_an_instant_fires_once() -> None:
    at = datetime(2026, 10, 16, 8, 0, 0, 250_000, tzinfo=ZoneInfo("Europe/Berlin"))
    timing = parse_timing(at=at)

    assert timing.next_after(at - MINUTE) == at
    assert timing.next_after(at) is None
    assert list(timing.instants(at, at + MINUTE)) == [at]
    assert timing.count(at - MINUTE, at) == 0
    assert timing.latest(5, at - MINUTE, at + MINUTE) == [at]


@pytest.mark.feature("S1.5")
@pytest.mark.parametrize("cron", ["0 0 29 2 *", "0 0 * feb mon#5", "0 0 31 dec *"])
def test_what_fires_seldom_is_found(cron: str) -> None:
    """29 February is a Monday in 2072 and then in 2112, for want of one in 2100."""
    timing = parse_timing(cron=cron, time_zone="Europe/Berlin")

    fired = list(islice(timing.instants(datetime(2072, 1, 1, tzinfo=UTC)), 2))

    assert len(fired) == 2
    assert timing.count(fired[0], fired[1]) == 1
    assert timing.next_after(fired[0]) == fired[1]


@pytest.mark.feature("S1.5")
def test_years_of_every_second_are_counted_not_walked() -> None:
    timing = parse_timing(cron="* * * * * *", time_zone="Europe/Berlin")
    start, end = datetime(1990, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)
    began = time.process_time()

    assert timing.count(start, end) == (end - start) // timedelta(seconds=1)
    assert timing.latest(2, start, end) == [end - timedelta(seconds=2), end - timedelta(seconds=1)]
    assert time.process_time() - began < 1  # 0.02 s when measured; walking them takes half an hour


def changes_in(data: bytes) -> Iterator[int]:
    """The instants at which the offset changes, of a file of the zone database (RFC 8536, second part)."""
    header = struct.Struct(">4s1s15x6l")
    _, _, isutc, isstd, leap, times, types, chars = header.unpack_from(data)
    second = header.size + times * 5 + types * 6 + chars + leap * 8 + isstd + isutc
    _, _, _, _, _, times, types, _ = header.unpack_from(data, second)
    at = second + header.size
    instants = struct.unpack_from(f">{times}q", data, at)
    kinds = data[at + times * 8 : at + times * 9]
    offsets = [struct.unpack_from(">lbb", data, at + times * 9 + n * 6)[0] for n in range(types)]
    before = offsets[0]
    for instant, kind in zip(instants, kinds, strict=True):
        if offsets[kind] != before:
            yield instant
        before = offsets[kind]


def test_no_zone_moves_its_clock_twice_in_two_days() -> None:
    """taskflow_server.core.zones looks once a day, and back one day."""
    known = sorted(name for name in available_timezones() if name not in ("localtime", "Factory", "posixrules"))
    read = [(name, files("tzdata.zoneinfo").joinpath(*name.split("/"))) for name in known]
    found = {name: list(changes_in(file.read_bytes())) for name, file in read if file.is_file()}

    assert len(found) > 400
    assert len(found["Europe/Berlin"]) > 50
    assert min(b - a for moments in found.values() for a, b in pairwise(moments)) > 2 * 86_400

"""Valid crons, and the error for each kind of wrong one (S1.5, S4.1)."""

import re
from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskflow_server.core.cron import ALIASES, MAX_LENGTH, parse_cron
from taskflow_server.core.errors import InvalidArgument
from taskflow_server.core.timing import parse_timing
from taskflow_server.core.zones import SHORT, find_zone
from tests.support.docs import ROOT, table

START = datetime(2027, 12, 30, tzinfo=UTC)  # the next firings cross a month, a year and 29 February


def firings(text: str, n: int = 40) -> list[datetime]:
    return list(islice(parse_timing(cron=text).instants(START), n))


@pytest.mark.feature("S1.5")
@pytest.mark.parametrize(
    ("written", "means"),
    [
        *ALIASES.items(),
        ("@Daily", "0 0 * * *"),
        ("  5\t* * * *\n", "5 * * * *"),
        ("0 5 * * * *", "5 * * * *"),
        ("30 0 8 * * MON-Fri", "30 0 8 * * 1,2,3,4,5"),
        ("0 0 ? * ?", "0 0 * * *"),
        ("0 0 * * 7", "0 0 * * sun"),
        ("0 0 * * fri-sun", "0 0 * * 5-7"),
        ("0 0 * * fri-mon", "0 0 * * 0,1,5,6"),
        ("0 0 * * 6-4/3", "0 0 * * 6,2"),
        ("0 0 1 nov-feb *", "0 0 1 11,12,1,2 *"),
        ("0 0 1 dec-mar/2 *", "0 0 1 12,2 *"),
        ("5/20 * * * *", "5,25,45 * * * *"),
        ("10-30/10,3 * * * *", "3,10,20,30 * * * *"),
        ("*,7 * * * *", "* * * * *"),
        ("0 */24 * * *", "0 0 * * *"),
        ("*/60 * * * *", "0 * * * *"),
        ("5/60 * * * *", "5 * * * *"),
        ("*/60 * * * * *", "0 * * * * *"),
        ("0 0 1 */12 *", "0 0 1 1 *"),
        ("0 15 10 ? * MON-FRI", "0 15 10 * * 1-5"),
        ("0 0 ? * */2", "0 0 * * */2"),
        ("0 0 l * *", "0 0 L * *"),
        ("0 0 * * 5#2", "0 0 * * FRI#2"),
        ("0 0 * * 5L", "0 0 * * friL"),
        ("0 0 * * 7L", "0 0 * * 0L"),
    ],
)
def test_two_ways_to_write_the_same(written: str, means: str) -> None:
    assert firings(written) == firings(means)


@pytest.mark.feature("S1.5")
@pytest.mark.parametrize(
    ("written", "dates"),
    [
        ("0 0 L * *", "12-31 01-31 02-29 03-31 04-30"),
        ("0 0 L,15 * *", "12-31 01-15 01-31 02-15 02-29"),
        ("0 0 * * fri#2", "01-14 02-11 03-10 04-14 05-12"),
        ("0 0 * * friL", "12-31 01-28 02-25 03-31 04-28"),
        ("0 0 * * mon#5", "01-31 05-29 07-31 10-30 01-29"),
        ("0 0 * * sun#1,sunL", "01-02 01-30 02-06 02-27 03-05"),
        ("0 0 29 2 *", "02-29 02-29 02-29 02-29 02-29"),
        # both day fields restricted: one of them suffices
        ("0 0 13 * fri", "12-31 01-07 01-13 01-14 01-21"),
        ("0 0 1 * mon#2", "01-01 01-10 02-01 02-14 03-01"),
        # one of them with a star: both must fit, as crontab(5) has it
        ("0 0 */10 * fri", "12-31 01-21 02-11 03-31 04-21"),
        ("0 0 1-7 * */7", "01-02 02-06 03-05 04-02 05-07"),
    ],
)
def test_days(written: str, dates: str) -> None:
    assert [f"{instant:%m-%d}" for instant in firings(written, 5)] == dates.split()


FOREIGN = {
    # crontab
    "@reboot": "'@reboot' is not supported: a schedule has no machine; submit a job when your app starts",
    "@reboot /usr/bin/x": "'@reboot' is not supported",
    "CRON_TZ=Europe/Berlin 0 8 * * *": "write '0 8 * * *', and give Europe/Berlin as time_zone",
    "TZ=UTC\t@daily": "'TZ=UTC' is not part of an expression; write '@daily', and give UTC as time_zone",
    "CRON_TZ=": "'CRON_TZ=' is not part of an expression; leave it out, and give the zone as time_zone",
    "0 5 * * * /usr/bin/backup": "'/usr/bin/backup' begins a command, which is not part of an expression; write '0 5 *",
    "5 4 * * sun root cd / && run": "'root' begins a command, which is not part of an expression; write '5 4 * * sun'",
    "@daily /usr/bin/x": "'/usr/bin/x' begins a command, which is not part of an expression; write '@daily'",
    "# nightly": "'# nightly' is a comment of a crontab; write the expression alone",
    "MAILTO=ops@example.org": "'MAILTO=ops@example.org' is a variable of a crontab; write the expression alone",
    "'0 8 * * mon'": "the quotes are not part of an expression; write '0 8 * * mon' alone",
    "0~59 * * * *": "has '0~59', a random value; write one value, as '0'",
    # Jenkins
    "H * * * *": "the minute field 'h' has 'H', for which Jenkins picks a value; write one, as '17'",
    "H/15 * * * *": "has 'H/15', for which Jenkins picks a value; write one, as '*/15'",
    "H(0-29)/10 * * * *": "write one, as '0-29/10'",
    "0 H(0-7) * * *": "the hour field 'h(0-7)' has 'H(0-7)', for which Jenkins picks a value; write one, as '3'",
    # Go
    "@every 5m": "'@every 5m' is not known; write '*/5 * * * *'",
    "@every 90m": "make 2 schedules: '0 */3 * * *', '30 1-23/3 * * *'",
    "@every 1h30m": "make 2 schedules: '0 */3 * * *', '30 1-23/3 * * *'",
    "@every 30s": "write '*/30 * * * * *'",
    "@every 24h": "write '0 0 * * *'",
    "@every 7m": "no expression has that interval; choose one that divides an hour or a day",
    # Quartz
    "0 0 15W * *": "has '15W', the weekday nearest to a day, which is not supported; write '15', or",
    "0 0 LW * *": "has 'LW', the weekday nearest to a day, which is not supported; write 'L', or",
    "0 0 L-2 * *": "has 'L-2', a day counted from the month's end; write 'L' for its last, or one as '28'",
    "0 0 * * L": "has 'L' alone, which Quartz takes for Saturday; write 'sat', or 'satL' for the month's last",
    "0 15 10 ? * 6L": "write 'friL' for their days, 'satL' for crontab's",
    "0 15 10 ? * 2-6": "write 'mon-fri' for their days, 'tue-sat' for crontab's",
    "0 15 10 ? * 6#3": "the day-of-week field '6#3' has numbers beside a '?'; Quartz and AWS count them from 1 for Sun",
    "0 0 ? * 0": "write 'sun'",
    "0 0 ? * mon,7": "write 'mon,sat' for their days, 'mon,sun' for crontab's",
    "0 0 12 * * ? 2026": "'2026' is the year, the seventh field of Quartz, which is not supported; write "
    "'0 0 12 * * ?', and start and end for the years",
    # AWS
    "0 12 * * ? *": "'*' is the year, the sixth field of AWS, which is not supported; write '0 12 * * ?'",
    "0 18 ? * 2-6 *": "the sixth field of AWS, which is not supported; write '0 18 ? * mon-fri'",
    "cron(0/15 * * * ? *)": "the sixth field of AWS, which is not supported; write '0/15 * * * ?'",
    "cron(0 8 1 * ? 2026-2028)": "'2026-2028' is the year, the sixth field of AWS",
    "rate(5 minutes)": "'rate(5 minutes)' is AWS's; write '*/5 * * * *'",
    "cron(@daily)": "'cron(@daily)' is AWS's; write what it encloses, without the year",
}


@pytest.mark.feature("S1.5")
@pytest.mark.parametrize(("written", "cure"), FOREIGN.items(), ids=FOREIGN)
def test_what_other_crons_write_is_refused_with_what_to_write_here(written: str, cure: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(cure)) as caught:
        parse_cron(written)

    for named in re.findall(r"(?:write|make 2 schedules of it:|,) '([^']* [^']*)'", caught.value.message):
        parse_cron(named)
    assert len(caught.value.message) < 400


@pytest.mark.feature("S1.5", "S4.1")
@pytest.mark.parametrize(
    ("written", "fault"),
    [
        ("", "is empty; write minute hour"),
        ("* * * *", "'* * * *' has 4 fields; write minute hour"),
        ("* * * * * * *", "has 7 fields"),
        ("60 * * * *", "the minute field '60' has the value 60; it takes 0 to 59"),
        ("61 0 8 * * *", "the second field '61' has the value 61; it takes 0 to 59"),
        ("0 24 * * *", "the hour field '24' has the value 24; it takes 0 to 23"),
        ("0 0 0 * *", "the day-of-month field '0' has the value 0; it takes 1 to 31"),
        ("0 0 1 13 *", "the month field '13' has the value 13; it takes 1 to 12 or jan to dec"),
        ("0 0 * * 1,8", "the day-of-week field '1,8' has the value 8; it takes 0 to 7 or sun to sat"),
        ("0 0 * * monday", "the day-of-week field 'monday' has the name 'monday'; did you mean 'mon'?"),
        ("0 8 mon * *", "the day-of-month field 'mon' has the name 'mon'"),
        (
            "0 8 * * mon 0",
            "the month field 'mon' has the name 'mon'; it takes 1 to 12 or jan to dec; seconds come first",
        ),
        ("*/0 * * * *", "has a step of 0; within one field a step lies between 1 and 60"),
        ("*/90 * * * *", "has a step of 90; within one field a step lies between 1 and 60, and starts anew"),
        ("*/90 * * * *", "for each 90 minutes write '0 */3 * * *' and '30 1-23/3 * * *'"),
        ("*/120 * * * *", "for each 120 minutes write '0 */2 * * *'"),
        ("0 */25 * * *", "has a step of 25; within one field a step lies between 1 and 24"),
        ("0 0 */31 * *", "has a step of 31; within one field a step lies between 1 and 30"),
        ("0 22-2 * * *", "the hour field '22-2' has the range '22-2', which runs backwards; write '22-23,0-2'"),
        ("5-5 * * * *", "has the range '5-5' from a value to itself; write '5'"),
        ("0 0 * * mon-1", "has the range 'mon-1' from a value to itself; write 'mon'"),
        ("1,,2 * * * *", "the minute field '1,,2' is not understood at ''"),
        ("-5 * * * *", "the minute field '-5' is not understood at '-5'; use 0 to 59"),
        ("*-5 * * * *", "is not understood at '*-5'"),
        ("? * * * *", "is not understood at '?', which stands in the day fields only; write '*'"),
        ("٣ * * * *", "is not understood at '٣'"),
        ("0 0 * * fri#6", "asks for number 6 of a weekday; a month has 1 to 5 of each"),
        ("0 0 * * mon,fri#2", "mixes plain days with '#' or 'L'; make two schedules instead"),
        ("0 0 30 2 *", "'0 0 30 2 *' never fires"),
        ("0 0 31 feb,apr *", "never fires"),
        ("@dayly", "'@dayly' is not known; did you mean @daily?"),
        ("@every", "'@every' is not known; write the step into its field, as in '*/5 * * * *'"),
        ("9" * 300, f"300 characters exceed the limit of {MAX_LENGTH}"),
    ],
)
def test_a_bad_cron_is_refused_with_the_field_at_fault_and_the_cure(written: str, fault: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(fault)) as caught:
        parse_cron(written, field="tasks[3].schedule")

    assert caught.value.field == "tasks[3].schedule"
    assert caught.value.message.startswith("tasks[3].schedule: ")
    assert len(caught.value.message) < 400


@pytest.mark.feature("S1.5")
@given(st.text(alphabet="0123456789*/-,#?@ LWHRlmonfrijabdec\x00é", max_size=40))
def test_whatever_is_written_it_fires_or_is_refused_in_words(written: str) -> None:
    try:
        cron = parse_cron(written)
    except InvalidArgument as refused:
        assert refused.message.startswith("cron: ")
    else:
        assert cron.first(0) is not None


@pytest.mark.feature("S1.5")
@pytest.mark.parametrize(
    ("written", "cure"),
    [
        ("Europe/Berln", "did you mean Europe/Berlin"),
        ("berlin", "did you mean Europe/Berlin"),
        ("New York", "did you mean America/New_York"),
        ("+02:00", "for 2 h ahead of UTC write 'Etc/GMT-2', whose sign is the other way round, or a place"),
        ("GMT+5", "for 5 h ahead of UTC write 'Etc/GMT-5', whose sign is the other way round, or a place"),
        ("UTC-03:00", "for 3 h behind UTC write 'Etc/GMT+3', whose sign is the other way round, or a place"),
        ("UTC+5:30", "an offset is not a zone; use the name of a place, as Asia/Kolkata"),
        ("GMT+15", "an offset is not a zone; use the name of a place"),
        ("CEST", "did you mean Europe/Berlin?"),
        ("edt", "did you mean America/New_York?"),
        ("IST", "did you mean Asia/Kolkata or Europe/Dublin or Asia/Jerusalem?"),
        ("../../etc/passwd", "use a name of the IANA database"),
        ("", "use a name of the IANA database"),
        ("x" * 10_000, "use a name of the IANA database"),
    ],
)
def test_an_unknown_zone_is_refused_with_the_names_that_come_near(written: str, cure: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(cure)) as caught:
        find_zone(written)

    assert caught.value.field == "time_zone"
    assert len(caught.value.message) < 300


@pytest.mark.feature("S1.5")
@pytest.mark.parametrize(
    ("field", "given_", "fault"),
    [
        ("cron", {}, "give either cron or at"),
        ("cron", {"cron": "@daily", "at": START}, "give either cron or at"),
        ("at", {"at": datetime(2027, 1, 1)}, "lacks an offset from UTC"),  # noqa: DTZ001
        ("at", {"at": START, "start": START}, "takes neither start nor end"),
        ("at", {"at": datetime(1969, 12, 31, tzinfo=UTC)}, "is not between 1970 and 3000"),
        ("start", {"cron": "@daily", "start": datetime(3000, 1, 1, tzinfo=UTC)}, "is not between 1970 and 3000"),
        ("end", {"cron": "@daily", "start": START, "end": datetime(2027, 1, 1, tzinfo=UTC)}, "is before start"),
        ("time_zone", {"cron": "@daily", "time_zone": "Mars"}, "is not a known time zone"),
        ("cron", {"cron": "x"}, "has 1 field;"),
    ],
)
def test_a_bad_timing_is_refused_with_the_field_at_fault(field: str, given_: dict[str, object], fault: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(fault)) as caught:
        parse_timing(**given_)  # type: ignore[arg-type]

    assert caught.value.field == field


@pytest.mark.parametrize("short", SHORT)
def test_an_abbreviation_is_one_of_the_zones_that_it_leads_to(short: str) -> None:
    for name in SHORT[short]:
        shown = {datetime(2026, month, 1, tzinfo=ZoneInfo(name)).tzname() for month in (1, 7)}
        assert short.upper() in shown


@pytest.mark.parametrize("hours", range(-12, 15))
def test_an_offset_leads_to_the_zone_that_has_it(hours: int) -> None:
    with pytest.raises(InvalidArgument, match="write 'Etc/GMT") as caught:
        find_zone(f"UTC{hours:+03d}:00")

    zone = find_zone(caught.value.message.partition("write '")[2].partition("'")[0])
    assert START.astimezone(zone).utcoffset() == timedelta(hours=hours)


TICKED = re.compile(r"`([^`]+)`")


@pytest.mark.parametrize("row", table(ROOT / "docs/concepts/schedules.md", "refused"), ids=lambda row: row[0])
def test_the_page_on_schedules_says_what_to_write_instead(row: list[str]) -> None:
    written, cure = (TICKED.findall(row[n])[0] for n in (0, 2))
    with pytest.raises(InvalidArgument) as refused:
        parse_cron(written)

    parse_cron(cure)
    said = refused.value.message.lower()
    named = {cure.lower(), cure.lower().split()[0], cure.lower().split()[1], cure.lower().split()[-1]}
    assert any(f"'{word}'" in said for word in named)


DATES = {  # of what Quartz's documents say of an expression: the first five firings after START, by hand
    "0 0 12 * * ?": "12-30T12:00 12-31T12:00 01-01T12:00 01-02T12:00 01-03T12:00",
    "0 0/5 14 * * ?": "12-30T14:00 12-30T14:05 12-30T14:10 12-30T14:15 12-30T14:20",
    "0 0-5 14 * * ?": "12-30T14:00 12-30T14:01 12-30T14:02 12-30T14:03 12-30T14:04",
    "0 15 10 ? * MON-FRI": "12-30T10:15 12-31T10:15 01-03T10:15 01-04T10:15 01-05T10:15",
    "0 15 10 L * ?": "12-31T10:15 01-31T10:15 02-29T10:15 03-31T10:15 04-30T10:15",
    "0 15 10 ? * 2-6": "12-30T10:15 12-31T10:15 01-03T10:15 01-04T10:15 01-05T10:15",
    "0 15 10 ? * 6L": "12-31T10:15 01-28T10:15 02-25T10:15 03-31T10:15 04-28T10:15",
    "0 15 10 ? * 6#3": "01-21T10:15 02-18T10:15 03-17T10:15 04-21T10:15 05-19T10:15",
    "0 15 10 ? * 1,7": "01-01T10:15 01-02T10:15 01-08T10:15 01-09T10:15 01-15T10:15",
    "0 15 10 ? * L": "01-01T10:15 01-08T10:15 01-15T10:15 01-22T10:15 01-29T10:15",
    "0 15 10 * * ? *": "12-30T10:15 12-31T10:15 01-01T10:15 01-02T10:15 01-03T10:15",
    "0 15 10 * * ? 2027": "12-30T10:15 12-31T10:15 01-01T10:15 01-02T10:15 01-03T10:15",
    "0 0 0 ? * SUN-SAT/2": "12-30T00:00 01-01T00:00 01-02T00:00 01-04T00:00 01-06T00:00",
    "0 0 22-2 * * ?": "12-30T00:00 12-30T01:00 12-30T02:00 12-30T22:00 12-30T23:00",
}


@pytest.mark.parametrize(
    "row", table(ROOT / "docs/howto/from-the-task-flow-node.md", "in Quartz"), ids=lambda row: row[0]
)
def test_the_page_for_users_of_the_node_says_what_a_quartz_expression_is_here(row: list[str]) -> None:
    (quartz,) = TICKED.findall(row[0])
    if row[1] == "the same":
        here = quartz
    else:
        with pytest.raises(InvalidArgument):
            parse_cron(quartz)
        if row[1] == "none":
            return
        here = TICKED.findall(row[1])[0]
    assert [f"{instant:%m-%dT%H:%M}" for instant in firings(here, 5)] == DATES[quartz].split()

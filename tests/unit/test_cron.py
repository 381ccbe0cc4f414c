"""What may be written as a cron, and what is said to whoever writes it wrongly (S1.5, S4.1)."""

import re
from datetime import UTC, datetime
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.core.cron import ALIASES, MAX_LENGTH, parse_cron
from services.core.errors import InvalidArgument
from services.core.timing import parse_timing
from services.core.zones import find_zone

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


@pytest.mark.feature("S1.5", "S4.1")
@pytest.mark.parametrize(
    ("written", "fault"),
    [
        ("", "nothing is written; write minute hour"),
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
            "the month field 'mon' has the name 'mon'; it takes 1 to 12 or jan to dec; seconds stand first",
        ),
        ("*/0 * * * *", "has a step of 0; within one field a step lies between 1 and 59"),
        ("*/90 * * * *", "has a step of 90; within one field a step lies between 1 and 59, and starts anew"),
        ("0 22-2 * * *", "the hour field '22-2' has the range '22-2', which runs backwards; write '22-23,0-2'"),
        ("5-5 * * * *", "has the range '5-5' from a value to itself; write '5'"),
        ("0 0 * * mon-1", "has the range 'mon-1' from a value to itself; write 'mon'"),
        ("1,,2 * * * *", "the minute field '1,,2' is not understood at ''"),
        ("-5 * * * *", "the minute field '-5' is not understood at '-5'; use 0 to 59"),
        ("*-5 * * * *", "is not understood at '*-5'"),
        ("? * * * *", "is not understood at '?'"),
        ("٣ * * * *", "is not understood at '٣'"),
        ("0 0 15W * *", "is not understood at '15w'; use 1 to 31, lists of them, or '*'"),
        ("H * * * *", "has the name 'h'"),
        ("0 0 * * L", "the day-of-week field 'l' has the name 'l'"),
        ("0 0 * * fri#6", "asks for number 6 of a weekday; a month has 1 to 5 of each"),
        ("0 0 * * mon,fri#2", "mixes plain days with '#' or 'L'; make two schedules of it"),
        ("0 0 30 2 *", "'0 0 30 2 *' never fires"),
        ("0 0 31 feb,apr *", "never fires"),
        ("@dayly", "'@dayly' is not known; did you mean @daily?"),
        ("@reboot", "'@reboot' is not known; use @yearly"),
        ("@every 5m", "'@every 5m' is not known; write the step into its field, as in '*/5 * * * *'"),
        ("9" * 300, f"300 characters are too many; an expression has {MAX_LENGTH} at most"),
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
        ("+02:00", "use a name of the IANA database"),
        ("../../etc/passwd", "use a name of the IANA database"),
        ("", "use a name of the IANA database"),
        ("x" * 10_000, "use a name of the IANA database"),
    ],
)
def test_an_unknown_zone_is_refused_with_the_names_that_come_near(written: str, cure: str) -> None:
    with pytest.raises(InvalidArgument, match=cure) as caught:
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
        ("time_zone", {"cron": "@daily", "time_zone": "Mars"}, "is no time zone"),
        ("cron", {"cron": "x"}, "has 1 fields"),
    ],
)
def test_a_bad_timing_is_refused_with_the_field_at_fault(field: str, given_: dict[str, object], fault: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(fault)) as caught:
        parse_timing(**given_)  # type: ignore[arg-type]

    assert caught.value.field == field

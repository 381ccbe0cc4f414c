"""Decisions of a schedule (R17, R19), and that its ledger has every nominal instant once (M.7)."""

import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskflow_server.core.errors import InvalidArgument
from taskflow_server.core.schedules import (
    MAX_BACKFILL,
    MAX_CAUGHT_UP,
    MAX_QUEUED,
    MAX_SKIPPED_ROWS,
    MISFIRE_AFTER,
    QUEUE_CHECK,
    Firing,
    Firings,
    FiringState,
    Misfire,
    Overlap,
    Policy,
    ScheduleState,
    backfill,
    count_from_now,
    due,
    remaining,
)
from taskflow_server.core.timing import Timing, parse_timing
from tests.support import cron_oracle
from tests.support.docs import ROOT, table

PAGE = ROOT / "docs" / "concepts" / "schedules.md"
SECOND, MINUTE, HOUR, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
EIGHT = datetime(2026, 10, 16, 8, tzinfo=UTC)
HOURLY = parse_timing(cron="0 * * * *")
DEFAULT = Policy.of(None, None)


def hourly(**state: object) -> ScheduleState:
    """Decided up to eight o'clock."""
    return replace(ScheduleState(HOURLY, cursor=EIGHT), **state)  # type: ignore[arg-type]


def of(rows: Iterable[Firing], state: FiringState) -> list[datetime]:
    return [row.instant for row in rows if row.state is state]


@pytest.mark.feature("R17")
def test_r17_a_missed_firing_fires_once_for_the_latest_and_overlap_skips() -> None:
    missed = due(hourly(), EIGHT + 3 * HOUR + 2 * MINUTE, DEFAULT)
    busy = due(hourly(unfinished=1), EIGHT + HOUR, DEFAULT)

    assert missed.fired == (EIGHT + 3 * HOUR,)
    assert of(missed.rows, FiringState.SKIPPED_MISFIRE) == [EIGHT + HOUR, EIGHT + 2 * HOUR]
    assert [row.reason for row in missed.rows] == [
        *["more than 60 s late, and not the latest"] * 2,
        "the latest of 3 missed",
    ]
    assert (missed.cursor, missed.next_at, missed.wake_at) == (EIGHT + 3 * HOUR, EIGHT + 4 * HOUR, EIGHT + 4 * HOUR)
    assert busy.fired == ()
    assert of(busy.rows, FiringState.SKIPPED_OVERLAP) == [EIGHT + HOUR]
    assert Policy() == DEFAULT


@pytest.mark.feature("R17")
@pytest.mark.parametrize(
    ("late", "threshold", "missed"),
    [
        (60 * SECOND, MISFIRE_AFTER, False),
        (60 * SECOND + timedelta(microseconds=1), MISFIRE_AFTER, True),
        (0 * SECOND, MISFIRE_AFTER, False),
        (6 * SECOND, 5 * SECOND, True),
        (59 * MINUTE, HOUR, False),
    ],
)
def test_r17_missed_is_what_is_later_than_the_threshold(late: timedelta, threshold: timedelta, missed: bool) -> None:
    decision = due(hourly(), EIGHT + HOUR + late, Policy(Misfire.SKIP, misfire_after=threshold))

    assert decision.rows[0].state is (FiringState.SKIPPED_MISFIRE if missed else FiringState.FIRED)
    assert decision.cursor == EIGHT + HOUR


@pytest.mark.feature("R17", "S1.5")
def test_r17_the_page_s_example_is_what_is_decided() -> None:
    for misfire, overlap, *instants in table(PAGE, "misfire | overlap"):
        policy = Policy(Misfire(misfire.strip("`")), Overlap(overlap.strip("`")))

        decision = due(hourly(), EIGHT + 4 * HOUR + 30 * SECOND, policy)

        states = (*(FiringState.FIRED, FiringState.QUEUED, FiringState.SKIPPED_MISFIRE, FiringState.SKIPPED_OVERLAP),)
        decided = [" ".join(f"{at:%H:%M}" for at in of(decision.rows, state)) for state in states]
        assert decided == instants, policy


def test_the_page_names_every_policy_and_state_and_the_limits() -> None:
    text = PAGE.read_text()

    assert [row[0].split("`")[1] for row in table(PAGE, "misfire")] == list(Misfire)
    assert [row[0].split("`")[1] for row in table(PAGE, "overlap")] == list(Overlap)
    assert [row[0].strip("`") for row in table(PAGE, "state")] == list(FiringState)
    assert Policy.of(Misfire.CATCH_UP, None).overlap is Overlap.QUEUE
    assert f"the latest {MAX_CAUGHT_UP:,} fire" in text
    assert f"at most {MAX_QUEUED:,} wait" in text
    assert f"the latest {MAX_SKIPPED_ROWS} have" in text
    assert f"more than {MISFIRE_AFTER // SECOND} s late" in text


@pytest.mark.feature("S1.5")
def test_before_its_time_nothing_is_decided() -> None:
    decision = due(hourly(), EIGHT + HOUR - timedelta(microseconds=1), DEFAULT)

    assert decision == Firings((), None, False, EIGHT, EIGHT + HOUR, EIGHT + HOUR)


@pytest.mark.feature("S1.5")
def test_a_cursor_ahead_of_the_clock_is_taken_back_to_it_and_what_fired_does_not_fire_again() -> None:
    now = EIGHT - 90 * MINUTE

    back = due(hourly(queued=1), now, DEFAULT)
    again = due(hourly(cursor=back.cursor, known=(EIGHT - HOUR, EIGHT - HOUR)), EIGHT - HOUR, DEFAULT)
    after = due(hourly(cursor=again.cursor), EIGHT, DEFAULT)
    slightly = due(hourly(), EIGHT - 4 * SECOND, DEFAULT)

    assert back == Firings((), None, False, now, EIGHT - HOUR, now + QUEUE_CHECK, taken_back=True)
    assert (again.rows, again.cursor, again.more) == ((), EIGHT - HOUR, True)
    assert after.fired == (EIGHT,)
    assert slightly == Firings((), None, False, EIGHT, EIGHT + HOUR, EIGHT + HOUR)


@pytest.mark.feature("S1.5")
def test_replace_cancels_what_is_unfinished_and_only_then() -> None:
    policy = Policy(overlap=Overlap.REPLACE)

    busy = due(hourly(unfinished=2), EIGHT + HOUR, policy)
    idle = due(hourly(), EIGHT + HOUR, policy)
    early = due(hourly(unfinished=2), EIGHT + HOUR / 2, policy)

    assert busy.cancel_unfinished and busy.fired == (EIGHT + HOUR,)
    assert not idle.cancel_unfinished and idle.fired == (EIGHT + HOUR,)
    assert not early.cancel_unfinished and early.fired == ()


@pytest.mark.feature("S1.5")
def test_queued_firings_run_one_after_the_other_in_their_order() -> None:
    policy = Policy(Misfire.CATCH_UP, Overlap.QUEUE)
    state = hourly(unfinished=1)
    now = EIGHT + 2 * HOUR + 2 * MINUTE

    waiting = due(state, now, policy)
    state = replace(state, cursor=waiting.cursor, queued=2, oldest_queued=EIGHT + HOUR)
    still = due(state, now + SECOND, policy)
    first = due(replace(state, unfinished=0), now + 2 * SECOND, policy)
    last = due(replace(state, unfinished=0, queued=1, oldest_queued=EIGHT + 2 * HOUR), now + 3 * SECOND, policy)

    assert of(waiting.rows, FiringState.QUEUED) == [EIGHT + HOUR, EIGHT + 2 * HOUR]
    assert (waiting.fired, waiting.next_at, waiting.wake_at) == ((), EIGHT + 3 * HOUR, now + QUEUE_CHECK)
    assert (still.rows, still.dequeued, still.wake_at) == ((), None, now + SECOND + QUEUE_CHECK)
    assert first.rows == () and first.fired == (EIGHT + HOUR,) and first.cursor == EIGHT + 2 * HOUR
    assert first.dequeued and first.dequeued.reason == "waited for the job before it"
    assert last.fired == (EIGHT + 2 * HOUR,) and last.wake_at == EIGHT + 3 * HOUR


@pytest.mark.feature("S1.5")
def test_a_new_firing_queues_behind_one_that_just_left_the_queue() -> None:
    state = hourly(queued=1, oldest_queued=EIGHT)

    decision = due(state, EIGHT + HOUR, Policy(overlap=Overlap.QUEUE))

    assert decision.fired == (EIGHT,)
    assert of(decision.rows, FiringState.QUEUED) == [EIGHT + HOUR]


@pytest.mark.feature("S1.5")
def test_a_full_queue_takes_no_more() -> None:
    state = hourly(unfinished=1, queued=MAX_QUEUED - 1, oldest_queued=EIGHT - DAY)

    decision = due(state, EIGHT + 2 * HOUR, Policy(Misfire.CATCH_UP, Overlap.QUEUE))

    assert of(decision.rows, FiringState.QUEUED) == [EIGHT + HOUR]
    assert of(decision.rows, FiringState.SKIPPED_OVERLAP) == [EIGHT + 2 * HOUR]
    assert decision.rows[-1].reason == f"{MAX_QUEUED} firings are already queued"


@pytest.mark.feature("S1.5")
@pytest.mark.parametrize("overlap", [Overlap.SKIP, Overlap.ALLOW, Overlap.REPLACE])
@pytest.mark.parametrize("unfinished", [0, 1])
def test_what_was_queued_under_another_policy_does_not_stay_for_ever(overlap: Overlap, unfinished: int) -> None:
    state = hourly(unfinished=unfinished, queued=1, oldest_queued=EIGHT)

    decision = due(state, EIGHT + MINUTE, Policy(overlap=overlap))

    assert decision.dequeued and decision.dequeued.state is not FiringState.QUEUED
    assert decision.wake_at == decision.next_at


@pytest.mark.feature("S1.5")
@pytest.mark.parametrize("overlap", list(Overlap))
@pytest.mark.parametrize("misfire", list(Misfire))
def test_years_of_every_second_are_decided_in_bounded_work(misfire: Misfire, overlap: Overlap) -> None:
    timing = parse_timing(cron="* * * * * *", time_zone="Europe/Berlin")
    state = ScheduleState(timing, cursor=datetime(2006, 1, 1, tzinfo=UTC))
    began = time.process_time()

    decision = due(state, EIGHT, Policy(misfire, overlap), 20)
    rows = [*decision.rows]
    while decision.more:
        assert len(decision.rows) <= 1 + MAX_SKIPPED_ROWS + 20
        decision = due(replace(state, cursor=decision.cursor), EIGHT, Policy(misfire, overlap), 20)
        rows += decision.rows

    assert time.process_time() - began < 1  # 0.05 s when measured
    assert sum(row.count for row in rows) == (EIGHT - state.cursor) // SECOND
    assert len(rows) <= 1 + MAX_SKIPPED_ROWS + MAX_CAUGHT_UP + 61
    assert (rows[0].first, decision.cursor) == (state.cursor + SECOND, EIGHT)
    assert decision.next_at == EIGHT + SECOND
    if overlap is Overlap.REPLACE:
        assert sum(row.state is FiringState.FIRED for row in rows) == 1


@pytest.mark.feature("S1.5")
def test_what_one_decision_leaves_the_next_one_takes_up_at_once() -> None:
    timing = parse_timing(cron="* * * * * *")
    policy = Policy(overlap=Overlap.ALLOW, misfire_after=DAY)

    first = due(ScheduleState(timing, cursor=EIGHT), EIGHT + 1500 * SECOND, policy)
    second = due(ScheduleState(timing, cursor=first.cursor), EIGHT + 1500 * SECOND, policy)

    assert len(first.fired) == MAX_CAUGHT_UP
    assert first.more and first.wake_at == EIGHT + 1500 * SECOND  # at once, but after those that have waited longer
    assert len(second.fired) == 500


@pytest.mark.feature("R19")
def test_r19_activated_again_it_counts_from_now_and_tells_what_passed() -> None:
    off = hourly(active=False, queued=1, oldest_queued=EIGHT)
    now = EIGHT + 100 * DAY + MINUTE

    while_off = due(off, now, Policy(Misfire.CATCH_UP, Overlap.ALLOW))
    again = count_from_now(off, now)

    assert while_off == Firings((), None, False, EIGHT, None, None)
    assert again.rows == (
        Firing(now - MINUTE, FiringState.SKIPPED_OFF, "the schedule was inactive", EIGHT + HOUR, 2400),
    )
    assert again.fired == ()
    assert (again.cursor, again.next_at, again.wake_at) == (now, now + 59 * MINUTE, now)  # the queue goes on at once


@pytest.mark.feature("R19")
def test_r19_another_cron_counts_from_now() -> None:
    now = EIGHT + HOUR + MINUTE

    changed = count_from_now(hourly(), now, timing=parse_timing(cron="30 * * * *"))
    at_once = count_from_now(hourly(), EIGHT, timing=parse_timing(cron="30 * * * *"))

    assert of(changed.rows, FiringState.SKIPPED_OFF) == [EIGHT + HOUR]
    assert changed.rows[0].reason == "the schedule's times were changed"
    assert (changed.cursor, changed.next_at) == (now, EIGHT + 1.5 * HOUR)
    assert at_once.rows == ()


@pytest.mark.feature("R19")
def test_r19_next_run_at_is_null_when_inactive_and_past_the_end() -> None:
    ending = parse_timing(cron="0 * * * *", end=EIGHT + HOUR)
    once = parse_timing(at=EIGHT + HOUR)

    for timing in (ending, once):
        state = ScheduleState(timing, cursor=EIGHT)
        assert due(state, EIGHT, DEFAULT).next_at == EIGHT + HOUR
        last = due(state, EIGHT + HOUR, DEFAULT)
        assert (last.fired, last.next_at, last.wake_at) == ((EIGHT + HOUR,), None, None)
        assert count_from_now(state, EIGHT, active=False).next_at is None
        assert count_from_now(state, EIGHT + 2 * HOUR).next_at is None
    assert due(hourly(active=False), EIGHT + HOUR, DEFAULT).next_at is None


@pytest.mark.feature("R17")
@pytest.mark.parametrize(
    ("misfire", "state"), [(Misfire.SKIP, FiringState.SKIPPED_MISFIRE), (Misfire.FIRE_ONCE, FiringState.FIRED)]
)
def test_r17_holds_for_what_fires_once(misfire: Misfire, state: FiringState) -> None:
    timing = parse_timing(at=EIGHT + timedelta(milliseconds=1500))

    decision = due(ScheduleState(timing, cursor=EIGHT), EIGHT + DAY, Policy(misfire))

    assert [(row.instant, row.state, row.count) for row in decision.rows] == [(timing.at, state, 1)]
    assert decision.next_at is None


def expected(missed: list[datetime], in_time: list[datetime], misfire: Misfire) -> list[datetime]:
    """The firings where overlap is allowed: R17 once more."""
    kept = {Misfire.SKIP: [], Misfire.FIRE_ONCE: missed[-1:], Misfire.CATCH_UP: missed[-1000:]}
    return kept[misfire] + in_time


@pytest.mark.feature("M.7")
@given(st.integers(0, 1 << 32), st.sampled_from(Misfire), st.sampled_from(Overlap))
@settings(max_examples=100, deadline=None)
def test_m7_the_ledger_has_every_nominal_instant_once_whatever_the_leader_does(
    seed: int, misfire: Misfire, overlap: Overlap
) -> None:
    """Leaders look late, die with a decision unwritten, and the next one decides anew; jobs end at random."""
    rng = Random(seed)
    zone = rng.choice(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"])
    cron = cron_oracle.random_cron(rng)
    moved = cron_oracle.changes(zone, 2026) or [(EIGHT, 0 * HOUR)]
    start = rng.choice(moved)[0] - rng.randint(0, 2000) * MINUTE
    state = ScheduleState(parse_timing(cron=cron, time_zone=zone), cursor=start)
    limit = rng.choice([1, 3, 1000])
    ledger: dict[datetime, Firing] = {}
    queue: list[datetime] = []
    now = start
    while now < start + 2 * DAY:
        now += rng.choice([MINUTE, HOUR, 7 * HOUR]) * rng.random() * 2
        decision = due(state, now, Policy(misfire, overlap), limit)
        if rng.random() < 0.3:
            continue  # killed before it was written
        if overlap is Overlap.ALLOW:
            nominal = cron_oracle.fires(cron, zone, floor(state.cursor) + MINUTE, floor(now) + MINUTE, margin=2 * HOUR)
            missed = [at for at in nominal if now - at > MINUTE]
            assert list(decision.fired) == expected(missed, nominal[len(missed) :], misfire)[:limit]
        if decision.dequeued:
            assert ledger[decision.dequeued.instant].state is FiringState.QUEUED
            assert queue.pop(0) == decision.dequeued.instant
            ledger[decision.dequeued.instant] = decision.dequeued
        for row in decision.rows:
            assert row.instant not in ledger
            ledger[row.instant] = row
        queue += of(decision.rows, FiringState.QUEUED)
        unfinished = (0 if decision.cancel_unfinished else state.unfinished) + len(decision.fired)
        if overlap in (Overlap.SKIP, Overlap.QUEUE, Overlap.REPLACE):
            assert unfinished <= 1
        state = replace(
            state,
            cursor=decision.cursor,
            unfinished=unfinished if rng.random() < 0.5 else 0,
            queued=len(queue),
            oldest_queued=queue[0] if queue else None,
        )

    nominal = cron_oracle.fires(cron, zone, start + MINUTE, floor(state.cursor) + MINUTE, margin=2 * HOUR)
    assert expand(ledger.values(), nominal) == nominal


@pytest.mark.feature("M.7", "M.11")
@given(st.integers(0, 1 << 32), st.sampled_from(Misfire), st.sampled_from(Overlap))
@settings(max_examples=40, deadline=None)
def test_m7_a_clock_that_is_stepped_leaves_each_instant_one_row_and_no_schedule_asleep(
    seed: int, misfire: Misfire, overlap: Overlap
) -> None:
    """The clock runs ahead by minutes to days, and is put right, again and again."""
    rng = Random(seed)
    timing = parse_timing(cron=rng.choice(["*/5 * * * *", "0 * * * *", "30 6,18 * * *"]))
    policy = Policy(misfire, overlap)
    state, ledger, now, off = ScheduleState(timing, cursor=EIGHT), dict[datetime, Firing](), EIGHT, timedelta()
    while now < EIGHT + 2 * DAY:
        now += rng.random() * HOUR
        if rng.random() < 0.3:
            off = rng.choice([timedelta(), rng.random() * HOUR, rng.random() * DAY])
        decision = decided(state, ledger, now + off, policy, rng.choice([1, 50]))
        assert decision.cursor <= max(now + off, state.cursor)
        state = replace(state, cursor=decision.cursor, unfinished=rng.randint(0, 1))
    more = True  # now the clock is right, and goes on
    while more:
        decision = decided(state, ledger, now, policy, 50)
        state, more = replace(state, cursor=decision.cursor), decision.more or decision.taken_back

    nominal = list(timing.instants(EIGHT + SECOND, now + timedelta(microseconds=1)))
    told = {at for row in ledger.values() for at in timing.instants(row.first, row.instant + SECOND)}
    assert set(nominal) <= told
    assert decision.next_at is not None and decision.next_at == timing.next_after(now)


def decided(state: ScheduleState, ledger: dict[datetime, Firing], now: datetime, policy: Policy, limit: int) -> Firings:
    """Writes a schedule's decisions into the ledger as the store does."""
    decision = due(replace(state, **of_ledger(ledger, state.cursor)), now, policy, limit)  # type: ignore[arg-type]
    if decision.taken_back:
        ahead = [row for row in ledger.values() if row.instant > now and row.state not in DONE]
        for row in ahead:
            del ledger[row.instant]
        ledger |= {row.instant: row for row in remaining(state.timing, now, ahead)}
    for row in decision.rows:
        assert row.instant not in ledger, "it had a job, or a row, already"
        ledger[row.instant] = row
    if decision.dequeued:
        ledger[decision.dequeued.instant] = decision.dequeued
    latest = state.timing.next_after(max(now, decision.cursor))
    assert decision.wake_at and latest and decision.wake_at <= latest, "it sleeps longer than to its next instant"
    return decision


DONE = (FiringState.FIRED, FiringState.QUEUED)


def of_ledger(ledger: dict[datetime, Firing], cursor: datetime) -> dict[str, object]:
    """The ledger's part of a schedule's state."""
    queued = sorted(row.instant for row in ledger.values() if row.state is FiringState.QUEUED)
    beyond = min((row for row in ledger.values() if row.instant > cursor), key=lambda row: row.instant, default=None)
    return {
        "queued": len(queued),
        "oldest_queued": queued[0] if queued else None,
        "known": (beyond.first, beyond.instant) if beyond else None,
    }


def floor(instant: datetime) -> datetime:
    return instant.replace(second=0, microsecond=0)


def expand(rows: Iterable[Firing], nominal: list[datetime]) -> list[datetime]:
    """Every instant that the rows stand for."""
    found: list[datetime] = []
    for row in sorted(rows, key=lambda row: row.instant):
        inside = nominal[bisect_left(nominal, row.first) : bisect_right(nominal, row.instant)]
        assert len(inside) == row.count
        assert inside[0] == row.first and inside[-1] == row.instant
        found += inside
    return found


@pytest.mark.feature("M.11", "S1.5")
def test_m11_a_year_of_two_hundred_schedules_is_decided_in_ten_seconds() -> None:
    """Each firing is a decision of its own, as the leader makes them."""
    each = [
        *[("0 * * * *", 5), ("0 8-18 * * mon-fri", 10), ("*/5 1 * * *", 5), ("1 0 * * *", 80), ("0 0 1 * *", 30)],
        *[("0 0 * * 0", 30), ("45 23 * * 6", 30), ("0 0 1 1 *", 10)],
    ]
    zones = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC", "Asia/Kolkata"]
    crons = [cron for cron, number in each for _ in range(number)]
    began = time.process_time()

    fired = sum(year_of(parse_timing(cron=cron, time_zone=zones[n % 5])) for n, cron in enumerate(crons))

    assert len(crons) == 200
    assert fired > 100_000
    assert time.process_time() - began < 10  # 1.9 s when measured, beside other work


def year_of(timing: Timing) -> int:
    """Firings of 2026, each decided when it is due."""
    state = ScheduleState(timing, cursor=datetime(2026, 1, 1, tzinfo=UTC))
    decision, fired = due(state, state.cursor, DEFAULT), 0
    while decision.wake_at and decision.wake_at.year == 2026:
        decision = due(replace(state, cursor=decision.cursor), decision.wake_at, DEFAULT)
        fired += len(decision.fired)
    return fired


@pytest.mark.feature("M.7")
@given(
    start=st.integers(0, 30),
    span=st.integers(1, 30),
    told=st.dictionaries(st.integers(0, 60), st.sampled_from(list(FiringState)), max_size=40),
)
def test_a_backfill_gives_a_job_to_each_instant_that_has_none(
    start: int, span: int, told: dict[int, FiringState]
) -> None:
    ledger = {EIGHT + n * HOUR: state for n, state in told.items()}
    first, end = EIGHT + start * HOUR, EIGHT + (start + span) * HOUR
    within = {at: state for at, state in ledger.items() if first <= at < end}

    found = backfill(HOURLY, first, end, [Firing(at, state, "", at) for at, state in within.items()])

    has_one = {at for at, state in within.items() if state in (FiringState.FIRED, FiringState.QUEUED)}
    assert {f.instant for f in found.fired} == {first + n * HOUR for n in range(span)} - has_one
    assert (found.existing, found.kept) == (len(has_one), ())


def test_a_backfill_leaves_a_row_that_stands_for_many_to_those_before_it() -> None:
    many = Firing(EIGHT + 9 * HOUR, FiringState.SKIPPED_OFF, "the schedule was inactive", EIGHT, 10)

    part = backfill(HOURLY, EIGHT + 8 * HOUR, EIGHT + 10 * HOUR, [many])
    whole = backfill(HOURLY, EIGHT - HOUR, EIGHT + 10 * HOUR, [many])

    assert [f.instant.hour for f in part.fired] == [16, 17]
    assert part.kept == (Firing(EIGHT + 7 * HOUR, many.state, many.reason, EIGHT, 8),)
    assert (len(whole.fired), whole.kept) == (11, ())


def test_a_backfill_is_bounded() -> None:
    with pytest.raises(InvalidArgument) as refused:
        backfill(HOURLY, EIGHT, EIGHT + (MAX_BACKFILL + 1) * HOUR, [])

    assert refused.value.field == "end_time"
    assert len(backfill(HOURLY, EIGHT, EIGHT + MAX_BACKFILL * HOUR, []).fired) == MAX_BACKFILL

"""The fate of a day of jobs: dropped whole, emptied, or left alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskflow_server.core.retention import Action, Survey, decide, reason

pytestmark = pytest.mark.feature("A10")

CUTOFF = datetime(2026, 3, 1, tzinfo=UTC)
OLD, SOON, LATE = CUTOFF - timedelta(days=9), CUTOFF + timedelta(hours=23), CUTOFF + timedelta(hours=25)


@pytest.mark.parametrize(
    ("survey", "action"),
    [
        (Survey(0, 0, 0, None), Action.DROP),
        (Survey(9, 0, 9, OLD), Action.DROP),
        (Survey(9, 0, 9, CUTOFF), Action.DROP),
        (Survey(9, 1, 8, OLD), Action.EMPTY),
        (Survey(9, 9, 0, None), Action.KEEP),
        (Survey(9, 0, 8, SOON), Action.KEEP),
        (Survey(9, 0, 8, LATE), Action.EMPTY),
        (Survey(9, 1, 7, SOON), Action.EMPTY),
        (Survey(9, 0, 0, LATE), Action.KEEP),
        (Survey(9, 3, 0, LATE), Action.KEEP),
    ],
)
def test_a_day_is_dropped_whole_emptied_or_left(survey: Survey, action: Action) -> None:
    assert decide(survey, CUTOFF) is action


@given(st.integers(0, 5), st.integers(0, 5), st.lists(st.integers(-3000, 3000), max_size=5))
def test_nothing_is_dropped_with_a_job_that_stays(unfinished: int, more: int, minutes: list[int]) -> None:
    """Whatever stands in it: jobs that are unfinished, and jobs that ended so many minutes after the cutoff."""
    ends = [CUTOFF + timedelta(minutes=m) for m in minutes] + [OLD] * more
    survey = Survey(unfinished + len(ends), unfinished, sum(e <= CUTOFF for e in ends), max(ends, default=None))

    action = decide(survey, CUTOFF)

    assert (action is Action.DROP) == (unfinished == 0 and all(e <= CUTOFF for e in ends))
    assert action is not Action.EMPTY or survey.expired > 0
    assert (reason(survey, timedelta(days=30)) == "") == (action is Action.DROP)


def test_it_is_said_what_stays_and_for_how_long() -> None:
    assert reason(Survey(9, 2, 4, LATE), timedelta(days=30)) == (
        "2 unfinished, 3 finished since, the last is kept until 2026-04-01 01:00 UTC"
    )

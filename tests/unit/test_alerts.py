"""Gathering of alerts, as tables: when a message is due, what it says, and how it is signed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from taskflow_server.core.alerts import Event, Group, Limits, due, gathered, message, selects_lane, sent
from taskflow_server.worker.http.alert import signature, text_of

pytestmark = pytest.mark.feature("S1.10")

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
LIMITS = Limits(gather=30, max_messages=2, period=600)
FACT = {"event": "job_failed", "at": NOW.isoformat(), "job_id": "j", "queue": "q"}


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("opened", "sent_at", "now", "expected"),
    [
        (None, [], 1000, False),  # nothing is gathered
        (0, [], 29.9, False),
        (0, [], 30, True),
        (0, [-100], 30, True),
        (0, [-100, -50], 30, False),  # two in the period are all that may be
        (0, [-600, -50], 30, True),  # the older one is out of it
        (0, [-600, -50], -0.1, False),
        (0, [-569, -50], 30, False),
        (0, [500, 600], 30, True),  # of a clock that was ahead
    ],
)
def test_a_message_is_due_after_its_window_unless_as_many_were_sent_as_may_be(
    opened: float | None, sent_at: list[float], now: float, expected: bool
) -> None:
    group = Group(None if opened is None else at(opened), {"job_failed": 1}, (FACT,), tuple(map(at, sent_at)))

    assert due(group, LIMITS, at(now)) is expected


def test_a_group_counts_all_facts_keeps_the_first_and_its_beginning() -> None:
    group = gathered(gathered(Group(), [FACT] * 3, NOW), [{"event": "sla_missed"}] * 4, at(9))

    assert (group.opened_at, group.count, dict(group.counts or {})) == (NOW, 7, {"job_failed": 3, "sla_missed": 4})
    assert [fact["event"] for fact in group.first] == ["job_failed"] * 3 + ["sla_missed"] * 2
    assert gathered(group, [], at(20)) is group


def test_after_a_message_nothing_is_gathered_and_no_more_instants_are_remembered_than_count() -> None:
    group = Group(NOW, {"job_failed": 1}, (FACT,), (at(-900), at(-20)))

    group = sent(group, LIMITS, at(1))

    assert group == Group(sent=(at(-20), at(1)))
    assert sent(group, LIMITS, at(2)).sent == (at(1), at(2))


def test_a_message_says_what_how_often_and_since_when() -> None:
    told = message("on-call", "id-1", gathered(Group(), [FACT, *[{"event": "run_failed"}] * 6], NOW))

    assert told == {
        "id": "id-1", "rule": "on-call", "opened_at": "2026-05-04T12:00:00+00:00", "count": 7,
        "counts": {"job_failed": 1, "run_failed": 6}, "first": [FACT, *[{"event": "run_failed"}] * 4],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("selectors", "expected"),
    [
        ({}, True),
        ({"namespace": "shop"}, True),
        ({"namespace": "default"}, False),
        ({"queue": "shop/q"}, True),
        ({"queue": "q"}, False),
        ({"task": "shop/t"}, True),
        ({"task": "t"}, False),
        ({"workflow": "w"}, False),
        ({"events": ["backlog_old"]}, False),
    ],
)
def test_a_rule_selects_lanes_by_all_that_it_names(selectors: dict[str, Any], expected: bool) -> None:
    rule = {"events": ["no_worker"], "namespace": "", "queue": "", "task": "", "workflow": "", **selectors}

    assert selects_lane(rule, Event.NO_WORKER, "shop/q", "shop/t") is expected


def test_a_text_for_slack_names_the_first_facts_and_holds_no_markup_of_theirs() -> None:
    fact = {"event": "job_failed", "job_id": "j1", "queue": "q", "task": "t", "error": "<b>\nno & never"}

    text = text_of({"rule": "chat", "id": "m1", "count": 7, "counts": {"job_failed": 7}, "first": [fact]})

    assert text.splitlines() == [
        "TaskFlow alert chat: 7 × job failed",
        "• job failed j1: queue q, task t: &lt;b&gt; no &amp; never",
        "and 6 more",
        "message m1",
    ]


def test_the_signature_is_that_of_the_documented_example() -> None:
    # printf '1700000000.{"id":"m1"}' | openssl dgst -sha256 -hmac whsec
    assert signature("whsec", "1700000000", '{"id":"m1"}') == EXAMPLE


EXAMPLE = "b20c6fce1e6853d67126ab434036251517ee48b6af56cfb88c62d0cccc46bbb5"

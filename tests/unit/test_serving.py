"""Whether anybody is there to run what waits, and what is said when nobody is."""

from __future__ import annotations

import pytest

from taskflow_server.core.serving import Taker, unserved


def taker(*tasks: str, queues: tuple[str, ...] = (), only: tuple[str, ...] = ()) -> Taker:
    return Taker(frozenset(tasks), frozenset(queues), frozenset(only))


TAKERS = [
    taker("send", only=("emails",)),
    taker("anywhere"),
    taker(queues=("whole",)),
    taker("books/add", "books/add_all"),
    taker("send_email"),
    taker("many", only=("p1", "p2", "p3", "q7")),
]
EVER = {"send", "anywhere", "gone", "books/add", "send_mail", "add_all"}


@pytest.mark.feature("R12")
@pytest.mark.parametrize(
    ("queue", "task", "reason", "said"),
    [
        ("emails", "send", "", ""),
        ("x", "anywhere", "", ""),
        ("whole", "", "", ""),
        ("emials", "send", "QUEUE_NOT_SERVED", "only from 'emails'"),
        ("emails", "sendd", "HANDLER_NOT_SEEN", "near in name: 'send'"),
        ("emails", "add", "HANDLER_NOT_SEEN", "near in name: 'books/add'"),
        ("emails", "addd_al", "HANDLER_NOT_SEEN", "near in name: 'add_all', 'books/add_all', 'books/add'"),
        ("emails", "zzz", "HANDLER_NOT_SEEN", "no worker has ever had a handler for task 'zzz'"),
        ("emails", "gone", "NO_LIVE_WORKER", "no live worker has a handler for task 'gone'"),
        ("whloe", "", "NO_LIVE_WORKER", "near in name: 'whole'"),
        ("emails", "", "NO_LIVE_WORKER", "without a task in queue 'emails'"),
        ("zzz", "", "NO_LIVE_WORKER", "in queue 'zzz'; a job of a task names the task: live workers have 'anywhere', "),
        ("emails", "send_mail", "NO_LIVE_WORKER", "handler for task 'send_mail'; near in name: 'send_email'"),
        ("emails", "add_all", "NO_LIVE_WORKER", "handler for task 'add_all'; near in name: 'books/add_all'"),
        ("send_emial", "", "NO_LIVE_WORKER", "near in name: task 'send_email', which a job names by its task"),
        ("q7x", "many", "QUEUE_NOT_SERVED", "only from 'q7', 'p1', 'p2' and 1 more"),
    ],
)
def test_a_lane_that_nobody_serves_is_named_with_the_reason(queue: str, task: str, reason: str, said: str) -> None:
    why = unserved(queue, task, TAKERS, EVER)
    assert (why.reason if why else "") == reason
    assert said in (why.message if why else "")


def test_nobody_at_all_is_there() -> None:
    why = unserved("q", "t", [], set())
    assert why is not None
    assert why.message == "no worker has ever had a handler for task 't'"

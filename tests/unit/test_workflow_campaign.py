"""The campaign of sdk/examples/campaign.json: REST calls, a wait, branches on its outcome, a reminder, retries."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import jsonschema

from taskflow._policy import Outcome
from taskflow_server.core.workflow import CreateJob, json_schema
from tests.support.docs import EXAMPLES
from tests.support.workflows import World

DOCUMENT = json.loads((EXAMPLES / "campaign.json").read_text())
CONTEXT = {"schedule_id": "s-1", "user": "u/1", "campaign": "c9", "app_url": "https://shop.example"}
ADA = {"status": 200, "headers": {}, "body": {"name": "Ada"}}
REFUSED = {"type": "unexpected_status", "message": "503 is none of 202", "status": 503}


def campaign() -> World:
    return World(DOCUMENT, {"gift": "tea", "ends_at": "2026-05-20T08:00:00Z"}, CONTEXT).start()


def invited() -> World:
    world = campaign()
    world.finish("invite", ADA)
    world.finish("invite", {"status": 202}, index=1)
    return world


def calls(world: World) -> list[str]:
    """Each job that was made, as method and URL, or task."""
    found = [(job.task, job.payload) for job in world.made if isinstance(job, CreateJob)]
    return [f"{told['method']} {told['url']}" if task == "http.call" else str(task) for task, told in found]


def test_the_example_is_by_the_schema() -> None:
    jsonschema.validate(DOCUMENT, json_schema())


def test_the_user_answers_and_everything_of_theirs_is_unscheduled() -> None:
    world = invited()
    assert world.steps.startswith("invite succeeded, answer waiting, remind pending")
    assert world.job("invite", 1).payload["body"] == {"to": "u/1", "template": "invite", "gift": "tea"}

    world.signal("answered", {"by": "mail"})
    assert world.job("unschedule").payload["query"] == {"user": "u/1", "campaign": "c9"}
    world.succeed("unschedule")

    assert calls(world) == [
        "GET https://shop.example/users/u%2F1",
        "POST https://shop.example/mails",
        "DELETE https://shop.example/schedules/s-1",
    ]
    assert world.steps.endswith("remind skipped, last_chance skipped, unschedule succeeded, give_up skipped")
    assert (world.status, world.ends[0].output, world.timers) == ("succeeded", {"answered": True}, {})


def test_after_three_days_comes_a_reminder_and_a_day_before_the_offer_ends_it_is_given_up() -> None:
    world = invited()

    assert world.wait_for("answer") == timedelta(days=3)
    world.pass_time("answer")
    assert world.job("remind").payload["body"]["text"] == "Dear Ada, your tea waits."
    world.succeed("remind")
    world.pass_time("last_chance")
    assert world.now.isoformat() == "2026-05-19T08:00:00+00:00"
    world.succeed("give_up")

    assert (world.status, world.ends[0].output) == ("succeeded", {"answered": False})


def test_an_answer_to_the_reminder_counts_too() -> None:
    world = invited()
    world.pass_time("answer")
    world.succeed("remind")

    world.signal("answered")
    world.succeed("unschedule")

    assert world.ends[0].output == {"answered": True}


def test_a_call_that_fails_is_retried_as_a_sequence_from_where_it_failed() -> None:
    world = invited()
    world.pass_time("answer")

    world.fail("remind", error=REFUSED)
    assert world.wait_for("sequence") == timedelta(minutes=10)
    world.pass_time("sequence")
    world.fail("remind", error=REFUSED)
    assert world.wait_for("sequence") == timedelta(minutes=30)
    world.pass_time("sequence")
    world.succeed("remind")

    assert calls(world) == [
        "GET https://shop.example/users/u%2F1",
        "POST https://shop.example/mails",
        *["POST https://shop.example/mails"] * 3,
    ]
    assert world.steps.startswith("invite succeeded, answer failed, remind succeeded, last_chance waiting")


def test_when_the_sequence_cannot_be_done_it_is_given_up() -> None:
    world = campaign()
    for _ in range(2):
        world.fail("invite", error=REFUSED)
        world.pass_time("sequence")
    world.fail("invite", error=REFUSED)

    assert world.open == ["give_up"]
    world.succeed("give_up")

    assert (world.status, world.ends[0].output) == ("succeeded", {"answered": False})


def test_a_run_that_waits_is_ended_when_the_app_unschedules_the_user() -> None:
    """`tf.schedules.delete(metadata=…)` cancels the waiting runs with these attributes (S0.8)."""
    world = invited()

    world.cancel()

    assert (world.status, world.timers, world.jobs) == ("cancelled", {}, {})
    assert world.signal("answered")[0].message.endswith("the run is cancelled")  # type: ignore[union-attr]


def test_a_run_that_failed_goes_on_by_hand_from_the_failed_step() -> None:
    broken: dict[str, Any] = {**DOCUMENT, "edges": [e for e in DOCUMENT["edges"] if e["from"] != "sequence"]}
    world = World(broken, {"gift": "tea", "ends_at": "2026-05-20T08:00:00Z"}, CONTEXT).start()
    for _ in range(2):
        world.fail("invite", outcome=Outcome.TIMED_OUT)
        world.pass_time("sequence")
    world.fail("invite", outcome=Outcome.TIMED_OUT)
    assert world.status == "failed"

    world.retry()
    world.finish("invite", ADA)
    world.finish("invite", {"status": 202}, index=1)

    assert world.steps.startswith("invite succeeded, answer waiting")

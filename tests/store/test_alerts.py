"""Facts of alerts: which transactions write them, for which rules, and that a repeated commit writes none twice."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from taskflow._policy import Outcome
from taskflow_server.core import alerts
from taskflow_server.store.database import Writer
from taskflow_server.store.dispatch import Changes, take_shards, write
from taskflow_server.store.jobs import NewJob, store_jobs
from tests.support import rows

FACTS = "select r.name from taskflow.alert_facts f join taskflow.alert_rules r on r.id = f.rule_id order by r.name"
RULE = """
insert into taskflow.alert_rules (name, events, namespace, queue, task, workflow, kind, gather, max_messages, period,
    no_worker_for, backlog_age)
values (%s, %s, %s, %s, %s, %s, 'webhook', 0, 1, 1, 0, 0)
"""

pytestmark = pytest.mark.feature("S1.10")


@pytest.fixture
async def writer(database: str) -> AsyncIterator[Writer]:
    made = Writer(database)
    yield made
    await made.reset()


@pytest.fixture(autouse=True)
def _clean(database: str) -> Iterator[None]:
    yield
    rows.run(database, "delete from taskflow.alert_rules")
    rows.run(database, "delete from taskflow.alert_facts")


def rule(database: str, name: str, event: str = "job_failed", **selectors: str) -> None:
    words = [selectors.get(kind, "") for kind in ("namespace", "queue", "task", "workflow")]
    rows.run(database, RULE, name, [event], *words)


async def failed(writer: Writer, job: NewJob, **values: Any) -> Changes:
    """The transaction of a job's final failure, its job stored."""
    await store_jobs(writer, [job])
    row = rows.attempt(job.id, outcome=Outcome.FAILED, result=None, **values)
    return Changes(attempts=[row], failed=[(job.id, row.attempt)])


async def epochs(writer: Writer) -> dict[int, int]:
    taken = await take_shards(
        writer, {0: 0}, owner="c", incarnation=uuid4(), address="a:1", queue_name="q", queue_address="a:2"
    )
    return {0: taken[0][0]}


@pytest.mark.feature("A8")
async def test_a_commit_in_doubt_that_is_repeated_writes_its_fact_once(database: str, writer: Writer) -> None:
    rule(database, "all")
    changes, own = await failed(writer, rows.job()), await epochs(writer)

    await write(writer, changes, own)
    await write(writer, changes, own, slow=True)  # as after a lost answer
    assert rows.found(database, FACTS) == [("all",)]

    rows.run(database, "delete from taskflow.alert_facts")  # the leader has counted it meanwhile
    await write(writer, changes, own, slow=True)
    assert rows.found(database, FACTS) == []


async def test_an_outcome_that_lost_to_another_writes_no_fact(database: str, writer: Writer) -> None:
    rule(database, "all")
    job = rows.job()
    changes, own = await failed(writer, job), await epochs(writer)
    await write(writer, Changes(attempts=[rows.attempt(job.id)]), own)

    assert await write(writer, changes, own, slow=True) == {job.id}

    assert rows.found(database, FACTS) == []


async def test_a_fact_is_written_for_each_rule_that_selects_it(database: str, writer: Writer) -> None:
    for name, selectors in {
        "all": {},
        "by-namespace": {"namespace": "shop"},
        "by-queue": {"queue": "shop/mails"},
        "by-task": {"task": "shop/send"},
        "by-both": {"queue": "shop/mails", "task": "shop/send"},
        "other-namespace": {"namespace": "default"},
        "other-queue": {"queue": "mails"},
        "other-task": {"queue": "shop/mails", "task": "shop/receive"},
        "runs-of-all": {"event": "run_failed"},
        "by-workflow": {"workflow": "w"},
    }.items():
        rule(database, name, **selectors)
    rule(database, "paused")
    rows.run(database, "update taskflow.alert_rules set active = false where name = 'paused'")

    await write(writer, await failed(writer, rows.job("shop/mails", task="shop/send")), await epochs(writer))

    found = [name for (name,) in rows.found(database, FACTS)]
    assert found == ["all", "by-both", "by-namespace", "by-queue", "by-task"]


async def test_a_named_task_is_selected_by_its_name_and_by_its_handler(database: str, writer: Writer) -> None:
    task_id = uuid4()
    rows.run(database, "insert into taskflow.tasks (id, name, target) values (%s, 'monthly', 'report')", task_id)
    rule(database, "by-handler", task="report")
    rule(database, "by-name", task="monthly")
    job = rows.job("q", task="report", options=f'{{"task_id": "{task_id}"}}'.encode())

    await write(writer, await failed(writer, job), await epochs(writer))

    assert rows.found(database, FACTS) == [("by-handler",), ("by-name",)]
    assert rows.found(database, "select distinct task from taskflow.alert_facts") == [("monthly",)]


async def test_a_failed_delivery_of_an_alert_is_no_fact_and_a_job_without_rules_costs_no_row(
    database: str, writer: Writer
) -> None:
    await write(writer, await failed(writer, rows.job()), await epochs(writer))
    assert rows.found(database, "select * from taskflow.alert_facts") == []
    rule(database, "all")
    rule(database, "own", queue=alerts.QUEUE)

    await write(writer, await failed(writer, rows.job(alerts.QUEUE, task=alerts.TASK)), await epochs(writer))
    await write(writer, await failed(writer, rows.job("else", task=alerts.TASK)), await epochs(writer))

    assert rows.found(database, "select * from taskflow.alert_facts") == []


async def test_facts_of_jobs_and_runs_without_an_attempt_are_one_call(database: str, writer: Writer) -> None:
    job = rows.job("mails")
    await store_jobs(writer, [job])
    rule(database, "late", event="sla_missed", queue="mails")

    rows.run(database, "select taskflow.alert_jobs('sla_missed', array[%s]::uuid[])", UUID(bytes=job.id))

    assert rows.found(database, "select event, subject, attempt, queue from taskflow.alert_facts") == [
        ("sla_missed", UUID(bytes=job.id), None, "mails")
    ]

"""A job's state is derived once in Python and once in SQL, and both say the same of every combination of facts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.rows import dict_row

from taskflow._policy import FINAL_STATES, STATES, Deferral, JobState, Outcome, state_of
from taskflow.v1 import jobs_pb2 as pb
from taskflow_server.scheduler import resources
from taskflow_server.store.queries import sql

MINUTE_AGO, NEXT_DAY = "-1 minute", "1 day"
STATUS = {
    JobState.SCHEDULED: "queued", JobState.READY: "queued", JobState.REQUESTED: "running",
    JobState.RUNNING: "running", JobState.RETRYING: "retry", JobState.SUCCEEDED: "success",
    JobState.FAILED: "failed", JobState.CANCELLED: "dequeued",
}  # fmt: skip
LEASE = """
insert into taskflow.leases (job_id, exec_id, started, shard, priority, attempt, tries, queue, task)
values (%s, %s, %s, 0, 5, 3, 0, 'q', '')
"""
DEFERRED = """
insert into taskflow.deferred (job_id, due_at, reason, shard, priority, attempt, tries, queue, task)
values (%s, now() + %s::interval, %s, 0, 5, 3, 0, 'q', '')
"""
ATTEMPTS = """
insert into taskflow.attempts (job_id, attempt, tries, outcome, final, finished_at)
values (%(id)s, 1, 1, 5, true, now()), (%(id)s, 2, 2, %(outcome)s, %(final)s, now())
"""
VIEWS = ("table taskflow.job_facts", "table taskflow.job_states", "table taskflow.task_instances")


@dataclass(frozen=True)
class Facts:
    """Rows of one job."""

    lease: bool | None  # started or not; None: no lease
    deferred: tuple[str, Deferral] | None  # from now, and why
    last: tuple[Outcome, bool] | None  # and whether it is final
    cancelling: bool  # no fact of the state: a cancel that is asked for changes none

    @property
    def state(self) -> JobState:
        lead, reason = self.deferred or (None, None)
        outcome, final = self.last or (None, None)
        due = None if lead is None else lead == MINUTE_AGO
        return state_of(started=self.lease, due=due, reason=reason, final=final, outcome=outcome)


FACTS = [
    Facts(*combination)
    for combination in itertools.product(
        (None, False, True),
        (None, *itertools.product((MINUTE_AGO, NEXT_DAY), Deferral)),
        (None, *itertools.product(Outcome, (False, True))),
        (False, True),
    )
]


@pytest.fixture(scope="module")
def jobs(database: str) -> Iterator[dict[UUID, Facts]]:
    with psycopg.connect(database) as conn:
        query = "select taskflow.uuid_at(now() - n * interval '1 ms') from generate_series(1, %s) n"
        ids = [id for (id,) in conn.execute(query, [len(FACTS)])]
        made = dict(zip(ids, FACTS, strict=True))
        for id, facts in made.items():
            _store(conn, id, facts)
    yield made


def _store(conn: psycopg.Connection[Any], id: UUID, facts: Facts) -> None:
    conn.execute("insert into taskflow.jobs (id, queue) values (%s, 'q')", [id])
    if facts.lease is not None:
        conn.execute(LEASE, [id, id, facts.lease])
    if facts.deferred is not None:
        conn.execute(DEFERRED, [id, *facts.deferred])
    if facts.last is not None:
        outcome, final = facts.last
        conn.execute(ATTEMPTS, {"id": id, "outcome": outcome, "final": final})
    if facts.cancelling:
        conn.execute("insert into taskflow.cancels (job_id, shard, requested_at) values (%s, 0, now())", [id])


def found(database: str, query: str, *parameters: Any) -> list[Any]:
    with psycopg.connect(database) as conn:
        return conn.execute(query, parameters).fetchall()  # type: ignore[arg-type]


@pytest.mark.feature("S1.2", "S3.4")
def test_python_and_sql_derive_the_same_state_from_every_combination_of_facts(
    database: str, jobs: dict[UUID, Facts]
) -> None:
    said = found(
        database,
        "select id, f.state, f.final, s.state, i.state, i.status, s.finished_at is not null, i.ended_at is not null"
        " from taskflow.job_facts f join taskflow.job_states s using (id) join taskflow.task_instances i using (id)",
    )

    wanted = {}
    for id, facts in jobs.items():
        state, final = facts.state, facts.state in FINAL_STATES
        wanted[id] = (state.number, final, state, state, STATUS[state], final, final)
    differing = {astuple(jobs[id]): (rest, wanted[id]) for id, *rest in said if tuple(rest) != wanted[id]}
    assert differing == {}
    assert len(said) == len(jobs) == 3 * 13 * 15 * 2
    assert {facts.state for facts in jobs.values()} == set(JobState)


@pytest.mark.feature("S3.4")
def test_what_the_api_reads_of_a_job_leads_to_the_same_state(database: str, jobs: dict[UUID, Facts]) -> None:
    with psycopg.connect(database, row_factory=dict_row) as conn:
        rows = conn.execute(sql("get_jobs"), {"ids": list(jobs)}).fetchall()
        final = conn.execute(sql("final_jobs"), {"ids": list(jobs)}).fetchall()

    assert {row["id"]: resources.stored_state(row) for row in rows} == {id: facts.state for id, facts in jobs.items()}
    assert {row["id"] for row in final} == {id for id, facts in jobs.items() if facts.state.final}


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_has_the_derivation_in_its_plan_and_calls_no_function_for_it(database: str, view: str) -> None:
    plan = "\n".join(line for (line,) in found(database, "explain (verbose) " + view))

    assert "CASE" in plan
    assert "job_state(" not in plan


def test_a_state_has_the_number_that_messages_have_for_it() -> None:
    numbers = {f"JOB_STATE_{state.name}": state.number for state in JobState}

    assert numbers == {name: number for name, number in pb.JobState.items() if number}
    assert {number: STATES[number].number for number in STATES} == {number: number for number in numbers.values()}

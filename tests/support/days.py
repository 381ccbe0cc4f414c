"""Old days of jobs, made by SQL: ids of that day, attempts, and a row for each job in every table beside them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import psycopg

from tests.support.rows import found

DAY = timedelta(days=1)
_OF_A_JOB = ("attempts", "job_keys", "job_logs", "job_tags", "task_logs", "cancels", "job_sla_misses")

FILL = """
with served as (
    insert into taskflow.queues (name, shard) values (%(queue)s, 0) on conflict do nothing
), made as (
    insert into taskflow.jobs (id, created_at, queue, key, options)
    select (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || '7' || substr(noise, 1, 3) || '8'
            || substr(noise, 4, 15))::uuid, at, %(queue)s, %(queue)s || '-' || %(noon)s || id, '{"tags": ["old"]}'
    from (
        select n as id, %(noon)s::timestamptz + n * interval '1 ms' as at, md5(n::text || random()::text) as noise
        from generate_series(1, %(jobs)s) n
    ) numbered
    returning id, created_at, key
), tried as (
    insert into taskflow.attempts (job_id, started_at, finished_at, attempt, tries, outcome, final)
    select id, created_at, %(finished)s, 1, 1, 1, true from made
), keyed as (
    insert into taskflow.job_keys (namespace, key, job_id) select 'default', key, id from made
), logged as (
    insert into taskflow.job_logs (job_id, attempt, logged_at, level, message)
    select id, 1, %(finished)s, 'info', 'a line' from made, generate_series(1, 2)
), tagged as (
    insert into taskflow.job_tags (word, job_id) select 'tag old', id from made
), counted as (
    insert into taskflow.task_logs (task_id, job_id, attempt, finished_at, outcome, final)
    select gen_random_uuid(), id, 1, %(finished)s, 1, true from made
), missed as (
    insert into taskflow.job_sla_misses (job_id, due_at) select id, created_at from made
), unwanted as (
    insert into taskflow.cancels (job_id, shard, done) select id, 0, true from made
)
select id from made order by id
"""


def ago(days: int) -> date:
    """A day of UTC."""
    return datetime.now(UTC).date() - days * DAY


def fill(dsn: str, day: date, jobs: int, *, queue: str = "old", finished: datetime | None = None) -> list[UUID]:
    """Finished jobs of `day`, which gets its partitions; each with a row, or two, in every table beside."""
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    with psycopg.connect(dsn, autocommit=True) as conn, conn.transaction():  # a scheduler drops an empty past day
        conn.execute("select taskflow.create_partitions(%s, 1)", (day,))
        parameters = {"noon": noon, "jobs": jobs, "queue": queue, "finished": finished or noon + timedelta(hours=1)}
        return [row[0] for row in conn.execute(FILL, parameters).fetchall()]


def partitions(dsn: str, day: date) -> list[str]:
    """Which of the day's tables there are, attached or not."""
    tables = "select relname from pg_class where relkind = 'r' and relname ~ %s order by 1"
    return [name for (name,) in found(dsn, tables, f"_p{day:%Y%m%d}$")]


def of(dsn: str, *ids: UUID) -> dict[str, int]:
    """Rows that belong to these jobs, by table."""
    tables = {"jobs": "id"} | dict.fromkeys(_OF_A_JOB, "job_id")
    counts = {}
    for table, column in tables.items():
        ((counts[table],),) = found(dsn, f"select count(*) from taskflow.{table} where {column} = any(%s)", list(ids))  # noqa: S608
    return counts


def whole(jobs: int) -> dict[str, int]:
    """The expected answer of `of` for so many jobs that `fill` made, when none of them is gone."""
    return {"jobs": jobs} | dict.fromkeys(_OF_A_JOB, jobs) | {"job_logs": 2 * jobs}

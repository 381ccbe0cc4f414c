"""The claims of docs/reference/sql.md about the views, checked on a real Postgres."""

import re

import psycopg
import pytest

from tests.support.docs import ROOT, blocks

PAGE = ROOT / "docs" / "reference" / "sql.md"


@pytest.mark.parametrize("query", blocks(PAGE, "sql"), ids=lambda q: " ".join(q.split()[1:4]))
def test_a_query_of_the_page_runs(database: str, query: str) -> None:
    with psycopg.connect(database) as conn:
        conn.execute(query).fetchall()


@pytest.mark.feature("S1.2")
@pytest.mark.parametrize("view", ["job_states", "attempt_history", "schedule_task"])
def test_the_page_names_every_column_of_a_view(database: str, view: str) -> None:
    section = PAGE.read_text().partition(f"## `taskflow.{view}`")[2].partition("\n## ")[0]
    named = {name for line in section.splitlines() if line.startswith("| `")
             for name in re.findall(r"`(\w+)`", line.split("|")[1])}  # fmt: skip

    with psycopg.connect(database) as conn:
        cursor = conn.execute(f"select * from taskflow.{view} limit 0")  # noqa: S608  a name from above

    assert cursor.description is not None
    assert named == {column.name for column in cursor.description}


def test_a_bound_on_the_id_spares_the_other_days(database: str) -> None:
    query = next(text for text in blocks(PAGE, "sql") if "uuid_at" in text)

    with psycopg.connect(database) as conn:
        plan = "\n".join(row[0] for row in conn.execute("explain (analyze, costs off) " + query))  # type: ignore[operator]

    days = int(max(re.findall(r"Subplans Removed: (\d+)", plan), default="0"))
    assert days >= 1, plan

"""The named queries: each is known to Postgres, each is used, and none changes what happened."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import pq

from taskflow_server.store.paths import data_dir
from taskflow_server.store.queries import all_queries, sql

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("core", "store", "rpc", "runtime", "scheduler", "coordinator", "queue", "worker", "verify")
FACTS = r"(?:jobs|attempts)(?:_p\d+)?"
TABLE = rf"(?:only\s+)?(?:\"?taskflow\"?\s*\.\s*)?\"?{FACTS}\"?(?![\w\"])"
CHANGES = re.compile(
    rf"\b(?:update|delete\s+from|merge\s+into|truncate(?:\s+table)?)\s+(?:[\w\".]+\s*,\s*)*{TABLE}", re.IGNORECASE
)
UPSERT = re.compile(rf"\binsert\s+into\s+{TABLE}[^;]*?\bon\s+conflict\b[^;]*?\bdo\s+update\b", re.IGNORECASE)
STATEMENT = re.compile(
    r"^\s*(?:select\b.*|insert\s+into\s.*|update\s+\S+\s+set\s.*|delete\s+from\s.*|with\s.*\bas\s*\(.*|merge\s+into\s.*"
    r"|create\s+(?:table|index|function|schema|database|view)\b.*|alter\s+(?:table|index)\b.*|drop\s+(?:table|index)\b.*"
    r"|truncate\s.*|copy\s.*|call\s+\w+\.\w+\(.*)$",
    re.IGNORECASE | re.DOTALL,
)


def bare(text: str) -> str:
    """SQL without its comments and the insides of its strings."""
    text = re.sub(r"--[^\n]*|/\*.*?\*/", " ", text, flags=re.DOTALL)
    return re.sub(r"'(?:[^']|'')*'", "''", text)


def changes_facts(text: str) -> bool:
    return bool(CHANGES.search(bare(text)) or UPSERT.search(bare(text)))


def numbered(query: str) -> bytes:
    """psycopg's named placeholders as Postgres's own."""
    numbers: dict[str, int] = {}
    text = re.sub(r"%\((\w+)\)[sb]", lambda m: f"${numbers.setdefault(m[1], len(numbers) + 1)}", query)
    return text.replace("%%", "%").encode()


def constants(folder: Path) -> Iterator[tuple[str, str]]:
    """(file, text) of every string constant under `folder` that is no docstring."""
    for path in sorted(folder.rglob("*.py")):
        tree = ast.parse(path.read_text())
        docs = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and node.body and isinstance(node.body[0], ast.Expr)
        }  # fmt: skip
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
                yield str(path.relative_to(ROOT)), node.value


@pytest.mark.feature("S3.1")
def test_every_query_prepares_on_a_real_postgres(database: str) -> None:
    refused = {}
    with psycopg.connect(database, autocommit=True) as conn:
        for name in sorted(all_queries()):
            answer = conn.pgconn.prepare(b"", numbered(sql(name)))
            if answer.status != pq.ExecStatus.COMMAND_OK:
                refused[name] = answer.error_message.decode()
    assert refused == {}


@pytest.mark.feature("M.1")
def test_no_query_changes_a_job_or_an_attempt() -> None:
    assert [name for name in sorted(all_queries()) if changes_facts(sql(name))] == []


@pytest.mark.feature("M.1")
def test_nothing_beside_the_queries_changes_a_job_or_an_attempt() -> None:
    files = sorted(data_dir().rglob("*.sql"))
    assert len(files) > 3

    assert [path.name for path in files if changes_facts(path.read_text())] == []
    assert [place for place, text in constants(ROOT / "services") if changes_facts(text)] == []


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("update taskflow.jobs set queue = 'x'", True),
        ("UPDATE ONLY jobs j SET queue = 'x'", True),
        ('delete\n from "taskflow"."attempts" where true', True),
        ("merge into taskflow.attempts a using x on true when matched then delete", True),
        ("truncate table taskflow.leases, taskflow.jobs", True),
        ("update taskflow.jobs_p20260101 set tx = '1'", True),
        ("with gone as (delete from taskflow.attempts returning *) select 1", True),
        ("insert into taskflow.jobs (id) values (1) on conflict (id) do update set queue = 'x'", True),
        ("insert into taskflow.jobs (id) values (1) on conflict (id) do nothing", False),
        ("delete from taskflow.job_keys", False),
        ("select 1 from taskflow.jobs for update", False),
        ("-- update taskflow.jobs\nselect 'delete from taskflow.jobs'", False),
    ],
)
def test_statements_that_change_a_fact_are_found(text: str, changes: bool) -> None:
    assert changes_facts(text) is changes


def test_every_query_is_used() -> None:
    used = {text for folder in ("services", "examples/demo") for _, text in constants(ROOT / folder)}

    assert sorted(all_queries().keys() - used) == []


def test_a_query_has_a_name_and_stands_once() -> None:
    texts = [path.read_text() for path in sorted((data_dir() / "queries").glob("*.sql"))]
    names = re.findall(r"^-- name: (\w+)$", "\n".join(texts), re.MULTILINE)

    assert sorted(names) == sorted(all_queries())
    assert all(text.startswith("-- name: ") for text in texts), "nothing stands before the first name"


@pytest.mark.parametrize("package", SERVICES)
def test_no_sql_stands_in_python_besides_the_copies(package: str) -> None:
    """The migration runner apart, which runs before there are queries to be named, and what prune.py does to single
    partitions, whose names it composes."""
    found = [
        (place, text.strip())
        for place, text in constants(ROOT / "services" / package)
        if STATEMENT.match(text) and not place.endswith(("store/migrate.py", "store/prune.py"))
    ]

    assert [place for place, text in found if not re.match(r"copy taskflow\.(jobs|attempts) \(", text)] == []
    if package == "store":
        assert len(found) == 2, "one for jobs, one for attempts"

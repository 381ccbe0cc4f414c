"""The state machine of the hot path: one table, which the docs show, and which nothing goes around."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskflow_server.core.dispatch.records import Entry
from taskflow_server.core.dispatch.table import DispatchTable
from taskflow_server.core.dispatch.transitions import TRANSITIONS, Event, ImpossibleTransition, Phase, check
from taskflow_server.core.lanes import LaneKey

ROOT = Path(__file__).resolve().parents[2]
FIELDS = {field.name for field in dataclasses.fields(Entry)}


def words(phases: tuple[Phase, ...]) -> set[str]:
    return {phase.name.lower().replace("_", " ") for phase in phases}


def documented() -> Iterator[tuple[str, set[str], set[str]]]:
    section = (
        (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("### The phases of a job in memory")[1]
    )
    for line in section.split("\n## ")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells[0] not in ("event", "---"):
            yield cells[0].split(":")[0], set(cells[1].split(", ")), set(cells[2].split(", "))


def test_the_docs_show_the_table_of_transitions() -> None:
    table = {
        str(event): (words(tuple(phases)), words(tuple(to for after in phases.values() for to in after)))
        for event, phases in TRANSITIONS.items()
    }

    assert {event: (before, after) for event, before, after in documented()} == table


@pytest.mark.parametrize("event", Event)
def test_an_event_leads_where_the_table_says_and_nowhere_else(event: Event) -> None:
    for before in Phase:
        for after in Phase:
            if after in TRANSITIONS[event].get(before, ()):
                check(event, before, after)
            else:
                with pytest.raises(ImpossibleTransition):
                    check(event, before, after)


def test_an_event_that_meets_a_job_where_it_cannot_be_says_that_the_table_is_damaged() -> None:
    found: list[str] = []
    table = DispatchTable(lambda shard, epoch: b"", depth=1, damaged=lambda: found.append("damaged"))
    entry = Entry(b"j" * 16, LaneKey("q", "", 5), 0, 1, 0)

    with pytest.raises(ImpossibleTransition, match="ended does not lead from NEW to ENDING"):
        table.end(entry)

    assert found == ["damaged"] and entry.phase is Phase.NEW


def changes(path: Path) -> Iterator[str]:
    """Where a file sets a field of something that it calls an entry."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            for each in target.elts if isinstance(target, ast.Tuple) else [target]:
                if (
                    isinstance(each, ast.Attribute)
                    and each.attr in FIELDS
                    and ast.unparse(each.value).endswith("entry")
                ):
                    yield f"{path.relative_to(ROOT)}:{each.lineno}"


def test_only_the_dispatch_package_changes_an_entry() -> None:
    found = [place for path in (ROOT / "services" / "coordinator").rglob("*.py") for place in changes(path)]

    assert not found
    assert list(changes(ROOT / "services" / "core" / "dispatch" / "jobs.py")), "the search finds what it looks for"

"""docs/concepts/workflows.md shows what the engine does: documents, steps, errors, states, templates, bounds."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import jsonschema
import pytest

from taskflow._policy import DEFAULT_BACKOFF
from taskflow_server.core.workflow import FINAL_STEPS, KINDS, BadDocument, Definition, Limits, StepStatus, json_schema
from taskflow_server.core.workflow.document import MAX_DOCUMENT
from taskflow_server.core.workflow.expressions import MAX_LENGTH, Budget
from taskflow_server.core.workflow.models import MAX_EDGES, MAX_GROUPS, MAX_RETRIES, MAX_STEPS, Document
from taskflow_server.core.workflow.rest import MAX_CALLS, MAX_TIMEOUT
from taskflow_server.core.workflow.templates import Template
from taskflow_server.core.workflow.values import BadValue
from tests.support.docs import ROOT, blocks, table
from tests.support.workflows import workflow

PAGE = ROOT / "docs" / "concepts" / "workflows.md"
BLOCKS = [json.loads(text) for text in blocks(PAGE, "json")]
DATA = next(block for block in BLOCKS if "name" not in block)


def cells(first: str) -> list[list[str]]:
    """The rows of a table in whose cells `|` stands as `\\|`."""
    _, _, rest = PAGE.read_text().partition(f"\n| {first} |")
    rows = itertools.takewhile(lambda line: line.startswith("|"), rest.splitlines()[2:])
    return [[c.strip().replace("\\|", "|") for c in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


def bare(cell: str) -> str:
    return cell.strip("`")


@pytest.mark.parametrize("block", [b for b in BLOCKS if "name" in b], ids=lambda block: block["name"])
def test_every_document_and_every_step_is_right_and_by_the_schema(block: dict[str, Any]) -> None:
    document = workflow(block) if "kind" in block else block

    Definition.parse(document)

    jsonschema.validate(document, json_schema())


@pytest.mark.feature("S0.1")
def test_every_kind_is_shown() -> None:
    shown = {bare(row[0]) for row in table(PAGE, "kind")}

    assert shown == set(KINDS)
    assert shown == {b["kind"] for b in BLOCKS if "kind" in b}


@pytest.mark.parametrize(("step", "error"), table(PAGE, "in a document"))
def test_every_error_is_as_shown(step: str, error: str) -> None:
    with pytest.raises(BadDocument) as caught:
        Definition.parse(workflow(json.loads(bare(step))))

    assert str(caught.value.problems[0]) == bare(error)


@pytest.mark.parametrize(("template", "value"), cells("template"))
def test_every_template_gives_what_is_shown(template: str, value: str) -> None:
    try:
        found = Template.parse(bare(template), "x").render(DATA, Budget())
    except BadValue as error:
        assert value == f"error: {error.message}"
    else:
        assert found == json.loads(bare(value))


def test_the_states_are_those_of_the_engine() -> None:
    rows = table(PAGE, "state")

    assert [bare(row[0]) for row in rows] == [status.value for status in StepStatus]
    assert {bare(row[0]) for row in rows if row[2] == "yes"} == {status.value for status in FINAL_STEPS}


def test_the_fields_are_those_of_a_document() -> None:
    shown = {name for row in table(PAGE, "field") for name in re.findall(r"`(\w+)`", row[0])}

    assert shown == set(Document.model_fields)


def test_the_bounds_are_those_of_the_code() -> None:
    limits = Limits()
    shown = [row[1] for row in table(PAGE, "what")]

    assert shown == ["1 MiB", f"{MAX_LENGTH:,} characters", "1 MiB", "256 KiB", "2 MiB", "64 KiB", "256 KiB"]
    assert [MAX_DOCUMENT, limits.payload, limits.results] == [1 << 20, 1 << 20, 2 << 20]
    assert [limits.result, limits.signal, limits.signals] == [256 << 10, 64 << 10, 256 << 10]


def test_the_figures_in_the_text_are_those_of_the_code() -> None:
    words = PAGE.read_text()

    assert f"up to {MAX_STEPS:,}; each" in words
    assert f"up to {MAX_EDGES:,}: `from`" in words
    assert f"up to {MAX_GROUPS}: steps" in words
    assert f"Up to {MAX_CALLS} calls" in words
    assert f"`timeout` (at most {MAX_TIMEOUT:,.0f} s)" in words.replace("\n", " ")
    assert f"`retries` of a group are at most {MAX_RETRIES}" in words
    first, factor, limit = DEFAULT_BACKOFF.first, DEFAULT_BACKOFF.factor, DEFAULT_BACKOFF.limit
    assert f"{first:g} s, {first * factor:g} s, {first * factor**2:g} s … {limit:g} s" in words

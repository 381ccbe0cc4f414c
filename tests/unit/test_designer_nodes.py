"""An app's own nodes for the designer: a file that is read, or one line that says what is wrong with it and where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from taskflow_server.gateway import nodes
from taskflow_server.gateway.settings import GatewaySettings
from taskflow_server.runtime.settings import load
from tests.support.docs import ROOT, blocks

MAIL: dict[str, Any] = {"name": "mail", "kind": "task", "meta": {"task": "send-email", "input": "{{ input.x }}"}}
CALL: dict[str, Any] = {"name": "call", "title": "A call", "kind": "task_flow", "meta": {"calls": [{"url": "/x"}]}}


@pytest.mark.feature("S0.10")
def test_nodes_are_steps_with_a_description(tmp_path: Path) -> None:
    file = tmp_path / "nodes.json"
    given = [MAIL, {**CALL, "description": "Asks.", "retries": 2}]
    file.write_text(json.dumps(given))

    assert nodes.load(str(file)) == given
    assert nodes.load("") == []


@pytest.mark.feature("S0.10")
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{", "is not JSON: Expecting property name"),
        ("[" * 100_000, "is not JSON: "),
        ({"nodes": []}, 'must hold a list of steps, as [{"name": "mail"'),
        ([1], "must hold a list of steps"),
        ([MAIL] * 101, "has 101 nodes; the limit is 100"),
        ([MAIL, MAIL], "nodes[1].name: "),
        ([{**MAIL, "kind": "mails"}], "nodes[0].kind: there is no kind"),
        ([CALL, {**MAIL, "meta": {"tusk": "x"}}], "nodes[1].meta.tusk: is not a valid field"),
        ([{**MAIL, "meta": {"task": "x", "input": "{{ user.id }}"}}], "nodes[0].meta.input: {{ user.id }}"),
        ([{**MAIL, "depends_on": ["x"]}], "nodes[0].depends_on: "),
        ([{**MAIL, "description": 1}], "nodes[0].description: must be text of 1,000 characters at most"),
        ('"' + "x" * (1 << 20) + '"', "exceeds the limit of 1,048,576 bytes"),
    ],
)
def test_a_bad_file_stops_the_start_with_one_line(
    given: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "nodes.json"
    file.write_text(given if isinstance(given, str) else json.dumps(given))
    monkeypatch.setenv("TASKFLOW_DESIGNER_NODES", str(file))

    with pytest.raises(SystemExit) as ended:
        load(GatewaySettings)

    line = capsys.readouterr().err
    assert ended.value.code == 2
    assert line.startswith("TASKFLOW_DESIGNER_NODES: ") and said in line, line
    assert len(line.splitlines()) == 1


@pytest.mark.feature("S0.10")
@pytest.mark.parametrize("path", ["/no/such/file", "/", "a\0b"])
def test_a_file_that_cannot_be_read_is_named(path: str) -> None:
    with pytest.raises(ValueError, match="cannot be read: "):
        nodes.load(path)


@pytest.mark.feature("S0.10")
def test_the_nodes_of_the_docs_are_good(tmp_path: Path) -> None:
    (shown,) = blocks(ROOT / "docs" / "howto" / "designer.md", "json")
    file = tmp_path / "nodes.json"
    file.write_text(shown)

    assert [node["name"] for node in nodes.load(str(file))] == ["invite", "close"]

"""Which queues and tasks the steps of a document make jobs of, before any of its runs begins."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from taskflow_server.core.workflow import KINDS, Kind, wanted
from tests.support.step_kinds import Letters


class Named(Letters):
    name = "named"

    def tasks(self, meta: Mapping[str, Any]) -> Iterable[str | None]:
        return ["write-letter", None]


class Raising(Letters):
    name = "raising"

    def tasks(self, meta: Mapping[str, Any]) -> Iterable[str | None]:
        raise KeyError("of a user's own")


KINDS_HERE: dict[str, Kind] = {**KINDS, "letters": Letters(), "named": Named(), "raising": Raising()}


def test_each_kind_names_the_tasks_of_its_jobs_and_what_cannot_be_read_is_not_known() -> None:
    steps = [
        {"name": "a", "kind": "task", "meta": {"task": "add", "input": "{{ input }}"}},
        {"name": "b", "kind": "task", "queue": "q", "meta": {"task": "add"}},
        {"name": "c", "kind": "task", "queue": "q", "meta": {}},
        {"name": "d", "kind": "task_flow", "meta": {"calls": [{"url": "/x"}]}},
        {"name": "e", "kind": "shell", "meta": {"command": ["true"]}},
        {"name": "f", "kind": "wait", "meta": {"duration": 1}},
        {"name": "g", "kind": "named", "queue": "letters", "meta": {}},
        {"name": "h", "kind": "letters", "meta": {}},
        {"name": "i", "kind": "raising", "meta": {}},
        {"name": "j", "kind": "removed since", "meta": {}},
        {"name": "k", "kind": "task", "meta": {"task": "add"}},
    ]

    found = wanted(json.dumps({"name": "w", "steps": steps}), KINDS_HERE)

    assert found == {
        (None, "add"): ["a", "k"],
        ("q", "add"): ["b"],
        ("q", None): ["c"],
        (None, "http.call"): ["d"],
        (None, "shell.run"): ["e"],
        ("letters", "write-letter"): ["g"],
        ("letters", None): ["g"],
    }


def test_a_decided_workflow_needs_its_executors() -> None:
    document = json.dumps({"name": "shop/orders", "decider": {"queue": "q"}})

    assert wanted(document) == {("q", "awf.workflow.decision.shop/orders"): [""]}

"""Who is needed to run a document: the queues and tasks of the jobs that its steps make, before any run begins."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress

from taskflow_server.core.workflow.changes import decision_task
from taskflow_server.core.workflow.kinds import Kind
from taskflow_server.core.workflow.registry import KINDS

Wanted = tuple[str | None, str | None]  # queue and task as the document names them; None: it names none


def wanted(document: str, kinds: Mapping[str, Kind] = KINDS) -> dict[Wanted, list[str]]:
    """The names of the steps that make jobs of each. A stored document, read without checking it again: of a step that
    cannot be read nothing is known."""
    raw = json.loads(document)
    found: defaultdict[Wanted, list[str]] = defaultdict(list)
    if raw.get("decider") is not None:
        found[raw["decider"].get("queue"), decision_task(raw["name"])].append("")
    for step in raw.get("steps", ()):
        # A kind of a user's own may raise anything, or be another than the one that the document was checked with.
        with suppress(Exception):
            for task in kinds[step["kind"]].tasks(step["meta"]):
                found[step.get("queue"), task].append(step["name"])
    return dict(found)

"""The queues and tasks of the jobs that the steps of a document will make, known before any run starts."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress

from taskflow_server.core.workflow.changes import decision_task
from taskflow_server.core.workflow.kinds import Kind
from taskflow_server.core.workflow.registry import KINDS

Wanted = tuple[str | None, str | None]  # queue and task of the document; None: not given


def wanted(document: str, kinds: Mapping[str, Kind] = KINDS) -> dict[Wanted, list[str]]:
    """The names of the steps for each queue and task. Reads a stored document without validating it again, and omits
    steps that cannot be read."""
    raw = json.loads(document)
    found: defaultdict[Wanted, list[str]] = defaultdict(list)
    if raw.get("decider") is not None:
        found[raw["decider"].get("queue"), decision_task(raw["name"])].append("")
    for step in raw.get("steps", ()):
        # A user's kind may raise anything, or may have changed since the document was validated.
        with suppress(Exception):
            for task in kinds[step["kind"]].tasks(step["meta"]):
                found[step.get("queue"), task].append(step["name"])
    return dict(found)

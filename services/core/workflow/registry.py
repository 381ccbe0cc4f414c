"""The kinds of steps that documents may name."""

from __future__ import annotations

from taskflow_server.core.workflow.kinds import Kind, Shell, Task, WaitKind
from taskflow_server.core.workflow.rest import Rest

KINDS: dict[str, Kind] = {kind.name: kind for kind in (Task(), Rest(), WaitKind(), Shell())}


def register(kind: Kind) -> None:
    """Adds a kind for all documents parsed from now on. Call it in every process that parses documents."""
    if kind.name in KINDS:
        raise ValueError(f"the kind {kind.name!r} already exists")
    KINDS[kind.name] = kind

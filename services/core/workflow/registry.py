"""The kinds of steps that documents may name."""

from __future__ import annotations

from taskflow_server.core.workflow.kinds import Kind, Shell, Task, WaitKind
from taskflow_server.core.workflow.rest import Rest

KINDS: dict[str, Kind] = {kind.name: kind for kind in (Task(), Rest(), WaitKind(), Shell())}


def register(kind: Kind) -> None:
    """Adds a kind for all documents that are parsed from now on. In every process that parses documents."""
    if kind.name in KINDS:
        raise ValueError(f"there is a kind {kind.name!r} already")
    KINDS[kind.name] = kind

"""Steps of an app's own that the designer offers beside the kinds: a JSON file that an operator names.

    [{"name": "welcome", "title": "Send the welcome mail", "description": "Once per user.",
      "kind": "task", "queue": "mails", "retries": 5, "meta": {"task": "send-email", "input": "{{ input.mail }}"}}]

Each is a step as documents have them, and a `description`. A step that is made from one is the user's own from then on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MAX_FILE = 1 << 20  # bytes
MAX_NODES = 100
MAX_DESCRIPTION = 1_000  # characters
SHAPE = 'a list of steps, as [{"name": "mail", "kind": "task", "meta": {"task": "send-email"}}]'


def load(path: str) -> list[dict[str, Any]]:
    """The nodes of a file; none if `path` is empty. ValueError says what is wrong, and where."""
    if not path:
        return []
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path!r} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > MAX_FILE:
        raise ValueError(f"{path!r} exceeds the limit of {MAX_FILE:,} bytes")
    try:
        nodes = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path!r} is not JSON: {error}") from None
    if not isinstance(nodes, list) or not all(isinstance(node, dict) for node in nodes):
        raise ValueError(f"{path!r} must hold {SHAPE}")
    if len(nodes) > MAX_NODES:
        raise ValueError(f"{path!r} has {len(nodes)} nodes; the limit is {MAX_NODES}")
    for n, node in enumerate(nodes):
        about = node.get("description", "")
        if not isinstance(about, str) or len(about) > MAX_DESCRIPTION:
            raise ValueError(
                f"{path!r}: nodes[{n}].description: must be text of {MAX_DESCRIPTION:,} characters at most"
            )
    why = _problem([{name: value for name, value in node.items() if name != "description"} for node in nodes])
    if why:
        raise ValueError(f"{path!r}: {why}")
    return nodes


def _problem(steps: list[dict[str, Any]]) -> str:
    """The first thing that is wrong with one of them, by the parser of documents; empty if nothing is."""
    if not steps:
        return ""
    from taskflow_server.core.workflow import KINDS, BadDocument  # see there: imported where there are documents
    from taskflow_server.core.workflow.document import validated
    from taskflow_server.core.workflow.templates import BadTemplate, Template

    seen: set[Any] = set()
    try:
        validated({"name": "nodes", "steps": steps}, KINDS)
        for n, step in enumerate(steps):
            if "depends_on" in step:
                return f"nodes[{n}].depends_on: a node stands for itself; connect it in the designer"
            if step["name"] in seen:
                return f"nodes[{n}].name: there is another {step['name']!r}"
            seen.add(step["name"])
            Template.parse(step["meta"], f"steps[{n}].meta", KINDS[step["kind"]].encoders)
    except (BadDocument, BadTemplate) as error:
        return str(error).replace("steps[", "nodes[")
    return ""

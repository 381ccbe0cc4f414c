"""The JSON Schema of a workflow document, from the models that validate it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from taskflow_server.core.workflow.document import model
from taskflow_server.core.workflow.kinds import Kind
from taskflow_server.core.workflow.registry import KINDS


def json_schema(kinds: Mapping[str, Kind] = KINDS) -> dict[str, Any]:
    """JSON Schema 2020-12. Relations between several places, as names and edges, only `Definition.parse` validates."""
    schema = model(tuple(kinds.values())).model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "TaskFlow workflow",
        **{name: part for name, part in schema.items() if name != "title"},
    }

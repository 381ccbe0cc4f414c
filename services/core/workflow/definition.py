"""A definition: a parsed document, with its graph and its templates, for the engine.

Invariants: names are unique, edges and dependencies connect existing steps and groups, there is no cycle, every step
can be reached, and a template reads only steps that end before its own starts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from taskflow_server.core.workflow.document import BadDocument, Problem, loaded, validated
from taskflow_server.core.workflow.expressions import ALL
from taskflow_server.core.workflow.graph import Graph, checked, unknown
from taskflow_server.core.workflow.kinds import Kind
from taskflow_server.core.workflow.models import Backoff, Decider, Document, On, Schedule, Step
from taskflow_server.core.workflow.registry import KINDS
from taskflow_server.core.workflow.templates import OPEN, BadTemplate, Encoders, Template

MAX_TEMPLATES = 10_000  # in a document: parsing this number takes half a second


@dataclass(frozen=True, slots=True)
class Node:
    """A step with its edges and its group."""

    name: str
    path: str  # in the document
    kind: Kind
    step: Step
    raw: Mapping[str, Any]  # `meta`, as the document has it
    meta: Template
    depends_on: tuple[str, ...]
    edges: tuple[tuple[str, On], ...]  # the edges that lead here: (step or group, on)
    leads_to: tuple[str, ...]  # the steps to check when this one has ended
    group: str | None
    handles_failure: bool  # it has an edge on failure


@dataclass(frozen=True, slots=True)
class GroupNode:
    """A group with its edges and its steps."""

    name: str
    steps: tuple[str, ...]
    retries: int
    backoff: Backoff | None
    from_start: bool
    leads_to: tuple[str, ...]
    handles_failure: bool


@dataclass(frozen=True, slots=True)
class Definition:
    """A workflow that can be run. Made by `parse`; immutable, and worth caching: 1,000 steps took 22 ms of CPU."""

    name: str
    digest: str  # of the document: a run continues only with the one with which it started
    app_url: str | None
    steps: Mapping[str, Node]  # in the document's order
    groups: Mapping[str, GroupNode]
    read: frozenset[str]  # the steps whose results a template reads; only these results are kept
    output: Template
    decider: Decider | None
    title: str | None
    schedule: Schedule | None
    concurrency: int | None  # limit of simultaneous runs; None: no limit
    sla: float | None  # seconds

    @classmethod
    def parse(cls, document: str | bytes | Mapping[str, Any], kinds: Mapping[str, Kind] = KINDS) -> Definition:
        """BadDocument names every problem with its path."""
        raw = loaded(document)
        text = json.dumps(raw, sort_keys=True)
        if text.count(OPEN) > MAX_TEMPLATES:
            raise BadDocument.of([Problem("", f"the number of templates exceeds the limit of {MAX_TEMPLATES}")])
        model: Document = validated(raw, kinds)
        return _compiled(raw, model, checked(model), kinds, hashlib.sha256(text.encode()).hexdigest()[:16])


def _compiled(
    raw: Mapping[str, Any], model: Document, graph: Graph, kinds: Mapping[str, Kind], digest: str
) -> Definition:
    problems: list[Problem] = []
    before = graph.before()

    def template(value: Any, path: str, encoders: Encoders = (), reader: str = "") -> Template:
        try:
            made = Template.parse(value, path, encoders)
        except BadTemplate as error:
            problems.append(Problem(error.path, error.message))
            return Template(None, {})
        for name, place in made.refers.items():
            if name != ALL and name not in graph.edges:
                problems.append(unknown(place, name, graph.edges))
            elif name != ALL and reader and not before(name, reader):
                problems.append(Problem(place, f"reads step {name!r}, which may not have ended by then"))
        return made

    nodes = {}
    for n, step in enumerate(model.steps):
        kind, meta = kinds[step.kind], raw["steps"][n]["meta"]
        nodes[step.name] = Node(
            name=step.name,
            path=f"steps[{n}]",
            kind=kind,
            step=step,
            raw=meta,
            meta=template(meta, f"steps[{n}].meta", kind.encoders, step.name),
            depends_on=graph.depends[step.name],
            edges=tuple(graph.edges[step.name]),
            leads_to=tuple(dict.fromkeys(graph.after[step.name])),
            group=graph.group_of.get(step.name),
            handles_failure=step.name in graph.failing,
        )
    output = template(raw.get("output"), "output")
    if problems:
        raise BadDocument.of(problems)
    read = frozenset(output.refers).union(*(node.meta.refers for node in nodes.values()))
    return Definition(
        name=model.name,
        digest=digest,
        app_url=model.app_url,
        steps=nodes,
        groups={
            group.name: GroupNode(
                name=group.name,
                steps=tuple(group.steps),
                retries=group.retries,
                backoff=group.backoff,
                from_start=group.from_ == "start",
                leads_to=tuple(dict.fromkeys(graph.after[group.name])),
                handles_failure=group.name in graph.failing,
            )
            for group in model.groups
        },
        read=frozenset(nodes) if ALL in read else read,
        output=output,
        decider=model.decider,
        title=model.title,
        schedule=model.schedule,
        concurrency=model.concurrency or (1 if model.schedule else None),
        sla=model.sla,
    )

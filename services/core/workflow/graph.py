"""The graph of a document's steps and groups, and its validation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce

from taskflow_server.core.workflow.document import BadDocument, Problem
from taskflow_server.core.workflow.models import Document, On


def checked(model: Document) -> Graph:
    """The graph of a document. BadDocument for an unknown name, a cycle, or a step that cannot be reached."""
    problems = list(_misnamed(model))
    if not problems:
        graph = Graph(model)
        problems = [*graph.cycles(), *_mixed(model)] or [*graph.unreachable(), *graph.ways_out()]
    if problems:
        raise BadDocument.of(problems)
    return graph


@dataclass(frozen=True, slots=True)
class Facts:
    """The steps and groups that must have succeeded, and those that must have failed: a bit for each."""

    succeeded: int = 0
    failed: int = 0

    def plus(self, before: Facts | None, bit: int, on: On) -> Facts | None:
        """These facts, those of a source, and the source's own outcome; None if they contradict each other."""
        if before is None:
            return None
        succeeded = self.succeeded | before.succeeded | (bit if on == "success" else 0)
        failed = self.failed | before.failed | (bit if on == "failure" else 0)
        return None if succeeded & failed else Facts(succeeded, failed)

    def common(self, other: Facts) -> Facts:
        return Facts(self.succeeded & other.succeeded, self.failed & other.failed)


class Graph:
    """The edges between steps and groups. A group comes after its steps and before its followers."""

    def __init__(self, model: Document) -> None:
        self.model = model
        self.paths = {step.name: f"steps[{n}]" for n, step in enumerate(model.steps)}
        self.paths |= {group.name: f"groups[{n}]" for n, group in enumerate(model.groups)}
        self.bits = {name: 1 << n for n, name in enumerate(self.paths)}
        self.group_of = {name: group.name for group in model.groups for name in group.steps}
        self.edges: dict[str, list[tuple[str, On]]] = {step.name: [] for step in model.steps}
        self.after: dict[str, list[str]] = {name: [] for name in self.paths}
        self.failing: set[str] = set()  # steps and groups with an edge on failure
        for step in model.steps:
            for name in step.depends_on:
                self.after[name].append(step.name)
        for edge in model.edges:
            self.edges[edge.to].append((edge.source, edge.on))
            self.after[edge.source].append(edge.to)
            if edge.on == "failure":
                self.failing.add(edge.source)
        self.depends = {step.name: tuple(step.depends_on) for step in model.steps}
        self.order = self._order()

    def followers(self, name: str) -> list[str]:
        """The steps and groups that come directly after `name`."""
        group = self.group_of.get(name)
        return [*self.after[name], *([group] if group else [])]

    def _order(self) -> list[str]:
        """A topological order, without the names in or after a cycle."""
        waiting = dict.fromkeys(self.paths, 0)
        for name in self.paths:
            for follower in self.followers(name):
                waiting[follower] += 1
        ready = [name for name, count in waiting.items() if not count]
        for name in ready:
            for follower in self.followers(name):
                waiting[follower] -= 1
                if not waiting[follower]:
                    ready.append(follower)
        return ready

    def cycles(self) -> Iterator[Problem]:
        """One cycle, if there is any: each name that `order` lacks comes after another one that it lacks."""
        left = self.paths.keys() - set(self.order)
        if not left:
            return
        behind = {follower: name for name in left for follower in self.followers(name)}
        trail = dict.fromkeys([name := min(left)])
        while (name := behind[name]) not in trail:
            trail[name] = None
        circle = [*reversed(list(trail)[list(trail).index(name) :])]
        first = min(range(len(circle)), key=lambda n: self._place(circle[n]))
        circle = [*circle[first:], *circle[:first], circle[first]]
        shown = circle if len(circle) <= 12 else [*circle[:10], "…", circle[-1]]
        yield Problem(self.paths[circle[0]], f"is in a cycle: {' → '.join(shown)}")

    def _place(self, name: str) -> int:
        return self.bits[name].bit_length()

    def unreachable(self) -> Iterator[Problem]:
        """Steps that no run can reach: not from `start`, or only if the same step both succeeds and fails."""
        start = self.model.start
        for n, name in enumerate(start or ()):
            if self.edges[name] or self.depends[name]:
                yield Problem(f"start[{n}]", f"{name!r} has a predecessor: a run cannot start with it")
        for name in self.edges:
            if start is not None and name not in start and not self.edges[name] and not self.depends[name]:
                yield Problem(self.paths[name], f"nothing leads to {name!r}, and start does not name it")
        facts: dict[str, Facts | None] = {}  # the facts that must hold before; None: impossible
        for name in self.order:
            facts[name] = need = self._needed(name, facts)
            if need is None:
                yield Problem(self.paths[name], "can never run: a step before it would have to succeed and to fail")
                facts[name] = Facts()

    def _needed(self, name: str, facts: Mapping[str, Facts | None]) -> Facts | None:
        if name not in self.edges:
            return Facts()  # a group always ends
        need: Facts | None = Facts()
        for other in self.depends[name]:
            need = need and need.plus(facts[other], self.bits[other], "success")
        ways = [need and need.plus(facts[source], self.bits[source], on) for source, on in self.edges[name]]
        possible = [way for way in ways if way]
        return reduce(Facts.common, possible) if possible else None if ways else need

    def ways_out(self) -> Iterator[Problem]:
        """Problems of groups with `from: start`: only the group, not its steps, may have followers, for these may run
        again."""
        whole = {group.name for group in self.model.groups if group.from_ == "start" and group.retries}
        for n, edge in enumerate(self.model.edges):
            group = self.group_of.get(edge.source)
            if group in whole and self.group_of.get(edge.to) != group:
                yield Problem(f"edges[{n}].from", _way_out(edge.source, group))
        for n, step in enumerate(self.model.steps):
            for m, name in enumerate(step.depends_on):
                group = self.group_of.get(name)
                if group in whole and self.group_of.get(step.name) != group:
                    yield Problem(f"steps[{n}].depends_on[{m}]", _way_out(name, group))

    def before(self) -> Callable[[str, str], bool]:
        """A function that tells whether one step always ends before another starts."""
        found = dict.fromkeys(self.paths, 0)
        for name in self.order:
            for follower in self.followers(name):
                found[follower] |= found[name] | self.bits[name]
        return lambda first, second: bool(found[second] & self.bits[first])


def _way_out(name: str, group: str | None) -> str:
    return f"{name!r} may run again, since group {group!r} is retried from its start: name the group instead"


def _misnamed(model: Document) -> Iterator[Problem]:
    """Names that are used twice, or that do not exist."""
    steps: dict[str, str] = {}
    for n, step in enumerate(model.steps):
        if step.name in steps:
            yield Problem(f"steps[{n}].name", f"{step.name!r} is also the name of {steps[step.name]}")
        steps.setdefault(step.name, f"steps[{n}]")
    groups: dict[str, str] = {}
    owner: dict[str, str] = {}
    for n, group in enumerate(model.groups):
        if group.name in steps or group.name in groups:
            other = steps.get(group.name) or groups[group.name]
            yield Problem(f"groups[{n}].name", f"{group.name!r} is also the name of {other}")
        groups.setdefault(group.name, f"groups[{n}]")
        for m, name in enumerate(group.steps):
            path = f"groups[{n}].steps[{m}]"
            if name in owner:
                yield Problem(path, f"{name!r} is already in {owner[name]}")
            elif name not in steps:
                yield unknown(path, name, steps)
            owner.setdefault(name, path)
    for n, name in enumerate(model.start or ()):
        if name not in steps:
            yield unknown(f"start[{n}]", name, steps)
    for n, step in enumerate(model.steps):
        for m, name in enumerate(step.depends_on):
            if name not in steps and name not in groups:
                yield unknown(f"steps[{n}].depends_on[{m}]", name, {**steps, **groups})
    for n, edge in enumerate(model.edges):
        if edge.source not in steps and edge.source not in groups:
            yield unknown(f"edges[{n}].from", edge.source, {**steps, **groups})
        if edge.to not in steps:
            hint = "; an edge leads to a step: name the first of the group" if edge.to in groups else ""
            yield unknown(f"edges[{n}].to", edge.to, steps, hint)


def unknown(path: str, name: str, known: Iterable[str], hint: str = "") -> Problem:
    names = list(known)
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return Problem(path, f"there is no step {name!r}; there are {', '.join(names[:10])}{more}{hint}")


def _mixed(model: Document) -> Iterator[Problem]:
    if model.decider is None and not model.steps:
        yield Problem("steps", "is empty: a workflow has steps, or a decider")
    if model.decider is not None:
        for name in ("steps", "edges", "groups"):
            if getattr(model, name):
                yield Problem(name, "must be empty with a decider: its executor decides")

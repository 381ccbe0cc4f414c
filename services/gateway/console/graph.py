"""A workflow's steps as a drawing: pure, from names and edges to places.

What always holds: boxes do not overlap; an edge goes down the page, unless it closes a circle; a step stands below all
that it comes after. The same graph gives the same drawing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

WIDTH, HEIGHT = 188.0, 52.0  # of a box
GAP, FALL = 32.0, 46.0  # between boxes beside and below each other
LANE = 26.0  # what an edge takes that passes by boxes
MARGIN = 6.0
MOST = 200  # boxes in a drawing; more are listed only
_SWEEPS = 6  # down and up again, each bringing boxes nearer to what they belong to


@dataclass(frozen=True, slots=True)
class Edge:
    source: str
    target: str
    on: str = "success"  # success, failure, always; member: of a step to its group


@dataclass(frozen=True, slots=True)
class Box:
    name: str
    x: float  # of its left upper corner
    y: float


@dataclass(frozen=True, slots=True)
class Line:
    edge: Edge
    path: str  # as SVG's `d`


@dataclass(frozen=True, slots=True)
class Drawing:
    width: float
    height: float
    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Flow:
    """What a document draws as: its steps, the groups that lead somewhere, and what leads from one to the other."""

    steps: tuple[str, ...]
    groups: tuple[str, ...]
    edges: tuple[Edge, ...]


def flow_of(document: Mapping[str, Any]) -> Flow:
    """The graph of a checked document. A group stands between the last of its steps and what follows it."""
    steps = [str(step["name"]) for step in document.get("steps", ())]
    edges = [Edge(edge["from"], edge["to"], edge.get("on", "success")) for edge in document.get("edges", ())]
    edges += [Edge(name, step["name"]) for step in document.get("steps", ()) for name in step.get("depends_on", ())]
    leading = {edge.source for edge in edges}
    inner: list[Edge] = []
    groups = []
    for group in document.get("groups", ()):
        if group["name"] in leading:
            groups.append(str(group["name"]))
            members = set(group["steps"])
            goes_on = {edge.source for edge in edges if edge.target in members}
            inner += [Edge(name, group["name"], "member") for name in group["steps"] if name not in goes_on]
    return Flow(tuple(steps), tuple(groups), tuple(dict.fromkeys([*edges, *inner])))


def draw(names: Sequence[str], edges: Iterable[Edge]) -> Drawing:
    """Places for all of `names`; edges of others, and of a box to itself, are left out."""
    known = set(names)
    kept = [edge for edge in edges if edge.source in known and edge.target in known and edge.source != edge.target]
    layers = _layers(names, kept)
    rows, chains = _rows(names, kept, layers)
    near: dict[str, list[str]] = {name: [] for row in rows for name in row}
    for chain in chains:
        for upper, lower in pairwise(chain):
            near[upper].append(lower)
            near[lower].append(upper)
    _order(rows, near)
    centres = _place(rows, near, known)
    left = min((centres[name] - _wide(name, known) / 2 for name in centres), default=0.0)
    centres = {name: x - left + MARGIN for name, x in centres.items()}
    tops = {name: MARGIN + n * (HEIGHT + FALL) for n, row in enumerate(rows) for name in row}
    right = max((centres[name] + _wide(name, known) / 2 for name in centres), default=0.0)
    return Drawing(
        width=right + MARGIN,
        height=len(rows) * (HEIGHT + FALL) - FALL + 2 * MARGIN if rows else 0.0,
        boxes=tuple(Box(name, round(centres[name] - WIDTH / 2, 1), tops[name]) for name in names),
        lines=tuple(Line(edge, _path(chain, centres, tops, known)) for edge, chain in zip(kept, chains, strict=True)),
    )


def _layers(names: Sequence[str], edges: Sequence[Edge]) -> dict[str, int]:
    """How far down each stands: below all that lead to it. What closes a circle does not count."""
    after: dict[str, list[str]] = {name: [] for name in names}
    for edge in edges:
        after[edge.source].append(edge.target)
    order: list[str] = []  # each before all that it leads to
    state: dict[str, int] = {}  # 1: on the way, 2: done
    back: set[tuple[str, str]] = set()
    for root in names:
        stack = [] if root in state else [(root, iter(after[root]))]
        if stack:
            state[root] = 1
        while stack:
            name, ahead = stack[-1]
            follower = next(ahead, None)
            if follower is None:
                state[name] = 2
                order.append(name)
                stack.pop()
            elif follower not in state:
                state[follower] = 1
                stack.append((follower, iter(after[follower])))
            elif state[follower] == 1:
                back.add((name, follower))
    layers = dict.fromkeys(names, 0)
    for name in reversed(order):
        for follower in after[name]:
            if (name, follower) not in back:
                layers[follower] = max(layers[follower], layers[name] + 1)
    return layers


def _rows(
    names: Sequence[str], edges: Sequence[Edge], layers: Mapping[str, int]
) -> tuple[list[list[str]], list[list[str]]]:
    """The boxes of each layer, and each edge as a chain: where it passes a layer it has a place of its own there."""
    rows: list[list[str]] = [[] for _ in range(max(layers.values(), default=-1) + 1)]
    for name in names:
        rows[layers[name]].append(name)
    chains = []
    for n, edge in enumerate(edges):
        first, last = layers[edge.source], layers[edge.target]
        step = 1 if last >= first else -1
        passes = [f"\0{n}\0{layer}" for layer in range(first + step, last, step)]
        for layer, name in zip(range(first + step, last, step), passes, strict=True):
            rows[layer].append(name)
        chains.append([edge.source, *passes, edge.target])
    return rows, chains


def _order(rows: list[list[str]], near: Mapping[str, Sequence[str]]) -> None:
    """Sorts each row by where its neighbours in the row before stand, down and up again: fewer edges cross."""
    for sweep in range(_SWEEPS):
        ways = range(1, len(rows)) if sweep % 2 == 0 else range(len(rows) - 2, -1, -1)
        for n in ways:
            other = rows[n - 1] if sweep % 2 == 0 else rows[n + 1]
            at = {name: place for place, name in enumerate(other)}
            places = {name: place for place, name in enumerate(rows[n])}

            def middle(name: str, at: dict[str, int] = at, places: dict[str, int] = places) -> float:
                found = [at[each] for each in near[name] if each in at]
                return sum(found) / len(found) if found else float(places[name])

            rows[n].sort(key=middle)


def _wide(name: str, known: set[str]) -> float:
    return WIDTH if name in known else LANE


def _place(rows: list[list[str]], near: Mapping[str, Sequence[str]], known: set[str]) -> dict[str, float]:
    """The middle of each on its row: as near as can be to its neighbours', without touching the one beside it."""
    centres: dict[str, float] = {}
    for row in rows:
        x = 0.0
        for name in row:
            x += _wide(name, known) / 2
            centres[name] = x
            x += _wide(name, known) / 2 + GAP
        for name in row:
            centres[name] -= (x - GAP) / 2
    for sweep in range(_SWEEPS):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wanted = []
            for name in row:
                found = [centres[each] for each in near[name]]
                wanted.append(sum(found) / len(found) if found else centres[name])
            gaps = [(_wide(a, known) + _wide(b, known)) / 2 + GAP for a, b in pairwise(row)]
            centres.update(zip(row, spread(wanted, gaps), strict=True))
    return centres


def spread(wanted: Sequence[float], gaps: Sequence[float]) -> list[float]:
    """Places in the same order, `gaps` apart at least, whose squared distances from `wanted` add up to the least."""
    offsets = [0.0]
    for gap in gaps:
        offsets.append(offsets[-1] + gap)
    pools: list[tuple[float, int]] = []  # of those that touch: the mean of where they would stand, and how many
    for want, offset in zip(wanted, offsets, strict=False):
        mean, count = want - offset, 1
        while pools and pools[-1][0] >= mean:
            other, many = pools.pop()
            mean, count = (mean * count + other * many) / (count + many), count + many
        pools.append((mean, count))
    means = [mean for mean, count in pools for _ in range(count)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=False)]


def _path(chain: Sequence[str], centres: Mapping[str, float], tops: Mapping[str, float], known: set[str]) -> str:
    """From the foot of the first to the head of the last, straight through the places between."""
    down = tops[chain[-1]] >= tops[chain[0]]
    x, y = centres[chain[0]], tops[chain[0]] + (HEIGHT if down else 0.0)
    words = [f"M{x:.1f} {y:.1f}"]
    for name in chain[1:]:
        to_x, to_y = centres[name], tops[name] + (0.0 if down else HEIGHT)
        middle = (y + to_y) / 2
        words.append(f"C{x:.1f} {middle:.1f} {to_x:.1f} {middle:.1f} {to_x:.1f} {to_y:.1f}")
        x, y = to_x, to_y
        if name not in known:
            y = tops[name] + (HEIGHT if down else 0.0)
            words.append(f"V{y:.1f}")
    return " ".join(words)

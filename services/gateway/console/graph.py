"""A workflow's steps as a drawing: pure, from names and edges to places.

Invariants: boxes do not overlap; an edge goes down the page, unless it closes a circle; a step stands below all
that it comes after. The same graph gives the same drawing. Steps that come after the same ones and lead to the same
ones, and are too many for one row, are drawn as a block with one line to it and one from it (`draw_in_blocks`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

WIDTH, HEIGHT = 188.0, 52.0  # of a box
GAP, FALL = 32.0, 46.0  # between boxes beside and below each other
LANE = 26.0  # what an edge takes that passes by boxes
MARGIN = 6.0
MOST = 200  # boxes in a drawing; more are listed only
BESIDE = 5  # boxes that a page of 1280 pixels shows beside each other; more that are alike are drawn as a block
INSIDE = 14.0  # from a block's frame to its boxes, and between those
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
class Frame:
    """Around the boxes of a block."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Drawing:
    width: float
    height: float
    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]
    frames: tuple[Frame, ...] = ()


@dataclass(frozen=True, slots=True)
class Flow:
    """The graph of a document: its steps, the groups that lead somewhere, and the edges between them."""

    steps: tuple[str, ...]
    groups: tuple[str, ...]
    edges: tuple[Edge, ...]


def flow_of(document: Mapping[str, Any]) -> Flow:
    """The graph of a valid document. A group is between the last of its steps and its followers."""
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


def draw_in_blocks(names: Sequence[str], edges: Iterable[Edge]) -> Drawing:
    """As `draw`; steps that are alike and too many for a row stand in a block."""
    known = set(names)
    kept = [edge for edge in edges if edge.source in known and edge.target in known and edge.source != edge.target]
    blocks = _blocks(names, kept)
    block_of = {name: block for block, members in blocks.items() for name in members}
    sizes = {block: _size_of_block(len(members)) for block, members in blocks.items()}
    outer = list(dict.fromkeys(block_of.get(name, name) for name in names))
    ways = dict.fromkeys(
        replace(edge, source=block_of.get(edge.source, edge.source), target=block_of.get(edge.target, edge.target))
        for edge in kept
    )
    drawing = draw(outer, ways, sizes)
    corners = {box.name: box for box in drawing.boxes}
    places = {name: box for name, box in corners.items() if name not in blocks}
    for block, members in blocks.items():
        places |= {box.name: box for box in _inside(corners[block], members)}
    titles = {block: f"{members[0]} and {len(members) - 1} more" for block, members in blocks.items()}
    return replace(
        drawing,
        boxes=tuple(places[name] for name in names),
        lines=tuple(replace(line, edge=_titled(line.edge, titles)) for line in drawing.lines),
        frames=tuple(Frame(corners[block].x, corners[block].y, *sizes[block]) for block in blocks),
    )


def _blocks(names: Sequence[str], edges: Sequence[Edge]) -> dict[str, list[str]]:
    """Steps that come after the same ones and lead to the same ones, where they are more than a row takes."""
    ways: dict[str, set[tuple[str, str, str]]] = defaultdict(set)
    for edge in edges:
        ways[edge.source].add(("to", edge.target, edge.on))
        ways[edge.target].add(("from", edge.source, edge.on))
    alike: dict[frozenset[tuple[str, str, str]], list[str]] = defaultdict(list)
    for name in names:
        alike[frozenset(ways[name])].append(name)
    return {f"\0block {members[0]}": members for members in alike.values() if len(members) > BESIDE}


def _size_of_block(count: int) -> tuple[float, float]:
    rows = -(-count // BESIDE)
    return BESIDE * (WIDTH + INSIDE) + INSIDE, rows * (HEIGHT + INSIDE) + INSIDE


def _inside(corner: Box, members: Sequence[str]) -> list[Box]:
    return [
        Box(
            name,
            round(corner.x + INSIDE + n % BESIDE * (WIDTH + INSIDE), 1),
            round(corner.y + INSIDE + n // BESIDE * (HEIGHT + INSIDE), 1),
        )
        for n, name in enumerate(members)
    ]


def _titled(edge: Edge, titles: Mapping[str, str]) -> Edge:
    return replace(edge, source=titles.get(edge.source, edge.source), target=titles.get(edge.target, edge.target))


def draw(
    names: Sequence[str], edges: Iterable[Edge], sizes: Mapping[str, tuple[float, float]] | None = None
) -> Drawing:
    """Places for all of `names`; edges of others, and of a box to itself, are left out. `sizes`: width and height of
    boxes that differ from the others."""
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
    size = dict.fromkeys(names, (WIDTH, HEIGHT)) | dict(sizes or {})
    wide = {name: size[name][0] if name in known else LANE for name in near}
    centres = _place(rows, near, wide)
    left = min((centres[name] - wide[name] / 2 for name in centres), default=0.0)
    centres = {name: x - left + MARGIN for name, x in centres.items()}
    right = max((centres[name] + wide[name] / 2 for name in centres), default=0.0)
    tops: dict[str, float] = {}
    feet: dict[str, float] = {}  # of a place that an edge passes: the row's
    y = MARGIN
    for row in rows:
        tall = max((size[name][1] for name in row if name in known), default=HEIGHT)
        tops |= dict.fromkeys(row, y)
        feet |= {name: y + (size[name][1] if name in known else tall) for name in row}
        y += tall + FALL
    return Drawing(
        width=right + MARGIN,
        height=y - FALL + MARGIN if rows else 0.0,
        boxes=tuple(Box(name, round(centres[name] - wide[name] / 2, 1), tops[name]) for name in names),
        lines=tuple(Line(edge, _path(chain, centres, tops, feet)) for edge, chain in zip(kept, chains, strict=True)),
    )


def _layers(names: Sequence[str], edges: Sequence[Edge]) -> dict[str, int]:
    """The layer of each: below all that lead to it. An edge that closes a circle does not count."""
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


def _place(rows: list[list[str]], near: Mapping[str, Sequence[str]], wide: Mapping[str, float]) -> dict[str, float]:
    """The middle of each on its row: as near as can be to its neighbours', without touching the one beside it."""
    centres: dict[str, float] = {}
    for row in rows:
        x = 0.0
        for name in row:
            x += wide[name] / 2
            centres[name] = x
            x += wide[name] / 2 + GAP
        for name in row:
            centres[name] -= (x - GAP) / 2
    for sweep in range(_SWEEPS):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wanted = []
            for name in row:
                found = [centres[each] for each in near[name]]
                wanted.append(sum(found) / len(found) if found else centres[name])
            gaps = [(wide[a] + wide[b]) / 2 + GAP for a, b in pairwise(row)]
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


def _path(
    chain: Sequence[str], centres: Mapping[str, float], tops: Mapping[str, float], feet: Mapping[str, float]
) -> str:
    """From the foot of the first to the head of the last, straight through the places between."""
    down = tops[chain[-1]] >= tops[chain[0]]
    x, y = centres[chain[0]], feet[chain[0]] if down else tops[chain[0]]
    words = [f"M{x:.1f} {y:.1f}"]
    for name in chain[1:]:
        to_x, to_y = centres[name], tops[name] if down else feet[name]
        middle = (y + to_y) / 2
        words.append(f"C{x:.1f} {middle:.1f} {to_x:.1f} {middle:.1f} {to_x:.1f} {to_y:.1f}")
        x, y = to_x, to_y
        if name != chain[-1]:
            y = feet[name] if down else tops[name]
            words.append(f"V{y:.1f}")
    return " ".join(words)

"""The drawing of a workflow's steps: nothing overlaps, edges go down, and the same graph gives the same drawing."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskflow_server.gateway.console.graph import (
    BESIDE,
    GAP,
    HEIGHT,
    WIDTH,
    Drawing,
    Edge,
    draw,
    draw_in_blocks,
    flow_of,
    spread,
)

CAMPAIGN = json.loads((Path(__file__).resolve().parents[2] / "sdk" / "examples" / "campaign.json").read_text())

names = st.integers(0, 14).map(lambda n: f"s{n}")
edges = st.lists(st.builds(Edge, names, names, st.sampled_from(["success", "failure", "always"])), max_size=40)


def top(drawing: Drawing) -> dict[str, float]:
    return {box.name: box.y for box in drawing.boxes}


def numbers(path: str) -> list[float]:
    return [float(word) for word in re.findall(r"-?\d+(?:\.\d+)?", path)]


@given(st.lists(names, unique=True), edges)
def test_boxes_stand_apart_and_inside_and_each_edge_has_its_line(some: list[str], ways: list[Edge]) -> None:
    drawing = draw(some, ways)

    assert [box.name for box in drawing.boxes] == some
    for a, b in itertools.combinations(drawing.boxes, 2):
        assert abs(a.y - b.y) >= HEIGHT or abs(a.x - b.x) >= WIDTH + GAP - 0.2
    for box in drawing.boxes:
        assert box.x >= 0 and box.x + WIDTH <= drawing.width
        assert box.y >= 0 and box.y + HEIGHT <= drawing.height
    kept = [e for e in ways if e.source in some and e.target in some and e.source != e.target]
    assert [line.edge for line in drawing.lines] == kept
    for line in drawing.lines:
        assert all(0 <= n <= max(drawing.width, drawing.height) for n in numbers(line.path))
    assert draw(some, ways) == drawing


@given(st.lists(st.tuples(st.integers(0, 14), st.integers(0, 14)), max_size=40))
def test_without_a_circle_every_edge_goes_down(pairs: list[tuple[int, int]]) -> None:
    ways = [Edge(f"s{min(pair)}", f"s{max(pair)}") for pair in pairs if pair[0] != pair[1]]

    tops = top(draw([f"s{n}" for n in range(15)], ways))

    assert all(tops[edge.source] < tops[edge.target] for edge in ways)


@given(st.lists(st.floats(-1000, 1000), min_size=1, max_size=12), st.floats(1, 100))
def test_places_are_kept_apart_in_order_and_near_what_was_wanted(wanted: list[float], gap: float) -> None:
    placed = spread(wanted, [gap] * (len(wanted) - 1))

    assert all(b - a >= gap - 1e-6 for a, b in itertools.pairwise(placed))
    assert sum(placed) == pytest.approx(sum(wanted), abs=1e-6), "pushed apart to both sides alike"


def test_an_edge_that_passes_a_layer_does_not_run_through_its_box() -> None:
    drawing = draw(["a", "b", "c"], [Edge("a", "b"), Edge("b", "c"), Edge("a", "c")])

    (middle,) = [box for box in drawing.boxes if box.name == "b"]
    (long,) = [line for line in drawing.lines if (line.edge.source, line.edge.target) == ("a", "c")]
    points = numbers(long.path.partition("V")[0])
    passes = [x for x, y in zip(points[::2], points[1::2], strict=True) if middle.y <= y <= middle.y + HEIGHT]
    assert passes and all(not middle.x <= x <= middle.x + WIDTH for x in passes)


def test_a_group_stands_between_its_last_steps_and_what_follows_it() -> None:
    flow = flow_of(CAMPAIGN)

    assert flow.groups == ("sequence",)
    assert Edge("sequence", "give_up", "failure") in flow.edges
    assert [edge.source for edge in flow.edges if edge.on == "member"] == ["last_chance"]
    tops = top(draw([*flow.steps, *flow.groups], flow.edges))
    assert tops["invite"] < tops["answer"] < tops["remind"] < tops["last_chance"] < tops["sequence"] < tops["give_up"]


def test_dependencies_are_edges_and_a_group_that_leads_nowhere_is_left_out() -> None:
    document = {
        "steps": [
            {"name": "a", "kind": "task"}, {"name": "b", "kind": "task", "depends_on": ["a"]},
        ],
        "groups": [{"name": "g", "steps": ["a", "b"]}],
    }  # fmt: skip

    assert flow_of(document).edges == (Edge("a", "b"),)
    assert flow_of(document).groups == ()


def test_no_steps_are_an_empty_drawing() -> None:
    assert draw([], []) == Drawing(6.0, 0.0, (), ())


@pytest.mark.parametrize("joined", [True, False])
def test_steps_that_are_alike_and_many_stand_in_a_block(joined: bool) -> None:
    many = [f"m{n}" for n in range(40)]
    ways = [Edge("a", name) for name in many] + [Edge(name, "z") for name in many if joined]

    drawing = draw_in_blocks(["a", *many, "z"], ways)

    (frame,) = drawing.frames
    assert drawing.width <= 1_140, "as wide as a page shows"
    inside = [box for box in drawing.boxes if box.name in many]
    assert [box.name for box in drawing.boxes] == ["a", *many, "z"]
    assert len({(box.x, box.y) for box in inside}) == 40 and len({box.y for box in inside}) == 40 / BESIDE
    for box in inside:
        assert frame.x <= box.x and box.x + WIDTH <= frame.x + frame.width
        assert frame.y <= box.y and box.y + HEIGHT <= frame.y + frame.height
    assert [(line.edge.source, line.edge.target) for line in drawing.lines] == (
        [("a", "m0 and 39 more"), ("m0 and 39 more", "z")] if joined else [("a", "m0 and 39 more")]
    )
    tops = top(drawing)
    assert tops["a"] + HEIGHT <= frame.y
    assert not joined or frame.y + frame.height <= tops["z"]


@given(st.lists(names, unique=True), edges)
def test_blocks_and_boxes_stand_apart(some: list[str], ways: list[Edge]) -> None:
    drawing = draw_in_blocks(some, ways)

    assert [box.name for box in drawing.boxes] == some
    for a, b in itertools.combinations(drawing.boxes, 2):
        assert abs(a.y - b.y) >= HEIGHT or abs(a.x - b.x) >= WIDTH

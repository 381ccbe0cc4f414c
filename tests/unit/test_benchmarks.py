"""The benchmark's arithmetic: medians, ratios, targets, what it says of a disturbed run, and how it reads stacks."""

from pathlib import Path

import pytest

from benchmarks import profile, report
from benchmarks.board import Board
from benchmarks.measure import percentile
from benchmarks.plan import FULL, ONCE, QUICK, SHAPES
from benchmarks.shapes import Round
from benchmarks.targets import IDS, TARGETS, Target, shapes_of, verdicts

FACTS = {"date": "today", "commit": "abc", "cores": 2, "cpu": "x", "python": "3.11", "postgres": "18", "grpcio": "1"}


def test_a_figure_is_the_median_of_its_runs_with_the_lowest_and_the_highest() -> None:
    told = report.summary({"bulk.rate": [30.0, 10.0, 20.0], "empty": []})

    assert told == {"bulk.rate": {"median": 20.0, "low": 10.0, "high": 30.0, "runs": [30.0, 10.0, 20.0]}}


def test_a_ratio_is_one_of_medians() -> None:
    told = report.ratios({"single.rate": [100.0, 300.0, 200.0], "unary.rate": [400.0, 1000.0, 100.0]})

    assert told == {"single.rate/unary.rate": 0.5}


def test_the_table_says_which_shapes_others_disturbed() -> None:
    figures = {"bulk.rate": [1000.0], "bulk.others": [0.01], "single.rate": [10.0], "single.others": [0.9]}

    shown = report.table(figures, QUICK, FACTS)

    assert "DISTURBED: other processes used up to 90% of a core during single\n" in shown
    assert "enqueue in bulk" in shown


@pytest.mark.parametrize(
    ("value", "at_most", "met"),
    [(9.0, True, "final"), (10.0, True, "final"), (15.0, True, "first"), (20.1, True, "no"),
     (20.0, False, "first"), (9.0, False, "no"), (31.0, False, "final")],
)  # fmt: skip
def test_a_target_is_met_to_its_final_stage_or_its_first_or_not(value: float, at_most: bool, met: str) -> None:
    bounds = (20.0, 10.0) if at_most else (10.0, 30.0)

    assert Target("P.0", "x", "x.y", first=bounds[0], final=bounds[1], at_most=at_most).met(value) == met
    assert Target("P.0", "x", "x.y").met(value) is None
    assert Target("P.0", "x", "x.y", final=bounds[0], at_most=at_most).met(value) in ("final", "no")


def test_a_ratio_spreads_as_its_rounds_do_or_over_the_median_of_its_measure() -> None:
    target = Target("P.0", "x", "a.rate", by="b.rate")

    assert target.values({"a.rate": [10.0, 40.0], "b.rate": [20.0, 40.0]}) == (25 / 30, 0.5, 1.0)
    assert target.values({"a.rate": [10.0, 40.0, 25.0], "b.rate": [50.0]}) == (0.5, 0.2, 0.8)
    assert target.values({"a.rate": [10.0, 10.0, 20.0], "b.rate": [0.0, 10.0, 10.0]}) == (1.0, 1.0, 2.0)
    assert target.values({"a.rate": [10.0], "b.rate": [0.0]}) is None
    assert target.values({"a.rate": [10.0]}) is None


def test_the_table_and_the_document_tell_of_each_target_whether_it_is_met() -> None:
    figures = {"single.rate": [450.0], "unary.rate": [1000.0], "latency.p99": [30.0], "both.rate": [9.0]}
    figures["copy.rate"] = [10.0]

    shown = report.table(figures, FULL, FACTS)
    lines = {line.split()[0]: line.split() for line in shown.splitlines() if line}
    told = {row["id"]: (row["median"], row["met"]) for row in verdicts(figures)}

    assert lines["P.5"][-1] == "first"
    assert lines["P.8"][-1] == "no"
    assert told == {"P.2": (0.9, None), "P.5": (0.45, "first"), "P.8": (30.0, "no")}


def test_shapes_are_named_by_themselves_and_by_targets() -> None:
    assert shapes_of(["P.5"]) == ("unary", "single")
    assert shapes_of(["p.10", " P.13"]) == ("idle", "up", "deep")
    assert shapes_of(["copy", "P.1"]) == ("copy", "drain2")
    assert set(shapes_of(IDS)) <= set(SHAPES)
    with pytest.raises(ValueError, match=r"'P\.99' is neither a target \(P\.1, "):
        shapes_of(["copy", "P.99"])


def test_every_target_has_figures_that_a_shape_measures() -> None:
    assert {shape for target in TARGETS for shape in target.shapes} <= set(SHAPES)
    assert tuple(f"P.{number}" for number in range(1, 15)) == IDS


def test_small_sizes_are_called_so() -> None:
    figures = {"bulk.rate": [1.0]}

    assert "SMALL SIZES" in report.table(figures, QUICK, FACTS)
    assert "SMALL SIZES" not in report.table(figures, FULL, FACTS)


def test_the_99th_percentile_is_not_exceeded_by_99_of_100() -> None:
    assert percentile([float(n) for n in range(100)], 0.99) == 99.0
    assert percentile([float(n) for n in range(1000)], 0.99) == 990.0
    assert percentile([7.0], 0.99) == 7.0


def test_every_shape_can_be_measured() -> None:
    assert all(hasattr(Round, f"_{shape}") for shape in SHAPES)
    assert set(ONCE) < set(SHAPES)
    assert FULL.scaled(0.001).jobs == 100
    assert FULL.scaled(2).numbers >= 2 * 60 * 3_000


def test_the_board_counts_what_a_worker_notes(tmp_path: Path) -> None:
    harness = Board(tmp_path / "board", 10)
    harness.clear(1, shut=True)
    worker = Board(tmp_path / "board")

    worker.hold(1)
    shut = worker.is_shut(1)
    harness.open(1)
    worker.note(1, 4)

    assert (shut, worker.is_shut(1)) == (True, False)
    assert (harness.held(1), harness.count(1), harness.count(0)) == (1, 1, 0)
    assert [number for number, at in enumerate(harness.times(10)) if at] == [4]


def test_stacks_are_counted_by_function(tmp_path: Path) -> None:
    stacks = tmp_path / "stacks"
    stacks.write_text("main (a/app.py:1);work (a/b.py:3) 3\nmain (a/app.py:1);work (a/b.py:9);work (a/b.py:3) 1\n")

    own, with_calls = profile.read(stacks)

    assert own == {"work (a/b.py)": 4}
    assert with_calls == {"main (a/app.py)": 4, "work (a/b.py)": 4}

"""The benchmark's arithmetic: medians, ratios, what it says about a disturbed run, and how it reads stacks."""

from pathlib import Path

from benchmarks import profile, report
from benchmarks.board import Board
from benchmarks.plan import FULL, QUICK, SHAPES
from benchmarks.shapes import Round, percentile

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


def test_the_99th_percentile_is_not_exceeded_by_99_of_100() -> None:
    assert percentile([float(n) for n in range(100)], 0.99) == 99.0
    assert percentile([float(n) for n in range(1000)], 0.99) == 990.0
    assert percentile([7.0], 0.99) == 7.0


def test_every_shape_can_be_measured() -> None:
    assert all(hasattr(Round, f"_{shape}") for shape in SHAPES)
    assert FULL.scaled(0.001).jobs == 100


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

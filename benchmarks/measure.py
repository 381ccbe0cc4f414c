"""Parts of shapes: a worker with a clean board, its jobs all settled, the costs of a while.

A figure's name is `<shape>.<what>`; targets.py and report.py know the units. `<shape>.others` is the share of one core
that processes not ours used meanwhile: a run with much of it is no measurement of ours.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.lab import SERVICES, BenchError, Lab

Figures = defaultdict[str, list[float]]
LIVE, FIRST = 0, 1  # slots of the board: of the live worker, and the first of those that drain


def percentile(values: list[float], share: float) -> float:
    """The value that `share` of the values do not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


class Measure:
    """One lab, and the figures that gather over the rounds."""

    def __init__(self, lab: Lab, figures: Figures) -> None:
        self.lab = lab
        self.plan = lab.plan
        self.figures = figures

    def add(self, name: str, value: float) -> None:
        """One run's value of a figure."""
        self.figures[name].append(value)

    @contextmanager
    def costs(self, shape: str) -> Iterator[list[tuple[int, float]]]:
        """CPU over the block; the block appends (jobs, CPU seconds of the client)."""
        told: list[tuple[int, float]] = []
        with self.lab.window() as seen:
            yield told
        jobs, client = told[0]
        used = {name: seen.cpu[name] for name in (*SERVICES, "postgres", "worker")} | {"client": client}
        for name, seconds in used.items():
            self.add(f"{shape}.cpu.{name}", seconds / jobs * 1000)
        self.add(f"{shape}.cpu", sum(used.values()) / jobs * 1000)
        self.add(f"{shape}.others", seen.others)

    # -- a backlog -----------------------------------------------------------------------------------------------

    def bulk(self) -> dict[str, Any]:
        """As many jobs as the plan says, on the queue `backlog`; the client's answer."""
        self.lab.expect()
        told = self.lab.client("bulk", queue="backlog", jobs=self.plan.jobs)
        self.lab.waiting += self.plan.jobs
        return told

    @contextmanager
    def let_go(self, queue: str, slots: range, **worker: Any) -> Iterator[float]:
        """Workers that have their first jobs in hand, let go together at the instant given; stopped at the end."""
        lab = self.lab
        for slot in slots:
            lab.start_worker(queue, slot, shut=True, **worker)
        try:
            lab.until(lambda: all(map(lab.board.held, slots)), "the first jobs of the workers")
            began = time.monotonic()
            for slot in slots:
                lab.board.open(slot)
            yield began
        finally:
            lab.stop_workers(queue)

    def drained(self, slots: range, settled: int) -> float:
        """Waits until the backlog's last outcome is on disk, `settled` having been there of others; the instant."""
        lab = self.lab
        jobs = lab.waiting

        def begun() -> int:
            return sum(map(lab.board.count, slots))

        lab.until(lambda: begun() >= jobs, f"the handlers of {jobs} jobs")
        ended = lab.wait_settled(lab.waiting_since, settled + jobs)
        _once(jobs, begun())
        lab.waiting = 0
        return ended

    # -- a worker at work ----------------------------------------------------------------------------------------

    @contextmanager
    def live(self, shape: str) -> Iterator[tuple[Any, list[tuple[int, float]]]]:
        """The live worker with a clean board, and the costs of the block."""
        lab = self.lab
        lab.live_worker()
        lab.board.clear(LIVE)
        since = lab.here()
        with self.costs(shape) as costs:
            yield since, costs

    def settle(self, since: Any, jobs: int) -> float:
        """Waits until the live worker's jobs made `since` have their outcomes on disk; the instant."""
        board = self.lab.board
        self.lab.until(lambda: board.count(LIVE) >= jobs, f"the handlers of {jobs} jobs")
        ended = self.lab.wait_settled(since, jobs)
        _once(jobs, board.count(LIVE))
        return ended

    def starts(self, shape: str, way: str, **options: object) -> list[tuple[float, float]]:
        """Instants of each job in order: when it was sent, and when its handler's first line ran."""
        with self.live(shape) as (since, costs):
            told = self.lab.client(way, queue="live", **options)
            self.settle(since, told["made"])
            costs.append((told["jobs"], told["cpu"]))
        return list(zip(told["sent"], self.lab.board.times(told["jobs"]), strict=True))


def _once(jobs: int, handled: int) -> None:
    if handled != jobs:
        raise BenchError(f"{jobs} jobs were handled {handled} times")

"""The shapes that are measured. Each is called once a round and adds its figures, as numbers by name.

A name is `<shape>.<what>`; report.py knows their units. `others` is the share of one core that processes not ours used
meanwhile: a run with much of it is no measurement of ours.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks import limits, procs
from benchmarks.lab import SERVICES, BenchError, Lab
from benchmarks.plan import CALLERS

Figures = defaultdict[str, list[float]]
_LIVE, _FIRST = 0, 1  # slots of the board: of the live worker, and the first of those that drain


def percentile(values: list[float], share: float) -> float:
    """The value that `share` of the values do not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


class Round:
    """All shapes of one round, on one lab; `figures` gathers over the rounds."""

    def __init__(self, lab: Lab, figures: Figures) -> None:
        self._lab = lab
        self._plan = lab.plan
        self._figures = figures

    def run(self, shape: str) -> None:
        """Measure one shape."""
        method: Callable[[], None] = getattr(self, f"_{shape}")
        method()

    def _add(self, name: str, value: float) -> None:
        self._figures[name].append(value)

    @contextmanager
    def _costs(self, shape: str) -> Iterator[list[tuple[int, float]]]:
        """CPU over the block; the block appends (jobs, CPU seconds of the client)."""
        told: list[tuple[int, float]] = []
        with self._lab.window() as seen:
            yield told
        jobs, client = told[0]
        used = {name: seen.cpu[name] for name in (*SERVICES, "postgres", "worker")} | {"client": client}
        for name, seconds in used.items():
            self._add(f"{shape}.cpu.{name}", seconds / jobs * 1000)
        self._add(f"{shape}.cpu", sum(used.values()) / jobs * 1000)
        self._add(f"{shape}.others", seen.others)

    # -- without us ----------------------------------------------------------------------------------------------

    def _machine(self) -> None:
        self._add("machine.flush_us", limits.flush_us(self._lab.directory))
        self._add("machine.spin_ms", limits.spin_ms())

    def _copy(self) -> None:
        limits.make_tables(self._lab.conn)
        with self._lab.window() as seen:
            jobs, attempts = limits.two_copies(self._lab.conn, self._plan.jobs)
        self._add("copy.rate", self._plan.jobs / (jobs + attempts))
        self._add("copy.rows", 2 * self._plan.jobs / (jobs + attempts))
        self._add("copy.cpu", (seen.cpu["postgres"] + seen.cpu["harness"]) / self._plan.jobs * 1000)
        self._add("copy.others", seen.others)

    def _unary(self) -> None:
        self._lab.start_echo()
        for name, callers in (("rate", 1), ("together", CALLERS)):
            told = self._lab.client("unary", callers=callers, seconds=self._plan.echo)
            self._add(f"unary.{name}", told["jobs"] / told["seconds"])

    def _stream(self) -> None:
        self._lab.start_echo()
        told = self._lab.client("stream", seconds=self._plan.echo)
        self._add("stream.rate", told["jobs"] / told["seconds"])

    # -- making jobs, with no worker for them ----------------------------------------------------------------------

    def _single(self) -> None:
        self._calls("single")

    def _callers(self) -> None:
        self._calls("callers")

    def _bulk(self) -> None:
        self._lab.expect()
        before = self._lab.wal()
        with self._costs("bulk") as costs:
            told = self._lab.client("bulk", queue="backlog", jobs=self._plan.jobs)
            costs.append((told["jobs"], told["cpu"]))
        self._add("bulk.rate", told["jobs"] / (told["ended"] - told["began"]))
        self._add("bulk.wal", (self._lab.wal() - before) / self._plan.jobs)
        self._lab.waiting += self._plan.jobs

    def _calls(self, way: str) -> None:
        self._lab.expect()
        with self._costs(way) as costs:
            told = self._lab.client(way, queue="backlog", callers=CALLERS, seconds=self._plan.seconds)
            costs.append((told["jobs"], told["cpu"]))
        self._add(f"{way}.rate", told["jobs"] / (told["ended"] - told["began"]))
        self._lab.waiting += told["made"]

    # -- running a backlog ---------------------------------------------------------------------------------------

    def _drain1(self) -> None:
        self._drain("drain1", 1)

    def _drain2(self) -> None:
        self._drain("drain2", 2)

    def _drain(self, shape: str, workers: int) -> None:
        """Workers that have their first jobs in hand are let go together; to the last outcome on disk."""
        lab = self._lab
        if lab.waiting < self._plan.jobs:
            self._bulk()
        jobs, slots = lab.waiting, range(_FIRST, _FIRST + workers)

        def begun() -> int:
            return sum(map(lab.board.count, slots))

        before, since = lab.wal(), lab.waiting_since
        settled = lab.settled(since)
        for slot in slots:
            lab.start_worker("backlog", slot, shut=True)
        lab.until(lambda: all(map(lab.board.held, slots)), "the first jobs of the workers")
        with self._costs(shape) as costs:
            began = time.monotonic()
            for slot in slots:
                lab.board.open(slot)
            ended = lab.wait_settled(since, settled + jobs, lambda: settled + begun())
            costs.append((jobs, 0.0))
        if (count := begun()) != jobs:
            raise BenchError(f"{jobs} jobs were handled {count} times")
        self._add(f"{shape}.rate", jobs / (ended - began))
        for name, pids in lab.pids().items():
            measure = procs.tree_mb if name == "postgres" else procs.resident_mb
            if pids:
                self._add(f"{shape}.mb.{name}", max(map(measure, pids)))
        self._add(f"{shape}.wal", (lab.wal() - before) / jobs)
        lab.stop_workers("backlog")
        lab.waiting = 0

    # -- with a worker at work -----------------------------------------------------------------------------------

    @contextmanager
    def _live(self, shape: str) -> Iterator[tuple[Any, list[tuple[int, float]]]]:
        """The live worker with a clean board, and the costs of the block."""
        lab = self._lab
        lab.live_worker()
        lab.board.clear(_LIVE)
        since = lab.here()
        with self._costs(shape) as costs:
            yield since, costs

    def _settle(self, since: Any, jobs: int) -> float:
        board = self._lab.board
        ended = self._lab.wait_settled(since, jobs, lambda: board.count(_LIVE))
        if (count := board.count(_LIVE)) != jobs:
            raise BenchError(f"{jobs} jobs were handled {count} times")
        return ended

    def _both(self) -> None:
        with self._live("both") as (since, costs):
            told = self._lab.client("bulk", queue="live", jobs=self._plan.jobs)
            ended = self._settle(since, told["made"])
            costs.append((told["jobs"], told["cpu"]))
        self._lab.peaks.append(told["jobs"] / (ended - told["began"]))
        self._add("both.rate", self._lab.peaks[-1])

    def _strangers(self) -> None:
        with self._live("strangers") as (since, costs):
            told = self._lab.client("strangers", queue="live", callers=CALLERS, seconds=self._plan.seconds)
            self._settle(since, told["made"])
            costs.append((told["jobs"], told["cpu"]))
        self._add("strangers.rate", told["jobs"] / (told["ended"] - told["began"]))

    def _latency(self) -> None:
        self._times("latency", "paced", jobs=self._plan.paced)

    def _half(self) -> None:
        if not self._lab.peaks:
            self._both()
        rate = statistics.median(self._lab.peaks) / 2
        self._times("half", "steady", rate=rate, seconds=self._plan.steady)
        self._add("half.rate", rate)

    def _times(self, shape: str, way: str, **options: object) -> None:
        """From the call to the handler's first line, in milliseconds."""
        with self._live(shape) as (since, costs):
            told = self._lab.client(way, queue="live", **options)
            self._settle(since, told["made"])
            costs.append((told["jobs"], told["cpu"]))
        starts = self._lab.board.times(told["jobs"])
        took = [(start - sent) * 1000 for start, sent in zip(starts, told["sent"], strict=True)]
        self._add(f"{shape}.p50", statistics.median(took))
        self._add(f"{shape}.p99", percentile(took, 0.99))

    def _idle(self) -> None:
        lab = self._lab
        with lab.window() as seen:
            lab.pause(self._plan.idle)
        services = sum(seen.cpu[name] for name in SERVICES)
        self._add("idle.cpu", services / seen.seconds * 100)
        self._add("idle.postgres", seen.cpu["postgres"] / seen.seconds * 100)
        for name in SERVICES:
            self._add(f"idle.mb.{name}", max(map(procs.resident_mb, lab.pids()[name])))


def rows(lab: Lab, figures: Figures) -> None:
    """What the whole run has left in the tables."""
    jobs = lab.value("select count(*) from taskflow.jobs")
    attempts = lab.value("select count(*) from taskflow.attempts")
    if not jobs:
        return
    lab.pause(1.1)  # a backend's statistics lag by a second, and by ten if it has nothing more to do: give it that
    lab.client("bulk", queue="backlog", jobs=1)
    written = lab.wait_written(jobs + attempts)
    figures["rows.appended"].append(written["inserted"] / jobs)
    figures["rows.changed"].append(written["changed"] / jobs * 1000)
    figures["rows.dead"].append(written["dead"])

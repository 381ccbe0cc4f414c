"""The shapes that are measured. Each is called once a round, those of plan.ONCE once in all, and adds its figures."""

import statistics
from collections.abc import Callable
from typing import Any

from benchmarks import cancels, deep, held, limits, procs, up
from benchmarks.lab import SERVICES
from benchmarks.measure import FIRST, Measure, percentile
from benchmarks.plan import CALLERS, FEW, SHORT, SHORT_SLOTS


class Round(Measure):
    """All shapes of one round: `_name` measures the shape of that name."""

    def run(self, shape: str) -> None:
        """Measure one shape."""
        method: Callable[[], None] = getattr(self, f"_{shape}")
        method()

    # -- without us ----------------------------------------------------------------------------------------------

    def _machine(self) -> None:
        self.add("machine.flush_us", limits.flush_us(self.lab.directory))
        self.add("machine.spin_ms", limits.spin_ms())

    def _copy(self) -> None:
        limits.make_tables(self.lab.conn)
        with self.lab.window() as seen:
            jobs, attempts = limits.two_copies(self.lab.conn, self.plan.jobs)
        self.add("copy.rate", self.plan.jobs / (jobs + attempts))
        self.add("copy.rows", 2 * self.plan.jobs / (jobs + attempts))
        self.add("copy.cpu", (seen.cpu["postgres"] + seen.cpu["harness"]) / self.plan.jobs * 1000)
        self.add("copy.others", seen.others)

    def _unary(self) -> None:
        self.lab.start_echo()
        for name, callers in (("rate", 1), ("together", CALLERS)):
            told = self.lab.client("unary", callers=callers, seconds=self.plan.echo)
            self.add(f"unary.{name}", told["jobs"] / told["seconds"])

    def _stream(self) -> None:
        self.lab.start_echo()
        told = self.lab.client("stream", seconds=self.plan.echo)
        self.add("stream.rate", told["jobs"] / told["seconds"])

    # -- making jobs, with no worker for them ----------------------------------------------------------------------

    def _single(self) -> None:
        self._calls("single")

    def _callers(self) -> None:
        self._calls("callers")

    def _calls(self, way: str) -> None:
        self.lab.expect()
        with self.costs(way) as costs:
            told = self.lab.client(way, queue="backlog", callers=CALLERS, seconds=self.plan.seconds)
            costs.append((told["jobs"], told["cpu"]))
        self.add(f"{way}.rate", told["jobs"] / (told["ended"] - told["began"]))
        self.lab.waiting += told["made"]

    def _bulk(self) -> None:
        before = self.lab.wal()
        with self.costs("bulk") as costs:
            told = self.bulk()
            costs.append((told["jobs"], told["cpu"]))
        self.add("bulk.rate", told["jobs"] / (told["ended"] - told["began"]))
        self.add("bulk.wal", (self.lab.wal() - before) / self.plan.jobs)

    # -- running a backlog ---------------------------------------------------------------------------------------

    def _drain1(self) -> None:
        self._drain("drain1", 1)

    def _drain2(self) -> None:
        self._drain("drain2", 2)

    def _few(self) -> None:
        self._drain("few", 1, concurrency=FEW)

    def _short(self) -> None:
        self._drain("short", 1, concurrency=SHORT_SLOTS, takes=SHORT)

    def _drain(self, shape: str, workers: int, **worker: Any) -> None:
        """To the last outcome on disk."""
        lab = self.lab
        if lab.waiting < self.plan.jobs:
            self._bulk()
        jobs, slots = lab.waiting, range(FIRST, FIRST + workers)
        before, settled = lab.wal(), lab.settled(lab.waiting_since)
        with self.let_go("backlog", slots, **worker) as began:
            with self.costs(shape) as costs:
                ended = self.drained(slots, settled)
                costs.append((jobs, 0.0))
            self.add(f"{shape}.rate", jobs / (ended - began))
            for name, pids in lab.pids().items():
                measure = procs.tree_mb if name == "postgres" else procs.resident_mb
                if pids:
                    self.add(f"{shape}.mb.{name}", max(map(measure, pids)))
            self.add(f"{shape}.wal", (lab.wal() - before) / jobs)

    # -- with a worker at work -----------------------------------------------------------------------------------

    def _both(self) -> None:
        with self.live("both") as (since, costs):
            told = self.lab.client("bulk", queue="live", jobs=self.plan.jobs)
            ended = self.settle(since, told["made"])
            costs.append((told["jobs"], told["cpu"]))
        self.lab.peaks.append(told["jobs"] / (ended - told["began"]))
        self.add("both.rate", self.lab.peaks[-1])

    def _strangers(self) -> None:
        with self.live("strangers") as (since, costs):
            told = self.lab.client("strangers", queue="live", callers=CALLERS, seconds=self.plan.seconds)
            self.settle(since, told["made"])
            costs.append((told["jobs"], told["cpu"]))
        self.add("strangers.rate", told["jobs"] / (told["ended"] - told["began"]))

    def _latency(self) -> None:
        self._times("latency", "paced", jobs=self.plan.paced)

    def _half(self) -> None:
        if not self.lab.peaks:
            self._both()
        rate = statistics.median(self.lab.peaks) / 2
        self._times("half", "steady", rate=rate, seconds=self.plan.steady)
        self.add("half.rate", rate)

    def _times(self, shape: str, way: str, **options: object) -> None:
        """From the call to the handler's first line, in milliseconds."""
        took = [(start - sent) * 1000 for sent, start in self.starts(shape, way, **options)]
        self.add(f"{shape}.p50", statistics.median(took))
        self.add(f"{shape}.p99", percentile(took, 0.99))

    def _runs(self) -> None:
        with self.live("runs") as (since, costs):
            told = self.lab.client("runs", queue="live", jobs=self.plan.runs, callers=CALLERS)
            self.settle(since, told["made"])
            costs.append((told["jobs"], told["cpu"]))
        self.add("runs.rate", told["jobs"] / (told["ended"] - told["began"]))
        self.add("runs.alone", told["alone"] * 1000)

    # -- at rest -------------------------------------------------------------------------------------------------

    def _idle(self) -> None:
        lab = self.lab
        with lab.window() as seen:
            lab.pause(self.plan.idle)
        self.add("idle.cpu", sum(seen.cpu[name] for name in SERVICES) / seen.seconds * 100)
        self.add("idle.postgres", seen.cpu["postgres"] / seen.seconds * 100)
        memory = {name: max(map(procs.resident_mb, lab.pids()[name])) for name in SERVICES}
        for name, megabytes in memory.items():
            self.add(f"idle.mb.{name}", megabytes)
        self.add("idle.mb", max(memory.values()))

    def _up(self) -> None:
        up.measure(self)

    # -- once, after the rounds ----------------------------------------------------------------------------------

    def _rows(self) -> None:
        """The rows that all jobs so far have left in the tables."""
        lab = self.lab
        if lab.waiting or not self.figures["drain1.wal"]:
            self._drain1()
        jobs = lab.value("select count(*) from taskflow.jobs")
        attempts = lab.value("select count(*) from taskflow.attempts")
        lab.pause(1.1)  # a backend's statistics lag by a second, and by ten if it has nothing more to do: give it that
        lab.expect()
        lab.client("bulk", queue="backlog", jobs=1)
        lab.waiting += 1
        written = lab.wait_written(jobs + attempts)
        self.add("rows.appended", written["inserted"] / jobs)
        self.add("rows.changed", written["changed"] / jobs * 1000)
        self.add("rows.dead", written["dead"])
        for run in self.figures["drain1.wal"]:
            self.add("rows.wal", statistics.median(self.figures["bulk.wal"]) + run)

    def _held(self) -> None:
        held.measure(self)

    def _deep(self) -> None:
        deep.measure(self)

    def _cancels(self) -> None:
        cancels.measure(self)

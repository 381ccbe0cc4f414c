"""Targets of the figures: the rows of the design's table of speeds (P.1–P.14) that need no other system.

P.1 and P.2 have more targets, beside another queue; P.15 needs limits. They are not measured here.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.plan import CALLERS, HELD_RATE, SHAPES

Figures = Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True)
class Target:
    """A figure, or its ratio to the figure `by`, and what it is to reach in the first stage and in the end."""

    id: str
    what: str
    figure: str
    unit: str = ""
    by: str = ""
    first: float | None = None
    final: float | None = None
    at_most: bool = False  # else at least

    def values(self, figures: Figures) -> tuple[float, float, float] | None:
        """Median, lowest and highest; of a ratio, the spread is that of the rounds if each has measured both."""
        runs, measure = figures.get(self.figure, ()), figures.get(self.by, ())
        if runs and not self.by:
            return statistics.median(runs), min(runs), max(runs)
        unit = statistics.median(measure) if measure else 0.0
        if not runs or not unit:
            return None
        paired = len(runs) == len(measure) and all(measure)
        spread = [a / b for a, b in zip(runs, measure, strict=True)] if paired else [run / unit for run in runs]
        return statistics.median(runs) / unit, min(spread), max(spread)

    def met(self, value: float) -> str | None:
        """`final`, `first` or `no`; None where nothing is to be reached."""
        for stage, bound in (("final", self.final), ("first", self.first)):
            if bound is not None and (value <= bound if self.at_most else value >= bound):
                return stage
        return None if self.first is None and self.final is None else "no"

    @property
    def shapes(self) -> set[str]:
        """The shapes that measure it."""
        return {name.partition(".")[0] for name in (self.figure, self.by) if name}


TARGETS = (
    Target("P.1", "drain a backlog, two workers", "drain2.rate", by="copy.rate", final=0.6),
    Target("P.2", "enqueue and run at once, one worker", "both.rate", by="copy.rate"),
    Target("P.3", "CPU per 1,000 jobs, at once, all processes", "both.cpu", "s", first=0.15, final=0.08, at_most=True),
    Target("P.4", "enqueue in bulk", "bulk.rate", "jobs/s", first=25_000, final=45_000),
    Target("P.5", "one by one, one thread", "single.rate", by="unary.rate", first=0.4, final=0.6),
    Target("P.6", f"{CALLERS} callers in one async process", "callers.rate", "jobs/s", first=4_000, final=15_000),
    Target("P.7", f"{CALLERS} callers that share nothing", "strangers.rate", "jobs/s", first=900, final=1_500),
    Target("P.8", "idle, call to handler start, p50", "latency.p50", "ms", first=6, final=2.5, at_most=True),
    Target("P.8", "idle, call to handler start, p99", "latency.p99", "ms", first=12, final=5, at_most=True),
    Target("P.9", "half the peak, call to handler start, p99", "half.p99", "ms", first=100, final=40, at_most=True),
    Target("P.10", "drain the front of a deep backlog", "deep.rate", by="deep.alone", first=0.9, final=0.95),
    Target("P.10", "coordinator's memory then", "deep.mb.coordinator", "MB", first=200, final=120, at_most=True),
    Target("P.10", "queue service's memory then", "deep.mb.queue", "MB", first=200, final=120, at_most=True),
    Target("P.11", f"p99 at {HELD_RATE:,}/s, old snapshots held", "held.p99", by="held.basep99", first=2, final=1.2,
           at_most=True),
    Target("P.11", "jobs/s then", "held.rate", by="held.baserate", final=0.98),
    Target("P.12", "rows appended for a job", "rows.appended", "rows", first=2.01, final=2.01, at_most=True),
    Target("P.12", "rows of jobs, attempts dead or changed", "rows.dead", "rows", first=0, final=0, at_most=True),
    Target("P.12", "WAL of a job, made and run", "rows.wal", "bytes", final=700, at_most=True),
    Target("P.13", "at rest, just started: CPU of all services", "up.cpu", "%", first=3, final=1, at_most=True),
    Target("P.13", "the largest service's memory then", "up.mb", "MB", first=90, final=60, at_most=True),
    Target("P.13", "at rest after work: CPU of the services", "idle.cpu", "%", first=3, final=1, at_most=True),
    Target("P.13", "the largest service's memory then", "idle.mb", "MB", first=90, final=60, at_most=True),
    Target("P.14", "`taskflow up` to its first job done, warm", "up.start", "s", first=6, final=3, at_most=True),
)  # fmt: skip
IDS = tuple(dict.fromkeys(target.id for target in TARGETS))


def shapes_of(words: Iterable[str]) -> tuple[str, ...]:
    """The shapes, in order, that `words` name: their own names or ids of targets. ValueError names the unknown one."""
    wanted: set[str] = set()
    for word in words:
        name = word.strip()
        named = {shape for target in TARGETS if target.id == name.upper() for shape in target.shapes}
        if not named and name not in SHAPES:
            raise ValueError(f"{name!r} is neither a target ({', '.join(IDS)}) nor a shape ({', '.join(SHAPES)})")
        wanted |= named or {name}
    return tuple(shape for shape in SHAPES if shape in wanted)


def verdicts(figures: Figures) -> list[dict[str, Any]]:
    """Each target that was measured, for programs: its fields, `median`, `low`, `high` and `met`."""
    told = []
    for target in TARGETS:
        values = target.values(figures)
        if values is not None:
            median, low, high = values
            told.append(asdict(target) | {"median": median, "low": low, "high": high, "met": target.met(median)})
    return told

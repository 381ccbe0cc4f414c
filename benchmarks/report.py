"""The figures of a run: medians and spread, ratios to the limits, as a table for people and as JSON for programs."""

import os
import platform
import statistics
import subprocess
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from benchmarks.plan import CALLERS, CONCURRENCY, FEW, HELD_RATE, RUN_STEPS, SHORT, SHORT_SLOTS, Plan
from benchmarks.targets import TARGETS, Figures, Target, verdicts
from taskflow_server.cluster.service import CODE

DISTURBED = 0.2  # of one core used by others: said so
PROCESSES = ("scheduler", "coordinator", "queue", "worker", "client", "postgres")

# Figure, what a person calls it, unit, the figure that it is measured by: limits, and what targets.py has no row for.
_ROWS = (
    ("copy.rate", "limit: two COPYs a job, one connection", "jobs/s", ""),
    ("unary.rate", "limit: gRPC unary echo, one after the other", "calls/s", ""),
    ("unary.together", f"limit: gRPC unary echo, {CALLERS} callers", "calls/s", ""),
    ("stream.rate", "limit: gRPC stream echo, one after the other", "messages/s", ""),
    ("bulk.rate", "enqueue in bulk", "jobs/s", "copy.rate"),
    ("drain1.rate", "drain a backlog, one worker", "jobs/s", "copy.rate"),
    ("drain2.rate", "drain a backlog, two workers", "jobs/s", "drain1.rate"),
    ("few.rate", f"drain a backlog, one worker of {FEW} slots", "jobs/s", "drain1.rate"),
    ("short.rate", f"handlers of {SHORT * 1000:.0f} ms, one worker of {SHORT_SLOTS} slots", "jobs/s", ""),
    ("both.rate", "enqueue and run at once, one worker", "jobs/s", "drain1.rate"),
    ("single.rate", "one by one, one thread", "jobs/s", "unary.rate"),
    ("callers.rate", f"{CALLERS} callers in one async process", "jobs/s", "unary.together"),
    ("strangers.rate", f"{CALLERS} callers that share nothing", "jobs/s", "unary.together"),
    ("half.p50", "half the peak, call to handler start, p50", "ms", ""),
    ("runs.rate", f"runs of {RUN_STEPS} steps each, one after the other", "steps/s", ""),
    ("runs.alone", "a step of a run that is alone", "ms", ""),
    ("deep.alone", "drain a backlog alone in its queue", "jobs/s", ""),
    ("deep.rate", "drain the front of a deep backlog", "jobs/s", ""),
    ("cancels.rate", "cancel all that waits in a queue", "jobs/s", ""),
    ("cancels.mb", "what the coordinator's memory grows by then", "MB", ""),
    ("held.basep99", f"{HELD_RATE:,} jobs/s, p99", "ms", ""),
    ("held.p99", f"{HELD_RATE:,} jobs/s, old snapshots held, p99", "ms", ""),
    ("idle.postgres", "at rest after work: CPU of Postgres", "%", ""),
    ("up.cold", "`taskflow up` to its first job done, first time", "s", ""),
)
_COSTS = (
    ("bulk", "enqueue in bulk"),
    ("drain1", "drain, one worker"),
    ("drain2", "drain, two workers"),
    ("few", f"drain, {FEW} slots"),
    ("short", f"handlers of {SHORT * 1000:.0f} ms"),
    ("both", "at once"),
    ("single", "one by one"),
    ("callers", "50 callers, one process"),
    ("strangers", "50 that share nothing"),
    ("half", "half the peak"),
    ("runs", "steps of runs"),
    ("base", f"{HELD_RATE:,} jobs/s"),
    ("held", f"{HELD_RATE:,} jobs/s, old snapshots held"),
    ("alone", "drain, alone in its queue"),
    ("deep", "drain, front of a deep one"),
)


def machine(postgres: str) -> dict[str, Any]:
    """Where and with what it was measured."""
    models = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _git("rev-parse", "--short", "HEAD") + ("+" if _git("status", "--porcelain", "-uno") else ""),
        "cpu": models[0] if models else "",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "postgres": postgres,
        "fsync": True,
        "grpcio": version("grpcio"),
        "protobuf": version("protobuf"),
        "psycopg": version("psycopg"),
    }


def summary(figures: Figures) -> dict[str, dict[str, Any]]:
    """By figure: median, lowest, highest, and each run."""
    return {
        name: {
            "median": statistics.median(runs),
            "low": min(runs),
            "high": max(runs),
            "runs": [float(f"{run:.5g}") for run in runs],
        }
        for name, runs in sorted(figures.items())
        if runs
    }


def ratios(figures: Figures) -> dict[str, float]:
    """Ratios of medians, by `figure/measure`."""
    pairs = [(name, by) for name, _, _, by in _ROWS if figures.get(name) and _median(figures, by)]
    return {f"{name}/{by}": _median(figures, name) / _median(figures, by) for name, by in pairs}


def document(figures: Figures, plan: Plan, facts: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """All of it, for --json."""
    names = ("jobs", "seconds", "paced", "steady", "idle", "echo", "waiting", "held")
    sizes = {name: getattr(plan, name) for name in names}
    return {
        "format": 2,
        "machine": dict(facts),
        "rounds": plan.rounds,
        "sizes": sizes | {"callers": CALLERS, "concurrency": CONCURRENCY},
        "took_seconds": round(seconds, 1),
        "targets": verdicts(figures),
        "figures": summary(figures),
        "ratios": ratios(figures),
    }


def table(figures: Figures, plan: Plan, facts: Mapping[str, Any]) -> str:
    """The report for people."""
    parts = [_head(figures, plan, facts), _targets(figures), _speeds(figures), _cpu(figures), _memory(figures)]
    parts.append(_rows(figures))
    return "\n\n".join("\n".join(lines) for part in parts if (lines := list(part)))


def _head(figures: Figures, plan: Plan, facts: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"{facts['date']}, commit {facts['commit'] or 'unknown'}: {facts['cores']} cores ({facts['cpu']}),"
        f" Python {facts['python']}, Postgres {facts['postgres']} with fsync, grpcio {facts['grpcio']}"
    )
    if plan.small:
        yield "SMALL SIZES: they show that it works; what the targets ask for is measured with the sizes of a whole run"
    yield (
        f"{plan.rounds} round{'s' if plan.rounds > 1 else ''}, interleaved; {plan.jobs:,} jobs of 100 bytes;"
        f" {CONCURRENCY} handlers a worker; deep: {plan.waiting:,} waiting; held: {plan.held:g} s"
    )
    if figures.get("machine.flush_us"):
        flush, spin = _spread(figures, "machine.flush_us"), _spread(figures, "machine.spin_ms")
        yield f"disk flush {flush} µs; a fixed loop {spin} ms"
    busy = {name.partition(".")[0]: max(runs) for name, runs in figures.items() if name.endswith(".others") and runs}
    if noisy := sorted(name for name, most in busy.items() if most > DISTURBED):
        yield f"DISTURBED: other processes used up to {max(busy.values()):.0%} of a core during {', '.join(noisy)}"
    if figures.get("discarded"):
        yield f"{len(figures['discarded'])} runs that others disturbed were thrown away, and made again"


def _targets(figures: Figures) -> Iterator[str]:
    rows = [(target, values) for target in TARGETS if (values := target.values(figures)) is not None]
    if not rows:
        return
    yield f"{'':<5} {'target':<46}{'figure':>9} {'unit':<7}{'lowest – highest':>18}{'first':>10}{'final':>10}  met"
    for target, (median, low, high) in rows:
        first, final = (_bound(target, bound) for bound in (target.first, target.final))
        spread = f"{_number(low)} – {_number(high)}"
        met = target.met(median) or "–"
        figure = f"{_number(median):>9} {target.unit or '×':<7}"
        yield f"{target.id:<5} {target.what:<46}{figure}{spread:>18}{first:>10}{final:>10}  {met}"
    yield from dict.fromkeys(f"{target.id}: × {_NAMES[target.by]}" for target, _ in rows if target.by)


def _bound(target: Target, bound: float | None) -> str:
    return "–" if bound is None else f"{'≤' if target.at_most else '≥'} {bound:,.6g}"


def _speeds(figures: Figures) -> Iterator[str]:
    rows = [row for row in _ROWS if figures.get(row[0])]
    if not rows:
        return
    known = ratios(figures)
    yield f"{'figure':<53}{'median':>9} {'unit':<11}{'lowest – highest':>18}  ratio"
    for name, what, unit, by in rows:
        ratio = f"{known[f'{name}/{by}']:.2f} × {_NAMES[by]}" if f"{name}/{by}" in known else ""
        spread = f"{_number(min(figures[name]))} – {_number(max(figures[name]))}"
        yield f"{what:<53}{_number(_median(figures, name)):>9} {unit:<11}{spread:>18}  {ratio}".rstrip()


def _cpu(figures: Figures) -> Iterator[str]:
    rows = [row for row in _COSTS if figures.get(f"{row[0]}.cpu")]
    if not rows:
        return
    yield f"{'CPU seconds per 1,000 jobs (medians)':<38}" + "".join(f"{p:>12}" for p in PROCESSES) + f"{'all':>9}"
    for shape, what in rows:
        each = "".join(f"{_median(figures, f'{shape}.cpu.{p}'):>12.3f}" for p in PROCESSES)
        yield f"{what:<38}{each}{_median(figures, f'{shape}.cpu'):>9.3f}"


def _memory(figures: Figures) -> Iterator[str]:
    for shape, what in (("up", "just started"), ("drain1", "after a drain"), ("idle", "at rest after work")):
        told = [(p, f"{shape}.mb.{p}") for p in PROCESSES if figures.get(f"{shape}.mb.{p}")]
        if told:
            yield f"memory {what}, MB: " + ", ".join(f"{p} {_median(figures, name):.0f}" for p, name in told)


def _rows(figures: Figures) -> Iterator[str]:
    if figures.get("bulk.wal") and figures.get("drain1.wal"):
        made, run = _median(figures, "bulk.wal"), _median(figures, "drain1.wal")
        yield f"WAL per job: {made:.0f} bytes to make it, {run:.0f} to run it, {made + run:.0f} in all"
    if figures.get("rows.appended"):
        appended, changed, dead = (_median(figures, f"rows.{what}") for what in ("appended", "changed", "dead"))
        yield (
            f"rows appended per job: {appended:.3f}; updated or deleted per 1,000 jobs: {changed:.1f};"
            f" dead rows in jobs and attempts: {dead:.0f}"
        )


_NAMES = {
    "copy.rate": "two COPYs",
    "unary.rate": "the echo",
    "unary.together": "the echo",
    "drain1.rate": "one worker's drain",
    "deep.alone": "the drain of as many jobs that are all that wait",
    "held.basep99": "the same load with nothing held",
    "held.baserate": "the same load with nothing held",
}


def _median(figures: Figures, name: str) -> float:
    return statistics.median(figures[name]) if figures.get(name) else 0.0


def _spread(figures: Figures, name: str) -> str:
    runs = figures[name]
    return f"{_number(statistics.median(runs))} ({_number(min(runs))} – {_number(max(runs))})"


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _lines(path: str) -> list[str]:
    try:
        with open(path) as file:
            return file.read().splitlines()
    except OSError:
        return []


def _git(*words: str) -> str:
    try:
        answer = subprocess.run(["git", *words], cwd=CODE, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()

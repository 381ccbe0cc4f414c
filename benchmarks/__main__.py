"""`python -m benchmarks`: measures TaskFlow on this machine, against a cluster that it starts and removes again."""

import argparse
import json
import signal
import sys
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import psycopg

from benchmarks import report
from benchmarks.lab import BenchError, Lab, lab
from benchmarks.measure import Figures
from benchmarks.plan import FULL, ONCE, QUICK, SHAPES, Plan
from benchmarks.profile import profile
from benchmarks.shapes import Round
from benchmarks.targets import IDS, shapes_of
from taskflow.errors import TaskFlowError
from taskflow_server.cluster.binaries import NoPostgresError
from taskflow_server.cluster.embedded_postgres import PostgresError
from taskflow_server.cluster.home import HomeError
from taskflow_server.cluster.process import Interrupted
from taskflow_server.cluster.service import ServiceError


def main() -> int:
    """0: measured; 1: something that had to happen did not; 2: it could not start; 130: interrupted."""
    arguments = _arguments()
    plan = _plan(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with lab(plan) as made:
            if arguments.profile:
                print(profile(made, arguments.profile))
            else:
                _measure(made, plan, arguments)
    except (KeyboardInterrupt, Interrupted):
        print("\ninterrupted; everything is stopped", file=sys.stderr)
        return 130
    except (BenchError, TaskFlowError, psycopg.Error) as error:
        print(f"\nbench: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except (NoPostgresError, PostgresError, HomeError, ServiceError, OSError) as error:
        print(f"bench: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _measure(made: Lab, plan: Plan, arguments: argparse.Namespace) -> None:
    figures: Figures = defaultdict(list)
    facts = report.machine(str(made.value("show server_version")).split()[0])
    began = time.monotonic()
    for number in range(1, plan.rounds + 1):
        for shape in plan.shapes:
            if shape not in ONCE:
                _say(f"round {number} of {plan.rounds}: {shape}")
                _undisturbed(made, figures, shape, arguments.quiet)
    for shape in plan.shapes:
        if shape in ONCE:
            _say(shape)
            Round(made, figures).run(shape)
    _say("", end="")
    seconds = time.monotonic() - began
    print(report.table(figures, plan, facts))
    print(f"\nmeasured in {seconds:.0f} s")
    target: Path | None = arguments.json
    if target is not None:
        document = report.document(figures, plan, facts, seconds)
        target.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def _undisturbed(made: Lab, figures: Figures, shape: str, tries: int) -> None:
    """Measure a shape; again, up to `tries` times, when other processes were at work meanwhile."""
    for left in range(tries, -1, -1):
        if left:
            made.wait_quiet(report.DISTURBED)
        once: Figures = defaultdict(list)
        Round(made, once).run(shape)
        if left and any(max(runs) > report.DISTURBED for name, runs in once.items() if name.endswith(".others")):
            figures["discarded"].append(1)
            continue
        for name, runs in once.items():
            figures[name] += runs
        return


def _say(text: str, end: str = "\n") -> None:
    """The measurement under way, on stderr: on a terminal always on the same line."""
    if sys.stderr.isatty():
        print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)
    else:
        print(text, end=end, file=sys.stderr, flush=True)


def _plan(arguments: argparse.Namespace) -> Plan:
    plan = QUICK if arguments.quick else FULL
    if arguments.scale:
        plan = plan.scaled(arguments.scale)
    return replace(
        plan,
        shapes=tuple(shape for shape in SHAPES if not arguments.only or shape in arguments.only),
        rounds=arguments.rounds or plan.rounds,
        waiting=arguments.waiting or plan.waiting,
        held=arguments.held or plan.held,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench",
        description="Measures TaskFlow on this machine: medians and spread of several rounds, beside what COPY and gRPC"
        " alone do in the same run, and what they are to reach. About 13 minutes; --quick under two.",
        epilog="Quote figures of a machine with nothing else to do; the table says when others were at work.",
    )
    parser.add_argument("--quick", action="store_true", help="small and rough")
    parser.add_argument(
        "--only", type=_only, action="extend", metavar="NAME,…",
        help=f"targets ({', '.join(IDS)}) and shapes ({', '.join(SHAPES)})",
    )  # fmt: skip
    parser.add_argument("--rounds", type=_count, default=0, help="how often each shape is measured")
    parser.add_argument("--scale", type=_positive, default=0.0, help="factor for all sizes")
    parser.add_argument("--waiting", type=_count, default=0, metavar="JOBS", help="of P.10: how deep the backlog is")
    parser.add_argument(
        "--held", type=_positive, default=0.0, metavar="SECONDS",
        help="of P.11: how long the transaction is held; the same time goes without it",
    )  # fmt: skip
    parser.add_argument(
        "--quiet", type=int, default=0, metavar="N",
        help="wait for a quiet machine; repeat a disturbed shape up to N times",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures of all runs")
    parser.add_argument("--profile", type=Path, metavar="DIR", help="instead, where the time goes (needs py-spy)")
    return parser.parse_args()


def _only(text: str) -> tuple[str, ...]:
    try:
        return shapes_of(text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _count(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


if __name__ == "__main__":
    sys.exit(main())

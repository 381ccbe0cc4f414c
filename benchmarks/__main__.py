"""`python -m benchmarks`: measures TaskFlow on this machine, against a cluster that it starts and removes again."""

import argparse
import json
import signal
import sys
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from benchmarks import report
from benchmarks.lab import BenchError, Lab, lab
from benchmarks.plan import FULL, QUICK, SHAPES, Plan
from benchmarks.profile import profile
from benchmarks.shapes import Figures, Round, rows
from services.cluster.binaries import NoPostgresError
from services.cluster.embedded import PostgresError
from services.cluster.home import HomeError
from services.cluster.process import Interrupted
from services.cluster.service import ServiceError


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
    except BenchError as error:
        print(f"\nbench: {error}", file=sys.stderr)
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
            _say(f"round {number} of {plan.rounds}: {shape}")
            _undisturbed(made, figures, shape, arguments.quiet)
    _say("rows")
    rows(made, figures)
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
    """What is under way, on stderr: on a terminal always on the same line."""
    if sys.stderr.isatty():
        print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)
    else:
        print(text, end=end, file=sys.stderr, flush=True)


def _plan(arguments: argparse.Namespace) -> Plan:
    plan = QUICK if arguments.quick else FULL
    if arguments.scale:
        plan = plan.scaled(arguments.scale)
    if arguments.only:
        plan = replace(plan, shapes=tuple(shape for shape in SHAPES if shape in arguments.only))
    return replace(plan, rounds=arguments.rounds or plan.rounds)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench",
        description="Measures TaskFlow on this machine: medians and spread of several rounds, beside what COPY and gRPC"
        " alone do in the same run. About 8 minutes; --quick under one.",
        epilog="Quote figures of a machine with nothing else to do; the table says when others were at work.",
    )
    parser.add_argument("--quick", action="store_true", help="small and rough")
    parser.add_argument("--only", action="append", choices=SHAPES, metavar="SHAPE", help=f"one of {', '.join(SHAPES)}")
    parser.add_argument("--rounds", type=int, default=0, help="how often each shape is measured")
    parser.add_argument("--scale", type=float, default=0.0, help="factor for all sizes")
    parser.add_argument(
        "--quiet", type=int, default=0, metavar="N",
        help="wait for a quiet machine; repeat a disturbed shape up to N times",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures of all runs")
    parser.add_argument("--profile", type=Path, metavar="DIR", help="instead, where the time goes (needs py-spy)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

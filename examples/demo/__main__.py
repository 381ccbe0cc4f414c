"""`make demo`: the whole system on this machine, at work for the order shop of `examples/shop`, and the proof of it.

Starts an embedded Postgres, scheduler, coordinator, queue service and a worker on free ports; submits the shop's jobs
through the SDK; waits for all; then counts what really happened (mails at the receiver, pictures on disk, rows in the
shop's database, rows in Postgres) and ends with status 1 if anything does not add up. Leaves nothing running, no files.

Here: arguments, signals, errors. Nothing heavy is imported before the signals have their handlers.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class Stop:
    """Set by SIGINT and SIGTERM; looked at wherever the demo waits."""

    asked = False

    def __call__(self) -> bool:
        return self.asked


def main() -> int:
    """0: everything adds up; 1: something does not; 2: it could not start; 130: interrupted."""
    arguments = _arguments()
    with _signals() as stop:
        from taskflow_server.cluster.binaries import NoPostgresError
        from taskflow_server.cluster.embedded_postgres import PostgresError
        from taskflow_server.cluster.home import HomeError
        from taskflow_server.cluster.others import RunsAlreadyError
        from taskflow_server.cluster.prepare import DatabaseError
        from taskflow_server.cluster.process import Interrupted
        from taskflow_server.cluster.service import ServiceError

        try:
            from examples.demo.run import demo

            return demo(arguments.orders, arguments.pictures, arguments.rows, stop)
        except Interrupted:
            print("\ninterrupted; everything is stopped", file=sys.stderr)
            return 130
        except ImportError as error:
            print(f"demo: {error}; run it by `make demo`, or: pip install pillow", file=sys.stderr)
        except (
            NoPostgresError,
            PostgresError,
            HomeError,
            DatabaseError,
            RunsAlreadyError,
            ServiceError,
            OSError,
        ) as error:
            print(f"demo: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="demo", description="TaskFlow at work for an order shop, on this machine.")
    parser.add_argument("--orders", type=_positive, default=200, help="mails to send (%(default)s)")
    parser.add_argument("--pictures", type=_positive, default=40, help="thumbnails to make (%(default)s)")
    parser.add_argument("--rows", type=_positive, default=50_000, help="rows of the CSV to import (%(default)s)")
    return parser.parse_args()


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


@contextmanager
def _signals() -> Iterator[Stop]:
    stop = Stop()

    def ask(number: int, frame: object) -> None:
        stop.asked = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())

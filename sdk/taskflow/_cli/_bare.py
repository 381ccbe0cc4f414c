"""The `taskflow` command where typer is not installed: `worker` alone, and a word on how to get the rest."""

from __future__ import annotations

import argparse

from taskflow._cli import _exits
from taskflow._cli._serve import serve


def main(words: list[str]) -> int:
    """Runs `worker …`; everything else says what to install. Returns the exit code."""
    if not words or words[0] != "worker":
        line = "only `taskflow worker` is installed; for the other commands, in a clone: pip install './sdk[cli]'"
        return _exits.fail(_exits.OK if words in (["--help"], ["-h"]) else _exits.USAGE, line)
    about = "Run the tasks of an app until SIGTERM or Ctrl-C."
    parser = argparse.ArgumentParser(prog="taskflow worker", description=about)
    parser.add_argument("app", metavar="module:app")
    parser.add_argument("--concurrency", type=int, default=20, metavar="N")
    parser.add_argument("--queues", default="", metavar="A,B")
    parser.add_argument("--grace", type=float, default=30.0, metavar="SECONDS")
    parser.add_argument("--strict", action="store_true")
    parser.add_argument("--name")
    parser.add_argument("-a", "--address", metavar="HOST:PORT")
    given = parser.parse_args(words[1:])
    serve(given.app, given.address, given.concurrency, given.queues, given.grace, given.name, given.strict)
    return _exits.OK

"""The `taskflow` command.

`worker` needs nothing but the SDK; the client's commands need its extra `cli`; `up`, `db` and more come from
taskflow-server. Exit codes: 0 ok, 1 the job failed or is not there, 2 wrong use, 3 unavailable, 4 too late, 130 Ctrl-C.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command and ends the process with its exit code. TASKFLOW_DEBUG=1 shows where an error came from."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _run(words)
    except KeyboardInterrupt:  # while modules are loaded, or something is closed
        print("taskflow: interrupted", file=sys.stderr)
        code = 130
    if arguments is None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is left is Python's end, which would show a trace
        if code == 130:
            # A call that was interrupted may still be at work in gRPC's threads, which Python's end would wait for.
            sys.stderr.flush()
            os._exit(code)
    sys.exit(code)


def _run(words: list[str]) -> int:
    from taskflow._cli import _exits

    try:
        answer = _answer(words)
        sys.stdout.flush()
    except BrokenPipeError:
        return _unread()
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # typer makes it an exit of its own
            return _unread()
        raise
    except BaseException as error:
        if os.environ.get("TASKFLOW_DEBUG"):
            raise
        return _exits.fail(*_exits.explain(error))
    return _exits.fail(answer, "interrupted" if answer == _exits.INTERRUPTED else "")


def _answer(words: list[str]) -> int:
    """The exit code of a command that raised nothing."""
    try:
        import typer  # noqa: F401
    except ImportError:
        from taskflow._cli import _bare

        return _bare.main(words)
    from taskflow._cli._app import command

    answer = command()(words, prog_name="taskflow", standalone_mode=False)
    return answer if isinstance(answer, int) else 0  # an int: typer's own exits, as of --help


def _unread() -> int:
    """The reader of our output closed it, as `head` does. Nothing more is printed; nor may Python try to at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 0

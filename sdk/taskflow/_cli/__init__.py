"""The `taskflow` command.

`worker` needs nothing but the SDK; the client's commands need its extra `cli`; `up`, `db` and more come from
taskflow-server. Exit codes: 0 ok, 1 the job failed or is not there, 2 wrong use, 3 unavailable, 4 too late, 130 Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command and ends the process with its exit code. TASKFLOW_DEBUG=1 shows where an error came from."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        import typer  # noqa: F401
    except ImportError:
        from taskflow._cli import _bare

        sys.exit(_bare.main(words))
    sys.exit(_run(words))


def _run(words: list[str]) -> int:
    from taskflow._cli import _exits

    try:
        from taskflow._cli._app import command

        answer = command()(words, prog_name="taskflow", standalone_mode=False)
        code = answer if isinstance(answer, int) else _exits.OK  # an int: typer's own exits, as of --help
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read us has gone, as `head` does. Nothing more can be said; Python must not try at its end either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _exits.OK
    except SystemExit:
        raise
    except BaseException as error:
        if os.environ.get("TASKFLOW_DEBUG"):
            raise
        return _exits.fail(*_exits.explain(error))
    return _exits.fail(code, "interrupted" if code == _exits.INTERRUPTED else "")

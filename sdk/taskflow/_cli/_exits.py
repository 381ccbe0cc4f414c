"""Exit codes, and the one line that every error becomes. Needs no typer."""

from __future__ import annotations

import sys

from taskflow._cli._input import BadInput

OK, FAILED, USAGE, UNAVAILABLE, DEADLINE, INTERRUPTED = 0, 1, 2, 3, 4, 130


class Ended(Exception):
    """The command did its work, and the answer is a failure: exit with `code`, after `line` on stderr, if any."""

    def __init__(self, code: int, line: str = "") -> None:
        super().__init__(line)
        self.code = code


def explain(error: BaseException) -> tuple[int, str]:
    """Exit code and the line for a person. An unexpected error is exit code 1 with its name."""
    if isinstance(error, Ended):
        return error.code, str(error)
    if isinstance(error, BadInput):
        return USAGE, str(error)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted"
    if hasattr(error, "format_message"):  # typer's own: a wrong option, a missing argument
        return _usage(error)
    from taskflow import errors

    codes: list[tuple[type[BaseException], int]] = [
        (errors.InvalidArgument, USAGE),
        (errors.Unavailable, UNAVAILABLE),
        (errors.DeadlineExceeded, DEADLINE),
        (errors.TaskFlowError, FAILED),
    ]
    for kind, code in codes:
        if isinstance(error, kind):
            return code, one_line(str(error))
    return FAILED, f"{type(error).__name__}: {one_line(str(error))} (TASKFLOW_DEBUG=1 shows where)"


def _usage(error: BaseException) -> tuple[int, str]:
    """A wrong call: what was wrong, and whose --help says what is right."""
    if type(error).__name__ == "NoArgsIsHelpError":
        return USAGE, str(error)  # the whole help
    # «Value error» is a word of the library that checks the options.
    message = one_line(error.format_message()).replace(": Value error, ", ": ")  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "taskflow"
    message = message[0].lower() + message[1:].rstrip(".")
    return USAGE, f"{message}; see `{path} --help`"


def one_line(text: str) -> str:
    return " ".join(text.split())


def fail(code: int, line: str) -> int:
    """Writes the line, if any, and returns the code."""
    if line:
        print(line if line.startswith("Usage: ") else f"taskflow: {line}", file=sys.stderr)
    return code

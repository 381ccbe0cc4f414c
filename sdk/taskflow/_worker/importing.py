"""Imports of an application's module by TaskFlow itself: by `taskflow.apps.load`, and by a handler process.

The module's own code must not make jobs a second time then, nor run a worker inside of the import.
"""

from __future__ import annotations

from taskflow.errors import FailedPrecondition

by_load = False
by_handler_process = False


class StopImport(BaseException):
    """Ends the import of a main module at its `run`: what follows is the parent's business."""


def forbid(verb: str) -> None:
    """A handler process imports the application's module; that must not make jobs a second time."""
    if by_handler_process:
        raise FailedPrecondition(
            f"{verb} was called while a handler process imports this module; put the call under"
            " `if __name__ == '__main__':`",
            reason="IN_HANDLER_PROCESS",
        )


def stop_at_run() -> None:
    """For `run`: it would run inside of the import, and another beside it afterwards."""
    if by_handler_process:
        raise StopImport
    if by_load:
        raise FailedPrecondition(
            "run was called while another program imports the module to run its app; put the call under"
            " `if __name__ == '__main__':`",
            reason="IN_IMPORT",
        )

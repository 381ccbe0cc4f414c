"""Sub-interpreters: several Pythons in one process, as mod_wsgi and uWSGI have them by default.

gRPC loads in one interpreter of a process only, its threads cannot be started in an isolated one, and one that was used
ends its process with an abort.
"""

from __future__ import annotations

from importlib import import_module

from taskflow.errors import FailedPrecondition

_MODULES = ("_interpreters", "_xxsubinterpreters")  # since 3.13; before


def refuse() -> None:
    """FailedPrecondition, SUB_INTERPRETER, in any interpreter of this process but the main one."""
    for name in _MODULES:
        try:
            interpreters = import_module(name)
        except ImportError:
            continue
        if interpreters.get_current() != interpreters.get_main():
            raise FailedPrecondition(
                "this is a sub-interpreter of Python, in which gRPC does not work; use TaskFlow in the main one"
                " (mod_wsgi: WSGIApplicationGroup %{GLOBAL}; uWSGI: single-interpreter), or in another process",
                reason="SUB_INTERPRETER",
            )
        return

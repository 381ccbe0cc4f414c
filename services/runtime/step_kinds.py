"""Kinds of steps of the user's own, which TASKFLOW_STEP_KINDS names."""

from __future__ import annotations

import importlib
import os
import sys

from taskflow_server.runtime.settings import refuse

VARIABLE = "TASKFLOW_STEP_KINDS"


def load(names: str) -> None:
    """Registers each `module:Class` of a comma-separated list. Exits with one line and status 2 for a bad one."""
    for name in filter(None, (part.strip() for part in names.split(","))):
        try:
            _register(name)
        except ValueError as error:
            refuse(f"{VARIABLE}: {name}: {error}")


def _register(name: str) -> None:
    # The modules that read documents are imported only where they are needed.
    from taskflow_server.core.workflow import Kind, register

    module, _, member = name.partition(":")
    if not member:
        raise ValueError("is not module:Class, as in shop.kinds:Ticket")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), member, None)
    except Exception as error:  # whatever the user's module raises
        raise ValueError(f"cannot be imported ({type(error).__name__}: {error})") from None
    if not (isinstance(found, type) and issubclass(found, Kind)):
        raise ValueError(f"{member!r} of {module} is not a Kind of steps")
    missing = [part for part in ("name", "meta") if not hasattr(found, part)]
    if missing:
        raise ValueError(f"has no {missing[0]}")
    try:
        register(found())
    except TypeError as error:  # no plan, or an __init__ with arguments
        raise ValueError(str(error)) from None

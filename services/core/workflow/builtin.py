"""Definitions that are Aidbox's own. TaskFlow has one of them, the wait; nobody may make a task by the name of another,
which no executor would ever poll for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from taskflow_server.core.workflow import values

WAIT = "awf.task/wait"
_WAIT = re.compile(r"(?:awf|taskflow)\.task/wait")
_OTHERS = re.compile(r"(?:awf|aidbox\.task)(?:\.[^/]*)?/.*", re.DOTALL)


def is_wait(definition: str) -> bool:
    return _WAIT.fullmatch(definition) is not None


def why_not(definition: str) -> str:
    """Why there can be no task or workflow of this definition; empty where there can be."""
    if is_wait(definition) or not _OTHERS.fullmatch(definition):
        return ""
    return f"{definition[:80]!r} is a built-in definition of Aidbox; TaskFlow has only {WAIT} of those"


def wait_of(params: Any) -> datetime | float:
    """The instant until which, or the seconds for which, a wait of these params waits. BadValue names what is wrong."""
    given: Mapping[str, Any] = params if isinstance(params, dict) else {}
    return values.instant(given["until"]) if "until" in given else values.duration(given.get("duration"))

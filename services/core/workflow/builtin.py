"""The built-in definitions of Aidbox. TaskFlow has one of them, the wait. The other names are refused, because no
executor would ever poll for such tasks."""

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
    """The reason for which this definition is refused, or empty."""
    if is_wait(definition) or not _OTHERS.fullmatch(definition):
        return ""
    return f"{definition[:80]!r} is a built-in definition of Aidbox; TaskFlow has only {WAIT} of those"


def wait_of(params: Any) -> datetime | float:
    """The end of a wait with these params as an instant, or its length in seconds. BadValue names the fault."""
    given: Mapping[str, Any] = params if isinstance(params, dict) else {}
    return values.instant(given["until"]) if "until" in given else values.duration(given.get("duration"))

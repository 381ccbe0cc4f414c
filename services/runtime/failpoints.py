"""Named points at which a test may make a process die, wait, skip or fail. Off unless TASKFLOW_FAILPOINTS is set.

`TASKFLOW_FAILPOINTS=coordinator.before_commit=kill@3,scheduler.offer=skip`: the action at the third pass
(every pass without `@`). Actions: `kill` (SIGKILL to ourselves), `skip` (the caller leaves the step out),
`delay:SECONDS`, `stop` (SIGSTOP to ourselves), `raise` (a RuntimeError, as a fault in our own code would be).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

_points: dict[str, tuple[str, int]] = {}
_passes: dict[str, int] = {}
for _item in filter(None, os.environ.get("TASKFLOW_FAILPOINTS", "").split(",")):
    _name, _, _action = _item.partition("=")
    _what, _, _nth = _action.partition("@")
    if _nth and not (_nth.isascii() and _nth.isdigit()):
        print(f"TASKFLOW_FAILPOINTS: {_item[:100]!r}: what follows the @ must be a number", file=sys.stderr)
        sys.exit(2)
    _points[_name.strip()] = (_what, int(_nth or 0))


async def reach(name: str) -> bool:
    """True when the next step must be skipped."""
    if not _points or name not in _points:
        return False
    action, nth = _points[name]
    _passes[name] = _passes.get(name, 0) + 1
    if nth and _passes[name] != nth:
        return False
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif action.startswith("delay:"):
        await asyncio.sleep(float(action[6:]))
    elif action == "raise":
        raise RuntimeError(f"failpoint {name}")
    return action == "skip"

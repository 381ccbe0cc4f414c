"""Who asks, for the time line `taskflow.events`."""

from __future__ import annotations

from typing import Any

MAX_ACTOR = 200  # characters; what is longer is cut


def actor_of(said: str, context: Any) -> str:
    """The caller's own name, or its address without the port. Not verified: there is no
    authentication."""
    text = said.replace("\0", "").strip()
    if not text:
        text = context.peer().removeprefix("ipv4:").removeprefix("ipv6:").rpartition(":")[0] or "unknown"
    return text[:MAX_ACTOR]

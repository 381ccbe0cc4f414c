"""Who cancels and retries, as the services note it in the time line of a job."""

from __future__ import annotations

import getpass
import os
import socket


def actor() -> str:
    """TASKFLOW_ACTOR, else the user of this process at its host."""
    found = os.environ.get("TASKFLOW_ACTOR", "").strip()
    if found:
        return found
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in a container
        user = str(os.getuid()) if hasattr(os, "getuid") else "unknown"
    return f"{user}@{socket.gethostname()}"

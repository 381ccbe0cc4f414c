"""Variables that gRPC reads once, when it is imported."""

from __future__ import annotations

import os
import sys

came_first = False
"""Whether gRPC was imported before this package, with its own way to live on in a fork."""


def prepare() -> None:
    """Before any module of the SDK can import gRPC."""
    global came_first
    came_first = "grpc" in sys.modules and "GRPC_ENABLE_FORK_SUPPORT" not in os.environ
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # else users' terminals are told of every connection that ends
    # gRPC's way to live on in a fork crashes every second fork of a client. Our clients refuse to be used in one.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

"""Namespaces as the cluster answers them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Quotas:
    """Limits of a namespace. None: unlimited."""

    tasks: int | None = None
    """Named tasks. Exact."""
    waiting_jobs: int | None = None
    """Jobs in its queues that are ready, scheduled or waiting for their next try. An estimate, within one batch of
    jobs."""
    payload_bytes: int | None = None
    """Bytes of a job's payload, as JSON if it is not bytes."""


@dataclass(frozen=True, slots=True)
class NamespaceInfo:
    """A namespace."""

    name: str
    app_url: str
    """The base to which relative URLs of its workflows' calls are appended; empty: none."""
    create_time: datetime
    quotas: Quotas = Quotas()

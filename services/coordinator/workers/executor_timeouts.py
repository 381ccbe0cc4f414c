"""The timeouts of an executor's attempts: of the job's options, else of its request, else of the settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from taskflow.v1 import worker_pb2 as pb
from taskflow_server.coordinator.settings import CoordinatorSettings
from taskflow_server.coordinator.shared import Shared
from taskflow_server.core.dispatch.records import Entry, ExecutorLease
from taskflow_server.rpc.values import MAX_SECONDS, clean

MAX_NAME = 200  # characters
LEAST = 0.001  # seconds


def requested(shared: Shared, executor: pb.Executor, exec_ids: Iterable[bytes]) -> None:
    """Records attempts that the queue service gave to an executor."""
    make = _lease(shared.settings, executor)
    shared.executor_leases.request(name_of(executor), exec_ids, make, shared.clock.monotonic())


def name_of(executor: pb.Executor) -> str:
    return clean(executor.name, MAX_NAME) or "executor"


def _lease(settings: CoordinatorSettings, executor: pb.Executor) -> Callable[[Entry], ExecutorLease]:
    """The timeouts of a job: its own, else the executor's, else those of the settings."""
    requested = executor.requested_timeout_ms / 1000 or settings.requested_timeout
    silence = executor.in_progress_timeout_ms / 1000 or settings.in_progress_timeout
    return lambda entry: lease_of(entry, requested, silence)


def lease_of(entry: Entry, requested: float, silence: float) -> ExecutorLease:
    """The lease of an attempt; the job's options override both timeouts."""
    options = entry.spec.options
    if options.HasField("requested_timeout"):
        requested = options.requested_timeout.ToMicroseconds() / 1e6
    if options.HasField("in_progress_timeout"):
        silence = options.in_progress_timeout.ToMicroseconds() / 1e6
    if options.HasField("heartbeat_timeout"):
        silence = min(silence, options.heartbeat_timeout.ToMicroseconds() / 1e6)
    timeout = options.timeout.ToMicroseconds() / 1e6 if options.HasField("timeout") else math.inf
    return ExecutorLease(_within(requested), _within(silence), timeout)


def _within(seconds: float) -> float:
    return min(max(seconds, LEAST), MAX_SECONDS)


def restored(shared: Shared, entry: Entry, row: dict[str, Any]) -> bool:
    """Restores the started attempt of an executor from its row of `leases`; False for a row of a worker."""
    if row["in_progress_ms"] is None or not row["started"]:
        return False
    now = shared.clock.monotonic()
    began = now - max(0, shared.clock.now_us() - row["started_us"]) / 1e6
    lease = lease_of(entry, shared.settings.requested_timeout, row["in_progress_ms"] / 1000)
    shared.executor_leases.restore(entry, row["worker"] or "executor", lease, began, now)
    return True

"""`taskflow queue …` and `taskflow workers …`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from taskflow._cli import _output
from taskflow._cli._common import Address, Globals, Json, client, settle

if TYPE_CHECKING:
    from taskflow import TaskFlow
    from taskflow._values.jobs import QueueInfo

queues = typer.Typer(help="Queues: list, show, pause, drain, resume.", no_args_is_help=True, rich_markup_mode=None)
workers = typer.Typer(help="Live workers.", no_args_is_help=True, rich_markup_mode=None)


@queues.callback()
def _queues() -> None:
    pass


@workers.callback()
def _workers() -> None:
    pass


@queues.command("list", epilog="\b\nExample:\n  taskflow queue list --json | jq 'select(.ready > 1000) | .name'")
def list_queues(context: typer.Context, address: Address = None, as_json: Json = False) -> None:
    """List queues with their waiting and running jobs, by name."""
    options = settle(context, address, as_json)
    with client(options.address) as tf:
        found = list(tf.queues.list(page_size=1000))
    if options.json:
        return _output.documents(asdict(queue) for queue in found)
    _output.table(
        ("queue", "ready", "scheduled", "running", "requested", "oldest", "workers", "memory"),
        (
            (_full_name(q), _ready(q), q.scheduled, q.running, q.requested, _oldest(q), q.workers,
             _output.size(q.memory_bytes))
            for q in found
        ),
        empty="no queues yet; the first job makes one",
    )  # fmt: skip


@queues.command("show")
def show_queue(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The queue.")],
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Show one queue."""
    options = settle(context, address, as_json)
    with client(options.address) as tf:
        queue = tf.queues.get(name)
    if options.json:
        return _output.document(asdict(queue))
    _output.fields((
        ("queue", _full_name(queue)),
        ("ready", _ready(queue)),
        ("scheduled", queue.scheduled),
        ("running", queue.running),
        ("requested", queue.requested),
        ("oldest", _oldest(queue)),
        ("workers", queue.workers),
        ("warning", "; ".join(map(str, queue.warnings))),
        ("memory", _output.size(queue.memory_bytes)),
        ("paused", "yes" if queue.paused else "no"),
        ("draining", "yes" if queue.draining else "no"),
        ("last hour", ", ".join(f"{n:,} {outcome}" for outcome, n in queue.finished.items()) or "-"),
        ("created", queue.create_time),
    ))  # fmt: skip


@queues.command("pause", epilog="\b\nExample:\n  taskflow queue pause emails")
def pause_queue(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The queue.")],
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Stop dispatching from a queue. Running jobs continue."""
    _switch(settle(context, address, as_json), name, lambda tf: tf.queues.pause)


@queues.command("drain", epilog="\b\nExample:\n  taskflow queue drain emails")
def drain_queue(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The queue.")],
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Accept no new jobs in a queue. Its waiting and running jobs continue until it is empty."""
    _switch(settle(context, address, as_json), name, lambda tf: tf.queues.drain)


@queues.command("resume")
def resume_queue(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The queue.")],
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Dispatch from a paused queue again; accept new jobs in a draining one."""
    _switch(settle(context, address, as_json), name, lambda tf: tf.queues.resume)


def _switch(options: Globals, name: str, verb: Callable[[TaskFlow], Callable[[str], QueueInfo]]) -> None:
    with client(options.address) as tf:
        queue = verb(tf)(name)
    if options.json:
        return _output.document(asdict(queue))
    states = ["is paused"] if queue.paused else []
    if queue.draining:
        left = queue.ready + queue.scheduled + queue.running + queue.requested
        states.append(f"drains: {_about(queue, left)} job{'' if left == 1 else 's'} left")
    print(_full_name(queue), " and ".join(states) or "is dispatched")


@workers.command("list")
def list_workers(context: typer.Context, address: Address = None, as_json: Json = False) -> None:
    """List the live workers with their queues and tasks."""
    options = settle(context, address, as_json)
    with client(options.address) as tf:
        found = list(tf.workers.list(page_size=1000))
    if options.json:
        return _output.documents(asdict(worker) for worker in found)
    _output.table(
        (
            "worker", "host", "pid", "running", "requested", "overdue", "concurrency", "queues", "tasks", "since",
            "state",
        ),
        (
            (w.name, w.host, w.pid, w.running, w.requested, w.overdue, w.concurrency, w.queues, w.tasks, w.start_time,
             "draining" if w.draining else "ready")
            for w in found
        ),
        empty="no workers; start one with: taskflow worker module:app",
    )  # fmt: skip


def _full_name(queue: QueueInfo) -> str:
    known = queue.namespace in ("", "default") or queue.name.startswith(queue.namespace + "/")
    return queue.name if known else f"{queue.namespace}/{queue.name}"


def _ready(queue: QueueInfo) -> str:
    return _about(queue, queue.ready)


def _about(queue: QueueInfo, jobs: int) -> str:
    """A number of jobs that includes the ready ones: ~1,234,567 is an estimate, 10,000+ the least."""
    return f"{'~' if queue.ready_estimated else ''}{jobs:,}{'+' if queue.ready_capped else ''}"


def _oldest(queue: QueueInfo) -> str:
    return _output.duration(queue.oldest) if queue.ready else "-"

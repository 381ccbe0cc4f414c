"""`taskflow queue …` and `taskflow workers …`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from taskflow._cli import _output
from taskflow._cli._common import Address, Globals, Json, client, settle

if TYPE_CHECKING:
    from taskflow._resources import QueueInfo

queues = typer.Typer(help="Queues: what waits, what runs.", no_args_is_help=True, rich_markup_mode=None)
workers = typer.Typer(help="Workers that are alive.", no_args_is_help=True, rich_markup_mode=None)


@queues.callback()
def _queues() -> None:
    pass


@workers.callback()
def _workers() -> None:
    pass


@queues.command("list", epilog="\b\nExample:\n  taskflow queue list --json | jq 'select(.ready > 1000) | .name'")
def list_queues(context: typer.Context, address: Address = None, as_json: Json = False) -> None:
    """List queues with what waits and runs in them, by name."""
    options = settle(context, address, as_json)
    with client(options.address) as tf:
        found = list(tf.queues.list(page_size=1000))
    if options.json:
        return _output.documents(asdict(queue) for queue in found)
    _output.table(
        ("queue", "ready", "scheduled", "running", "oldest", "workers", "memory"),
        (
            (_full_name(q), _ready(q), q.scheduled, q.running, _oldest(q), q.workers, _output.size(q.memory_bytes))
            for q in found
        ),
        empty="no queues yet; the first job makes one",
    )


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
        ("oldest", _oldest(queue)),
        ("workers", queue.workers),
        ("memory", _output.size(queue.memory_bytes)),
        ("paused", "yes" if queue.paused else "no"),
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
    """Hand nothing more of a queue out; what runs goes on."""
    _switch(settle(context, address, as_json), name, paused=True)


@queues.command("resume")
def resume_queue(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The queue.")],
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Hand a paused queue out again."""
    _switch(settle(context, address, as_json), name, paused=False)


def _switch(options: Globals, name: str, *, paused: bool) -> None:
    with client(options.address) as tf:
        queue = tf.queues.pause(name) if paused else tf.queues.resume(name)
    if options.json:
        return _output.document(asdict(queue))
    print(f"{_full_name(queue)} is paused" if queue.paused else f"{_full_name(queue)} is handed out")


@workers.command("list")
def list_workers(context: typer.Context, address: Address = None, as_json: Json = False) -> None:
    """List the live workers, and what each serves."""
    options = settle(context, address, as_json)
    with client(options.address) as tf:
        found = list(tf.workers.list(page_size=1000))
    if options.json:
        return _output.documents(asdict(worker) for worker in found)
    _output.table(
        ("worker", "host", "pid", "running", "concurrency", "queues", "tasks", "since", "state"),
        (
            (w.name, w.host, w.pid, w.running, w.concurrency, w.queues, w.tasks, w.start_time,
             "draining" if w.draining else "ready")
            for w in found
        ),
        empty="no workers; start one with: taskflow worker module:app",
    )  # fmt: skip


def _full_name(queue: QueueInfo) -> str:
    known = queue.namespace in ("", "default") or queue.name.startswith(queue.namespace + "/")
    return queue.name if known else f"{queue.namespace}/{queue.name}"


def _ready(queue: QueueInfo) -> str:
    return f"{queue.ready}{'+' if queue.ready_capped else ''}"


def _oldest(queue: QueueInfo) -> str:
    return _output.duration(queue.oldest) if queue.ready else "-"

"""Running an app: what `taskflow worker` does, with typer or without."""

from __future__ import annotations

import os


def serve(
    app: str, address: str | None, concurrency: int, queues: str, grace: float, name: str | None, strict: bool
) -> None:
    """Loads the app and runs it; returns once it has drained.

    `address`, else TASKFLOW_ADDRESS, goes before the address that the app's own code names.
    """
    from taskflow import AsyncTaskFlow, apps

    wanted = [each.strip() for each in queues.split(",") if each.strip()]
    loaded = apps.load(app, scheduler=address or os.environ.get("TASKFLOW_ADDRESS"))
    if isinstance(loaded, AsyncTaskFlow):
        import asyncio  # takes as long as all of --help

        asyncio.run(loaded.run(concurrency=concurrency, queues=wanted, grace=grace, name=name, strict=strict))
    else:
        loaded.run(concurrency=concurrency, queues=wanted, grace=grace, name=name, strict=strict)

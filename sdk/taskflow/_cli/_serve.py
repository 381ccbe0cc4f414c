"""Running an app: what `taskflow worker` does, with typer or without."""

from __future__ import annotations

import asyncio
import sys


def serve(
    app: str, address: str | None, concurrency: int, queues: str, grace: float, name: str | None
) -> None:
    """Loads the app and runs it; returns once it has drained."""
    from taskflow import AsyncTaskFlow, apps

    wanted = [each.strip() for each in queues.split(",") if each.strip()]
    loaded = apps.load(app, scheduler=address)
    print(f"running {app} against {apps.address_of(loaded)}; Ctrl-C drains and stops it", file=sys.stderr)
    if isinstance(loaded, AsyncTaskFlow):
        asyncio.run(loaded.run(concurrency=concurrency, queues=wanted, grace=grace, name=name))
    else:
        loaded.run(concurrency=concurrency, queues=wanted, grace=grace, name=name)

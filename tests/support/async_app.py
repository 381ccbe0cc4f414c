"""An app of AsyncTaskFlow, as a worker finds it."""

import asyncio
from pathlib import Path

from taskflow import AsyncTaskFlow

app = AsyncTaskFlow("localhost:1")  # the worker's own settings go before it


@app.task(queue="async_naps")
async def async_nap(seconds: float, started: str) -> str:
    await asyncio.to_thread(Path(started).touch)
    await asyncio.sleep(seconds)
    return "slept"

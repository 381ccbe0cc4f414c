"""An app with one task, for the worker of a `taskflow up` that is measured."""

from taskflow import TaskFlow

app = TaskFlow()


@app.task(queue="up")
async def nothing() -> None:
    """Done at once."""

"""Parts of all client commands: the options --address and --json, and the client."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from taskflow import TaskFlow

PATIENCE = 3.0  # seconds for a call: somebody waits, and a wrong address should show soon

Address = Annotated[
    str | None,
    typer.Option("--address", "-a", metavar="HOST:PORT", show_default=False,
                 help="The scheduler. [env: TASKFLOW_ADDRESS; default: localhost:9003]"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON (lists: one object per line).")]


@dataclass
class Globals:
    """Options given before the command."""

    address: str | None = None
    json: bool = False


def settle(context: typer.Context, address: str | None, as_json: bool) -> Globals:
    """--address and --json of a command over those given before it, over the environment."""
    outer = context.find_object(Globals) or Globals()
    return Globals(address or outer.address, as_json or outer.json)


@contextmanager
def client(address: str | None) -> Iterator[TaskFlow]:
    """A client of the scheduler at `address` (None: as the environment says). Not before is grpc imported."""
    from taskflow import TaskFlow

    tf = TaskFlow(address, timeout=None if "TASKFLOW_TIMEOUT" in os.environ else PATIENCE)
    try:
        yield tf
    finally:
        tf.close()

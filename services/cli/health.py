"""`taskflow-server health ADDRESS`: what a container's health check runs."""

import sys
from typing import Annotated

import typer

from taskflow._policy import addresses

FAILED, USAGE = 1, 2


def health(
    address: Annotated[
        str, typer.Argument(help="host:port of any service of TaskFlow, or the URL of a gateway's health.")
    ],
    wait_timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for an answer.")] = 3.0,
) -> None:
    """Ask a service whether it is ready: exit code 0 if it is, 1 if it is not or does not answer."""
    try:
        addresses.parse(address.removeprefix("http://").partition("/")[0])
    except ValueError:
        print(
            f"taskflow-server health: {address!r} is neither host:port, as in 127.0.0.1:9003, nor"
            " http://host:port/path",
            file=sys.stderr,
        )
        raise typer.Exit(USAGE) from None
    from taskflow_server.cluster.health import is_serving  # grpc takes its time to import

    if not is_serving(address, wait_timeout):
        print(f"taskflow-server health: {address} is not serving", file=sys.stderr)
        raise typer.Exit(FAILED)
    print("serving")

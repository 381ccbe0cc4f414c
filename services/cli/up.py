"""`taskflow up`."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def up(
    app: Annotated[
        str | None,
        typer.Argument(
            help="Your app as module:attribute, for the worker; TASKFLOW_BUILTINS=http adds built-in handlers."
        ),
    ] = None,
    database_url: Annotated[
        str, typer.Option(envvar="TASKFLOW_DATABASE_URL", help="Your own Postgres, instead of the embedded one.")
    ] = "",
    data_dir: Annotated[Path, typer.Option(help="Folder of logs and data.")] = Path(".taskflow"),
    port_base: Annotated[
        int,
        typer.Option(
            min=2000,
            max=64000,
            help="The first of ten ports: coordinator, queue, scheduler, worker, gateway, then their metrics. "
            "Clusters whose bases are ten apart share none. The default has 9001 to 9004, 8080, 9101 to 9104 and 9180.",
        ),
    ] = 9001,
    free_ports: Annotated[
        bool, typer.Option("--free-ports", help="Take free ports instead, and serve no metrics.")
    ] = False,
    clock: Annotated[
        Literal["system", "manual"],
        typer.Option(help="`manual`: ClusterService.AdvanceClock moves the cluster's clock. For tests."),
    ] = "system",
) -> None:
    """Start the whole cluster on this machine, until Ctrl-C; the data stay.

    Examples: taskflow up; taskflow up shop.tasks:app; taskflow up --database-url postgresql://me@db/taskflow
    """
    from taskflow_server.cluster.up import Options, run

    raise typer.Exit(
        run(
            Options(
                data_dir=data_dir,
                database_url=database_url,
                port_base=port_base,
                free_ports=free_ports,
                app=app,
                clock=clock,
            )
        )
    )

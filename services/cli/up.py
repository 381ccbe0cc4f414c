"""`taskflow up`."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def up(
    app: Annotated[
        str | None,
        typer.Argument(help="Your app as module:attribute, for the worker; without it, the built-in handlers alone."),
    ] = None,
    database_url: Annotated[
        str, typer.Option(envvar="TASKFLOW_DATABASE_URL", help="Your own Postgres, instead of the embedded one.")
    ] = "",
    data_dir: Annotated[Path, typer.Option(help="Where logs and data are kept.")] = Path(".taskflow"),
    port_base: Annotated[
        int,
        typer.Option(
            min=2000,
            max=64000,
            help="Coordinator's port; queue, scheduler and worker have the next three, the gateway 921 less.",
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
    from services.cluster.up import Options, run

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

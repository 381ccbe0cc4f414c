"""`taskflow-server`: the server's commands without the SDK's script."""

import typer

from taskflow_server.cli import db, services, up
from taskflow_server.cli.health import health
from taskflow_server.cli.verify import verify


def main() -> None:
    """Run the command that the command line names."""
    app = typer.Typer(
        help="TaskFlow's server.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    app.command(name="up")(up)
    for service in (services.scheduler, services.coordinator, services.queue, services.gateway, services.worker):
        app.command()(service)
    app.command(name="health")(health)
    app.command(name="verify")(verify)
    app.add_typer(db, name="db")
    app()


if __name__ == "__main__":
    main()

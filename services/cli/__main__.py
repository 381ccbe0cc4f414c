"""`taskflow-server`: the server's commands without the SDK's script."""

import typer

from services.cli import db, up
from services.cli.health import health


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
    app.command(name="health")(health)
    app.add_typer(db, name="db")
    app()


if __name__ == "__main__":
    main()

"""Commands that other distributions bring: entry points of the group `taskflow.cli`.

An entry point names a `typer.Typer`, or a function that typer can turn into a command. It is loaded when its
command is called, so that `--help` stays quick. The server's own commands are known here by name: without the
server they say what to install.
"""

from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from taskflow._cli._input import BadInput

GROUP = "taskflow.cli"
_SERVER = {
    "up": "Start the whole cluster on this machine.",
    "db": "Prepare and inspect the database.",
    "verify": "Check the promises of TaskFlow over the history in a database.",
}  # fmt: skip


def found() -> dict[str, EntryPoint]:
    """The installed entry points by the name of their command."""
    return {point.name: point for point in entry_points(group=GROUP)}


def load(point: EntryPoint) -> Any:
    """The command behind an entry point. BadInput, if what is installed cannot be loaded."""
    try:
        thing = point.load()
    except Exception as error:
        by = f" (from {point.dist.name})" if point.dist else ""
        raise BadInput(f"taskflow {point.name}{by} cannot be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(thing, typer.Typer):
        wrapped = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        wrapped.command(name=point.name)(thing)
        thing = wrapped
    command = get_command(thing)
    command.name = point.name
    return command


def _absent(name: str) -> Any:
    """Stands for a command of the server where the server is not installed."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)

    @app.command(name=name, help=_SERVER[name] + " (needs taskflow-server)",
                 context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []})
    def absent() -> None:
        raise BadInput(f"taskflow {name} is part of the server; in a clone: pip install '.[embedded]'")

    return get_command(app)


def _listed(name: str, summary: str) -> Any:
    """A command as a list of commands shows it, without loading it."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name=name, help=summary)(lambda: None)
    return get_command(app)


class PluginGroup(TyperGroup):
    """A group whose commands are its own and, after them, the entry points'."""

    listing = False

    def list_commands(self, ctx: Any) -> list[str]:
        own = super().list_commands(ctx)
        return own + sorted({*found(), *_SERVER}.difference(own))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        self.listing = True
        try:
            super().format_commands(ctx, formatter)
        finally:
            self.listing = False

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if (own := super().get_command(ctx, cmd_name)) is not None:
            return own
        point = found().get(cmd_name)
        if self.listing and point is not None:
            return _listed(cmd_name, _SERVER.get(cmd_name) or f"From {point.dist.name if point.dist else point.value}.")
        if point is not None:
            return load(point)
        return _absent(cmd_name) if cmd_name in _SERVER else None

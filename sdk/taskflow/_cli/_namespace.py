"""`taskflow namespace …`: settings of namespaces."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from taskflow._cli import _output
from taskflow._cli._common import Address, Json, client, settle

app = typer.Typer(help="Namespaces and their settings.", no_args_is_help=True, rich_markup_mode=None)

@app.command("list")
def list_namespaces(context: typer.Context, address: Address = None, as_json: Json = False) -> None:
    """List namespaces with their settings."""
    options = settle(context, address, as_json)
    with client(options.address) as tf:
        found = tf.namespaces.list()
    if options.json:
        return _output.documents(asdict(space) for space in found)
    _output.table(("namespace", "app url", "created"), ((s.name, s.app_url, s.create_time) for s in found), empty="")


AppUrl = Annotated[str, typer.Option("--app-url", metavar="URL", help="Base of relative URLs in its calls.")]


@app.command("create")
def create_namespace(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Letters, digits, '.', '-' and '_'.")],
    app_url: AppUrl = "",
    address: Address = None,
) -> None:
    """Create a namespace."""
    options = settle(context, address, False)
    with client(options.address) as tf:
        tf.namespaces.create(name, app_url=app_url)


@app.command("update", epilog="""\b
Example:
  taskflow namespace update default --app-url https://shop.example.org/api""")
def update_namespace(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The namespace.")],
    app_url: AppUrl,
    address: Address = None,
) -> None:
    """Change a namespace's settings."""
    options = settle(context, address, False)
    with client(options.address) as tf:
        tf.namespaces.update(name, app_url=app_url)

"""`taskflow namespace …`: settings of namespaces."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from taskflow._cli import _input, _output
from taskflow._cli._common import Address, Json, client, settle

app = typer.Typer(help="Namespaces and their settings.", no_args_is_help=True, rich_markup_mode=None)

AppUrl = Annotated[str | None, typer.Option(
    "--app-url", metavar="URL", help="Base of relative URLs in its calls.", show_default=False)]
Tasks = Annotated[str | None, typer.Option(
    "--quota-tasks", metavar="N", help="Most named tasks; none: no limit.", show_default=False)]
WaitingJobs = Annotated[str | None, typer.Option(
    "--quota-waiting-jobs", metavar="N", help="Most jobs that wait in its queues; none: no limit.",
    show_default=False)]
PayloadBytes = Annotated[str | None, typer.Option(
    "--quota-payload-bytes", metavar="N", help="Most bytes of a payload; none: no limit.", show_default=False)]
Preset = Annotated[str | None, typer.Option(
    "--quota-preset", metavar="NAME", help="All quotas at once; app-tasks: 5 tasks.", show_default=False)]


@app.command("list")
def list_namespaces(context: typer.Context, address: Address = None, as_json: Json = False) -> None:
    """List namespaces with their settings."""
    options = settle(context, address, as_json)
    with client(options.address) as tf:
        found = tf.namespaces.list()
    if options.json:
        return _output.documents(asdict(space) for space in found)
    _output.table(
        ("namespace", "app url", "tasks", "waiting jobs", "payload bytes", "created"),
        (
            (s.name, s.app_url, s.quotas.tasks, s.quotas.waiting_jobs, s.quotas.payload_bytes, s.create_time)
            for s in found
        ),
        empty="",
    )


@app.command("create", epilog="\b\nExample:\n  taskflow namespace create shop --quota-preset app-tasks")
def create_namespace(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Letters, digits, '.', '-' and '_'.")],
    app_url: AppUrl = None,
    quota_preset: Preset = None,
    quota_tasks: Tasks = None,
    quota_waiting_jobs: WaitingJobs = None,
    quota_payload_bytes: PayloadBytes = None,
    address: Address = None,
) -> None:
    """Create a namespace. Without quotas it has no limits."""
    options = settle(context, address, False)
    given = _given(app_url, quota_preset, quota_tasks, quota_waiting_jobs, quota_payload_bytes)
    with client(options.address) as tf:
        tf.namespaces.create(name, **given)


@app.command("update", epilog="""\b
Examples:
  taskflow namespace update default --app-url https://shop.example.org/api
  taskflow namespace update shop --quota-tasks 20 --quota-waiting-jobs 10000
  taskflow namespace update shop --quota-tasks none        # no limit any more""")
def update_namespace(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The namespace.")],
    app_url: AppUrl = None,
    quota_preset: Preset = None,
    quota_tasks: Tasks = None,
    quota_waiting_jobs: WaitingJobs = None,
    quota_payload_bytes: PayloadBytes = None,
    address: Address = None,
) -> None:
    """Change the given settings of a namespace."""
    options = settle(context, address, False)
    given = _given(app_url, quota_preset, quota_tasks, quota_waiting_jobs, quota_payload_bytes)
    if not given:
        raise _input.BadInput(
            "nothing to change: give an option, like --quota-tasks; see `taskflow namespace update --help`"
        )
    with client(options.address) as tf:
        tf.namespaces.update(name, **given)


def _given(
    app_url: str | None, preset: str | None, tasks: str | None, waiting_jobs: str | None, payload_bytes: str | None
) -> dict[str, Any]:
    """The options that were given, as `tf.namespaces` takes them."""
    quotas = {"quota_tasks": tasks, "quota_waiting_jobs": waiting_jobs, "quota_payload_bytes": payload_bytes}
    found: dict[str, Any] = {}
    for name, value in quotas.items():
        number = _input.quota(value, f"--{name.replace('_', '-')}")
        if number is not ...:
            found[name] = number
    if app_url is not None:
        found["app_url"] = app_url
    if preset is not None:
        found["quota_preset"] = preset
    return found

"""The derived parts of docs/reference: settings, command line, metrics, the SDK, and the JSON Schema of workflows.

`python -m tools.reference` rewrites them. The schema is a file of its own; each other part stands between two marks in
a page whose other words are written by hand.
"""

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from prometheus_client.metrics import MetricWrapperBase
from pydantic.fields import FieldInfo

from taskflow._cli._app import command
from taskflow_server.coordinator.settings import CoordinatorSettings
from taskflow_server.core.workflow import json_schema
from taskflow_server.gateway.settings import GatewaySettings
from taskflow_server.queue.__main__ import QueueSettings
from taskflow_server.runtime import metrics as metric_module
from taskflow_server.runtime.histogram import BatchHistogram
from taskflow_server.runtime.settings import DatabaseSettings, ServiceSettings
from taskflow_server.scheduler.settings import SchedulerSettings
from taskflow_server.worker.settings import WorkerSettings
from tools import sdk_reference

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "reference"
BEGIN, END = "<!-- derived: {}, by `make reference` -->", "<!-- /derived -->"
WIDTH = 100
_USED = re.compile(r"\bmetrics\.(\w+)")


SERVICES: dict[str, type[ServiceSettings]] = {
    "Scheduler": SchedulerSettings,
    "Coordinator": CoordinatorSettings,
    "Queue service": QueueSettings,
    "Packaged worker": WorkerSettings,
    "Gateway": GatewaySettings,
}


def settings() -> str:
    """A table for what all services have, what those with Postgres have, and each service's own."""
    bases = {"Every service": ServiceSettings, "With Postgres: scheduler and coordinator": DatabaseSettings}
    return "\n\n".join(_settings(title, cls) for title, cls in {**bases, **SERVICES}.items())


def _settings(title: str, cls: type[ServiceSettings]) -> str:
    """The fields that `cls` itself names; of a base those that its services do not name anew."""
    named = [set(c.__annotations__) for c in SERVICES.values() if issubclass(c, cls) and c is not cls]
    anew = set.intersection(*named) if named else set()
    own = [name for name in cls.model_fields if name in cls.__annotations__ and name not in anew]
    rows = ["| variable | default | accepts | what it is |", "|---|---|---|---|"]
    rows += [_setting(name, cls.model_fields[name]) for name in own]
    return f"### {title}\n\n" + "\n".join(rows)


def _setting(name: str, field: FieldInfo) -> str:
    default = "must be set" if field.is_required() else _shown(field.default)
    return f"| `TASKFLOW_{name.upper()}` | {default} | {_accepts(field)} | {field.description or ''} |"


def _shown(value: object) -> str:
    if isinstance(value, int) and value >= 1 << 20 and value % (1 << 20) == 0:
        return f"{value} ({value >> 20} MiB)"
    if isinstance(value, str):
        return f"`{value}`" if value else "none"
    return str(value)


def _accepts(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(field.annotation))
    kind = {int: "a whole number", float: "a number"}.get(field.annotation or str, "text")
    words = {"ge": "from", "gt": "above", "le": "to", "lt": "below"}
    bounds = [f"{word} {_number(getattr(m, b))}" for b, word in words.items() for m in field.metadata if hasattr(m, b)]
    return " ".join([kind, *bounds])


def _number(value: float) -> str:
    return f"{value:g}" if value < 1 << 16 else f"{value}"


def cli() -> str:
    """Every command's own help."""
    return "\n\n".join(f"### {path}\n\n```text\n{text}\n```" for path, text in _helps(command(), "taskflow", None))


def commands() -> set[str]:
    """`taskflow job new`, and so on: every command and group that there is."""
    return {path for path, _ in _helps(command(), "taskflow", None)}


def _helps(cmd: Any, path: str, parent: Any) -> Iterator[tuple[str, str]]:
    look = {"terminal_width": WIDTH, "max_content_width": WIDTH, **cmd.context_settings}
    context = cmd.context_class(cmd, info_name=path.rpartition(" ")[2], parent=parent, **look)
    lines = [line.rstrip() for line in cmd.get_help(context).splitlines()]
    yield path, "\n".join(lines).strip()
    if hasattr(cmd, "list_commands"):
        for name in cmd.list_commands(context):
            yield from _helps(cmd.get_command(context, name), f"{path} {name}", context)


def metrics() -> str:
    """Every metric of ours, with the services whose code counts it."""
    users: dict[str, set[str]] = {}
    services = ROOT / "services"
    for path in sorted(services.glob("*/**/*.py")):
        for name in _USED.findall(path.read_text()):
            users.setdefault(name, set()).add(path.relative_to(services).parts[0])
    rows = ["| metric | type | labels | counted by | what it is |", "|---|---|---|---|---|"]
    for name, metric in vars(metric_module).items():
        if isinstance(metric, MetricWrapperBase | BatchHistogram):
            family = next(iter(metric.describe()))
            shown = family.name + ("_total" if family.type == "counter" else "")
            names = [metric.label] if isinstance(metric, BatchHistogram) else metric._labelnames
            labels = ", ".join(f"`{label}`" for label in names) or "-"
            by = ", ".join(sorted(users.get(name, {"nobody yet"})))
            rows.append(f"| `{shown}` | {family.type} | {labels} | {by} | {family.documentation} |")
    return "\n".join(rows)


def workflow_schema() -> str:
    """workflow.schema.json, from the models that check workflows."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


SCHEMA = PAGES / "workflow.schema.json"
PARTS: dict[str, Callable[[], str]] = {"settings": settings, "cli": cli, "metrics": metrics, "sdk": sdk_reference.page}


def filled(name: str) -> str:
    """The page as it ought to stand. SystemExit when it, or a mark in it, is missing."""
    text = (PAGES / f"{name}.md").read_text()
    before, begin, rest = text.partition(BEGIN.format(name))
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"docs/reference/{name}.md lacks the marks {BEGIN.format(name)} and {END}")
    return f"{before}{begin}\n\n{PARTS[name]()}\n\n{end}{after}"


def stale() -> list[str]:
    """The pages that are not as they ought to stand."""
    pages = [name for name in PARTS if (PAGES / f"{name}.md").read_text() != filled(name)]
    return pages + ([SCHEMA.name] if SCHEMA.read_text() != workflow_schema() else [])


if __name__ == "__main__":
    for each in PARTS:
        (PAGES / f"{each}.md").write_text(filled(each))
    SCHEMA.write_text(workflow_schema())

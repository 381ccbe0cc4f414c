"""docs/reference/sdk.md: what `taskflow` gives, in the words of its docstrings."""

from __future__ import annotations

import ast
import dataclasses
import enum
import inspect
import re
import sys
import textwrap
import typing
from collections.abc import Iterator
from typing import Any

import taskflow
from taskflow import apps, testing
from taskflow._client.base import BaseClient

# The names under each heading; the rest of `taskflow.__all__` comes under the last.
SECTIONS: dict[str, list[str]] = {
    "Clients": ["TaskFlow", "AsyncTaskFlow"],
    "Jobs that are made": ["JobHandle", "AsyncJobHandle", "NewJob", "JobOptions", "Exponential", "Constant", "Backoff"],
    "Tasks and handlers": ["Task", "AsyncTask", "Job", "Caller", "Retry", "Fail", "Snooze", "Cancelled"],
    "Values": [],
    "Errors": [],
    "In the words of the Go SDK": ["NewServer", "Server", "CreateJobRequest", "RunConfigurations"],
}
_UNPACKED = re.compile(r"Unpack\[(\w+)\]")


def page() -> str:
    """The derived part."""
    placed = {name for names in SECTIONS.values() for name in names}
    rest = [name for name in taskflow.__all__ if name not in placed]
    errors = [name for name in rest if _is_error(getattr(taskflow, name))]
    sections = SECTIONS | {"Values": [name for name in rest if name not in errors], "Errors": errors}
    parts = []
    for title, names in sections.items():
        parts += [f"## {title}", *([_text(taskflow.errors)] if title == "Errors" else [])]
        parts += [*(_described(name, getattr(taskflow, name)) for name in names)]
        if title == "Clients":
            parts += [_described(f"tf.{name}", kind) for name, kind in _groups()]
            parts += [f"## Keywords\n\n{_keywords()}"]
    parts += ["## taskflow.testing", _text(testing), _function("cluster", testing.cluster)]
    parts += [_described("MemoryCluster", testing.MemoryCluster)]
    parts += ["## taskflow.apps", _function("load", apps.load)]
    return "\n\n".join(part for part in parts if part)


def _is_error(thing: Any) -> bool:
    return isinstance(thing, type) and issubclass(thing, Exception)


def _groups() -> list[tuple[str, type]]:
    """`jobs`, `queues` and the like of a client."""
    with taskflow.TaskFlow("localhost:9003") as client:
        found = {name: type(value) for name, value in vars(client).items() if not name.startswith("_")}
    return sorted(found.items())


def _described(name: str, thing: Any) -> str:
    if inspect.isfunction(thing):
        return f"### {name}\n\n{_function(name, thing)}"
    if not isinstance(thing, type):  # a union
        return f"### {name}\n\n`{' | '.join(part.__name__ for part in typing.get_args(thing))}`"
    parts = [f"### {name}"]
    if _made_by_users(name, thing):
        parts.append(f"```text\n{name}{_signature(thing.__init__, bound=True, result=False)}\n```")
    parts.append(_text(thing))
    if issubclass(thing, BaseClient):
        parts.append(_text(BaseClient))
    if issubclass(thing, enum.Enum):
        parts.append(", ".join(f"`{member.name}`" for member in thing))
    elif fields := _fields(thing):
        rows = ["| field | type | what it is |", "|---|---|---|"]
        rows += [f"| `{field}` | `{_cell(kind)}` | {_cell(said)} |" for field, kind, said in fields]
        parts.append("\n".join(rows))
    if not name.startswith("Async"):  # these say «as» of the others
        parts += [_function(method, function) for method, function in _methods(thing)]
    return "\n\n".join(part for part in parts if part)


def _made_by_users(name: str, thing: type) -> bool:
    """Whether a program writes `Name(…)`; all others are handed to it."""
    if issubclass(thing, Exception):
        return not issubclass(thing, taskflow.TaskFlowError)
    return name in {"TaskFlow", "AsyncTaskFlow", "NewJob", *SECTIONS["In the words of the Go SDK"]}


def _methods(thing: type) -> Iterator[tuple[str, Any]]:
    """Public ones and properties, in the order of the source."""
    if issubclass(thing, Exception | enum.Enum):
        return
    for kind in reversed([k for k in thing.__mro__ if k.__module__.startswith("taskflow")]):
        for name, value in vars(kind).items():
            public = not name.startswith("_") and value.__doc__
            if public and (isinstance(value, property) or inspect.isfunction(value)):
                yield name, value


def _function(name: str, function: Any) -> str:
    if isinstance(function, property):
        getter = function.fget
        kind = inspect.signature(getter).return_annotation if getter else ""
        head = f"{name}: {kind}"
    else:
        head = f"{name}{_signature(function, bound='self' in inspect.signature(function).parameters)}"
        head = f"async {head}" if inspect.iscoroutinefunction(function) else head
    return f"`{head}`\n\n{_text(function)}".strip()


def _signature(function: Any, *, bound: bool, result: bool = True) -> str:
    """As the source has it, without quotes around annotations."""
    found = inspect.signature(function)
    shown, starred = [], False
    for parameter in list(found.parameters.values())[1 if bound else 0 :]:
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            shown.append("*")
        starred = starred or parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL)
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        text = stars + parameter.name
        if parameter.annotation is not parameter.empty:
            text += f": {_annotation(parameter.annotation)}"
        if parameter.default is not parameter.empty:
            text += f" = {'…' if callable(parameter.default) else repr(parameter.default)}"
        shown.append(text)
    returned = _annotation(found.return_annotation)
    arrow = f" -> {returned}" if result and found.return_annotation is not found.empty and returned != "None" else ""
    return f"({', '.join(shown)}){arrow}"


def _annotation(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _fields(thing: type) -> list[tuple[str, str, str]]:
    """Annotated fields: name, type, and the text below it or behind it."""
    if not vars(thing).get("__annotations__"):
        return []
    lines = textwrap.dedent(inspect.getsource(thing)).splitlines()
    (tree,) = ast.parse("\n".join(lines)).body
    assert isinstance(tree, ast.ClassDef)
    found = []
    for node, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id[0] != "_":
            said = lines[node.lineno - 1].partition("  # ")[2]
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                said = inspect.cleandoc(str(after.value.value))
            found.append((node.target.id, ast.unparse(node.annotation), said))
    return found


def _keywords() -> str:
    """The typed dicts that signatures unpack, but JobKeywords: those are JobOptions' fields."""
    found: dict[str, type] = {}
    for _, group in _groups():
        module = sys.modules[group.__module__]
        for _, function in _methods(group):
            for parameter in inspect.signature(function).parameters.values():
                if match := _UNPACKED.match(str(parameter.annotation)):
                    found[match[1]] = getattr(module, match[1])
    head = "`**more: Unpack[JobKeywords]` stands for the fields of JobOptions, and the others for these."
    return "\n\n".join([head, *(_described(name, kind) for name, kind in sorted(found.items()))])


def _text(thing: Any) -> str:
    """The docstring, its examples and trees in fences."""
    own = vars(thing).get("__doc__") if isinstance(thing, type) else thing.__doc__
    if not own or own.startswith("`tf."):  # a group's, whose heading says so
        return ""
    if dataclasses.is_dataclass(thing) and own.startswith(f"{thing.__name__}("):  # made by dataclass
        return ""
    lines, fenced = [], False
    for line in inspect.cleandoc(own).splitlines():
        example = line.startswith((">>> ", "... "))
        if example != fenced:
            lines.append("```pycon" if example else "```")
            fenced = example
        lines.append(line)
    return "\n".join([*lines, *(["```"] if fenced else [])])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")

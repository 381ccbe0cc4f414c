"""The kinds of destinations that there are, and how an operator names destinations.

A kind that is not listed is `module:Class`, a Destination of his own, importable where the worker runs.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError

from taskflow_server.worker.push.aws_batch import AwsBatch
from taskflow_server.worker.push.destination import OWNER, Destination, DestinationSettings
from taskflow_server.worker.push.kubernetes_jobs import KubernetesJobs
from taskflow_server.worker.push.marathon import Marathon
from taskflow_server.worker.push.ray_jobs import RayJobs

KINDS: Mapping[str, type[Destination]] = {each.kind: each for each in (AwsBatch, KubernetesJobs, Marathon, RayJobs)}
_PATH = re.compile(r"[A-Za-z0-9 ._/~-]{1,200}")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")


def read(text: str) -> dict[str, DestinationSettings]:
    """Destinations by name, from JSON or the path of a file with JSON. ValueError that names the member at fault."""
    if not text.strip():
        return {}
    if not text.lstrip().startswith("{"):
        try:
            text = Path(text.strip()).read_text()
        except UnicodeDecodeError:
            raise ValueError("the file is not text in UTF-8") from None
        except OSError as error:
            shown = f"{text.strip()!r} is" if _PATH.fullmatch(text.strip()) else "it is"  # else it may hold a secret
            raise ValueError(f"{shown} neither a JSON object nor a file: {error.strerror}") from None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError('give an object, as {"etl": {"kind": "aws-batch", …}}')
    destinations = {name: _destination(name, each) for name, each in found.items()}
    _check_tasks(destinations)
    return destinations


def _destination(name: str, given: object) -> DestinationSettings:
    if not _NAME.match(name):
        raise ValueError(f"{name!r}: a destination's name is letters, digits, - and _, up to 128")
    kind = _kind(name, given.get("kind") if isinstance(given, dict) else None)
    try:
        return kind.settings.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join([name, *map(str, first["loc"])])
        known = ", ".join(kind.settings.model_fields)
        there = f"; there are {known}" if first["type"] == "extra_forbidden" and len(first["loc"]) == 1 else ""
        why = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{where}: {why[0].lower()}{why[1:]}{there}") from None


def _kind(name: str, kind: object) -> type[Destination]:
    if kind in KINDS:
        return KINDS[str(kind)]
    module, colon, member = str(kind).partition(":")
    if not colon:
        raise ValueError(f"{name}.kind: {kind!r} is none of {', '.join(KINDS)}, and no module:Class")
    try:
        found = getattr(importlib.import_module(module), member, None)
    except Exception as error:  # the code of a module that an operator names can raise anything
        raise ValueError(f"{name}.kind: {module} cannot be imported: {type(error).__name__}: {error}") from None
    if not (isinstance(found, type) and issubclass(found, Destination)):
        raise ValueError(f"{name}.kind: {member!r} of {module} is not a Destination")
    return found


def _check_tasks(destinations: Mapping[str, DestinationSettings]) -> None:
    homes: dict[str, str] = {}
    for name, settings in destinations.items():
        for task in settings.routes(name):
            if not _NAME.match(task.rpartition("/")[2]):
                raise ValueError(f"{name}.tasks: {task!r} is not a valid name of a task")
            if homes.setdefault(task, name) != name:
                raise ValueError(f"{name}.tasks: {task!r} is already routed to {homes[task]}")


def check_owner(owner: str) -> str:
    """ValueError for a name that some destination would refuse."""
    if not OWNER.match(owner):
        raise ValueError(f"{owner!r}: give up to 20 small letters, digits and -, with a letter or digit at both ends")
    return owner


def build(owner: str, destinations: Mapping[str, DestinationSettings]) -> Iterator[Destination]:
    """ValueError, with the reason, for one that cannot be."""
    for name, settings in destinations.items():
        try:
            yield _kind(name, settings.kind)(name, owner, settings)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None

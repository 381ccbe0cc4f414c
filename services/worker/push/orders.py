"""An order's payload, as it reaches a program: what settings and jobs may say of it, and the words of its command."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from taskflow_server.worker.push.destination import Order, Refused, TaskOptions

REF = "Ref::"  # before the name of a member of the payload, as AWS Batch writes it
T = TypeVar("T", bound=TaskOptions)


def said_by(order: Order, options: type[T], overrides: Collection[str], destination: str) -> T | None:
    """The object `push` of the job's payload; None: absent. Refuses fields that the job may not set."""
    said = order.payload.get("push") if isinstance(order.payload, dict) else None
    if said is None:
        return None
    may = ", ".join(sorted(overrides)) or "nothing"
    if not isinstance(said, dict):
        raise Refused(f"payload.push: give an object; a job may say {may} there")
    for field in said:
        if field not in overrides:
            raise Refused(f"payload.push.{field}: destination {destination} lets a job say {may}")
    try:
        return options.model_validate(said)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        why = first["msg"].removeprefix("Value error, ")
        raise Refused(f"payload.push.{where}: {why[0].lower()}{why[1:]}") from None


def over(options: T, own: T | None) -> T:
    """The operator's options for the task, overridden by the job's; variables of both."""
    if own is None:
        return options
    given = own.model_dump(include=own.model_fields_set)
    if "environment" in given:
        given["environment"] = {**getattr(options, "environment", {}), **given["environment"]}
    return options.model_copy(update=given)


def parameters(payload: Any) -> dict[str, str]:
    """The payload's simple members, which a command can name as Ref::member."""
    if not isinstance(payload, dict):
        return {}
    texts = {True: "true", False: "false"}
    return {
        name: texts[value] if isinstance(value, bool) else str(value)
        for name, value in payload.items()
        if isinstance(value, str | int | float)
    }


def filled(words: Sequence[str], payload: Any) -> list[str]:
    """The words of a command; `Ref::month` alone in one is `month` of the payload. Refused where there is none."""
    known: Mapping[str, str] = parameters(payload)
    found = []
    for word in words:
        name = word.removeprefix(REF) if word.startswith(REF) else None
        if name is not None and name not in known:
            raise Refused(f"payload.{name}: the command needs it: a text, a number or a boolean")
        found.append(word if name is None else known[name])
    return found


def check_given(settings: Any, field: str, word: str) -> None:
    """ValueError where neither the destination, nor its task, nor a job could say `field`, `word` with its article: an
    order without it would be refused, one by one."""
    without = [name for name, task in settings.tasks.items() if not getattr(task, field)]
    if (without or not settings.tasks) and not getattr(settings, field) and field not in settings.overrides:
        of = f", or one for {', '.join(without)}" if without else ""
        raise ValueError(f"it needs {word}{of}")


def check_template(value: str, *names: str) -> str:
    """A link to a log, with these names in braces; ValueError says which there are."""
    try:
        value.format(**dict.fromkeys(names, ""))
    except (LookupError, ValueError) as error:
        *most, last = ["{" + name + "}" for name in names]
        known = f"{', '.join(most)} and {last}" if most else last
        raise ValueError(f"{value!r} is not a valid template of {known}: {error}") from None
    return value

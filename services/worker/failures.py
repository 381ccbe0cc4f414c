"""How a built-in handler ends its attempt other than with a result."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from taskflow import Fail, Retry

M = TypeVar("M", bound=BaseModel)


def give_up(kind: str, message: str) -> Fail:
    """The job has failed, and its error's type is `kind`: the same again would end the same."""
    end: Fail = type(kind, (Fail,), {})(message)
    return end


def try_again(kind: str, message: str, delay: float | None = None) -> Retry:
    """The attempt has failed, with an error of type `kind`; after `delay` seconds, or by the job's backoff, another."""
    end: Retry = type(kind, (Retry,), {})(message, delay=delay)
    return end


def read(model: type[M], payload: Any, instead: Mapping[str, str] = MappingProxyType({})) -> M:
    """The payload as its model; one that does not fit ends the job, by an error that names the field.

    `instead`: the right names for similar wrong ones, by the wrong paths.
    """
    known = ", ".join(model.model_fields)
    if not isinstance(payload, dict):
        raise give_up("InvalidPayload", f"payload: give an object with some of {known}")
    try:
        return model.model_validate(payload)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
        paths = [".".join(map(str, each["loc"])) for each in errors]
        at = next((n for n, path in enumerate(paths) if path in instead), 0)
        first, where = errors[at], f"payload.{paths[at]}".removesuffix(".")
        if paths[at] in instead:
            why = f"the word is {instead[paths[at]]}"
        elif first["type"] == "extra_forbidden":
            why = "there is no such field" + (f"; there are {known}" if len(first["loc"]) == 1 else "")
        elif first["type"] == "value_error":
            why = first["msg"].removeprefix("Value error, ")
        else:
            why = first["msg"][0].lower() + first["msg"][1:]
        raise give_up("InvalidPayload", f"{where}: {why}") from None

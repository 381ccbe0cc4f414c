"""Converts JSON to a valid model of a document; each error has its path.

A refused document raises BadDocument, an InvalidArgument with all problems; the first problem gives its field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, Union

from pydantic import Field, ValidationError, create_model
from pydantic_core import ErrorDetails

from taskflow_server.core.errors import InvalidArgument
from taskflow_server.core.workflow.kinds import Kind
from taskflow_server.core.workflow.models import MAX_STEPS, PATTERNS, Document, Step
from taskflow_server.core.workflow.values import BadValue, size_of

MAX_DOCUMENT = 1 << 20  # bytes of JSON
MAX_PROBLEMS = 20  # in one error


class Problem(NamedTuple):
    """A fault and its path, as `steps[2].meta.calls[0].url`."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


@dataclass
class BadDocument(InvalidArgument):
    """`message` is the first problem; `problems` has all."""

    problems: list[Problem] = field(default_factory=list)

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> BadDocument:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return cls(f"{problems[0]}{more}", problems[0].path, "BAD_WORKFLOW", list(problems[:MAX_PROBLEMS]))


def loaded(document: str | bytes | Mapping[str, Any]) -> dict[str, Any]:
    """The document as JSON values. BadDocument if it is not JSON, or too large."""
    try:
        if isinstance(document, str | bytes):
            if len(document) > MAX_DOCUMENT:
                raise BadValue(f"is larger than {MAX_DOCUMENT} bytes")
            document = json.loads(document)
        if not isinstance(document, dict):
            raise BadValue("must be a JSON object with name and steps")
        size_of(document, MAX_DOCUMENT)
    except (ValueError, RecursionError) as error:
        raise BadDocument.of([Problem("", f"the document is not JSON: {error}")]) from None
    except BadValue as error:
        raise BadDocument.of([Problem("", f"the document {error.message}")]) from None
    return document


@cache
def model(kinds: tuple[Kind, ...]) -> type[Document]:
    """The model of a document with these kinds of steps; the JSON Schema is generated from it as well."""
    steps = [_step(kind) for kind in kinds]
    choice = Annotated[Union[tuple(steps)], Field(discriminator="kind")] if len(steps) > 1 else steps[0]  # noqa: UP007
    listed: Any = Field(default_factory=list, max_length=MAX_STEPS, description="The steps of a run.")
    return create_model("Workflow", __base__=Document, __doc__=Document.__doc__, steps=(list[choice], listed))  # type: ignore[valid-type]


def _step(kind: Kind) -> type[Step]:
    fields: dict[str, Any] = {"kind": (Literal[kind.name], ...), "meta": (kind.meta, ...)}
    title = "".join(part.capitalize() for part in kind.name.replace("-", "_").split("_"))
    return create_model(f"{title}Step", __base__=kind.step, __doc__=kind.meta.__doc__, **fields)


def validated(document: dict[str, Any], kinds: Mapping[str, Kind]) -> Any:
    """The document's model. BadDocument names each wrong field."""
    try:
        return model(tuple(kinds.values())).model_validate(document)
    except ValidationError as error:
        raise BadDocument.of(_problems(error.errors(include_url=False), document, kinds)) from None


def _problems(found: Sequence[ErrorDetails], document: Mapping[str, Any], kinds: Mapping[str, Kind]) -> list[Problem]:
    """One problem for each path: the errors of the branches of a union are joined."""
    wanted: dict[str, list[str]] = {}
    inputs: dict[str, Any] = {}
    for one in found:
        path = _path(one, document)
        wanted.setdefault(path, []).append(_message(one, kinds))
        if one["type"] not in _WHOLE:
            inputs[path] = one["input"]
    problems = []
    for path, said in wanted.items():
        message = " or ".join(dict.fromkeys(said)).replace(" or should be ", " or ")
        problems.append(Problem(path, message + (f", not {_shown(inputs[path])}" if path in inputs else "")))
    return problems


def _message(found: ErrorDetails, kinds: Mapping[str, Kind]) -> str:
    match found["type"]:
        case "missing":
            return "is missing"
        case "union_tag_not_found":
            return f"is missing; kinds are {', '.join(kinds)}"
        case "union_tag_invalid":
            return f"there is no kind {_shown(found['ctx']['tag'])}; kinds are {', '.join(kinds)}"
        case "string_pattern_mismatch":
            pattern = found["ctx"]["pattern"]
            return f"{_shown(found['input'])} does not fit: use {PATTERNS.get(pattern, pattern)}"
    if "ctx" in found and found["type"] in _WHOLE:
        return found["msg"]
    message = re.sub(r" after validation, not \d+", "", found["msg"])
    for theirs, ours in _PLAIN.items():
        message = message.replace(theirs, ours)
    return re.sub(r"^(Input|List|Dictionary|String) should", "should", message)


_PLAIN = {  # pydantic's names of JSON's types
    "valid dictionary or object to extract fields from": "object",
    "a valid dictionary": "an object",
    "a valid list": "a list",
    "a valid string": "text",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid boolean": "true or false",
    "a object": "an object",
}
# Errors whose text has the value already.
_WHOLE = {"missing", "union_tag_not_found", "union_tag_invalid", "string_pattern_mismatch", "unknown_field", "at", "of"}


def _path(found: ErrorDetails, document: Mapping[str, Any]) -> str:
    """A path as `steps[2].meta.calls[0].url`: the parts of pydantic's path that exist, and a missing field."""
    path = ""
    value: Any = document
    parts = list(found["loc"])
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        elif isinstance(value, dict) and part in value:
            path += f".{part}" if path else part
        else:
            continue  # the branch of a union, or a marker of pydantic
        value = value[part]
    extra = {"missing": parts[-1] if parts else "", "union_tag_not_found": "kind", "union_tag_invalid": "kind"}
    last = extra.get(found["type"]) or found.get("ctx", {}).get("field", "")
    return f"{path}.{last}" if path and last else path or str(last)


def _shown(value: Any) -> str:
    shown = json.dumps(value, ensure_ascii=False, default=str)
    return shown if len(shown) <= 60 else shown[:57] + "…"

"""Templates: JSON in whose texts `{{ expression }}` is replaced by a value of the run.

A text that is one template keeps the type of its value; inside other text a value is written as text, lists and objects
as JSON. Null inside other text is an error: use `{{ input.name || 'friend' }}` for a default.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taskflow_server.core.workflow.expressions import BadExpression, Budget, Expression
from taskflow_server.core.workflow.values import BadValue

OPEN, CLOSE = "{{", "}}"
_QUOTES = "'\"`"
_BRACKETS = {"{": "}", "[": "]", "(": ")"}


class BadTemplate(Exception):
    """The template of a text is not valid; `path` is its place in the document."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path, self.message = path, message


Encoders = Sequence[tuple[re.Pattern[str], Callable[[str], str]]]


@dataclass(frozen=True, slots=True)
class Text:
    """A text with templates: plain text and expressions alternate in its parts."""

    path: str
    parts: tuple[str | Expression, ...]
    encode: Callable[[str], str] | None  # applied to each value, except at the beginning of the text

    def render(self, scope: Mapping[str, Any], budget: Budget) -> Any:
        try:
            if len(self.parts) == 1 and isinstance(self.parts[0], Expression):
                return self.parts[0].value(scope, budget)
            written = ""
            for part in self.parts:
                if isinstance(part, Expression):
                    value: str = budget.build(_written(part, part.value(scope, budget), budget))
                    part = self.encode(value) if self.encode and written else value
                written += part
            return written
        except BadValue as error:
            raise BadValue(error.message, path=self.path, type=error.type, expression=error.expression) from None


@dataclass(frozen=True, slots=True)
class Template:
    """A JSON value whose texts may be templates."""

    value: Any  # the JSON, with a Text for each text with templates
    refers: Mapping[str, str]  # the steps that it reads, each with the path of the template

    @classmethod
    def parse(cls, value: Any, path: str, encoders: Encoders = ()) -> Template:
        """Parses the templates; BadTemplate names the place. `encoders`: encodings of values inside texts, by path."""
        found: dict[str, str] = {}
        return cls(_compiled(value, path, encoders, found), found)

    def render(self, scope: Mapping[str, Any], budget: Budget) -> Any:
        """The JSON with its values. BadValue names path and expression."""
        return _rendered(self.value, scope, budget)


def _compiled(value: Any, path: str, encoders: Encoders, found: dict[str, str]) -> Any:
    if isinstance(value, str):
        return _text(value, path, encoders, found) if OPEN in value else value
    if isinstance(value, Mapping):
        return {key: _compiled(part, f"{path}.{key}", encoders, found) for key, part in value.items()}
    if isinstance(value, list):
        return [_compiled(part, f"{path}[{n}]", encoders, found) for n, part in enumerate(value)]
    return value


def _text(source: str, path: str, encoders: Encoders, found: dict[str, str]) -> Text:
    parts: list[str | Expression] = []
    place = 0
    while (start := source.find(OPEN, place)) >= 0:
        end = _end(source, start + 2)
        if end < 0:
            raise BadTemplate(path, f"'{{{{' at character {start + 1} is never closed by '}}}}'")
        if start > place:
            parts.append(source[place:start])
        try:
            parts.append(expression := Expression.parse(source[start + 2 : end]))
        except BadExpression as error:
            raise BadTemplate(path, f"{source[start : end + 2]}: {error}") from None
        found.update((name, path) for name in expression.refers if name not in found)
        place = end + 2
    if place < len(source):
        parts.append(source[place:])
    encode = next((encode for pattern, encode in encoders if pattern.fullmatch(path)), None)
    return Text(path, tuple(parts), encode)


def _end(source: str, place: int) -> int:
    """The place of the `}}` that closes a template: not inside quotes, and not the end of a `{` in the expression."""
    inside: list[str] = []
    quote = ""
    while place < len(source):
        char = source[place]
        if quote:
            if char == "\\":
                place += 1
            elif char == quote:
                quote = ""
        elif char in _QUOTES:
            quote = char
        elif not inside and source.startswith(CLOSE, place):
            return place
        elif char in _BRACKETS:
            inside.append(_BRACKETS[char])
        elif inside and char == inside[-1]:
            inside.pop()
        place += 1
    return -1


def _rendered(value: Any, scope: Mapping[str, Any], budget: Budget) -> Any:
    if isinstance(value, Text):
        return value.render(scope, budget)
    if isinstance(value, dict):
        return {key: _rendered(part, scope, budget) for key, part in value.items()}
    if isinstance(value, list):
        return [_rendered(part, scope, budget) for part in value]
    return value


def _written(expression: Expression, value: Any, budget: Budget) -> str:
    if value is None:
        cure = f"{{{{ {expression.source} || '' }}}}"
        raise BadValue(f"is null, which a text cannot contain; {cure} leaves it out", expression=expression.source)
    if isinstance(value, str):
        return value
    return json.dumps(budget.build(value), ensure_ascii=False, separators=(",", ":"))

"""JSON and YAML, in and out.

YAML is read by its version 1.2's core schema: `no` and `on` are words, `010` is ten, a date is text. Other tags are
refused, and so is what grows beyond bounds when its aliases are followed.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

import yaml

from taskflow_server.gateway.errors import Failure

JSON, YAML = "application/json", "text/yaml"
_NAMES = {
    JSON: JSON,
    YAML: YAML,
    "application/yaml": YAML,
    "application/x-yaml": YAML,
    "text/x-yaml": YAML,
}
MOST = 16 << 20  # characters and nodes of a YAML document, its aliases followed
MOST_YAML = 2 << 20  # bytes; a million numbers of them take 2 s of CPU to read
WIDTH = 1 << 30  # of a line: a text stays in one, for readers that look at lines
MAX_DEPTH = 100  # of a YAML document
_HALF = re.compile("[\ud800-\udfff]")
LARGE = 64 << 10  # bytes from which on reading and writing leave the loop to others

_Parser: type = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
_Emitter: type = yaml.CSafeDumper if yaml.__with_libyaml__ else yaml.SafeDumper


def of_request(content_type: str) -> str:
    """Failure for anything else: what a page elsewhere can make a browser send unasked is neither (CSRF)."""
    media = content_type.partition(";")[0].strip().lower()
    if media not in _NAMES:
        words = f"content-type {media[:80]!r} is not read here; say application/json or text/yaml"
        raise Failure(415, "INVALID_ARGUMENT", words, "content-type", "UNSUPPORTED_CONTENT_TYPE")
    return _NAMES[media]


def of_answer(accept: str, otherwise: str) -> str:
    """The first that is known, else the request's own."""
    for part in accept.split(","):
        media = part.partition(";")[0].strip().lower()
        if media in _NAMES:
            return _NAMES[media]
    return otherwise


def read(body: bytes, kind: str) -> Any:
    """The value of a body. Failure says what it is not."""
    try:
        return _json(body) if kind == JSON else _yaml(body)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        name = "JSON" if kind == JSON else "YAML"
        raise Failure(400, "INVALID_ARGUMENT", f"the body is not {name}: {_said(error)}", "", "BAD_BODY") from None


def write(value: Any, kind: str) -> bytes:
    if kind == JSON:
        return to_json(value)
    try:
        return bytes(
            yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=WIDTH, encoding="utf-8")
        )
    except RecursionError:
        words = "the answer is nested too deeply for YAML; ask for application/json"
        raise Failure(406, "FAILED_PRECONDITION", words, "accept", "NESTED_TOO_DEEPLY") from None


def to_json(value: Any) -> bytes:
    """Not by orjson, which makes floats of integers over 64 bits."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def from_json(data: bytes) -> Any:
    """A value that is kept here, and was checked when it came.

    An older version kept numbers beyond a double and halves of surrogate pairs as they were written. Here such a number
    is its own text, and such a half is U+FFFD: every answer is JSON for every reader.
    """
    value = json.loads(data, parse_float=_number, parse_constant=str)
    if b"\\u" not in data:
        return value
    text = json.dumps(value, ensure_ascii=False)
    return json.loads(_HALF.sub("\ufffd", text)) if _HALF.search(text) else value


def _number(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text


def _json(body: bytes) -> Any:
    value = json.loads(body.decode(), parse_float=_finite, parse_constant=_no_constant)
    if b"\\u" in body:
        to_json(value)  # no half of a surrogate pair
    return value


def _finite(text: str) -> float:
    """JSON's grammar has numbers that no double holds; a reader that takes one as a double writes Infinity."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is too large")
    return number


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


# -- YAML --------------------------------------------------------------------------------------
# Built from the parser's events, one after the other: composing nodes recurses in C, and «[» a hundred thousand times
# ends the process (seen with PyYAML 6.0.3).

_CORE = {
    "null": re.compile(r"null|Null|NULL|~|"),
    "bool": re.compile(r"true|True|TRUE|false|False|FALSE"),
    "int": re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"),
    "float": re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"),
}
_TAG = "tag:yaml.org,2002:"
_NO_KEY = object()


class _Dumper(_Emitter):  # type: ignore[misc]
    def ignore_aliases(self, data: object) -> bool:
        return True


for _name, _pattern in _CORE.items():  # text is put in quotes where either schema reads something else
    _Dumper.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern.pattern})\Z"), None)


def _yaml(body: bytes) -> Any:
    if len(body) > MOST_YAML:
        raise Failure(413, "INVALID_ARGUMENT", f"YAML of more than {MOST_YAML} bytes is not read", "", "TOO_LARGE")
    found = _Builder()
    for event in yaml.parse(body, Loader=_Parser):
        found.take(event)
    return found.value


class _Builder:
    """A value from a document's events. ValueError for what JSON cannot say, or would say at too great a length."""

    def __init__(self) -> None:
        self.value: Any = None
        self._documents = 0
        self._open: list[tuple[list[Any] | dict[str, Any], str | None, int]] = []  # with anchor, and weight before
        self._keys: list[Any] = []
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._weight = 0

    def take(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.ScalarEvent):
            self._grow(1 + len(event.value))
            value = _scalar(event)
            if event.anchor:
                self._anchors[event.anchor] = value, 1 + len(event.value)
            self._put(value)
        elif isinstance(event, yaml.CollectionStartEvent):
            if len(self._open) >= MAX_DEPTH:
                raise ValueError(f"nested more than {MAX_DEPTH} deep")
            if event.tag not in (None, "!", _TAG + "map", _TAG + "seq"):
                raise ValueError(f"the tag {event.tag} is not read here")
            self._open.append(([] if isinstance(event, yaml.SequenceStartEvent) else {}, event.anchor, self._weight))
            self._keys.append(_NO_KEY)
        elif isinstance(event, yaml.CollectionEndEvent):
            value, anchor, before = self._open.pop()
            self._keys.pop()
            self._grow(1)
            if anchor:
                self._anchors[anchor] = value, self._weight - before
            self._put(value)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise ValueError(f"the alias *{event.anchor} names nothing that stands complete before it")
            value, weight = self._anchors[event.anchor]
            self._grow(weight)
            self._put(value)
        elif isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise ValueError("more than one document")

    def _grow(self, by: int) -> None:
        self._weight += by
        if self._weight > MOST:
            raise ValueError(f"with its aliases followed it has more than {MOST} characters")

    def _put(self, value: Any) -> None:
        if not self._open:
            self.value = value
            return
        top = self._open[-1][0]
        if isinstance(top, list):
            top.append(value)
        elif self._keys[-1] is _NO_KEY:
            if not isinstance(value, str):
                raise ValueError("the keys of a mapping must be text; put others in quotes")
            self._keys[-1] = value
        else:
            top[self._keys[-1]] = value
            self._keys[-1] = _NO_KEY


def _scalar(event: yaml.ScalarEvent) -> Any:
    text: str = event.value
    wanted = (event.tag or "").removeprefix(_TAG)
    if wanted in ("str", "!") or (not wanted and not event.implicit[0]):
        return text
    kinds = [kind for kind, pattern in _CORE.items() if pattern.fullmatch(text)]
    if wanted and wanted not in kinds:
        raise ValueError(f"{text[:40]!r} with the tag {event.tag} is not read here")
    kind = wanted or (kinds[0] if kinds else "str")
    if kind == "int":
        base = {"0x": 16, "0o": 8}.get(text[:2], 10)
        return int(text if base == 10 else text[2:], base)
    if kind == "float":
        return _finite(text)
    return {"null": None, "bool": text.lower() == "true"}.get(kind, text)


def _said(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem} (line {error.problem_mark.line + 1})"
    return " ".join(str(error).split())[:200] or "nested too deeply"

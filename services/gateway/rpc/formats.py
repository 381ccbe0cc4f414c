"""JSON and YAML, in and out.

YAML is read by its version 1.2's core schema: `no` and `on` are words, `010` is ten, a date is text. Tags are refused,
and so is what grows beyond bounds when its aliases are followed.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import ScalarNode

from services.gateway.errors import Failure

JSON, YAML = "application/json", "text/yaml"
_NAMES = {
    JSON: JSON,
    YAML: YAML,
    "application/yaml": YAML,
    "application/x-yaml": YAML,
    "text/x-yaml": YAML,
}
MOST = 16 << 20  # characters and nodes of a YAML document, its aliases followed
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
    return bytes(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, encoding="utf-8"))


def to_json(value: Any) -> bytes:
    """Not by orjson, which makes floats of integers over 64 bits."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def from_json(data: bytes) -> Any:
    """A value that is kept here, and was checked when it came."""
    return json.loads(data)


def _json(body: bytes) -> Any:
    value = json.loads(body.decode(), parse_constant=_no_constant)
    if b"\\u" in body:
        to_json(value)  # no half of a surrogate pair
    return value


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


# -- YAML --------------------------------------------------------------------------------------


class _Loader(_Parser):  # type: ignore[misc]
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - ours alone, filled below


class _Dumper(_Emitter):  # type: ignore[misc]
    def ignore_aliases(self, data: object) -> bool:
        return True


def _int(loader: Any, node: ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    base = {"0x": 16, "0o": 8}.get(text[:2], 10)
    return int(text if base == 10 else text[2:], base)


def _float(loader: Any, node: ScalarNode) -> float:
    return float(loader.construct_scalar(node))


def _refuse(loader: Any, node: yaml.Node) -> NoReturn:
    raise ConstructorError(None, None, f"the tag {node.tag} is not read here", node.start_mark)


for _tag, _pattern, _first in (
    ("null", r"null|Null|NULL|~|", ["n", "N", "~", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _int)
_Loader.add_constructor("tag:yaml.org,2002:float", _float)
for _tag in ("timestamp", "binary", "set", "omap", "pairs"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _refuse)


def _yaml(body: bytes) -> Any:
    value = yaml.load(body, Loader=_Loader)
    _measure(value)
    return value


def _measure(value: Any) -> None:
    """ValueError for what JSON cannot say, or would say at too great a length."""
    weight, waiting = 0, [value]
    while waiting:
        found = waiting.pop()
        weight += 1 + (len(found) if isinstance(found, str) else 0)
        if weight > MOST:
            raise ValueError(f"with its aliases followed it has more than {MOST} characters")
        if isinstance(found, dict):
            if any(not isinstance(key, str) for key in found):
                raise ValueError("the keys of a mapping must be text; put others in quotes")
            waiting.extend(found)
            waiting.extend(found.values())
        elif isinstance(found, list):
            waiting.extend(found)
        elif isinstance(found, float) and not math.isfinite(found):
            raise ValueError("a number is too large")


def _said(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem} (line {error.problem_mark.line + 1})"
    return " ".join(str(error).split())[:200] or "nested too deeply"

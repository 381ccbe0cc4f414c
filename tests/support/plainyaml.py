"""The part of YAML that our own files keep to, so that reading them needs no library.

Blocks of mappings and lists; scalars plain or quoted; flow values in JSON's form; comments on lines of their own.
Anything else is a ValueError: a file of ours that needs it wants a real parser here.
"""

import json
import re
from pathlib import Path
from typing import Any

_KEY = re.compile(r"""^([^\s:'"\[{&*!|>%@`-][^:]*|"[^"]*"):(?: +(.*))?$""")
_Lines = list[tuple[int, str, int]]  # indent, text, number


def read(path: Path) -> Any:
    """The content of the file."""
    lines: _Lines = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        text = line.strip()
        if "\t" in line:
            raise ValueError(f"{path.name}:{number}: a tab")
        if text and not text.startswith("#"):
            lines.append((len(line) - len(line.lstrip()), text, number))
    value = _block(lines, lines[0][0])
    if lines:
        raise ValueError(f"{path.name}:{lines[0][2]}: out of place: {lines[0][1]}")
    return value


def _block(lines: _Lines, indent: int) -> Any:
    """Takes the lines of one block off the front."""
    return _list(lines, indent) if lines[0][1].startswith("- ") else _mapping(lines, indent)


def _list(lines: _Lines, indent: int) -> list[Any]:
    items: list[Any] = []
    while lines and lines[0][0] == indent and lines[0][1].startswith("- "):
        _, text, number = lines[0]
        rest = text[2:].strip()
        if _KEY.match(rest):
            lines[0] = (indent + 2, rest, number)
            items.append(_mapping(lines, indent + 2))
        else:
            lines.pop(0)
            items.append(_scalar(rest, number))
    return items


def _mapping(lines: _Lines, indent: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    while lines and lines[0][0] == indent and not lines[0][1].startswith("- "):
        _, text, number = lines.pop(0)
        match = _KEY.match(text)
        if match is None:
            raise ValueError(f"line {number}: not a key and a value: {text}")
        key, rest = match[1].strip('"'), match[2]
        if key in found:
            raise ValueError(f"line {number}: {key} stands twice")
        if rest:
            found[key] = _scalar(rest, number)
        elif lines and lines[0][0] > indent:
            found[key] = _block(lines, lines[0][0])
        else:
            found[key] = None
    return found


def _scalar(text: str, number: int) -> Any:
    if text[0] in '[{"':
        return json.loads(text)
    if text[0] == "'":
        if len(text) < 2 or text[-1] != "'":
            raise ValueError(f"line {number}: an open quote: {text}")
        return text[1:-1].replace("''", "'")
    if text[0] in "&*!|>%@`" or " #" in text or ": " in text:
        raise ValueError(f"line {number}: beyond the YAML that is read here: {text}")
    if text in ("true", "false"):
        return text == "true"
    return int(text) if re.fullmatch(r"-?\d+", text) else text

"""Checks docs, docstrings, comments and messages for sentences and phrases that have a plainer form.

A fault is printed as `file:line: «found»: cure`; any fault is exit code 1. Code and blocks of Markdown are not prose. A
message is a string of two words or more in the services or the SDK: an error, a log event, a help text, a description.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent

# A sentence begins where a text does, after a full stop, colon or semicolon, or in a list or a table.
_BEGINNING = r"(?:^|[.:;!?»)] |^\s*[-*#|>]+ |\| |\*\*)"

# Things that a value can fail to be.
_THINGS = "address|action|destination|field|folder|form|id|json|list|mapping|name|number|object|state|template|url|zone"

# What no text may hold -> what to write. Phrases are found whatever their case.
RULES: list[tuple[re.Pattern[str], str]] = [
    (re.compile(_BEGINNING + r"((?:What|Whoever|Of) [a-z`])(?![^.|]*\?)"), "name the subject first"),
    *(
        (re.compile(rf"\b({phrase})\b", re.IGNORECASE), cure)
        for phrase, cure in (
            (r"trying on", "retrying"),
            (r"time-outs?", "timeout"),
            (r"belongs into", "belongs in"),
            (r"(?:hand|hands|handed|handing) in (?:a )?jobs?", "submit"),
            (r"from when \w+ \w+ \w+ \w+ on", "once"),
            (r"whoever of", "name the service or the user"),
            (r"(?:is|are) the (?:most|least)(?=[.,:;)]| \(|$)", "exceeds the limit of N; is below the minimum of N"),
            (rf"(?<!there )is no (?:{_THINGS})", "is not a valid …"),
            (r"(?:is|are) let go", "is closed, released or disconnected"),
            (r"see to it that", "name the action"),
        )
    ),
]

# Folders and files that are checked.
CHECKED = (
    "README.md", "CONTRIBUTING.md", "docs", "sdk", "services", "tests", "benchmarks", "tools", "examples", "deploy",
)  # fmt: skip

# Folders whose strings are read by users.
MESSAGES = ("services/", "sdk/")

# Generated from proto/, and this list itself.
OTHERS = ("sdk/taskflow/v1", "tools/prose.py", "tests/unit/test_prose.py")

Texts = Iterator[tuple[int, str]]


def python_texts(source: str) -> Texts:
    """Lines of comments and of strings that are statements, as docstrings are, each with its number."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("#:! ")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            for number, line in enumerate(node.value.value.split("\n"), node.lineno):
                yield number, line.strip()


def messages(source: str) -> Texts:
    """Strings of two words or more, each with the number of its first line and with «…» for each inserted value.

    A message may begin in lower case, so its first letter is shown as a capital.
    """
    tree = ast.parse(source)
    statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    formatted = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    parts = {id(part) for node in formatted for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts | statements:
            text = node.value
        else:
            continue
        if " " in text:
            yield node.lineno, text[:1].upper() + text[1:]


def markdown_texts(source: str) -> Texts:
    """Lines outside blocks of code, each with its number."""
    code = False
    for number, line in enumerate(source.split("\n"), 1):
        if line.lstrip().startswith("```"):
            code = not code
        elif not code and not line.startswith("    "):
            yield number, line


def faults(name: str, source: str) -> list[str]:
    """The faults of one file, in order of lines."""
    texts = list(python_texts(source) if name.endswith(".py") else markdown_texts(source))
    if name.endswith(".py") and name.startswith(MESSAGES):
        texts += messages(source)
    return [
        f"{name}:{number}: «{found[1]}»: {cure}"
        for number, text in sorted(texts)
        for pattern, cure in RULES
        for found in pattern.finditer(text)
    ]


def files() -> Iterator[tuple[str, Path]]:
    """The files to check, with their names from the root of the repository on."""
    for top in CHECKED:
        place = ROOT / top
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            name = path.relative_to(ROOT).as_posix()
            left = any(name == other or name.startswith(f"{other}/") for other in OTHERS)
            if path.suffix in (".py", ".md") and not left:
                yield name, path


def main() -> int:
    """Print the faults of all files; 1 when there are any."""
    found = [fault for name, path in files() for fault in faults(name, path.read_text(encoding="utf-8"))]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

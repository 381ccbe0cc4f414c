"""Named queries from `data/queries/*.sql`: `-- name: x` begins one, a line that ends with `;` ends it."""

from __future__ import annotations

import functools
import re
from typing import Any, LiteralString

from taskflow_server.store.paths import data_dir

_BEGIN = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@functools.cache
def all_queries() -> dict[str, LiteralString]:
    found: dict[str, LiteralString] = {}
    for path in sorted((data_dir() / "queries").glob("*.sql")):
        parts = _BEGIN.split(path.read_text())
        for name, body in zip(parts[1::2], parts[2::2], strict=True):
            if name in found:
                raise ValueError(f"two queries are named {name}")
            lines = [line for line in body.splitlines() if not line.startswith("--")]
            text: Any = "\n".join(lines).strip().removesuffix(";")
            found[name] = text  # from TaskFlow's own files, so it is as safe as a literal
    return found


def sql(name: str) -> LiteralString:
    return all_queries()[name]

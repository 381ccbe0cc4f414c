"""Faults to seed into a history: each breaks one promise, as a bug or a stray hand in the database would.

They are in seeds.sql: a line that names the check and the fault, then statements, whose last one returns what a finding
must name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_TEXT = (Path(__file__).parent / "seeds.sql").read_text()
_HEADS = re.compile(r"^-- ([a-z-]+): (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Seed:
    """A fault, and the check that must find it."""

    check: str
    fault: str
    statements: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.check}: {self.fault}"


def _statements(text: str) -> tuple[str, ...]:
    lines = [line for line in text.splitlines() if not line.startswith("--")]
    return tuple(part.strip() for part in "\n".join(lines).split(";") if part.strip())


_FIRST, *_PARTS = _HEADS.split(_TEXT)
PICK = _statements(_FIRST)
SEEDS = tuple(
    Seed(*head, _statements(text)) for *head, text in zip(_PARTS[::3], _PARTS[1::3], _PARTS[2::3], strict=True)
)

"""The Markdown of the repository, as the tests of its words see it."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "sdk" / "examples"
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md"), ROOT / "sdk" / "README.md"],
    key=lambda page: page.relative_to(ROOT).as_posix(),
)
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language, without their fences."""
    return [text for kind, text in _BLOCK.findall(page.read_text()) if kind == language]


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return _BLOCK.sub("", page.read_text())


def table(page: Path, first: str) -> list[list[str]]:
    """The rows of the page's first table whose header begins with the cell `first`."""
    lines = page.read_text().splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def metrics_of_the_reference() -> dict[str, set[str]]:
    """Names of metrics in docs/reference, and their labels."""
    page = ROOT / "docs" / "reference" / "metrics.md"
    return {row[0].strip("`"): set(re.findall(r"`(\w+)`", row[2])) for row in table(page, "metric")}

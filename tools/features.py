"""The feature table: what works, by the tests that prove it. `python -m tools.features [--write] [--tests]`.

A row consists of clauses, each with the tests that prove it. It `works` when each clause has a test, every test of the
row passed in its last run and docs/reference/features.toml lists nothing as missing; it is `partial` when some did, and
`not yet` when none did. A skipped test, and one that was not run, prove nothing.
"""

import argparse
import json
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CATALOGUE = ROOT / "docs" / "reference" / "features.toml"
PAGE = ROOT / "docs" / "reference" / "features.md"
RESULTS = ROOT / ".pytest_cache" / "v" / "taskflow" / "features"
BEGIN, END = "<!-- features: made by `make features` -->", "<!-- /features -->"
STATES = ("works", "partial", "not yet")


@dataclass
class Row:
    """One feature, with the outcome of each of its tests by node id: passed, failed, skipped or not run."""

    name: str
    title: str
    missing: str = ""
    clauses: dict[str, list[str]] = field(default_factory=dict)  # by its text, the names of its test functions
    tests: dict[str, str] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """One of STATES."""
        passed = [outcome == "passed" for outcome in self.tests.values()]
        if not any(passed):
            return "not yet"
        proven = all(self.proven(clause) for clause in self.clauses)
        return "works" if all(passed) and proven and not self.missing else "partial"

    def proven(self, clause: str) -> bool:
        """Whether the clause names tests, and each of them passed with all of its parameters."""
        names = self.clauses[clause]
        return bool(names) and all(self._passed(name) for name in names)

    def _passed(self, name: str) -> bool:
        outcomes = [outcome for nodeid, outcome in self.tests.items() if function_of(nodeid) == name]
        return bool(outcomes) and all(outcome == "passed" for outcome in outcomes)


def function_of(nodeid: str) -> str:
    """The name of a test's function, without its file, class and parameters."""
    return nodeid.partition("[")[0].rpartition("::")[2]


def catalogue() -> dict[str, Row]:
    """Every row of the catalogue, without tests."""
    entries = tomllib.loads(CATALOGUE.read_text())
    return {
        name: Row(name, entry["title"], entry.get("missing", ""), entry.get("clauses", {}))
        for name, entry in entries.items()
    }


def rows() -> list[Row]:
    """The catalogue with the tests that exist now and how each ended last."""
    found = catalogue()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for nodeid, names in _collected().items():
        for name in names:
            found[name].tests[nodeid] = results.get(nodeid, {}).get("outcome", "not run")
    if unknown := unknown_tests(found.values()):
        sys.exit(f"{CATALOGUE.relative_to(ROOT)}: no test of its row is named {', '.join(unknown)}")
    return list(found.values())


def unknown_tests(of: Iterable[Row]) -> list[str]:
    """The tests that clauses name and that lack the mark of their row."""
    return [
        f"{name} ({row.name})"
        for row in of
        for name in sorted({name for names in row.clauses.values() for name in names})
        if name not in map(function_of, row.tests)
    ]


def table(of: list[Row]) -> str:
    """The table as Markdown."""
    lines = ["| id | feature | state |", "|---|---|---|"]
    for row in of:
        lack = f", without {row.missing}" if row.missing and row.state == "partial" else ""
        lines.append(f"| {row.name} | {row.title} | {row.state}{lack} |")
    return "\n".join(lines)


def on_page() -> str | None:
    """The table that stands on its page; None when the page or its marks are missing."""
    text = PAGE.read_text() if PAGE.exists() else ""
    if BEGIN not in text or END not in text:
        return None
    return text.partition(BEGIN)[2].partition(END)[0].strip()


def write(of: list[Row]) -> None:
    """Put the table between the marks of its page."""
    if on_page() is None:
        sys.exit(f"{PAGE.relative_to(ROOT)} lacks the marks {BEGIN} and {END}")
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table(of)}\n{END}{rest.partition(END)[2]}")


def _collected() -> dict[str, list[str]]:
    """The tests that there are, by node id, with the features that each names."""
    command = [sys.executable, "-m", "pytest", "tests", "--collect-only", "-q", "-p", "tools.collect"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    marks: dict[str, list[str]] = defaultdict(list)
    for line in answer.stdout.splitlines():
        if line.startswith("feature\t"):
            _, name, nodeid = line.split("\t", 2)
            marks[nodeid].append(name)
    if answer.returncode not in (0, 5):
        sys.exit(f"the tests cannot be collected:\n{answer.stdout[-2000:]}{answer.stderr[-2000:]}")
    return marks


def main() -> None:
    """Print the table with the tests behind each row, or put it on its page."""
    parser = argparse.ArgumentParser(description="Features that work, by the tests that prove them.")
    parser.add_argument("--write", action="store_true", help="rewrite the table in docs/reference/features.md")
    options = parser.parse_args()
    found = rows()
    for row in found:
        print(f"{row.name:<6} {row.state:<8} {row.title}{f' (without {row.missing})' if row.missing else ''}")
        for clause, names in row.clauses.items():
            print(f"{'':<7}{'works' if row.proven(clause) else 'not yet':<8} {clause}: {', '.join(names) or 'no test'}")
        for nodeid, outcome in row.tests.items():
            print(f"{'':<16}{outcome:<8} {nodeid}")
    print("; ".join(f"{sum(row.state == state for row in found)} {state}" for state in STATES))
    if options.write:
        write(found)


if __name__ == "__main__":
    main()

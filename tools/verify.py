"""Checks that what is derived is what it is derived from. `python -m tools.verify`: one line for each thing."""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tools import faces, features, lock, proto, reference, schema


def generated_code() -> str:
    """The Python of the protos, with the versions that requirements.lock names."""
    with tempfile.TemporaryDirectory() as folder:
        proto.generate(Path(folder))
        new = proto.generated(Path(folder))
    old = proto.generated(proto.SDK)
    stale = sorted(name for name in new.keys() | old.keys() if new.get(name) != old.get(name))
    return f"{', '.join(stale)}: run `make proto`" if stale else ""


def sync_faces() -> str:
    """The SDK's sync classes."""
    stale = faces.stale()
    return f"sdk: {', '.join(stale)}: run `make faces`" if stale else ""


def schema_dump() -> str:
    """data/schema.sql."""
    old = schema.SCHEMA.read_text() if schema.SCHEMA.exists() else ""
    return "" if schema.dump() == old else "data/schema.sql is not what the migrations make: run `make schema`"


def locked() -> str:
    """Every requirement of the pyprojects has a locked version, and the lock holds no address."""
    text = lock.LOCK.read_text()
    names = {line.partition("==")[0].lower() for line in text.splitlines() if "==" in line}
    missing = [name for name in (_bare(requirement) for requirement in lock.wanted()) if name not in names]
    if missing:
        return f"requirements.lock lacks {', '.join(missing)}: run `make lock`"
    return "requirements.lock holds an address" if "://" in text else ""


def feature_table() -> str:
    """The page has one row for each feature, with a state that exists. The tests say which state a row has."""
    page, found = features.PAGE.relative_to(features.ROOT), features.on_page()
    if found is None:
        return f"{page} lacks the table: run `make features WRITE=1`"
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in found.splitlines()[2:]]
    wanted = [(row.name, row.title) for row in features.catalogue().values()]
    if [tuple(row[:2]) for row in rows] != wanted:
        return f"the table in {page} is not that of features.toml: run `make features WRITE=1`"
    wrong = [row[0] for row in rows if not row[2].startswith(features.STATES)]
    return f"the table in {page} has no such state: {', '.join(wrong)}" if wrong else ""


def reference_pages() -> str:
    """The derived parts of docs/reference."""
    stale = reference.stale()
    return f"docs/reference: {', '.join(stale)}: run `make reference`" if stale else ""


def _bare(requirement: str) -> str:
    name = requirement
    for mark in "[<>=!~; ":
        name = name.partition(mark)[0]
    return name.lower()


CHECKS: tuple[Callable[[], str], ...] = (
    generated_code, sync_faces, schema_dump, locked, feature_table, reference_pages,
)  # fmt: skip


def main() -> None:
    """Exit status 1 when something is stale."""
    bad = 0
    for check in CHECKS:
        problem = check()
        bad += bool(problem)
        print(
            f"{'stale' if problem else 'ok':<6} {check.__name__.replace('_', ' ')}{': ' + problem if problem else ''}"
        )
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()

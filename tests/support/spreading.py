"""Which tests stay together when several processes share them, and which begin first.

The tests of a file stay together, for the fixtures that they share, unless it says `pytestmark = pytest.mark.spread`:
then each makes what it needs. Folders whose tests wait longest come first, so that none is left for the end.
"""

import functools
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).resolve().parents[2]
FIRST = ("tests/faults/", "tests/examples/", "tests/system/", "tests/rpc/", "tests/store/")


def order(items: list[pytest.Item]) -> None:
    """The longest first; within a folder as they are collected, files that spread before the others."""

    def place(item: pytest.Item) -> tuple[int, bool]:
        folder = next((n for n, path in enumerate(FIRST) if item.nodeid.startswith(path)), len(FIRST))
        return folder, not spreads(item.nodeid.partition("::")[0])

    items.sort(key=place)


@functools.cache
def spreads(path: str) -> bool:
    """Whether the tests of this file may run apart. Read from the file: who hands tests out collects none."""
    return "pytestmark = pytest.mark.spread" in (ROOT / path).read_text()


class FilesTogether(LoadScopeScheduling):  # type: ignore[misc]
    """Hands out a file of tests at a time, or one test of a file that spreads."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return nodeid if spreads(path) else path


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FilesTogether:
    """Called by xdist, by way of tests/conftest.py."""
    return FilesTogether(config, log)

"""How several processes share the tests: a file at a time, for the fixtures that its tests share.

Folders whose tests wait longest come first, so that none is left for the end.
"""

from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

FIRST = ("tests/faults/", "tests/examples/", "tests/system/", "tests/rpc/", "tests/store/")


def order(items: list[pytest.Item]) -> None:
    """The longest first; within a folder as they are collected."""
    items.sort(key=lambda item: next((n for n, path in enumerate(FIRST) if item.nodeid.startswith(path)), len(FIRST)))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    """Called by xdist, by way of tests/conftest.py."""
    return LoadFileScheduling(config, log)

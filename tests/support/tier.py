"""Two tiers: `make test` proves every row of the feature table; `make test-long` runs the long forms.

A test marked `long` runs in the long tier alone; one marked `longer` runs in both, with larger numbers there (`size`).
"""

import os
from typing import TypeVar

import pytest

VARIABLE = "TASKFLOW_TEST_LONG"
LONG = os.environ.get(VARIABLE, "") not in ("", "0")
T = TypeVar("T")


def size(short: T, long: T) -> T:
    """How many, how large or how long, in the tier that runs."""
    return long if LONG else short


def select(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what belongs to the other tier."""
    kept, left_out = [], []
    for item in items:
        here = any(item.iter_markers("long")) or (LONG and any(item.iter_markers("longer")))
        (kept if here == LONG else left_out).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept

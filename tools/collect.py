"""A pytest plugin that prints a line for each feature mark: `feature<TAB>id<TAB>test`. Used by tools/features.py."""

import pytest


def pytest_collection_finish(session: pytest.Session) -> None:
    """After collection, all marks of what was found."""
    print()
    for item in session.items:
        for mark in item.iter_markers("feature"):
            for name in mark.args:
                print(f"feature\t{name}\t{item.nodeid}")

"""A pytest plugin that prints a line for each feature mark: `feature<TAB>id<TAB>test`. Used by tools/features.py."""

import pytest


def pytest_collection_finish(session: pytest.Session) -> None:
    """After collection, all marks of what was found."""
    print()
    for item in session.items:
        for mark in item.iter_markers("feature"):
            print(f"feature\t{mark.args[0]}\t{item.nodeid}")

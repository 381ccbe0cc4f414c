"""What pytest does for us beside running: logs of a failed test's cluster, and which features are proven."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import cluster as clusters

FEATURES = Path(__file__).resolve().parents[2] / "docs" / "reference" / "features.toml"
CACHE_KEY = "taskflow/features"


class FeatureRecorder:
    """Keeps, for each test with a feature mark, how it ended last: passed, failed or skipped."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._marks: dict[str, list[str]] = {}
        self._outcomes: dict[str, str] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Note the marks; a mark with an unknown id stops the run."""
        known = tomllib.loads(FEATURES.read_text()).keys()
        for item in items:
            ids = [str(name) for mark in item.iter_markers("feature") for name in mark.args]
            unknown = [name for name in ids if name not in known]
            if unknown:
                raise pytest.UsageError(f"{item.nodeid}: feature {unknown[0]} is not in {FEATURES.name}")
            if ids:
                self._marks[item.nodeid] = ids

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """The worst of setup, call and teardown."""
        if report.nodeid not in self._marks:
            return
        if report.failed:
            self._outcomes[report.nodeid] = "failed"
        elif report.skipped:
            self._outcomes.setdefault(report.nodeid, "skipped")
        elif report.when == "call":
            self._outcomes.setdefault(report.nodeid, "passed")

    def pytest_sessionfinish(self) -> None:
        """Merge with what earlier runs of other tests left."""
        cache = self._config.cache
        if cache is None or self._config.option.collectonly:
            return
        seen: dict[str, Any] = cache.get(CACHE_KEY, {})
        for nodeid, outcome in self._outcomes.items():
            seen[nodeid] = {"features": self._marks[nodeid], "outcome": outcome}
        cache.set(CACHE_KEY, seen)


def pytest_configure(config: pytest.Config) -> None:
    """Called by tests/conftest.py."""
    config.pluginmanager.register(FeatureRecorder(config), "taskflow-features")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failed test shows the ends of its cluster's logs."""
    outcome = yield
    report: pytest.TestReport = outcome.get_result()  # type: ignore[attr-defined]
    if report.failed:
        for cluster in clusters.living:
            report.sections.append((f"services of {cluster.directory.name}", cluster.logs()))

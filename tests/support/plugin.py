"""What pytest does for us beside running: logs of a failed test's cluster, and which features are proven."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import cluster as clusters

FEATURES = Path(__file__).resolve().parents[2] / "docs" / "reference" / "features.toml"
CACHE_KEY = "taskflow/features"
PROPERTY = "taskflow-features"


class FeatureRecorder:
    """Keeps, for each test with a feature mark, how it ended last: passed, failed or skipped.

    The ids travel with the reports: with several processes, the one that reports is not the one that runs the tests.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._seen: dict[str, dict[str, Any]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Note the marks; a mark with an unknown id stops the run."""
        known = tomllib.loads(FEATURES.read_text()).keys()
        for item in items:
            ids = [str(name) for mark in item.iter_markers("feature") for name in mark.args]
            unknown = [name for name in ids if name not in known]
            if unknown:
                raise pytest.UsageError(f"{item.nodeid}: feature {unknown[0]} is not in {FEATURES.name}")
            if ids:
                item.user_properties.append((PROPERTY, ids))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """The worst of setup, call and teardown."""
        ids = dict(report.user_properties).get(PROPERTY)
        if ids is None:
            return
        seen = self._seen.setdefault(report.nodeid, {"features": ids, "outcome": "passed"})
        if report.failed or (report.skipped and seen["outcome"] != "failed"):
            seen["outcome"] = report.outcome

    def pytest_sessionfinish(self) -> None:
        """Merge with what earlier runs of other tests left."""
        cache = self._config.cache
        if cache is None or self._config.option.collectonly or hasattr(self._config, "workerinput"):
            return
        cache.set(CACHE_KEY, {**cache.get(CACHE_KEY, {}), **self._seen})


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

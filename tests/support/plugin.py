"""Beside running tests: which features are proven, a line of progress, and what helps where a test is red."""

import gc
import shutil
import signal
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import pytest

from tests.support import cluster as clusters
from tests.support import leftovers, spreading, tier
from tests.support.compiling import compile_tests
from tests.support.times import Times

FEATURES = Path(__file__).resolve().parents[2] / "docs" / "reference" / "features.toml"
CACHE_KEY = "taskflow/features"
PROPERTY = "taskflow-features"
FOLDER = pytest.StashKey[str]()


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
        cache = getattr(self._config, "cache", None)  # none with `-p no:cacheprovider`
        if cache is None or self._config.option.collectonly or hasattr(self._config, "workerinput"):
            return
        cache.set(CACHE_KEY, {**cache.get(CACHE_KEY, {}), **self._seen})


class Progress:
    """In a terminal, one line that moves: how many tests are over, how many of them are red, for how long."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._began = time.monotonic()
        self._all = self._over = self._red = 0

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self._all = len(items)

    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        self._all = len(ids)

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """No dot for what went well."""
        return ("passed", "", "PASSED") if report.passed and report.when == "call" else None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown":
            self._over += 1
        self._red += report.failed
        seconds = int(time.monotonic() - self._began)
        red = f", {self._red} red" if self._red else ""
        name = report.nodeid[-70:]
        line = f"{self._over} of {self._all} tests{red}, {seconds // 60}:{seconds % 60:02}  {name}"
        self._stream.write(f"\r\x1b[2K{line}" if report.when != "teardown" or self._over < self._all else "\r\x1b[2K")
        self._stream.flush()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Called by tests/conftest.py."""
    parser.addoption("--times", metavar="DIR", help="show wall and CPU seconds by file of tests; notes them in DIR")


def pytest_configure(config: pytest.Config) -> None:
    """Called by tests/conftest.py. With several processes: in the one that reports, and in each that runs tests."""
    runs = hasattr(config, "workerinput") or not config.getoption("numprocesses", None)
    reports = not hasattr(config, "workerinput")
    plugins = config.pluginmanager
    if reports and not runs and not config.option.collectonly:
        compile_tests(Path(word.partition("::")[0]) for word in config.args)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background; programs of tests inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    plugins.register(FeatureRecorder(config), "taskflow-features")
    if runs and not config.option.collectonly:
        config.stash[FOLDER] = leftovers.own_temporary_folder()
        plugins.register(leftovers.Leftovers(), "taskflow-leftovers")
    if reports and sys.stderr.isatty() and config.option.verbose == 0 and not config.option.collectonly:
        plugins.register(Progress(sys.stderr), "taskflow-progress")
    folder = config.getoption("--times")
    if folder:
        plugins.register(Times(Path(folder), reports), "taskflow-times")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Called by tests/conftest.py."""
    if FOLDER in config.stash:
        shutil.rmtree(config.stash[FOLDER], ignore_errors=True)


@pytest.hookimpl(hookwrapper=True)
def pytest_collection() -> Iterator[None]:
    """Called by tests/conftest.py. Thousands of tests stay to the end: no garbage collection looks at them again."""
    gc.disable()
    yield
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Called by tests/conftest.py."""
    tier.select(config, items)
    spreading.order(items)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failed test shows the ends of its cluster's logs, and how to run it alone."""
    outcome = yield
    report: pytest.TestReport = outcome.get_result()  # type: ignore[attr-defined]
    if report.failed:
        for cluster in clusters.living:
            report.sections.append((f"services of {cluster.directory.name}", cluster.logs()))
        long = f"{tier.VARIABLE}=1 " if tier.LONG else ""
        report.sections.append(("alone", f"{long}make test ARGS='\"{item.nodeid}\"'"))

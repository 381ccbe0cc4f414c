"""Wall and CPU seconds by file of tests: `make test ARGS="tests --times build/times"`."""

import os
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import descendants

TICKS = os.sysconf("SC_CLK_TCK")
SHOWN = 40


def cpu_seconds() -> float:
    """CPU of this process and of all its descendants, since each of them started."""
    total = 0
    for pid in (os.getpid(), *descendants(os.getpid())):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended; its parent counts it from now on
        total += sum(int(fields[index]) for index in (11, 12, 13, 14))  # own user and system, waited-for children's
    return total / TICKS


class Times:
    """Notes each test with its fixtures in a file of its process; at the end the sums by file of tests are shown."""

    def __init__(self, folder: Path, reports: bool) -> None:
        self._folder = folder
        self._reports = reports
        folder.mkdir(parents=True, exist_ok=True)
        if reports:
            for old in folder.glob("*.txt"):
                old.unlink()
        self._cpu: float | None = None  # at the end of the last file

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
        """From before the set-up to after the tear-down. CPU is looked at between files: a look costs milliseconds."""
        if self._cpu is None:
            self._cpu = cpu_seconds()
        wall, cpu = time.perf_counter(), 0.0
        yield
        wall = time.perf_counter() - wall
        if nextitem is None or nextitem.path != item.path:
            now = cpu_seconds()
            self._cpu, cpu = now, now - self._cpu
        with (self._folder / f"{os.getpid()}.txt").open("a") as log:
            log.write(f"{item.nodeid.partition('::')[0]} {wall:.3f} {cpu:.3f}\n")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The table, longest first."""
        if not self._reports:
            return
        files: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
        for log in self._folder.glob("*.txt"):
            for line in log.read_text().splitlines():
                path, wall, cpu = line.rsplit(" ", 2)
                files[path] = [a + b for a, b in zip(files[path], (1.0, float(wall), float(cpu)), strict=True)]
        terminalreporter.section("wall and CPU seconds by file")
        for path, (tests, wall, cpu) in sorted(files.items(), key=lambda item: -item[1][1])[:SHOWN]:
            terminalreporter.write_line(f"{wall:8.1f} {cpu:8.1f} {tests:6.0f} tests  {path}")
        tests, wall, cpu = (sum(column) for column in zip(*files.values(), strict=True))
        terminalreporter.write_line(f"{wall:8.1f} {cpu:8.1f} {tests:6.0f} tests  in all")

"""Processes, listening ports and folders that a file of tests left behind fail its last test, and name their maker."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.processes import command_of, descendants, listening, runs, started_at

_allowed: set[int] = set()  # processes that last as long as the tests: each process's Postgres and fork server
_lasting: list[Callable[[int], bool]] = []
_trees: set[int] = set()  # and whose children are their own affair


def allow_if(lasts: Callable[[int], bool]) -> None:
    """Processes of which `lasts` says that they are to outlast their file."""
    _lasting.append(lasts)


def allow(pid: int, *, tree: bool = False) -> None:
    """A process that is to outlast its file."""
    _allowed.add(pid)
    if tree:
        _trees.add(pid)


class Leftovers:
    """Looks when the tests of one file are over, in the process that ran them."""

    def __init__(self) -> None:
        self._began: list[tuple[float, str]] = []
        self._ports = listening(os.getpid())
        self._folders = self._made()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self._began.append((time.clock_gettime(time.CLOCK_BOOTTIME), item.nodeid))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
        yield
        if nextitem is None or nextitem.path != item.path:
            left = [*self._processes(), *self._open_ports(), *self._new_folders()]
            self._began.clear()
            if left:
                pytest.fail("left behind: " + "; ".join(left), pytrace=False)

    def _processes(self) -> Iterator[str]:
        for pid in filter(runs, descendants(os.getpid(), stop_at=_trees)):
            if pid not in _allowed and not any(lasts(pid) for lasts in _lasting):
                began = started_at(pid)
                maker = next((name for since, name in reversed(self._began) if since <= began), "an earlier test")
                yield f"process {pid} ({command_of(pid)}), made by {maker}"
                allow(pid)  # told once

    def _open_ports(self) -> Iterator[str]:
        there = listening(os.getpid())
        for port in there - self._ports:
            yield f"port {port} of the tests' own process"
        self._ports |= there

    def _new_folders(self) -> Iterator[str]:
        there = self._made()
        for name in there - self._folders:
            yield f"{tempfile.gettempdir()}/{name}"
        self._folders |= there

    def _made(self) -> set[str]:
        return {path.name for path in Path(tempfile.gettempdir()).glob("taskflow-*")}


def own_temporary_folder() -> str:
    """Each process of the tests makes its temporary files in a folder of its own, so that what is left has an owner."""
    folder = tempfile.mkdtemp(prefix="tf-tests-")
    os.chmod(folder, 0o755)  # the embedded Postgres runs as another user
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # pictures stay there
    tempfile.tempdir = os.environ["TMPDIR"] = folder
    return folder

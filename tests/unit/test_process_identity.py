"""The proof that a process of this machine has ended (protocol A6): never true of one that lives, or may live."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskflow._process.identity import Process, is_gone, own
from tests.support.waiting import eventually

SAY_WHO = "import sys; from taskflow._process.identity import own; print(*own(), flush=True); sys.stdin.read()"


@pytest.fixture
def child() -> Iterator[tuple[subprocess.Popen[str], Process]]:
    process = subprocess.Popen(
        [sys.executable, "-c", SAY_WHO], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    namespace, pid, started = process.stdout.readline().split()
    yield process, Process(namespace, int(pid), int(started))
    process.kill()
    process.communicate()


def test_this_process_lives() -> None:
    assert own().namespace and own().pid and own().started
    assert not is_gone(own())


def test_a_process_is_gone_from_its_end_on_also_while_its_parent_has_not_waited_for_it(
    child: tuple[subprocess.Popen[str], Process],
) -> None:
    process, identity = child
    assert identity.pid == process.pid
    assert not is_gone(identity)

    process.kill()

    eventually(lambda: is_gone(identity))
    assert Path(f"/proc/{process.pid}").exists(), "a zombie"
    process.wait()
    assert is_gone(identity)


def test_another_process_under_the_same_pid_is_not_it(child: tuple[subprocess.Popen[str], Process]) -> None:
    assert is_gone(child[1]._replace(started=child[1].started - 1))


@pytest.mark.parametrize(
    "unknown",
    [
        {"namespace": ""}, {"namespace": "another boot/1/1"}, {"pid": 0}, {"pid": -1}, {"started": 0}, {"started": -5},
    ],
    ids=str,
)  # fmt: skip
def test_nothing_is_proved_of_a_process_that_may_be_elsewhere(unknown: dict[str, str | int]) -> None:
    dead = own()._replace(started=own().started + 1)
    assert is_gone(dead)

    assert not is_gone(dead._replace(**unknown))


def test_a_number_that_is_no_pid_proves_that_nothing_runs_under_it_or_nothing_at_all() -> None:
    assert is_gone(own()._replace(pid=2**31 - 1))
    assert not is_gone(own()._replace(pid=2**40))


def test_a_process_of_another_user_lives() -> None:
    """The first process of this namespace, whose signals may be refused, with its own start."""
    fields = Path("/proc/1/stat").read_text().rpartition(")")[2].split()
    assert not is_gone(own()._replace(pid=1, started=int(fields[19])))

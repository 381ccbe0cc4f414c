"""Children end with their parent, ports are looked at truthfully, waits can be interrupted."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from services.cluster.ports import PortInUseError, free_ports, is_free, require_free
from services.cluster.process import Interrupted, spawn, stop, tail, take_lock, wait_until
from tests.support.waiting import eventually

SLEEPER = [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('here', flush=True); time.sleep(60)",
]


def alive(pid: int) -> bool:
    """A zombie does not live."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = (
        "import pathlib, sys, time; from services.cluster.process import spawn\n"
        f"child = spawn({SLEEPER!r}, env={{}}, cwd=pathlib.Path('/'), log=None)\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert alive(child)

    parent.kill()
    parent.wait()
    parent.stdout.close()

    eventually(lambda: not alive(child))


def test_a_child_outlives_the_thread_that_asked_for_it(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        child = pool.submit(spawn, SLEEPER, env={}, cwd=tmp_path, log=tmp_path / "log").result()

    eventually(lambda: tail(tmp_path / "log") == "here")
    assert child.poll() is None
    stop(child, ((signal.SIGTERM, 5),))


def test_a_child_is_out_of_reach_of_the_terminals_ctrl_c(tmp_path: Path) -> None:
    child = spawn(SLEEPER, env={}, cwd=tmp_path, log=None)

    assert os.getpgid(child.pid) == child.pid != os.getpgid(0)

    stop(child, ((signal.SIGTERM, 5),))


def test_a_child_that_ignores_its_signals_is_killed(tmp_path: Path) -> None:
    child = spawn(STUBBORN, env={}, cwd=tmp_path, log=tmp_path / "log")
    eventually(lambda: tail(tmp_path / "log") == "here")

    stop(child, ((signal.SIGTERM, 0.1),))

    assert child.returncode == -signal.SIGKILL


def test_a_hurry_cuts_the_patience_short(tmp_path: Path) -> None:
    child = spawn(STUBBORN, env={}, cwd=tmp_path, log=tmp_path / "log")
    eventually(lambda: tail(tmp_path / "log") == "here")

    stop(child, ((signal.SIGTERM, 60),), hurry=lambda: True)

    assert child.returncode == -signal.SIGKILL


def test_a_program_that_is_not_there_says_so(tmp_path: Path) -> None:
    child = spawn(["/nowhere/program"], env={}, cwd=tmp_path, log=tmp_path / "log")

    assert child.wait(10) == 126
    assert tail(tmp_path / "log") == "/nowhere/program: No such file or directory"


def test_a_wait_ends_at_once_when_asked_to_stop() -> None:
    with pytest.raises(Interrupted):
        wait_until(lambda: False, 60, stopping=lambda: True)


def test_a_lock_is_held_until_its_process_ends(tmp_path: Path) -> None:
    script = (
        "import pathlib, time; from services.cluster.process import take_lock\n"
        f"take_lock(pathlib.Path({str(tmp_path / 'lock')!r})); print('locked', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"locked\n"
    with pytest.raises(BlockingIOError):
        take_lock(tmp_path / "lock")

    holder.kill()
    holder.wait()
    holder.stdout.close()

    os.close(take_lock(tmp_path / "lock"))


def test_a_port_with_a_listener_is_not_free_even_if_that_would_share_it() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]

        assert not is_free(port)
        with pytest.raises(PortInUseError, match=rf"^port {port} is in use, and queue needs it: "):
            require_free({"queue": port})

    assert is_free(port)


def test_free_ports_are_different() -> None:
    assert len(set(free_ports(20))) == 20

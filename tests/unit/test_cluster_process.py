"""Children end with their parent, ports are looked at truthfully, waits can be interrupted."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from taskflow_server.cluster import ports
from taskflow_server.cluster.cluster import Cluster, fixed_ports, metrics_ports, names
from taskflow_server.cluster.others import suffix
from taskflow_server.cluster.ports import PortInUseError, free_ports, is_free, require_free
from taskflow_server.cluster.process import Interrupted, rotate, spawn, stop, tail, take_lock, wait_until
from taskflow_server.cluster.service import Service
from taskflow_server.cluster.watch import Watch
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
        "import pathlib, sys, time; from taskflow_server.cluster.process import spawn\n"
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
        "import pathlib, time; from taskflow_server.cluster.process import take_lock\n"
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


@pytest.mark.skipif(sys.platform != "linux", reason="nothing is reserved elsewhere")
def test_processes_that_choose_from_the_same_ports_get_different_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any of them is bound."""
    few = (11_000, 11_060)
    monkeypatch.setattr(ports, "GIVEN", few)
    code = f"from taskflow_server.cluster import ports; ports.GIVEN = {few}; print(*ports.free_ports(25)); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        theirs = {int(port) for port in other.stdout.readline().split()}
        ours = set(free_ports(25))
        other.communicate(b"\n")

    assert (len(theirs), len(ours), theirs & ours) == (25, 25, set())


@pytest.mark.parametrize("first", [9001, 10_000])
@pytest.mark.parametrize("step", [10, 50, 100, 1000])
def test_clusters_whose_bases_are_equal_steps_apart_share_no_port(first: int, step: int) -> None:
    bases = [first, *range(10_000 if first == 9001 else first + step, 30_000, step)][:15]
    taken = [port for base in bases for ports in (fixed_ports(base), metrics_ports(base)) for port in ports.values()]

    assert len(taken) == len(set(taken)) == 10 * len(bases)


def test_the_default_ports_are_those_of_the_services() -> None:
    assert fixed_ports() == {"coordinator": 9001, "queue": 9002, "scheduler": 9003, "worker": 9004, "gateway": 8080}
    assert list(metrics_ports().values()) == [9101, 9102, 9103, 9104, 9180]


def test_names_of_another_data_folder_are_others(tmp_path: Path) -> None:
    assert suffix(tmp_path) == suffix(tmp_path / "x" / "..")
    assert not set(names(suffix(tmp_path))) & set(names(suffix(tmp_path / "x")))


def test_a_log_is_moved_away_while_its_program_writes(tmp_path: Path) -> None:
    script = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"
    log = tmp_path / "x.log"
    with log.open("ab") as output:
        writer = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=output, text=True)
    assert writer.stdin is not None
    writer.stdin.write("early\n" * 20)
    writer.stdin.flush()
    eventually(lambda: log.stat().st_size == 120)

    assert not rotate(log, 120)
    assert rotate(log, 119)
    writer.stdin.write("late\n")
    writer.stdin.close()
    writer.wait()

    assert log.read_text() == "late\n"
    assert log.with_suffix(".log.1").read_text() == "early\n" * 20


def service(tmp_path: Path, code: str) -> Service:
    """A program that ends by itself, as a service."""
    found = Service("worker-1", 1, tmp_path / "worker.log", [sys.executable, "-c", code], tmp_path)
    found.start()
    eventually(lambda: not found.alive)
    return found


@pytest.mark.parametrize(
    ("code", "ending"),
    [
        ("import sys; print('why'); sys.exit(3)", "ended with exit status 3: why"),
        (
            "print('2026 [info ] stopping service=worker-1')",
            "ended with exit status 0: it was stopped by a signal",
        ),
        (
            "import os; print('runs'); os._exit(0)",
            "ended with exit status 0: its log does not say why; os._exit(0) and",
        ),
        ("import os; os.kill(os.getpid(), 9)", "was ended by SIGKILL"),
    ],
)
def test_the_end_of_a_service_is_told_with_its_reason(tmp_path: Path, code: str, ending: str) -> None:
    assert service(tmp_path, code).ending.startswith(ending)


def test_a_watch_moves_logs_away_that_grow_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskflow_server.cluster.service.LOG_LIMIT", 1000)
    cluster = Cluster("postgresql://x/x", tmp_path, services=["queue"])
    found = cluster["queue"]
    found.command = [sys.executable, "-c", "import time; print('x' * 2000, flush=True); time.sleep(60)"]
    found.start()
    try:
        Watch(cluster, None, print).until(found.log.with_suffix(".log.1").exists)
        assert found.log.stat().st_size == 0
        assert found.alive
    finally:
        found.kill()

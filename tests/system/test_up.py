"""`taskflow up`: one command, one supervisor, nothing left behind."""

import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from taskflow import TaskFlow
from taskflow_server.cluster import home
from taskflow_server.cluster.embedded_postgres import attach
from taskflow_server.cluster.health import is_serving
from tests.support.folders import NAMES, write_app
from tests.support.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
SERVICES = {"scheduler", "coordinator", "queue", "worker", "gateway"}


class Up:
    """One run of the command, with an environment by which all its children are found."""

    def __init__(self, data_dir: Path, *options: str, cwd: Path = ROOT) -> None:
        self.data_dir = data_dir
        self.mark = f"TASKFLOW_TEST_MARK={uuid.uuid4()}"
        environ = {name: value for name, value in os.environ.items() if not name.startswith("TASKFLOW_")}
        name, _, value = self.mark.partition("=")
        self.output = data_dir.with_name(f"{value}.out")
        command = [sys.executable, "-m", "taskflow_server.cli", "up", "--data-dir", str(data_dir), *options]
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                command, cwd=cwd, env={**environ, name: value}, stdout=output, stderr=subprocess.STDOUT
            )

    @property
    def said(self) -> str:
        return self.output.read_text()

    def running(self) -> "Up":
        """Waits until it says that it is up."""
        eventually(lambda: "logs" in self.said or self.process.poll() is not None, timeout=60)
        assert self.process.poll() is None, self.said
        return self

    @property
    def addresses(self) -> dict[str, str]:
        rows = [line.split() for line in self.said.splitlines() if line.startswith("  ")]
        return {row[0]: row[1] for row in rows}

    def health(self, name: str) -> str:
        return f"{self.addresses[name]}/healthz" if name == "gateway" else self.addresses[name]

    def children(self) -> list[int]:
        """All processes that came of it, by their environment; Postgres, whose environment is its own, by its data."""
        data = str(home.locate(self.data_dir).path).encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                belongs = self.mark.encode() in (folder / "environ").read_bytes()
                belongs = belongs or data in (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if belongs and int(folder.name) != self.process.pid:
                found.append(int(folder.name))
        return found

    def end(self, number: signal.Signals = signal.SIGINT, timeout: float = 40) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    """Starts the command on the test's data folder; whatever is left is ended."""
    runs: list[Up] = []

    def start(*options: str, cwd: Path = ROOT) -> Up:
        runs.append(Up(tmp_path / "data", *options, cwd=cwd))
        return runs[-1]

    yield start
    for run in runs:
        run.end(signal.SIGKILL)
    if runs:
        eventually(lambda: not runs[0].children(), timeout=30)
        home.remove(home.locate(tmp_path / "data"))


@pytest.mark.feature("M.5")
def test_it_runs_everything_until_ctrl_c_and_the_data_stay(up: Callable[..., Up], tmp_path: Path) -> None:
    first = up("--free-ports").running()
    assert set(first.addresses) >= SERVICES
    assert all(is_serving(first.health(name), 5) for name in SERVICES)
    assert "http.call" not in (first.data_dir / "logs" / "worker.log").read_text(), (
        "built-in handlers were not asked for"
    )
    dsn = attach(tmp_path / "data")
    assert dsn is not None
    with psycopg.connect(dsn) as conn:
        conn.execute("insert into taskflow.namespaces (name) values ('kept')")

    assert first.end() == 0
    assert first.children() == []
    assert first.said.splitlines()[-1] == "stopped"

    up("--free-ports").running()
    dsn = attach(tmp_path / "data")
    assert dsn is not None
    with psycopg.connect(dsn) as conn:
        assert conn.execute("select 1 from taskflow.namespaces where name = 'kept'").fetchone() == (1,)


@pytest.mark.feature("M.5")
def test_a_second_one_says_in_one_line_that_one_is_running(up: Callable[..., Up]) -> None:
    first = up("--free-ports").running()

    second = up("--free-ports")

    assert second.process.wait(20) == 1
    where = f"(pid {first.process.pid}, scheduler {first.addresses['scheduler']})"
    assert second.said == f"taskflow up: one is running already with {first.data_dir} {where}\n"
    assert is_serving(first.addresses["scheduler"], 5)


@pytest.mark.parametrize(
    "fact",
    [
        *(
            pytest.param(log, marks=pytest.mark.long)
            for log in ("up.lock", "logs/initdb.log", "logs/postgres.log", "logs/queue.log")
        ),
        "logs/worker.log",
    ],
)
@pytest.mark.feature("M.5")
def test_ctrl_c_while_it_starts_leaves_nothing_running(up: Callable[..., Up], fact: str) -> None:
    starting = up("--free-ports")
    eventually(lambda: (starting.data_dir / fact).exists() or starting.process.poll() is not None, timeout=60)

    status = starting.end(timeout=15)

    assert status == 0, starting.said
    assert starting.children() == []
    assert starting.said.splitlines()[-1] == "stopped"


@pytest.mark.long
def test_when_it_is_killed_everything_goes_with_it_and_the_next_one_starts(up: Callable[..., Up]) -> None:
    first = up("--free-ports").running()
    assert len(first.children()) > len(SERVICES)

    first.end(signal.SIGKILL)
    second = up("--free-ports").running()

    eventually(lambda: not _services_of(first))
    assert is_serving(second.addresses["scheduler"], 5)


def test_what_dies_is_started_again_at_its_address_with_one_line(up: Callable[..., Up]) -> None:
    running = up("--free-ports").running()
    queue = next(pid for pid in running.children() if _is(pid, "queue"))
    postgres = next(pid for pid in running.children() if _is(pid, "-D") and _parent(pid) == running.process.pid)

    os.kill(queue, signal.SIGKILL)
    os.kill(postgres, signal.SIGKILL)

    eventually(lambda: running.said.count("starting it again") == 2)
    assert "queue was ended by SIGKILL; starting it again in 0.1 s" in running.said
    eventually(lambda: is_serving(running.addresses["queue"]), timeout=30)
    dsn = eventually(lambda: attach(running.data_dir))
    assert f":{running.addresses['postgres'].rpartition(':')[2]}/" in dsn


def test_a_port_in_use_is_one_line_that_names_it_and_who_needs_it(up: Callable[..., Up]) -> None:
    for _ in range(3):  # another program may hold the port before it, which is named first
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]

            refused = up("--port-base", str(port - 1))

            assert refused.process.wait(20) == 2
        if f"port {port - 1} " not in refused.said:
            break
    what = f"taskflow up: port {port} is in use, and queue needs it: stop what listens there, or take other ports with"
    assert refused.said == f"{what} --port-base N or --free-ports\n"
    assert refused.children() == []


@pytest.mark.long
def test_an_absent_database_is_one_line(up: Callable[..., Up]) -> None:
    refused = up("--free-ports", "--database-url", "postgresql://someone:secret@127.0.0.1:1/x")

    assert refused.process.wait(30) == 3
    assert len(refused.said.splitlines()) == 1
    assert refused.said.startswith("taskflow up: TASKFLOW_DATABASE_URL: no Postgres answers at 127.0.0.1:1/x: ")
    assert "secret" not in refused.said


@pytest.mark.long
def test_a_database_of_ones_own_is_used_and_migrated(up: Callable[..., Up], database: str) -> None:
    running = up("--free-ports", "--database-url", database).running()

    assert is_serving(running.addresses["scheduler"], 5)
    assert attach(running.data_dir) is None
    with psycopg.connect(database) as conn:
        members = {kind for (kind,) in conn.execute("select kind from taskflow.members")}
    assert "coordinator" in members


@pytest.mark.feature("M.5")
def test_an_app_may_have_folders_of_the_names_of_ours(up: Callable[..., Up], tmp_path: Path) -> None:
    folder = tmp_path / "app"
    write_app(folder, packages=True)

    running = up("--free-ports", "shop:app", cwd=folder).running()

    with TaskFlow(running.addresses["scheduler"]) as tf:
        assert tf.new_job("folders", task="mine").wait(30).result == list(NAMES)



@pytest.mark.long
def test_two_on_one_database_do_not_end_each_other(up: Callable[..., Up], database: str, tmp_path: Path) -> None:
    """Both start at once, with data folders of their own: the second says what runs, or serves beside the first."""
    both = [
        up("--free-ports", "--database-url", database),
        up("--free-ports", "--database-url", database, "--data-dir", str(tmp_path / "other")),
    ]

    eventually(lambda: all("TaskFlow is up" in each.said or each.process.poll() is not None for each in both), 120)
    alive = [each for each in both if each.process.poll() is None]
    assert alive
    for each in alive:
        assert "starting it again" not in each.said
        assert is_serving(each.addresses["scheduler"], 5)
    assert [each.said.count("\n") for each in both if each not in alive] == [1] * (2 - len(alive))


@pytest.mark.long
def test_a_wrong_app_is_one_line_and_stops_everything(up: Callable[..., Up]) -> None:
    refused = up("--free-ports", "no_such_module:app")

    assert refused.process.wait(60) == 2
    assert len(refused.said.splitlines()) == 1
    assert "no_such_module" in refused.said
    assert refused.children() == []


def _services_of(run: Up) -> list[int]:
    """Its children without Postgres, whose data the next run has."""
    return [pid for pid in run.children() if not _is(pid, "-D")]


def _is(pid: int, word: str) -> bool:
    try:
        return word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0

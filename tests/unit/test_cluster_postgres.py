"""The embedded Postgres: where its programs come from, how it is kept, and that it keeps its rows."""

import os
import signal
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from taskflow_server.cluster import binaries, embedded_postgres, home
from taskflow_server.cluster.binaries import NoPostgresError
from taskflow_server.cluster.embedded_postgres import EmbeddedPostgres, LockedError, PostgresError, attach
from taskflow_server.cluster.home import HomeError
from taskflow_server.cluster.process import Interrupted
from tests.support.waiting import eventually


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    postgres = EmbeddedPostgres(tmp_path / "data")
    yield postgres
    postgres.remove()


def setting(dsn: str, name: str) -> object:
    with psycopg.connect(dsn) as conn:
        row = conn.execute("select current_setting(%s)", (name,)).fetchone()
    return row[0] if row else None


@pytest.mark.feature("M.5")
def test_rows_survive_kill_minus_nine_and_the_server_is_back_at_its_address(server: EmbeddedPostgres) -> None:
    dsn = server.start()
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("create table kept (n integer)")
        conn.execute("insert into kept select generate_series(1, 1000)")

    server.kill(signal.SIGKILL)
    eventually(lambda: server.pid is None)
    again = server.start()

    assert again == dsn
    with psycopg.connect(dsn) as conn:
        assert conn.execute("select count(*) from kept").fetchone() == (1000,)


@pytest.mark.long
def test_it_is_durable_unless_asked_otherwise(server: EmbeddedPostgres, tmp_path: Path) -> None:
    dsn = server.start()

    assert (setting(dsn, "fsync"), setting(dsn, "synchronous_commit")) == ("on", "on")
    assert setting(dsn, "server_encoding") == "UTF8"
    assert setting(dsn, "listen_addresses") == "127.0.0.1"

    hasty = EmbeddedPostgres(tmp_path / "hasty", fsync=False)
    try:
        assert setting(hasty.start(), "fsync") == "off"
    finally:
        hasty.remove()


def test_nobody_comes_in_without_the_password(server: EmbeddedPostgres) -> None:
    dsn = server.start()
    password = home.locate(server.data_dir).password

    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(dsn.replace(password, "guess"))

    file = home.locate(server.data_dir).path / "password"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


@pytest.mark.long
def test_a_second_one_on_the_same_data_is_refused_and_can_attach(server: EmbeddedPostgres) -> None:
    dsn = server.start()

    with pytest.raises(LockedError, match="another process"):
        EmbeddedPostgres(server.data_dir).start()

    assert attach(server.data_dir) == dsn
    server.stop()
    assert attach(server.data_dir) is None


def test_it_ends_with_its_supervisor_and_the_next_one_gets_the_data(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    script = (
        "import pathlib, time; from taskflow_server.cluster.embedded_postgres import EmbeddedPostgres\n"
        f"postgres = EmbeddedPostgres(pathlib.Path({str(data_dir)!r}))\n"
        "postgres.start(); print(postgres.pid, flush=True); time.sleep(60)"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert supervisor.stdout is not None
    first = int(supervisor.stdout.readline())

    supervisor.kill()
    supervisor.wait()
    supervisor.stdout.close()
    postgres = EmbeddedPostgres(data_dir)
    try:
        postgres.start()  # also while the first is still shutting down
        assert postgres.pid not in (None, first)
    finally:
        postgres.remove()


@pytest.mark.long
def test_a_stale_pid_file_that_names_another_program_does_not_keep_it_from_starting(server: EmbeddedPostgres) -> None:
    server.start()
    pid_file = home.locate(server.data_dir).data / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    server.kill(signal.SIGKILL)
    eventually(lambda: server.pid is None)
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]))

    server.start()

    assert server.pid is not None


@pytest.mark.long
def test_a_start_that_is_interrupted_leaves_nothing_and_the_next_one_works(server: EmbeddedPostgres) -> None:
    looks = iter([False] * 5)

    with pytest.raises(Interrupted):
        server.start(stopping=lambda: next(looks, True))

    assert server.pid is None
    assert attach(server.data_dir) is None
    assert setting(server.start(), "fsync") == "on"


@pytest.mark.long
def test_a_small_shared_memory_is_avoided(server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_postgres, "_SMALL_SHARED_MEMORY", 1 << 62)

    assert setting(server.start(), "dynamic_shared_memory_type") == "mmap"
    if int(server.version.partition(".")[0]) >= 16:  # then initdb avoids it as well, and writes it down
        config = (home.locate(server.data_dir).data / "postgresql.conf").read_text()
        assert "\ndynamic_shared_memory_type = mmap" in config


@pytest.mark.long
def test_why_it_does_not_start_is_one_line(server: EmbeddedPostgres) -> None:
    server.start()
    server.stop()
    data = home.locate(server.data_dir).data
    (data / "postgresql.auto.conf").write_text("no_such_setting = 1\n")

    with pytest.raises(PostgresError, match=r"^Postgres did not start: .*configuration file.* \(more in .*\)$"):
        server.start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs it as another user")
def test_as_root_it_runs_as_another_user_away_from_the_clone(server: EmbeddedPostgres) -> None:
    server.start()
    place = home.locate(server.data_dir)

    assert place.identity is not None and place.identity.name == "nobody"
    assert place.path.is_relative_to(home.ROOT_BASE)
    assert stat.S_IMODE(place.path.parent.stat().st_mode) == 0o700
    assert Path(f"/proc/{server.pid}").stat().st_uid == place.identity.uid
    assert server.bin.is_relative_to(place.path.parent)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs it as another user")
@pytest.mark.parametrize(("user", "words"), [("root", "does not run as root"), ("no-such-user", "no such user")])
def test_a_wrong_user_is_refused_in_one_line(tmp_path: Path, user: str, words: str) -> None:
    with pytest.raises(HomeError, match=f"TASKFLOW_PG_USER={user}: .*{words}"):
        EmbeddedPostgres(tmp_path, environ={"TASKFLOW_PG_USER": user})


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="root must become an ordinary user for it")
def test_an_ordinary_user_needs_nothing_from_root() -> None:
    code = Path(__file__).resolve().parents[2]
    script = (
        "import os, pathlib, sys, tempfile\n"
        "from taskflow_server.cluster.embedded_postgres import EmbeddedPostgres; import psycopg\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    postgres = EmbeddedPostgres(pathlib.Path(folder))\n"
        "    psycopg.connect(postgres.start()).close(); print(os.listdir(folder)); postgres.remove()"
    )
    path = os.pathsep.join([str(code / "src"), str(code / "sdk"), sysconfig.get_path("purelib")])
    nobody: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": []}

    def reachable(python: str) -> bool:
        try:
            ask = [python, "-c", "import sys, psycopg, taskflow_server; print(sys.version_info[:2])"]
            return str(sys.version_info[:2]) in subprocess.run(ask, **options, **nobody).stdout
        except OSError:
            return False

    options: dict[str, Any] = {"cwd": "/", "env": {"PYTHONPATH": path}, "capture_output": True, "text": True}
    pythons = [sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"]
    python = next((name for name in pythons if reachable(name)), None)
    if python is None:
        pytest.skip("this Python, or the clone, is out of an ordinary user's reach")

    answer = subprocess.run([python, "-c", script], **options, **nobody)

    assert "'postgres'" in answer.stdout, answer.stderr


def test_the_setting_comes_before_the_wheel_and_must_be_right(tmp_path: Path) -> None:
    found = binaries.find(environ={})

    assert binaries.find(environ={"TASKFLOW_PG_BIN": str(found.bin)}).origin == "TASKFLOW_PG_BIN"
    with pytest.raises(NoPostgresError, match=r"^TASKFLOW_PG_BIN=.*: no initdb and postgres that run here$"):
        binaries.find(environ={"TASKFLOW_PG_BIN": str(tmp_path)})


def test_data_of_another_version_ask_for_it(tmp_path: Path) -> None:
    with pytest.raises(
        NoPostgresError, match=r"^Postgres 99, which made the data here, is not on this machine \(found"
    ):
        binaries.find(major=99, environ={})

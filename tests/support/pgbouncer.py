"""A real PgBouncer on loopback in front of a database, for the tests of poolers."""

import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from taskflow_server.cluster.ports import free_ports
from taskflow_server.cluster.process import spawn, tail
from tests.support.waiting import eventually

USER = "nobody"  # PgBouncer refuses to run as root


def program() -> str:
    """The path of PgBouncer; where it is not installed, the test is skipped."""
    found = shutil.which("pgbouncer", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
    if found is None:
        pytest.skip("pgbouncer is not installed: it comes with Debian's package `pgbouncer`")
    return found


@contextmanager
def pgbouncer(dsn: str, pool_mode: str, *, pool_size: int = 60) -> Iterator[str]:
    """The dsn by which `dsn` is reached through a pooler of `pool_mode`."""
    path, info, (port,) = program(), conninfo_to_dict(dsn), free_ports(1)
    folder = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
    user, password = info["user"], info.get("password") or ""
    (folder / "users.txt").write_text(f'"{user}" "{password}"\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n{info['dbname']} = host={info['host']} port={info['port']}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = plain\nauth_file = {folder}/users.txt\npool_mode = {pool_mode}\ndefault_pool_size = {pool_size}\n"
    )
    command = [path, str(folder / "pgbouncer.ini")]
    if os.geteuid() == 0:
        owner = pwd.getpwnam(USER)
        for each in (folder, *folder.iterdir()):
            os.chown(each, owner.pw_uid, owner.pw_gid)
        command = [path, "-u", USER, str(folder / "pgbouncer.ini")]
    log = folder.with_suffix(".log")
    process = spawn(command, env={"PATH": os.environ.get("PATH", "")}, cwd=Path("/"), log=log)
    pooled = f"postgresql://{user}:{password}@127.0.0.1:{port}/{info['dbname']}"
    try:
        eventually(lambda: process.poll() is not None or _answers(pooled), timeout=10)
        assert process.poll() is None, tail(log)
        yield pooled
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)
        log.unlink(missing_ok=True)


def _answers(dsn: str) -> bool:
    try:
        psycopg.connect(dsn, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True

"""Python programs of the tests, forked from a parent that has imported already.

Imports are nine tenths of the CPU of a service's start. The child's program runs as `__main__`, with its own arguments,
environment, folder and files, and ends as an interpreter ends. Only for commands of our Python with `-m module`, `-c
code` or a file, and for the scripts that our Python's packages install; others are spawned.

`python -m tests.support.forkserver SOCKET` is the parent: it dies with the process that started it, its children with
it. Requests and exit statuses of children travel over the socket, one JSON document a line.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import io
import itertools
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from taskflow_server.cluster import process as processes
from tests.support.leftovers import allow

ROOT = Path(__file__).resolve().parents[2]
PRELOADED = (
    "grpc", "grpc.aio", "grpc_health.v1.health", "grpc_reflection.v1alpha.reflection", "grpc_status.rpc_status",
    "google.rpc.error_details_pb2", "pydantic", "pydantic_settings", "psycopg", "psycopg_pool", "structlog",
    "prometheus_client", "uvloop", "orjson", "jmespath", "croniter", "starlette.applications", "uvicorn", "jinja2",
    "yaml", "typer", "rich.table", "runpy", "concurrent.futures", "multiprocessing.connection",
    *(
        f"taskflow.v1.{noun}_pb2{suffix}"
        for noun in ("jobs", "queue", "queues", "worker", "dispatch", "cluster", "tasks", "schedules", "workflows")
        for suffix in ("", "_grpc")
    ),
    "taskflow_server.scheduler.service", "taskflow_server.coordinator.service", "taskflow_server.queue.servicer",
    "taskflow_server.gateway.service", "taskflow_server.worker.running", "taskflow_server.cli.services",
    "taskflow._client.client", "taskflow._client.async_client", "taskflow._worker.worker", "taskflow._cli._app",
)  # fmt: skip
PUSH = ("boto3", "moto.server", "kubernetes_validate", "aiohttp.web", "taskflow_server.worker.push.running",
        "taskflow_server.worker.push.destination_types", "tests.support.kube_models")  # fmt: skip
STAND_INS = ("tests.support.batch_server", "tests.support.kube_server", "tests.support.marathon_server")
_PR_SET_PDEATHSIG = 1


class Forked:
    """A child of the parent, with what callers use of subprocess.Popen."""

    def __init__(self, server: ForkServer, number: int, pid: int, args: Sequence[str]) -> None:
        self._server = server
        self._number = number
        self.pid = pid
        self.args = list(args)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._server.status(self._number)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self.returncode = self._server.status(self._number, block=True, timeout=timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """The connection to the parent, which is started with it. From any thread."""

    def __init__(self, *more: str, within: ForkServer | None = None) -> None:
        """`more`: what the parent imports besides. `within`: the server whose parent it is forked from."""
        self._folder = tempfile.TemporaryDirectory(prefix="forkserver-")
        path = f"{self._folder.name}/socket"
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(path)
        listening.listen(1)
        env = {name: value for name, value in os.environ.items() if not name.startswith("TASKFLOW_")}
        command = [sys.executable, "-m", "tests.support.forkserver", path, *more]
        log = Path(self._folder.name) / "log"
        self.process: subprocess.Popen[bytes] | Forked
        if within is None:
            self.process = processes.spawn(command, env=env, cwd=ROOT, log=log)
        else:
            self.process = within.spawn(command[1:], env=env, cwd=ROOT, output=log, errors=log, input=Path(os.devnull))
        allow(self.process.pid)
        listening.settimeout(60)
        self._connection, _ = listening.accept()
        listening.close()
        self._lines = self._connection.makefile("r")
        self._numbers = itertools.count(1)
        self._pids: dict[int, int] = {}  # by the number of the request: pids are used again
        self._ended: dict[int, int] = {}
        self._news = threading.Condition()
        self._asking = threading.Lock()
        threading.Thread(target=self._read, daemon=True, name="forkserver").start()

    def _read(self) -> None:
        for line in self._lines:
            said = json.loads(line)
            with self._news:
                into, what = (self._ended, "status") if "status" in said else (self._pids, "pid")
                into[said["number"]] = said[what]
                self._news.notify_all()

    def spawn(
        self, words: Sequence[str], *, env: Mapping[str, str], cwd: Path, output: Path, errors: Path, input: Path
    ) -> Forked:
        """`words`: what follows the name of Python."""
        number, files = next(self._numbers), [str(input), str(output), str(errors)]
        request = {"number": number, "words": list(words), "env": dict(env), "cwd": str(cwd), "files": files}
        with self._asking:
            self._connection.sendall(json.dumps(request).encode() + b"\n")
        with self._news:
            if not self._news.wait_for(lambda: number in self._pids, 60):
                raise RuntimeError("the fork server does not answer")
            pid = self._pids.pop(number)
        return Forked(self, number, pid, words)

    def status(self, number: int, *, block: bool = False, timeout: float | None = None) -> int | None:
        """Exit status, as Popen has it. None: it runs."""
        with self._news:
            if block:
                self._news.wait_for(lambda: number in self._ended, timeout)
            return self._ended.get(number)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._connection.close()
        self._folder.cleanup()


_servers: dict[tuple[str, ...], ForkServer] = {}
_starting = threading.Lock()


def _words(command: Sequence[str | Path]) -> list[str]:
    """The command, with our Python before an installed script that names it in its first line."""
    words = [str(word) for word in command]
    if Path(words[0]).parent == Path(sys.executable).parent and Path(words[0]).is_file():
        with open(words[0], "rb") as script:
            if script.readline().strip() == f"#!{sys.executable}".encode():
                return [sys.executable, *words]
    return words


def _forks(words: Sequence[str]) -> bool:
    """Whether the command is one that the child can become without another interpreter's options."""
    if words[0] != sys.executable or words[1:3] == ["-m", "pytest"]:  # which minds what was imported before it
        return False
    rest = words[2:] if words[1:2] == ["-P"] else words[1:]
    return len(rest) > 1 if rest[:1] in (["-m"], ["-c"]) else bool(rest) and not rest[0].startswith("-")


def _for(words: Sequence[str], env: Mapping[str, str]) -> ForkServer:
    """A pusher and the stand-in for its destination import much that no other program does: they have a parent of their
    own."""
    more = PUSH if "TASKFLOW_PUSH_DESTINATIONS" in env or any(map(words.count, STAND_INS)) else ()
    with _starting:
        if () not in _servers:
            _servers[()] = ForkServer()
        if more not in _servers:
            _servers[more] = ForkServer(*more, within=_servers[()])
        return _servers[more]


def spawn(
    command: Sequence[str | Path], *, env: Mapping[str, str], cwd: Path, log: Path | None
) -> subprocess.Popen[bytes] | Forked:
    """As taskflow_server.cluster.process.spawn; forked where the command is one of our Python's."""
    words = _words(command)
    if not _forks(words):
        return processes.spawn(command, env=env, cwd=cwd, log=log)
    output = log or Path(os.devnull)
    server = _for(words, env)
    return server.spawn(words[1:], env=env, cwd=cwd, output=output, errors=output, input=Path(os.devnull))


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    input: str | None = None,
    timeout: float = 60,
) -> subprocess.CompletedProcess[str]:
    """As subprocess.run with its output captured as text; forked where the command is one of our Python's."""
    words = _words(command)
    env = os.environ if env is None else env
    if not _forks(words):
        return subprocess.run(
            words, env=dict(env), cwd=cwd, input=input, timeout=timeout, capture_output=True, text=True
        )
    with tempfile.TemporaryDirectory(prefix="taskflow-run-") as folder:
        given, output, errors = (Path(folder) / name for name in ("input", "output", "errors"))
        given.write_text(input or "")
        child = _for(words, env).spawn(words[1:], env=env, cwd=cwd, output=output, errors=errors, input=given)
        try:
            status = child.wait(timeout)
        finally:
            child.kill()
        return subprocess.CompletedProcess(words, status, output.read_text(), errors.read_text())


def stop() -> None:
    """At the end of the tests."""
    for server in reversed(_servers.values()):  # a server's parent after its children
        server.close()
    _servers.clear()


# -- the parent ------------------------------------------------------------------------------------------------------
def _serve(path: str) -> dict[str, Any]:
    """Forks until its own end; returns in each child alone, with what that is to become."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writing)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    selector = selectors.DefaultSelector()
    selector.register(connection, selectors.EVENT_READ)
    selector.register(reading, selectors.EVENT_READ)
    waiting = b""
    children: dict[int, int] = {}  # pid to the number of its request
    while True:
        for key, _ in selector.select():
            if key.fileobj is connection:
                received = connection.recv(1 << 20)
                if not received:
                    os._exit(0)
                *lines, waiting = (waiting + received).split(b"\n")
                for line in lines:
                    request = json.loads(line)
                    parent, pid = os.getpid(), os.fork()
                    if pid == 0:
                        selector.close()
                        connection.close()
                        signal.set_wakeup_fd(-1)
                        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                        for descriptor in (reading, writing):
                            os.close(descriptor)
                        return {**request, "parent": parent}
                    children[pid] = request["number"]
                    _say(connection, number=request["number"], pid=pid)
            else:
                os.read(reading, 4096)
        _reap(connection, children)


def _say(connection: socket.socket, **said: int) -> None:
    connection.sendall(json.dumps(said).encode() + b"\n")


def _reap(connection: socket.socket, children: dict[int, int]) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _say(connection, number=children.pop(pid), status=os.waitstatus_to_exitcode(status))


def _become(request: dict[str, Any]) -> NoReturn:
    """The program, in a session of its own, that ends when the parent does."""
    os.setsid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != request["parent"]:
        os._exit(126)
    given, output, errors = request["files"]
    for number, path in enumerate((given, output, errors)):
        how = os.O_WRONLY | os.O_APPEND | os.O_CREAT if number else os.O_RDONLY
        opened = os.open(path, how, 0o666)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    if "PYTHONUNBUFFERED" in os.environ:
        sys.stdout, sys.stderr = (
            io.TextIOWrapper(io.FileIO(fd, "w", closefd=False), "utf-8", "backslashreplace", write_through=True)  # type: ignore[arg-type]
            for fd in (1, 2)
        )
    words: list[str] = request["words"]
    safe = words[0] == "-P"
    words = words[safe:]
    where = os.getcwd() if words[0] == "-m" else "" if words[0] == "-c" else str(Path(words[0]).resolve().parent)
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = ([] if safe else [where]) + paths + _installed
    importlib.invalidate_caches()
    if "TASKFLOW_FAILPOINTS" in os.environ:
        importlib.reload(sys.modules["taskflow_server.runtime.failpoints"])  # it has read the environment
    sys.modules["taskflow._messages.ids"]._random.seed()  # its generator came along
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(words[1], "<string>", "exec"), main.__dict__)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")
    sys.exit(0)


_installed: list[str] = []


def _main() -> NoReturn:
    _installed[:] = sys.path[1:]  # the first is the folder that we were started in
    for name in (*PRELOADED, *sys.argv[2:]):
        with contextlib.suppress(ImportError):  # an extra that is not installed here
            importlib.import_module(name)
    sys.modules["taskflow._cli._app"].command()  # most of the CPU of a client's command is building it
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]  # the child's own to import
    gc.collect()
    gc.freeze()  # what is shared stays shared
    request = _serve(sys.argv[1])
    try:
        _become(request)
    except SystemExit as ended:
        _end(ended.code)
    except BaseException:
        traceback.print_exc()
        _end(1)


def _end(code: object) -> NoReturn:
    """All that an interpreter does at its end, but for clearing its modules one by one."""
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(int(code or 0) & 0xFF)


if __name__ == "__main__":
    _main()

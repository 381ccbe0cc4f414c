"""Parts of all stand-ins for other systems' HTTP APIs: real processes, faults that a test orders, recorded requests.

A stand-in is a process of its own. A test controls it by POST /stand-in with {"do": …}; everything else is the API.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import urllib.request
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aiohttp import web

from taskflow_server.cluster.ports import free_ports
from taskflow_server.cluster.service import environment, python
from tests.support.cluster import ROOT, Program
from tests.support.waiting import eventually

CONTROL = "/stand-in"
MOST = 3 << 20  # bytes of a request, as Kubernetes' API server takes
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Container:
    """A program that runs as a process of this machine: its exit code, its end by a signal, its output are real."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self.log = log

    @classmethod
    async def start(cls, words: Sequence[str], variables: Mapping[str, str], log: Path) -> Container:
        """In a session of its own, so that all of it can be ended."""
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *words, env={"PATH": os.environ["PATH"], **variables}, stdin=asyncio.subprocess.DEVNULL,
                stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        return cls(process, log)

    async def wait(self) -> int:
        """Its exit status, as a shell counts signals."""
        code = await self.process.wait()
        return code if code >= 0 else 128 - code

    def signal(self, number: signal.Signals) -> None:
        if self.process.returncode is None:
            os.killpg(self.process.pid, number)

    async def end(self, grace: float) -> int:
        """SIGTERM, and SIGKILL after `grace` seconds."""
        self.signal(signal.SIGTERM)
        try:
            return await asyncio.wait_for(self.wait(), grace)
        except TimeoutError:
            self.signal(signal.SIGKILL)
            return await self.wait()

    def tail(self, lines: int) -> str:
        return "".join(f"{line}\n" for line in self.log.read_text(errors="replace").splitlines()[-lines:])


class StandIn:
    """The half of a stand-in that is alike for all; `error` writes a refusal as its system does."""

    def __init__(self, authorization: str) -> None:
        self.authorization = authorization  # empty: anybody
        self.open: tuple[str, ...] = ()  # paths that need none
        self.held = False  # whether what is submitted stays queued
        self.turn = asyncio.Condition()
        self.faults: list[dict[str, Any]] = []
        self.requests: list[dict[str, Any]] = []
        self.history: dict[str, dict[str, Any]] = {}  # of all external jobs that there ever were, by id
        self.containers: dict[str, Container] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.app = web.Application(middlewares=[self._middleware], client_max_size=MOST)
        self.app.router.add_post(CONTROL, self._control)
        self.app.on_cleanup.append(self._cleanup)

    def error(self, status: int, reason: str, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
        raise NotImplementedError

    def spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            print("a fault of the stand-in:", repr(task.exception()), flush=True)

    async def changed(self) -> None:
        async with self.turn:
            self.turn.notify_all()

    async def until(self, fact: Callable[[], bool]) -> None:
        async with self.turn:
            await self.turn.wait_for(fact)

    def born(self, id: str, home: str) -> None:
        self.history[id] = {"jobId": id, "jobName": id.rpartition("/")[2], "home": home, "status": "QUEUED",
                            "createdAt": len(self.history)}  # fmt: skip

    def became(self, id: str, status: str) -> None:
        """The last end counts; what has ended does not run again under one id."""
        if self.history[id]["status"] not in ("SUCCEEDED", "FAILED"):
            self.history[id]["status"] = status

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path == CONTROL:
            return await handler(request)
        try:
            body = await request.text()
            answer = await self._answer(request, handler)
        except web.HTTPRequestEntityTooLarge as error:
            body, answer = "", self.error(413, "RequestEntityTooLarge", error.reason)
        self.requests.append({"method": request.method, "path": request.path, "query": dict(request.query),
                              "body": body, "status": answer.status,
                              "authorized": "Authorization" in request.headers})  # fmt: skip
        return answer

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if (
            self.authorization
            and request.path not in self.open
            and request.headers.get("Authorization") != self.authorization
        ):
            return self.error(401, "Unauthorized", "Unauthorized")
        for fault in self.faults:
            if (
                fault["method"] == request.method
                and fault["path"] in request.path
                and fault.get("query", "") in request.query_string
            ):
                fault["times"] -= 1
                if fault["times"] == 0:
                    self.faults.remove(fault)
                if fault.get("late"):  # it has its effect, and the answer does not come in time
                    await handler(request)
                return self.error(fault["status"], fault["reason"], fault["message"], fault.get("headers"))
        try:
            return await handler(request)
        except web.HTTPException as error:
            return self.error(error.status, error.reason, f"{request.method} {request.path}: {error.reason}")

    async def _control(self, request: web.Request) -> web.Response:
        asked = await request.json()
        answer = await getattr(self, f"do_{asked.pop('do')}")(**asked)
        return web.json_response(answer)

    async def do_hold(self, held: bool) -> None:
        self.held = held
        await self.changed()

    async def do_fail(self, **fault: Any) -> None:
        self.faults.append({"times": 1, "reason": "", "message": "", **fault})

    async def do_requests(self) -> list[dict[str, Any]]:
        return self.requests

    async def do_history(self, home: str) -> list[dict[str, Any]]:
        return [each for each in self.history.values() if each["home"] == home]

    async def _cleanup(self, _: web.Application) -> None:
        for container in self.containers.values():
            container.signal(signal.SIGKILL)


def serve(stand_in: Callable[..., StandIn], told: str) -> None:
    """Until it is told to stop. `told`: JSON of what `stand_in` takes, its port among it."""
    settings = json.loads(told)

    async def made() -> web.Application:
        return stand_in(**settings).app

    web.run_app(made(), host="127.0.0.1", port=settings["port"], print=None, shutdown_timeout=1, access_log=None)


class Server:
    """A stand-in, started when made, as tests see it."""

    module: str
    variables: Mapping[str, str] = {}  # of the pusher

    def __init__(self, directory: Path, port: int = 0, **settings: Any) -> None:
        self.port = port or free_ports(1)[0]
        self.url = f"http://127.0.0.1:{self.port}"
        self.directory = directory / f"{self.module.rpartition('.')[2]}-{self.port}"
        told = json.dumps({"port": self.port, "directory": str(self.directory), **settings})
        command = python(self.module, told)
        self.program = Program(command, directory / f"{self.port}.log", environment(os.environ, ROOT))
        eventually(self._answers, 30)

    def _answers(self) -> bool:
        try:
            self.do("requests")
        except OSError:
            return False
        return True

    def do(self, what: str, **told: Any) -> Any:
        body = json.dumps({"do": what, **told}).encode()
        request = urllib.request.Request(
            f"{self.url}{CONTROL}", body, {"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read())

    def fail(self, method: str, path: str, status: int, **more: Any) -> None:
        """The next request of this method whose path has `path` in it is refused; `times`: so many."""
        self.do("fail", method=method, path=path, status=status, **more)

    def requests(self, method: str, path: str) -> list[dict[str, Any]]:
        """Those that were made, with the answers' status."""
        return [each for each in self.do("requests") if each["method"] == method and path in each["path"]]

    def hold(self, held: bool) -> None:
        """Whether what is submitted from now on stays queued."""
        self.do("hold", held=held)

    def jobs(self, home: str) -> list[dict[str, Any]]:
        """All that were ever submitted, oldest first."""
        found: list[dict[str, Any]] = self.do("history", home=home)
        return found

    def statuses(self, home: str) -> list[str]:
        return [job["status"] for job in self.jobs(home)]

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP: it is away; SIGCONT: it is back."""
        self.program.signal(number)

    def close(self) -> None:
        self.program.signal(signal.SIGCONT)
        self.program.stop(grace=5)

"""Apps of Marathon as a destination, which runs them on Apache Mesos.

Marathon keeps apps running: it starts again what has ended, and tells what has failed, never what has finished. So an
app is held back for a week after its end, its program runs below a shell that turns success into an exit code of its
own, and an app has ended when Marathon shows its last failure. An id of an app is unique. To be ended, an app is scaled
to no instances; it is deleted when none of its tasks is left. No call is repeated in here.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal
from urllib.parse import quote, urlencode
from uuid import UUID

from pydantic import Field, field_validator, model_validator

from taskflow_server.worker.push.destination import (
    Away,
    Destination,
    DestinationSettings,
    External,
    Order,
    Phase,
    Refused,
    TaskOptions,
    Ticket,
    exec_id_of,
    name_of,
)
from taskflow_server.worker.push.http_api import Answer, HttpApi
from taskflow_server.worker.push.orders import check_given, check_template, filled, over, said_by

AGENT_TIMEOUT = 3.0  # seconds of one call to an agent, for the last lines of a log
HELD_BACK = 604_800  # seconds after its end for which Marathon does not start an app again
MOST_TAIL = 65_536  # bytes of a log that are read for its last lines
DONE, NOT_DONE = 113, 1  # exit codes: of success, and of a program that exits with that one itself
OWNER, JOB_ID, EXEC_ID = "taskflow-owner", "taskflow-job-id", "taskflow-exec-id"  # labels
EMBED = ("tasks", "counts", "deployments", "lastTaskFailure")
_OURS = (
    "id", "cmd", "args", "instances", "labels", "backoffSeconds", "backoffFactor", "maxLaunchDelaySeconds",
    "unreachableStrategy", "upgradeStrategy", "taskKillGracePeriodSeconds",
)  # fmt: skip
_REFUSED = (400, 413, 422)  # answers to a submit whose fault is the order's own
_CODE = re.compile(r"exited with status (\d+)")
# A signal ends the program and not the shell, which waits for it: of process 1 of a container, SIGTERM is not heard.
_SHELL = (
    "trap 'kill -TERM $p 2>/dev/null' TERM INT; {words} & p=$!; wait $p; c=$?; "
    "while kill -0 $p 2>/dev/null; do wait $p; c=$?; done; "
    f"case $c in 0) exit {DONE};; {DONE}) exit {NOT_DONE};; esac; exit $c"
)


class MarathonTask(TaskOptions):
    """Options of a task's external jobs."""

    command: list[str] | None = Field(None, description="the program and its arguments; none: the destination's")
    image: str = Field("", description="Docker image with /bin/sh; empty: the destination's, or none")
    environment: dict[str, str] = Field(default_factory=dict, description="variables of the program")
    cpus: float = Field(0.5, ge=0.001, le=10_000, description="CPUs that Mesos offers for it")
    memory: int = Field(256, ge=4, description="MiB")
    app: dict[str, Any] = Field(default_factory=dict, description="more fields of the app")

    @field_validator("command")
    @classmethod
    def _words(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and not value:
            raise ValueError("give a program")
        return value

    @field_validator("app")
    @classmethod
    def _not_ours(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := [name for name in _OURS if name in value]:
            raise ValueError(f"{', '.join(taken)} cannot be set here")
        return value


class MarathonSettings(DestinationSettings):
    options = MarathonTask

    kind: Literal["marathon"]
    url: str = Field(pattern=r"^https?://[^/?#@]+(/[^?#]*)?$", description="URL of Marathon, without user or password")
    group: str = Field(
        "taskflow", pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", description="group of Marathon for the apps"
    )
    command: list[str] | None = Field(None, min_length=1, description="for tasks that name none")
    image: str = Field("", description="for tasks that name none; empty: programs run without a container's image")
    authorization_file: str = Field(
        "", description="path of a file with the value of the header Authorization, read at each call; empty: none"
    )
    ca_file: str = Field("", description="path of certificates to trust; empty: the system's")
    grace: int = Field(30, ge=0, le=3600, description="seconds between SIGTERM and SIGKILL when a task is ended")
    agent_port: int = Field(5051, ge=1, le=65535, description="port of Mesos' agents, for logs")
    agent_scheme: Literal["http", "https"] = Field("http", description="scheme of Mesos' agents")
    log_lines: int = Field(
        20, ge=0, le=1000, description="last lines of stdout and of stderr in the job's log; 0: none"
    )
    log_url: str = Field(
        "",
        description="link to a log, with {host}, {agent}, {framework}, {task} and {app} in it; empty: stdout at the "
        "agent",
    )
    overrides: frozenset[Literal["command", "image", "environment", "cpus", "memory"]] = Field(
        frozenset(), description="options that a job may set, under `push` in its payload"
    )
    tasks: Mapping[str, MarathonTask] = Field(
        default_factory=dict,
        description="tasks whose jobs go there, each with its options; without any, those of the task that has the "
        "destination's own name",
    )

    @model_validator(mode="after")
    def _commands(self) -> MarathonSettings:
        check_given(self, "command", "a command")
        return self

    @field_validator("log_url")
    @classmethod
    def _template(cls, value: str) -> str:
        return check_template(value, "host", "agent", "framework", "task", "app")


class Marathon(Destination):
    kind = "marathon"
    settings = MarathonSettings

    def __init__(self, name: str, owner: str, settings: MarathonSettings) -> None:
        super().__init__(name, owner, settings)
        self._settings = settings
        self._api = HttpApi(settings.url, "Marathon", settings.authorization_file, settings.ca_file)
        self._framework = ""

    # -- making ------------------------------------------------------------------------------------------------------

    def submit(self, order: Order) -> External:
        assert isinstance(order.options, MarathonTask)
        what = over(order.options, said_by(order, MarathonTask, self._settings.overrides, self.name))
        answer = self._api.call("POST", "/v2/apps", self._app(order, what))
        if answer.status == 409 and "already exists" in _message(answer):
            for there in self.find(order.ticket):
                return there
            raise Away(f"an app {self._id(order.ticket)} exists that bears no labels of this pusher, or has just gone")
        if answer.status in _REFUSED:
            raise Refused(f"{answer.status}: {_message(answer)}")
        return External(_checked(answer)["id"], order.ticket, Phase.QUEUED)

    def _id(self, ticket: Ticket) -> str:
        return f"/{self._settings.group}/{name_of(self.owner, ticket)}"

    def _app(self, order: Order, what: MarathonTask) -> dict[str, Any]:
        command = what.command or self._settings.command
        if not command:
            raise Refused(f"destination {self.name} names no command for task {order.task!r}")
        app = {
            "portDefinitions": [],
            **what.app,
            "id": self._id(order.ticket),
            "cmd": _SHELL.format(words=shlex.join(filled(command, order.payload))),
            "cpus": what.cpus,
            "mem": what.memory,
            "instances": 1,
            "env": {**what.app.get("env", {}), **what.environment, **order.environment()},
            "labels": {OWNER: self.owner, JOB_ID: order.ticket.job, EXEC_ID: order.ticket.exec_id.hex()},
            "backoffSeconds": HELD_BACK,
            "maxLaunchDelaySeconds": HELD_BACK,
            "taskKillGracePeriodSeconds": self._settings.grace,
            # A task whose agent does not answer may still run: it is not replaced.
            "unreachableStrategy": "disabled",
        }
        if image := what.image or self._settings.image:
            container = what.app.get("container", {})
            docker = container.get("docker", {}) | {"image": image}
            app["container"] = {"type": "MESOS", **container, "docker": docker}
        return app

    # -- looking -----------------------------------------------------------------------------------------------------

    def find(self, ticket: Ticket) -> Sequence[External]:
        return list(self.look([External("", ticket, Phase.QUEUED)]).values())

    def look(self, jobs: Sequence[External]) -> Mapping[str, External]:
        wanted = ",".join(job.ticket.exec_id.hex() for job in jobs)
        return {job.id: job for job in self._listed(f"{OWNER}=={self.owner},{EXEC_ID} in ({wanted})", tails=True)}

    def unfinished(self) -> Iterable[External]:
        """Also those that have ended and were not cleaned up: their pusher died in between."""
        return self._listed(f"{OWNER}=={self.owner}", tails=False)

    def _listed(self, selector: str, tails: bool) -> list[External]:
        query = urlencode([("label", selector), *(("embed", f"apps.{each}") for each in EMBED)])
        apps = _checked(self._api.call("GET", f"/v2/apps?{query}"))["apps"]
        found = (self._external(app, tails) for app in apps)
        return [job for job in found if job is not None]

    def _external(self, app: dict[str, Any], tails: bool) -> External | None:
        """None for an app of another owner, even if its labels are similar."""
        exec_id = exec_id_of(self.owner, app["id"].rpartition("/")[2])
        try:
            ticket = Ticket(exec_id or b"", UUID((app.get("labels") or {}).get(JOB_ID, "")).bytes)
        except ValueError:
            return None
        if exec_id is None or app["id"] != self._id(ticket):
            return None
        tasks, failure = app.get("tasks") or (), app.get("lastTaskFailure")
        began = [task for task in tasks if task.get("startedAt") or task.get("state") != "TASK_STAGING"]
        phase, reason, code = Phase.QUEUED, "", None
        if failure:
            exited = _CODE.search(failure.get("message", ""))
            code = int(exited[1]) if exited else None
            if failure["state"] == "TASK_FAILED" and code == DONE:
                phase, code = Phase.SUCCEEDED, 0
            else:
                phase, reason = Phase.FAILED, f"{failure['state']}: {failure.get('message', '')}".rstrip(": ")
        elif app["instances"] == 0 and not tasks:
            phase, reason = Phase.FAILED, "it was scaled to no instances"
        elif began:
            silent = [task["host"] for task in began if task.get("state") == "TASK_UNREACHABLE"]
            phase, reason = Phase.RUNNING, f"TASK_UNREACHABLE: {silent[0]} does not answer" if silent else ""
        where = _where(failure, "taskId") if failure else _where(began[0], "id") if began else None
        return External(
            id=app["id"], ticket=ticket, phase=phase, reason=reason, exit_code=code,
            log_url=self._log_url(app["id"], where) if where else "",
            tail=self._tail(where) if where and phase.over and tails else "",
        )  # fmt: skip

    def _log_url(self, app: str, where: Mapping[str, str]) -> str:
        """Empty where Marathon does not say which framework of Mesos it is."""
        if self._settings.log_url:
            return self._settings.log_url.format(app=app, framework=self._framework_id(), **where)
        if not self._framework_id():
            return ""
        path = quote(self._file(where["task"], "stdout"), safe="")
        return f"{self._agent(where['host'])}/files/download?path={path}"

    def _agent(self, host: str) -> str:
        return f"{self._settings.agent_scheme}://{host}:{self._settings.agent_port}"

    def _file(self, task: str, name: str) -> str:
        return f"/frameworks/{self._framework_id()}/executors/{task}/runs/latest/{name}"

    def _framework_id(self) -> str:
        if not self._framework:
            answer = self._api.call("GET", "/v2/info")
            self._framework = answer.said.get("frameworkId", "") if answer.status == 200 else ""
        return self._framework

    def _tail(self, where: Mapping[str, str]) -> str:
        """Empty where it cannot be had: the agent may be gone, or closed to the pusher. It gets no credentials."""
        if not self._settings.log_lines or not self._framework_id():
            return ""
        files = (self._last_lines(where, name) for name in ("stdout", "stderr"))
        return "\n".join(each for each in files if each)

    def _last_lines(self, where: Mapping[str, str], name: str) -> str:
        path = self._file(where["task"], name)

        def read(offset: int, length: int) -> dict[str, Any]:
            query = urlencode({"path": path, "offset": offset, "length": length})
            url = f"{self._agent(where['host'])}/files/read?{query}"
            answer = self._api.pool.request("GET", url, timeout=AGENT_TIMEOUT)
            found: dict[str, Any] = json.loads(answer.data) if answer.status == 200 else {"offset": 0, "data": ""}
            return found

        try:
            size = int(read(-1, 0)["offset"])
            text = str(read(max(0, size - MOST_TAIL), MOST_TAIL)["data"]) if size else ""
        except (*self._api.no_answer, ValueError, LookupError, TypeError):
            return ""
        return "\n".join(text.splitlines()[-self._settings.log_lines :])

    # -- ending ------------------------------------------------------------------------------------------------------

    def terminate(self, job: External, reason: str) -> None:
        """It stays, without instances, until its tasks have ended: a deleted app is gone at once, and they are not."""
        answer = self._api.call("GET", f"/v2/apps{job.id}")
        if answer.status == 404 or _checked(answer)["app"]["instances"] == 0:
            return
        self._change("PUT", job, {"instances": 0})

    def forget(self, job: External) -> None:
        self._change("DELETE", job)

    def _change(self, method: str, job: External, body: Any = None) -> None:
        answer = self._api.call(method, f"/v2/apps{job.id}?force=true", body)
        if answer.status != 404:
            _checked(answer)


def _checked(answer: Answer) -> Any:
    """The content of the answer. Away when it refuses."""
    if answer.status >= 300:
        raise Away(f"{answer.status}: {_message(answer)}", answer.after)
    return answer.said


def _where(about: Mapping[str, Any], id: str) -> dict[str, str]:
    return {"host": about.get("host", ""), "agent": about.get("slaveId", ""), "task": about.get(id, "")}


def _message(answer: Answer) -> str:
    """With what it says of single fields."""
    said = answer.said
    if not isinstance(said, dict):
        return ""
    fields = [
        f"{each.get('path', '')}: {', '.join(map(str, each.get('errors', ())))}"
        for each in said.get("details") or ()
        if isinstance(each, dict)
    ]
    return "; ".join([str(said.get("message", "")), *fields])

"""Jobs of a Ray cluster as a destination, by the REST API of Ray Jobs.

The id of a submission is unique in a cluster. Ray's list has all jobs that it knows, without pages or filters; a look
reads it whole. Ray keeps what it knows in its head node: a cluster that is started anew has forgotten its jobs. No call
is repeated in here.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal
from urllib.parse import quote
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

JOB_ID = "taskflow_job_id"  # in a job's metadata
MOST_SAID = 500  # characters of Ray's reasons
_PHASES = {
    "PENDING": Phase.QUEUED,
    "RUNNING": Phase.RUNNING,
    "SUCCEEDED": Phase.SUCCEEDED,
    "FAILED": Phase.FAILED,
    "STOPPED": Phase.FAILED,
}


class RayTask(TaskOptions):
    """Options of a task's external jobs."""

    command: list[str] | None = Field(None, description="the program and its arguments; none: the destination's")
    environment: dict[str, str] = Field(default_factory=dict, description="variables of the program")
    cpus: float | None = Field(None, ge=0, description="CPUs that the program itself takes; none: Ray's default")
    gpus: float | None = Field(None, ge=0, description="GPUs that the program itself takes")
    memory: int | None = Field(None, ge=1, description="MiB that the program itself takes")
    resources: dict[str, float] = Field(default_factory=dict, description="resources of your own names")
    runtime_env: dict[str, Any] = Field(
        default_factory=dict, description="more of Ray's `runtime_env`, without env_vars"
    )

    @field_validator("command")
    @classmethod
    def _words(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and not value:
            raise ValueError("give a program")
        return value

    @field_validator("runtime_env")
    @classmethod
    def _not_ours(cls, value: dict[str, Any]) -> dict[str, Any]:
        if "env_vars" in value:
            raise ValueError("env_vars cannot be set here: use environment")
        return value


class RaySettings(DestinationSettings):
    options = RayTask

    kind: Literal["ray"]
    url: str = Field(pattern=r"^https?://[^/?#@]+(/[^?#]*)?$", description="Ray's dashboard, as http://head:8265")
    command: list[str] | None = Field(None, min_length=1, description="for tasks that name none")
    authorization_file: str = Field(
        "", description="path of a file with the value of the header Authorization, read at each call; empty: none"
    )
    ca_file: str = Field("", description="path of certificates to trust; empty: the system's")
    keep: bool = Field(False, description="whether jobs that have ended stay in Ray's list")
    log_lines: int = Field(20, ge=0, le=1000, description="last lines of a job's log in TaskFlow's; 0: none")
    log_url: str = Field("", description="link to a log, with {id} in it; empty: the job's page of the dashboard")
    overrides: frozenset[Literal["command", "environment", "cpus", "gpus", "memory"]] = Field(
        frozenset(), description="options that a job may set, under `push` in its payload"
    )
    tasks: Mapping[str, RayTask] = Field(
        default_factory=dict,
        description="tasks whose jobs go there, each with its options; without any, those of the task that has the "
        "destination's own name",
    )

    @model_validator(mode="after")
    def _commands(self) -> RaySettings:
        check_given(self, "command", "a command")
        return self

    @field_validator("log_url")
    @classmethod
    def _template(cls, value: str) -> str:
        return check_template(value, "id")


class RayJobs(Destination):
    kind = "ray"
    settings = RaySettings

    def __init__(self, name: str, owner: str, settings: RaySettings) -> None:
        super().__init__(name, owner, settings)
        self._settings = settings
        self._api = HttpApi(settings.url, "Ray", settings.authorization_file, settings.ca_file)

    # -- making ------------------------------------------------------------------------------------------------------

    def submit(self, order: Order) -> External:
        assert isinstance(order.options, RayTask)
        what = over(order.options, said_by(order, RayTask, self._settings.overrides, self.name))
        answer = self._api.call("POST", "/api/jobs/", self._request(order, what))
        if answer.status >= 400 and "already exists" in answer.text:
            for there in self.find(order.ticket):
                return there
            raise Away(f"a job {name_of(self.owner, order.ticket)} exists that is not this pusher's, or has just gone")
        if answer.status in (400, 413, 422):
            raise Refused(f"{answer.status}: {_message(answer)}")
        return External(_checked(answer)["submission_id"], order.ticket, Phase.QUEUED)

    def _request(self, order: Order, what: RayTask) -> dict[str, Any]:
        command = what.command or self._settings.command
        if not command:
            raise Refused(f"destination {self.name} names no command for task {order.task!r}")
        request = {
            "entrypoint": shlex.join(filled(command, order.payload)),
            "submission_id": name_of(self.owner, order.ticket),
            "metadata": {JOB_ID: order.ticket.job, "taskflow_queue": order.queue, "taskflow_task": order.task},
            "runtime_env": {**what.runtime_env, "env_vars": {**what.environment, **order.environment()}},
            "entrypoint_num_cpus": what.cpus,
            "entrypoint_num_gpus": what.gpus,
            "entrypoint_memory": what.memory * 2**20 if what.memory is not None else None,
            "entrypoint_resources": what.resources or None,
        }
        return {name: value for name, value in request.items() if value is not None}

    # -- looking -----------------------------------------------------------------------------------------------------

    def find(self, ticket: Ticket) -> Sequence[External]:
        answer = self._api.call("GET", f"/api/jobs/{name_of(self.owner, ticket)}")
        found = None if answer.status == 404 else self._external(_checked(answer), tails=True)
        return [found] if found is not None else []

    def look(self, jobs: Sequence[External]) -> Mapping[str, External]:
        wanted = {job.id for job in jobs}
        seen = (self._external(job, tails=True) for job in self._listed() if job.get("submission_id") in wanted)
        return {job.id: job for job in seen if job is not None}

    def unfinished(self) -> Iterable[External]:
        """Also those that have ended and were not cleaned up, unless they are to stay: their pusher died in between."""
        seen = (self._external(job, tails=False) for job in self._listed())
        return [job for job in seen if job is not None and not (job.phase.over and self._settings.keep)]

    def _listed(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = _checked(self._api.call("GET", "/api/jobs/"))
        return found

    def _external(self, job: dict[str, Any], tails: bool) -> External | None:
        """None for a job of another owner, even if its metadata is similar."""
        id = job.get("submission_id") or ""
        exec_id = exec_id_of(self.owner, id)
        try:
            job_id = UUID((job.get("metadata") or {}).get(JOB_ID, "")).bytes
        except ValueError:
            return None
        if exec_id is None:
            return None
        phase = _PHASES[job["status"]]
        link = self._settings.log_url.format(id=id) if self._settings.log_url else f"{self._api.url}/#/jobs/{id}"
        return External(
            id=id,
            ticket=Ticket(exec_id, job_id),
            phase=phase,
            reason=_why(job) if phase in (Phase.QUEUED, Phase.FAILED) else "",
            exit_code=job.get("driver_exit_code") if phase.over else None,
            log_url=link if phase is not Phase.QUEUED else "",
            tail=self._tail(id) if phase.over and tails else "",
        )

    def _tail(self, id: str) -> str:
        """Empty where it cannot be had: the node may be gone."""
        if not self._settings.log_lines:
            return ""
        try:
            answer = self._api.call("GET", f"/api/jobs/{quote(id)}/logs")
        except Away:
            return ""
        logs = str(answer.said.get("logs") or "") if answer.status == 200 else ""
        return "\n".join(logs.splitlines()[-self._settings.log_lines :])

    # -- ending ------------------------------------------------------------------------------------------------------

    def terminate(self, job: External, reason: str) -> None:
        answer = self._api.call("POST", f"/api/jobs/{quote(job.id)}/stop")
        if answer.status != 404:
            _checked(answer)

    def forget(self, job: External) -> None:
        if self._settings.keep:
            return
        answer = self._api.call("DELETE", f"/api/jobs/{quote(job.id)}")
        if answer.status != 404:
            _checked(answer)


def _why(job: Mapping[str, Any]) -> str:
    """Without the end of the log, which Ray puts into its message."""
    said = str(job.get("message") or "").partition(", last available logs")[0].partition("\n")[0]
    return ": ".join(each for each in (job.get("error_type") or "", said[:MOST_SAID]) if each)


def _checked(answer: Answer) -> Any:
    """The content of the answer. Away when it refuses."""
    if answer.status >= 300:
        raise Away(f"{answer.status}: {_message(answer)}", answer.after)
    return answer.said


def _message(answer: Answer) -> str:
    """Ray answers with the trace of its fault: the last line is what it says."""
    lines = answer.text.strip().splitlines()
    return lines[-1][:MOST_SAID] if lines else ""

"""AWS Batch as a destination.

Batch lets several jobs bear one name and has no token that would make a repeated SubmitJob one job, so no call is
repeated in here: what an unanswered one has done is for `find` to see. ListJobs shows no tags: whose a job is stands
in its name, and its TaskFlow job in its container's environment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal
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
from taskflow_server.worker.push.orders import check_given, check_template, over, parameters, said_by

if TYPE_CHECKING:
    from botocore.exceptions import BotoCoreError, ClientError

CONNECT_TIMEOUT, READ_TIMEOUT = 5.0, 10.0  # seconds of one HTTP call
LEAST_TIMEOUT = 60  # seconds: Batch takes no shorter limit of a job
LOG_GROUP = "/aws/batch/job"  # where Batch writes logs unless a job definition says otherwise
# Codes of what is the order's own fault. Anything else is the destination's, its credentials and limits included.
_REFUSED = frozenset(
    {"ClientException", "ValidationException", "InvalidParameterValueException", "ParamValidationError"}
)
_PHASES = {
    "SUBMITTED": Phase.QUEUED,
    "PENDING": Phase.QUEUED,
    "RUNNABLE": Phase.QUEUED,
    "STARTING": Phase.RUNNING,
    "RUNNING": Phase.RUNNING,
    "SUCCEEDED": Phase.SUCCEEDED,
    "FAILED": Phase.FAILED,
}
_UNFINISHED = tuple(status for status, phase in _PHASES.items() if not phase.over)


class BatchTask(TaskOptions):
    """Options of a task's external jobs."""

    job_definition: str = Field("", description="name, name:revision or ARN; empty: the destination's")
    command: list[str] | None = Field(None, description="instead of the job definition's command")
    environment: dict[str, str] = Field(default_factory=dict, description="variables of the container")
    vcpus: float | None = Field(None, gt=0, description="instead of the job definition's")
    memory: int | None = Field(None, ge=1, description="MiB, instead of the job definition's")


class AwsBatchSettings(DestinationSettings):
    options = BatchTask

    kind: Literal["aws-batch"]
    job_queue: str = Field(description="name or ARN of the job queue")
    job_definition: str = Field("", description="for tasks that name none")
    region: str = Field("", description="empty: as the AWS SDK finds it")
    endpoint_url: str = Field("", description="another address of the API, as of a VPC endpoint")
    log_url: str = Field(
        "", description="link to a job's log, with {region}, {stream} and {id} in it; empty: CloudWatch's console"
    )
    tags: dict[str, str] = Field(default_factory=dict, description="tags of the jobs; needs batch:TagResource")
    overrides: frozenset[Literal["job_definition", "command", "environment", "vcpus", "memory"]] = Field(
        frozenset(), description="options that a job may set, under `push` in its payload"
    )
    tasks: Mapping[str, BatchTask] = Field(
        default_factory=dict,
        description="tasks whose jobs go there, each with its options; without any, those of the task that has the "
        "destination's own name",
    )

    @model_validator(mode="after")
    def _defined(self) -> AwsBatchSettings:
        check_given(self, "job_definition", "a job_definition")
        return self

    @field_validator("log_url")
    @classmethod
    def _template(cls, value: str) -> str:
        return check_template(value, "region", "stream", "id")


class AwsBatch(Destination):
    kind = "aws-batch"
    settings = AwsBatchSettings

    def __init__(self, name: str, owner: str, settings: AwsBatchSettings) -> None:
        super().__init__(name, owner, settings)
        try:
            import boto3
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError, ClientError
        except ImportError:
            raise ValueError("AWS Batch needs boto3: pip install boto3") from None
        self._settings = settings
        self._errors = (BotoCoreError, ClientError)
        once = {"total_max_attempts": 1, "mode": "standard"}  # see above
        config = Config(
            connect_timeout=CONNECT_TIMEOUT, read_timeout=READ_TIMEOUT, retries=once, user_agent_extra="taskflow"
        )
        try:
            self._client = boto3.session.Session().client(
                "batch",
                region_name=settings.region or None,
                endpoint_url=settings.endpoint_url or None,
                config=config,
            )
        except BotoCoreError as error:
            raise ValueError(str(error)) from None
        self._region: str = self._client.meta.region_name

    def submit(self, order: Order) -> External:
        what = self._what(order)
        name = name_of(self.owner, order.ticket)
        answer = self._call("submit_job", jobName=name, jobQueue=self._settings.job_queue, **self._request(order, what))
        return External(answer["jobId"], order.ticket, Phase.QUEUED)

    def _what(self, order: Order) -> BatchTask:
        """The operator's options for the task, overridden by those that the job may set."""
        assert isinstance(order.options, BatchTask)
        return over(order.options, said_by(order, BatchTask, self._settings.overrides, self.name))

    def _request(self, order: Order, what: BatchTask) -> dict[str, Any]:
        definition = what.job_definition or self._settings.job_definition
        if not definition:
            raise Refused(f"destination {self.name} names no job_definition for task {order.task!r}")
        overrides: dict[str, Any] = {
            "environment": [
                {"name": name, "value": value} for name, value in (what.environment | order.environment()).items()
            ]
        }
        if what.command is not None:
            overrides["command"] = what.command
        resources = {"VCPU": what.vcpus, "MEMORY": what.memory}
        if required := [{"type": kind, "value": f"{n:g}"} for kind, n in resources.items() if n is not None]:
            overrides["resourceRequirements"] = required
        request: dict[str, Any] = {
            "jobDefinition": definition,
            "containerOverrides": overrides,
            "parameters": parameters(order.payload),
            "retryStrategy": {"attempts": 1},  # over the job definition's own
        }
        if order.timeout is not None:  # TaskFlow ends it, too: this is for the time in which no pusher runs
            request["timeout"] = {"attemptDurationSeconds": max(LEAST_TIMEOUT, round(order.timeout))}
        if self._settings.tags:
            request["tags"] = self._settings.tags
        return request

    def find(self, ticket: Ticket) -> Sequence[External]:
        named = {"name": "JOB_NAME", "values": [name_of(self.owner, ticket)]}
        return self._described([job["jobId"] for job in self._listed(filters=[named])])

    def unfinished(self) -> Iterable[External]:
        """From the first status to the last: one that moves on meanwhile is shown twice rather than never."""
        for status in _UNFINISHED:
            ids: list[str] = []
            for job in self._listed(jobStatus=status):
                if exec_id_of(self.owner, job["jobName"]) is not None:
                    ids.append(job["jobId"])
                if len(ids) == self.batch:
                    yield from self._described(ids)
                    ids = []
            yield from self._described(ids)

    def look(self, jobs: Sequence[External]) -> Mapping[str, External]:
        return {job.id: job for job in self._described([job.id for job in jobs])}

    def terminate(self, job: External, reason: str) -> None:
        self._call("terminate_job", jobId=job.id, reason=reason[:256])

    # -- the API ---------------------------------------------------------------------------------------------------

    def _listed(self, **which: Any) -> Iterator[dict[str, Any]]:
        token: dict[str, str] = {}
        while True:
            page = self._call("list_jobs", jobQueue=self._settings.job_queue, **which, **token)
            yield from page["jobSummaryList"]
            if not page.get("nextToken"):
                return
            token = {"nextToken": page["nextToken"]}

    def _described(self, ids: Sequence[str]) -> list[External]:
        found = []
        for start in range(0, len(ids), self.batch):
            answer = self._call("describe_jobs", jobs=list(ids[start : start + self.batch]))
            found += [job for job in map(self._external, answer["jobs"]) if job is not None]
        return found

    def _external(self, job: dict[str, Any]) -> External | None:
        """None for a job of another owner, even if its name is similar."""
        exec_id = exec_id_of(self.owner, job["jobName"])
        container = job.get("container") or {}
        environment = {pair["name"]: pair.get("value", "") for pair in container.get("environment", ())}
        try:
            job_id = UUID(environment.get("TASKFLOW_JOB_ID", "")).bytes
        except ValueError:
            return None
        if exec_id is None:
            return None
        reasons = (job.get("statusReason"), container.get("reason"))
        return External(
            id=job["jobId"],
            ticket=Ticket(exec_id, job_id),
            phase=_PHASES[job["status"]],
            created=job.get("createdAt", 0),
            reason="; ".join(reason for reason in reasons if reason),
            exit_code=container.get("exitCode"),
            log_url=self._log_url(job["jobId"], container),
        )

    def _log_url(self, id: str, container: dict[str, Any]) -> str:
        stream = container.get("logStreamName")
        if not stream:
            return ""
        if self._settings.log_url:
            return self._settings.log_url.format(region=self._region, stream=stream, id=id)
        group = ((container.get("logConfiguration") or {}).get("options") or {}).get("awslogs-group", LOG_GROUP)
        home = f"https://{self._region}.console.aws.amazon.com/cloudwatch/home?region={self._region}"
        return f"{home}#logsV2:log-groups/log-group/{_for_console(group)}/log-events/{_for_console(stream)}"

    def _call(self, method: str, **arguments: Any) -> Any:
        try:
            return getattr(self._client, method)(**arguments)
        except self._errors as error:
            raise self._fault(error, method) from None

    def _fault(self, error: BotoCoreError | ClientError, method: str) -> Away | Refused:
        answer = (getattr(error, "response", None) or {}).get("Error", {})  # None where a connection has failed
        code, message = answer.get("Code", type(error).__name__), answer.get("Message") or str(error)
        if method == "submit_job" and code in _REFUSED:
            return Refused(f"{code}: {message}")
        return Away(f"{code}: {message}")


def _for_console(name: str) -> str:
    """As CloudWatch's console writes names behind its `#`: quoted twice, with `$` for the second `%`."""
    return quote(quote(name, safe=""), safe="").replace("%", "$")

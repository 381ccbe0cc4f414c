"""The scheduler's API through bare stubs, without the SDK's help, and what a refusal says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from taskflow.v1 import (
    cluster_pb2,
    cluster_pb2_grpc,
    jobs_pb2,
    jobs_pb2_grpc,
    queue_pb2,
    queue_pb2_grpc,
    queues_pb2_grpc,
)
from tests.support import rows

TIMEOUT = 10.0


class Api:
    """Stubs of the scheduler at `address`. A context manager. Its own calls wait for one that is being restarted."""

    def __init__(self, address: str) -> None:
        limit = 32 << 20  # ours is not the limit to be met
        self.channel = grpc.insecure_channel(
            address,
            options=[
                ("grpc.max_send_message_length", limit),
                ("grpc.max_receive_message_length", limit),
                ("grpc.enable_http_proxy", 0),
                ("grpc.max_reconnect_backoff_ms", 200),
                ("grpc.initial_reconnect_backoff_ms", 50),
            ],
        )
        self.jobs = jobs_pb2_grpc.JobServiceStub(self.channel)
        self.queues = queues_pb2_grpc.QueueAdminServiceStub(self.channel)
        self.cluster = cluster_pb2_grpc.ClusterServiceStub(self.channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()

    def new(self, queue: str, **fields: Any) -> jobs_pb2.Job:
        """One job, made and answered."""
        return self.create(spec(queue, **fields))

    def create(self, job: jobs_pb2.JobSpec) -> jobs_pb2.Job:
        answer: jobs_pb2.Job = self.jobs.CreateJob(
            jobs_pb2.CreateJobRequest(job=job), timeout=TIMEOUT, wait_for_ready=True
        )
        return answer

    def get(self, id: str) -> jobs_pb2.Job:
        job: jobs_pb2.Job = self.jobs.GetJob(jobs_pb2.GetJobRequest(id=id), timeout=TIMEOUT, wait_for_ready=True)
        return job

    def topology(self) -> cluster_pb2.Topology:
        """Who the scheduler knows of."""
        answer: cluster_pb2.Topology = self.cluster.GetTopology(
            cluster_pb2.GetTopologyRequest(), timeout=TIMEOUT, wait_for_ready=True
        )
        return answer

    def wait(self, id: str, seconds: float = 20.0) -> jobs_pb2.Job:
        """The job once it is final; AssertionError with what it is after so many seconds."""
        request = jobs_pb2.AwaitJobRequest(id=id)
        request.timeout.FromMilliseconds(int(seconds * 1000))
        job: jobs_pb2.Job = self.jobs.AwaitJob(request, timeout=seconds + TIMEOUT)
        assert job.state >= jobs_pb2.JOB_STATE_SUCCEEDED, f"not final after {seconds:g} s: {job}"
        return job


def pending(queue_service: str, name: str) -> int:
    """Jobs of a queue, or of a task, that wait in the queue service at this address."""
    return sum(lane.pending for lane in _stats(queue_service).lanes if name in (lane.queue, lane.task))


def waiting_polls(queue_service: str) -> int:
    """Polls that wait for jobs in the queue service at this address."""
    return int(_stats(queue_service).waiting_polls)


def _stats(queue_service: str) -> queue_pb2.StatsResponse:
    with grpc.insecure_channel(queue_service, options=[("grpc.enable_http_proxy", 0)]) as channel:
        answer: queue_pb2.StatsResponse = queue_pb2_grpc.QueueServiceStub(channel).Stats(
            queue_pb2.StatsRequest(), timeout=TIMEOUT
        )
    return answer


def spec(queue: str = "q", **fields: Any) -> jobs_pb2.JobSpec:
    """A JobSpec with an id of its own; `delay` and `timeout`-like options are given as messages by the caller."""
    fields.setdefault("id", rows.new_id())
    return jobs_pb2.JobSpec(queue=queue, **fields)


@dataclass(frozen=True)
class Refusal:
    """An error of the API."""

    code: grpc.StatusCode
    message: str
    field: str = ""
    reason: str = ""
    retry_after: float = 0.0


def refusal(error: grpc.RpcError) -> Refusal:
    status = rpc_status.from_call(error)
    found: dict[str, Any] = {}
    for detail in status.details if status is not None else ():
        for kind in (error_details_pb2.BadRequest, error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo):
            if detail.Is(kind.DESCRIPTOR):
                message = kind()
                detail.Unpack(message)
                if isinstance(message, error_details_pb2.BadRequest):
                    found["field"] = message.field_violations[0].field
                elif isinstance(message, error_details_pb2.ErrorInfo):
                    assert message.domain == "taskflow"
                    found["reason"] = message.reason
                else:
                    found["retry_after"] = message.retry_delay.ToMilliseconds() / 1000
    return Refusal(error.code(), error.details() or "", **found)

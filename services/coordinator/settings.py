"""Settings of the coordinator. Times are seconds."""

from __future__ import annotations

from pydantic import Field, ValidationInfo, field_validator

from taskflow._policy import SOFT
from taskflow_server.runtime.settings import DatabaseSettings, address, address_list, name_of_instance

DEFAULT_GRACE = 5 / 6  # of the lease: after a worker has stopped its handlers, and before the lease ends


class CoordinatorSettings(DatabaseSettings):
    port: int = Field(9001, ge=1, le=65535, description="gRPC port")
    metrics_port: int = Field(9101, ge=0, le=65535, description="Prometheus metrics; 0 turns them off")
    name: str = Field(
        "coordinator-1", description="stable name; a restart under it takes over once the former process has ended"
    )
    queue_address: str = Field("127.0.0.1:9002", description="the queue service of this coordinator, host:port")
    queue_name: str = Field("queue-1", description="name of that queue service")
    queue_advertise: str = Field("", description="addresses of it for workers, host:port, comma-separated")
    lease: float = Field(15.0, ge=1, description="a worker without a heartbeat for this long is declared dead")
    heartbeat_interval: float = Field(2.0, gt=0, le=5, description="interval between heartbeats of a worker")
    lease_row_after: float = Field(5.0, gt=0, description="an attempt that runs for longer gets a row in `leases`")
    reconnect_grace: float = Field(
        0.0,
        ge=0,
        description="time in which a worker whose connection broke can reconnect, at least two thirds of the lease;"
        " 0: five sixths of it",
    )
    beat_interval: float = Field(1.0, gt=0, description="interval between heartbeats of this process in Postgres")
    owner_timeout: float = Field(5.0, gt=0, description="an owner without a heartbeat for this long stops dispatching")
    lane_depth: int = Field(5000, ge=10, description="jobs of one lane that may wait in the queue service")
    lane_bytes: int = Field(32 << 20, ge=1 << 20, description="payload bytes of one lane that may wait there")
    memory_bytes: int = Field(
        256 << 20, ge=1 << 20, description="memory for waiting jobs, in bytes, shared by all lanes that have any"
    )
    lane_idle: float = Field(60.0, gt=0, description="time after which a lane without jobs leaves memory")
    page_size: int = Field(2000, ge=1, le=10_000, description="rows of one page")
    sweep_interval: float = Field(1.0, gt=0, description="interval between reads of lanes without an offer")
    due_interval: float = Field(0.25, gt=0, description="interval between reads of due deferred jobs")
    due_depth: int = Field(5000, ge=10, description="due deferred jobs of one lane that may wait in the queue service")
    due_reread: float = Field(30.0, gt=0, description="interval between reads of all lanes with due deferred jobs")
    blocked_depth: int = Field(
        500, ge=1, description="jobs of one limit that wait in memory for a permit, such as of a task's concurrency"
    )
    blocked_in_memory: int = Field(
        20_000, ge=10, description="limit of such jobs for all limits together; the others wait only in Postgres"
    )
    mark_interval: float = Field(3.0, gt=0, description="interval between writes of the lanes' marks")
    max_handouts: int = Field(20, ge=1, description="hand-outs without a start; then the job fails: never_started")
    requested_timeout: float = Field(
        10.0, gt=0, description="time in which an executor must start a task, unless the job or the executor sets it"
    )
    in_progress_timeout: float = Field(
        120.0, gt=0, description="silence of an executor after which its attempts are marked lost; likewise"
    )
    cancel_interval: float = Field(
        5.0, gt=0, description="interval between reads of open cancels, which a hint of the scheduler triggers as well"
    )
    cancel_grace: float = Field(30.0, gt=0, description="a running job's time to confirm a cancel")
    refused_retry: float = Field(
        30.0, gt=0, description="seconds until an outcome that the database refused is written again"
    )
    held_interval: float = Field(
        5.0, gt=0, description="seconds between checks whether runs that `concurrency` holds back may begin"
    )
    sla_interval: float = Field(
        1.0,
        gt=0,
        description="seconds between looks for jobs and runs that have not started within their sla; a job is looked at"
        " that long after the end of its sla",
    )
    fenced_wait: float = Field(
        10.0,
        gt=0,
        description="time for which the end of an attempt waits for a transaction that its handler has fenced; then"
        " that session is terminated",
    )
    report_wait: float = Field(8.0, gt=0, description="time for which a report waits for its commit")

    @field_validator("queue_name")
    @classmethod
    def _queue_name(cls, value: str) -> str:
        return name_of_instance(value)

    @field_validator("queue_address")
    @classmethod
    def _address(cls, value: str) -> str:
        return address(value)

    @field_validator("queue_advertise")
    @classmethod
    def _queue_advertised(cls, value: str) -> str:
        return ",".join(address_list(value))

    @field_validator("reconnect_grace")
    @classmethod
    def _outlasts_the_handlers(cls, value: float, info: ValidationInfo) -> float:
        least = info.data.get("lease", 0.0) * SOFT
        if value and value < least:
            raise ValueError(f"must be at least {least:g}: until then a worker that is cut off may run its handlers")
        return value

    @property
    def grace(self) -> float:
        """Seconds from a broken connection until the worker's attempts are lost: it has stopped its handlers before."""
        return self.reconnect_grace or self.lease * DEFAULT_GRACE

    @property
    def queue_addresses(self) -> list[str]:
        return address_list(self.queue_advertise) or [self.queue_address]

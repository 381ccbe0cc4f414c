"""Settings of the coordinator. Times are seconds."""

from __future__ import annotations

from pydantic import Field

from services.runtime.settings import DatabaseSettings


class CoordinatorSettings(DatabaseSettings):
    port: int = Field(9001, ge=1, le=65535, description="gRPC port")
    metrics_port: int = Field(9101, ge=0, le=65535, description="Prometheus metrics; 0 turns them off")
    name: str = Field("coordinator-1", description="stable name; a restart under it takes over at once")
    queue_address: str = Field("127.0.0.1:9002", description="the queue service that this coordinator feeds, host:port")
    queue_name: str = Field("queue-1", description="its name")
    queue_advertise: str = Field("", description="its addresses for workers, host:port, separated by commas")
    lease: float = Field(15.0, ge=1, description="a worker that is silent for so long is taken for dead")
    heartbeat_interval: float = Field(2.0, gt=0, le=5, description="how often a worker says that it lives")
    lease_row_after: float = Field(5.0, gt=0, description="an attempt that runs longer has a row in `leases`")
    reconnect_grace: float = Field(5.0, gt=0, description="how long a worker with a broken stream has to come back")
    beat_interval: float = Field(1.0, gt=0, description="how often this process says in Postgres that it lives")
    owner_timeout: float = Field(5.0, gt=0, description="an owner without a beat for so long is dispatching no more")
    lane_depth: int = Field(5000, ge=10, description="jobs of one lane that may wait in the queue service")
    lane_bytes: int = Field(32 << 20, ge=1 << 20, description="payload bytes of one lane that may wait there")
    page_size: int = Field(2000, ge=1, le=10_000, description="rows of one page")
    sweep_interval: float = Field(1.0, gt=0, description="how often lanes without an offer are looked at")
    due_interval: float = Field(0.25, gt=0, description="how often deferred jobs are looked at")
    due_depth: int = Field(5000, ge=10, description="due jobs that may wait in the queue service")
    mark_interval: float = Field(3.0, gt=0, description="how often marks of lanes are written")
    max_handouts: int = Field(20, ge=1, description="hand-outs without a start; then it fails, never_started")
    requested_timeout: float = Field(
        10.0, gt=0, description="an executor's time to start what it was handed, where neither job nor executor say"
    )
    in_progress_timeout: float = Field(
        120.0, gt=0, description="an executor that is silent for so long has lost what it started; likewise"
    )
    cancel_grace: float = Field(30.0, gt=0, description="a running job's time to confirm a cancel")
    report_wait: float = Field(8.0, gt=0, description="how long a report waits for its commit")

    @property
    def queue_addresses(self) -> list[str]:
        given = [a.strip() for a in self.queue_advertise.split(",") if a.strip()]
        return given or [self.queue_address]

"""What the packaged worker can be told."""

from __future__ import annotations

from pydantic import Field

from services.runtime.settings import ServiceSettings


class WorkerSettings(ServiceSettings):
    port: int = Field(9004, ge=1, le=65535, description="gRPC port, for health and reflection")
    metrics_port: int = Field(9104, ge=0, le=65535, description="Prometheus metrics; 0 turns them off")
    name: str = Field("worker-1", description="stable name of this instance")
    scheduler_address: str = Field("127.0.0.1:9003", description="the scheduler, host:port")
    app: str = Field("", description="module:attribute of the app to run; none: nothing to run yet")
    concurrency: int = Field(20, ge=1, le=10_000, description="how many jobs at once")
    queues: str = Field("", description="only the tasks of these queues, separated by commas; empty: all")
    grace: float = Field(30.0, ge=0, description="seconds that running jobs are given at a stop")

    @property
    def queue_names(self) -> list[str]:
        return [name.strip() for name in self.queues.split(",") if name.strip()]

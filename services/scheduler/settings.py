"""Settings of the scheduler."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from services.runtime.settings import DatabaseSettings


class SchedulerSettings(DatabaseSettings):
    port: int = Field(9003, ge=1, le=65535, description="gRPC port")
    metrics_port: int = Field(9103, ge=0, le=65535, description="Prometheus metrics; 0 turns them off")
    name: str = Field("scheduler-1", description="stable name of this instance")
    max_batch: int = Field(5000, ge=1, le=50_000, description="jobs of one CreateJobs call, and of a commit")
    max_retries: int = Field(1000, ge=0, description="largest number of retries that a job may ask for")
    topology_interval: float = Field(1.0, gt=0, description="seconds between readings of shards and members")
    offer_backlog: int = Field(20_000, ge=0, description="jobs whose offers may wait for a coordinator")
    await_interval: float = Field(2.0, gt=0, description="seconds between readings of awaited jobs")
    leader_timeout: float = Field(
        5.0, gt=0, description="seconds without a beat after which another scheduler fires the schedules"
    )
    misfire_after: float = Field(
        60.0, ge=1, description="seconds by which a firing may be late before it counts as missed (R17)"
    )
    default_time_zone: str = Field("UTC", description="zone of schedules that name none (R15)")
    clock: Literal["system", "manual"] = Field(
        "system", description="`manual`: AdvanceClock may move the whole cluster's clock. For tests"
    )
    depth_interval: float = Field(15.0, gt=0, description="seconds between measures of what waits, for the metrics")
    partition_days: int = Field(9, ge=2, description="days of partitions to have, yesterday's included")
    retention: int = Field(30, ge=0, le=36_500, description="days that finished jobs are kept; 0 keeps them for ever")
    prune_interval: float = Field(3600.0, gt=0, description="seconds between looks for days past the retention")

"""Settings of the scheduler."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from taskflow_server.core.errors import InvalidArgument
from taskflow_server.core.zones import find_zone
from taskflow_server.runtime.settings import DatabaseSettings


class SchedulerSettings(DatabaseSettings):
    port: int = Field(9003, ge=1, le=65535, description="gRPC port")
    metrics_port: int = Field(9103, ge=0, le=65535, description="Prometheus metrics; 0 turns them off")
    name: str = Field("scheduler-1", description="stable name of this instance")
    max_batch: int = Field(5000, ge=1, le=50_000, description="maximum number of jobs in a call or a commit")
    max_retries: int = Field(
        1000, ge=0, le=(1 << 31) - 1, description="largest number of retries that a job may ask for"
    )
    unready_for: float = Field(
        5.0, gt=0, description="seconds without readiness after jobs could not be stored, unless others are stored"
    )
    topology_interval: float = Field(1.0, gt=0, description="seconds between readings of shards and members")
    handlers_interval: float = Field(
        0.2, gt=0, description="seconds between readings of handlers and workers that jobs of unknown tasks may cause"
    )
    quota_interval: float = Field(
        1.0,
        gt=0,
        description="seconds for which a count of a namespace's waiting jobs is used, where these have a quota; a tenth"
        " of it when the quota seems used up",
    )
    offer_backlog: int = Field(20_000, ge=0, description="maximum number of jobs whose offers wait for a coordinator")
    await_interval: float = Field(2.0, gt=0, description="seconds between reads of awaited jobs")
    max_wait: float = Field(
        300.0, gt=0, le=86_400, description="seconds that a call may wait for a job or a run; a longer wait is refused"
    )
    max_stream_waits: int = Field(100_000, ge=1, le=10_000_000, description="maximum number of waits on one stream")
    leader_timeout: float = Field(
        5.0, gt=0, description="seconds without a heartbeat after which another scheduler fires the schedules"
    )
    misfire_after: float = Field(
        60.0, ge=1, description="seconds by which a firing may be late before it counts as missed (R17)"
    )
    fire_schedules: int = Field(200, ge=1, le=10_000, description="schedules that one transaction decides at most")
    fire_batch: int = Field(500, ge=1, le=10_000, description="firings that fill one transaction")
    fire_step: int = Field(
        20, ge=1, le=1000, description="firings of one schedule in a transaction; then other schedules have their turn"
    )
    schedule_retry: float = Field(
        60.0, gt=0, description="seconds until a schedule that could not be fired is tried again"
    )
    clock_step: float = Field(
        5.0, ge=1, description="seconds by which the database's clock must jump, forward or back, to count as a step"
    )
    default_time_zone: str = Field("UTC", description="zone of schedules that name none (R15)")
    clock: Literal["system", "manual"] = Field(
        "system", description="`manual`: AdvanceClock can move the clock of the whole cluster; for tests"
    )
    depth_interval: float = Field(15.0, gt=0, description="seconds between counts of waiting jobs, for the metrics")
    partition_days: int = Field(9, ge=2, description="days for which partitions exist, with yesterday")
    retention: int = Field(30, ge=0, le=36_500, description="days for which finished jobs are kept; 0: for ever")
    prune_interval: float = Field(3600.0, gt=0, description="seconds between checks for days past the retention")

    alert_interval: float = Field(
        1.0, gt=0, le=60, description="seconds between looks for facts that rules of alerts have selected"
    )
    alert_lane_interval: float = Field(
        15.0, gt=0, le=3600, description="seconds between looks for old backlogs and queues without workers, for alerts"
    )
    alert_batch: int = Field(1000, ge=1, le=10_000, description="facts of alerts that one transaction counts at most")
    alert_lanes: int = Field(
        1000, ge=1, le=10_000, description="queues, and tasks of them, that are looked at for alerts at most"
    )
    alert_rules: int = Field(100, ge=0, le=1000, description="maximum number of rules of alerts")
    alert_retries: int = Field(
        10, ge=0, le=1000, description="retries of an alert's delivery, 5 s apart at first, 10 min at most"
    )

    @field_validator("default_time_zone")
    @classmethod
    def _zone(cls, value: str) -> str:
        try:
            find_zone(value)
        except InvalidArgument as error:
            raise ValueError(str(error).removeprefix("time_zone: ")) from None
        return value

"""Settings of the gateway."""

from __future__ import annotations

from pydantic import Field, field_validator

from services.runtime.settings import ServiceSettings


class GatewaySettings(ServiceSettings):
    port: int = Field(8080, ge=1, le=65535, description="HTTP port")
    metrics_port: int = Field(9180, ge=0, le=65535, description="Prometheus metrics; 0 turns them off")
    name: str = Field("gateway-1", description="stable name of this instance")
    scheduler_address: str = Field("127.0.0.1:9003", description="the scheduler, host:port")
    allowed_hosts: str = Field(
        "",
        description="names that browsers and programs may call the gateway by, separated by commas; `*`: any. "
        "Addresses, and names without a dot as `localhost`, always may",
    )
    call_timeout: float = Field(10.0, gt=0, le=300, description="seconds for one call to another service")
    max_connections: int = Field(2000, ge=1, description="connections at once, long polls included; more are told 503")
    max_body_bytes: int = Field(4 << 20, ge=1 << 10, description="largest body of a request")
    long_polls: int = Field(1000, ge=1, description="executors that may wait for a task at once; more are told 429")
    live_interval: float = Field(2.0, ge=0.1, description="seconds between looks at what an open page shows")
    live_streams: int = Field(
        100, ge=0, description="open pages that are kept up to date; more are as of their loading"
    )

    @field_validator("scheduler_address")
    @classmethod
    def _address(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(f"{value!r} is not host:port, as in 127.0.0.1:9003")
        return value

    @property
    def host_names(self) -> frozenset[str]:
        """What `allowed_hosts` names, in lower case."""
        return frozenset(word.strip().lower() for word in self.allowed_hosts.split(",") if word.strip())

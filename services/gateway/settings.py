"""Settings of the gateway."""

from __future__ import annotations

from pydantic import Field, field_validator

from taskflow_server.gateway import nodes
from taskflow_server.runtime.settings import ServiceSettings, address


class GatewaySettings(ServiceSettings):
    port: int = Field(8080, ge=1, le=65535, description="HTTP port")
    metrics_port: int = Field(9180, ge=0, le=65535, description="Prometheus metrics; 0 turns them off")
    name: str = Field("gateway-1", description="stable name of this instance")
    scheduler_address: str = Field(
        "127.0.0.1:9003", description="the scheduler, host:port; `TASKFLOW_ADDRESS` says the same"
    )
    allowed_hosts: str = Field(
        "",
        description="host names at which browsers and programs may call the gateway, comma-separated; `*`: any. "
        "IP addresses, and names without a dot such as `localhost`, are always allowed",
    )
    call_timeout: float = Field(10.0, gt=0, le=300, description="timeout of a call to another service, in seconds")
    max_connections: int = Field(2000, ge=1, description="maximum number of connections and long polls; others get 503")
    max_body_bytes: int = Field(4 << 20, ge=1 << 10, description="maximum size of a request body")
    long_polls: int = Field(1000, ge=1, description="maximum number of waiting executors; others get 429")
    live_interval: float = Field(2.0, ge=0.1, description="seconds between updates of an open page")
    live_streams: int = Field(100, ge=0, description="maximum number of pages that are updated; others are static")

    designer_nodes: str = Field(
        "", description="JSON file with steps of your own that the designer offers beside the kinds; read at start"
    )

    @field_validator("designer_nodes")
    @classmethod
    def _nodes(cls, value: str) -> str:
        nodes.load(value)
        return value

    @field_validator("scheduler_address")
    @classmethod
    def _address(cls, value: str) -> str:
        return address(value)

    @property
    def host_names(self) -> frozenset[str]:
        """The names in `allowed_hosts`, in lower case."""
        return frozenset(word.strip().lower() for word in self.allowed_hosts.split(",") if word.strip())

"""Settings: `TASKFLOW_*` environment variables, typed, checked before anything starts."""

from __future__ import annotations

import os
import sys
from typing import Any, Literal, NoReturn, TypeVar

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict


class ServiceSettings(BaseSettings):
    """What every service has. Times are seconds."""

    model_config = SettingsConfigDict(env_prefix="TASKFLOW_", extra="ignore")

    host: str = Field("127.0.0.1", description="address to listen on; loopback unless told otherwise")
    port: int = Field(0, ge=0, le=65535, description="gRPC port")
    metrics_port: int = Field(0, ge=0, le=65535, description="Prometheus metrics; 0 turns them off")
    name: str = Field("", description="stable name of this instance; `<service>-1` by default")
    advertise: str = Field("", description="addresses that others reach it by, host:port, separated by commas")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="the least that is logged")
    log_format: Literal["console", "json"] = Field("console", description="lines for people, or JSON for programs")
    stop_grace: float = Field(5.0, gt=0, description="how long open calls may take at a stop")
    max_message_bytes: int = Field(8 << 20, ge=1 << 20, description="largest gRPC message")

    @property
    def addresses(self) -> list[str]:
        given = [a.strip() for a in self.advertise.split(",") if a.strip()]
        return given or [f"{self.host}:{self.port}"]


class DatabaseSettings(ServiceSettings):
    """What a service with Postgres has."""

    database_url: str = Field(description="postgresql://user:password@host:port/name")
    database_timeout: float = Field(5.0, gt=0, description="statement timeout and connect timeout")
    max_payload_bytes: int = Field(1 << 20, ge=1, description="largest payload or result")
    metrics_queues: int = Field(
        100, ge=0, le=10_000, description="queues with a name in the metrics; all others count as `(other)`"
    )


S = TypeVar("S", bound=ServiceSettings)


def load(cls: type[S], **overrides: Any) -> S:
    """The settings, or one line on stderr for each wrong variable and exit status 2."""
    try:
        return cls(**overrides)
    except ValidationError as error:
        for item in error.errors():
            name = "TASKFLOW_" + "_".join(str(part) for part in item["loc"]).upper()
            given = f", not {os.environ[name]!r}" if name in os.environ and "URL" not in name else ""
            known = cls.model_fields.get(str(item["loc"][0])) if item["loc"] else None
            about = f" ({known.description})" if known is not None and known.description else ""
            what = "must be set" if item["type"] == "missing" else item["msg"][0].lower() + item["msg"][1:]
            print(f"{name}: {what}{given}{about}", file=sys.stderr)
        sys.exit(2)


def refuse(message: str) -> NoReturn:
    """A start that cannot succeed: one line, exit status 2."""
    print(message, file=sys.stderr)
    sys.exit(2)

"""Settings: `TASKFLOW_*` environment variables, typed, checked before anything starts."""

from __future__ import annotations

import os
import re
import sys
from typing import Any, Literal, NoReturn, TypeVar

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from taskflow._policy import addresses


class ServiceSettings(BaseSettings):
    """Settings of every service. Times are seconds."""

    model_config = SettingsConfigDict(env_prefix="TASKFLOW_", extra="ignore", allow_inf_nan=False)

    host: str = Field("127.0.0.1", description="address to listen on; loopback by default")
    port: int = Field(0, ge=0, le=65535, description="gRPC port")
    metrics_port: int = Field(0, ge=0, le=65535, description="Prometheus metrics; 0 turns them off")
    name: str = Field("service-1", description="stable name of this instance; `<service>-1` by default")
    advertise: str = Field("", description="addresses at which others reach it, host:port, comma-separated")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="minimum level of log lines")
    log_format: Literal["console", "json"] = Field("console", description="lines for people, or JSON for programs")
    keepalive_interval: float = Field(
        10.0, ge=0.1, description="interval of keepalive pings; clients may ping at half of it, 5 s at most"
    )
    stop_grace: float = Field(5.0, gt=0, description="time for open calls to end when the service stops")
    max_message_bytes: int = Field(8 << 20, ge=1 << 20, le=(1 << 31) - 1, description="largest gRPC message")

    @field_validator("*", mode="after")
    @classmethod
    def _bounded(cls, value: object) -> object:
        if isinstance(value, float) and value > _LARGEST:
            raise ValueError(f"exceeds the limit of {_LARGEST:,} seconds")
        if isinstance(value, int) and value > sys.maxsize:
            raise ValueError(f"exceeds the limit of {sys.maxsize}")
        return value

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        return name_of_instance(value)

    @field_validator("host")
    @classmethod
    def _host(cls, value: str) -> str:
        return addresses.host_of(value)

    @field_validator("advertise")
    @classmethod
    def _advertised(cls, value: str) -> str:
        return ",".join(address_list(value))

    @property
    def address(self) -> str:
        """Where it listens, as host:port."""
        return addresses.join(self.host, self.port)

    @property
    def addresses(self) -> list[str]:
        return address_list(self.advertise) or [self.address]


class DatabaseSettings(ServiceSettings):
    """Settings of a service with Postgres."""

    database_url: str = Field(description="postgresql://user:password@host:port/name")
    database_timeout: float = Field(5.0, gt=0, le=3600, description="statement timeout and connect timeout")
    max_payload_bytes: int = Field(1 << 20, ge=1, le=(1 << 31) - 1, description="largest payload or result")
    step_kinds: str = Field(
        "", description="kinds of steps of your own, `module:Class`, comma-separated; the same for both services"
    )
    metrics_queues: int = Field(
        100, ge=0, le=10_000, description="queues with a label of their own in the metrics; others count as `(other)`"
    )


def name_of_instance(value: str) -> str:
    """The name of a service's process. ValueError."""
    if not value or len(value) > 200 or not value.isprintable() or " " in value or "," in value:
        raise ValueError(f"{value[:_SHOWN]!r} is not a valid name; use 1 to 200 characters, no space or comma")
    return value


def address(value: str) -> str:
    """host:port, in one form. ValueError has the fault."""
    return addresses.join(*addresses.parse(value))


def address_list(value: str) -> list[str]:
    """Addresses that are separated by commas. ValueError."""
    return [address(word.strip()) for word in value.split(",") if word.strip()]


_SECRET = re.compile("URL|SECRET|DESTINATIONS")  # in the name of a variable whose value is never shown
_SHOWN = 100  # characters of a wrong value
_LONGEST = 400  # characters of the message about one
_LARGEST = 10**9  # of any number of seconds; other numbers, such as bytes, may be larger

S = TypeVar("S", bound=ServiceSettings)


def load(cls: type[S], **overrides: Any) -> S:
    """The settings, or one line on stderr for each wrong variable and exit status 2."""
    if "scheduler_address" in cls.model_fields:
        overrides = _address_of_the_scheduler() | overrides
    try:
        return cls(**overrides)
    except ValidationError as error:
        for item in error.errors(include_url=False):
            print(_told(cls, item), file=sys.stderr)
        sys.exit(2)


def _address_of_the_scheduler() -> dict[str, str]:
    """The address from TASKFLOW_ADDRESS, which all clients use, unless this service has a variable of its own."""
    given = os.environ.get("TASKFLOW_ADDRESS", "")
    if not given or "TASKFLOW_SCHEDULER_ADDRESS" in os.environ:
        return {}
    try:
        return {"scheduler_address": address(given)}
    except ValueError as error:
        refuse(f"TASKFLOW_ADDRESS: {error} (the scheduler, host:port)")


def _told(cls: type[ServiceSettings], item: Any) -> str:
    """One line: the variable, its valid values, the given value unless that may be a secret, and its purpose."""
    field = str(item["loc"][0]) if item["loc"] else ""
    name = f"TASKFLOW_{field.upper()}"
    known = cls.model_fields.get(field)
    about = f" ({known.description})" if known is not None and known.description else ""
    if item["type"] == "missing":
        return f"{name}: must be set{about}"
    if item["type"] == "value_error":  # raised by TaskFlow, without secrets
        said = str(item["ctx"]["error"])
        return f"{name}: {said if len(said) <= _LONGEST else said[:_LONGEST] + ' …'}{about}"
    given = os.environ.get(name)
    shown = "" if given is None or _SECRET.search(name) else f", not {given[:_SHOWN]!r}"
    return f"{name}: {item['msg'][0].lower()}{item['msg'][1:]}{shown}{about}"


def refuse(message: str) -> NoReturn:
    """A start that cannot succeed: one line, exit status 2."""
    print(message, file=sys.stderr)
    sys.exit(2)

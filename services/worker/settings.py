"""What the packaged worker can be told."""

from __future__ import annotations

import shutil
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from services.runtime.settings import ServiceSettings
from services.worker.http.guard import Guard
from services.worker.http.secrets import parse_hosts
from services.worker.push import kinds
from services.worker.push.destination import DestinationSettings

BUILTINS = ("http", "shell")


class WorkerSettings(ServiceSettings):
    port: int = Field(9004, ge=1, le=65535, description="gRPC port, for health and reflection")
    metrics_port: int = Field(9104, ge=0, le=65535, description="Prometheus metrics; 0 turns them off")
    name: str = Field("worker-1", description="stable name of this instance")
    scheduler_address: str = Field("127.0.0.1:9003", description="the scheduler, host:port")
    app: str = Field("", description="module:attribute of the app to run; none: the built-in handlers alone")
    concurrency: int = Field(20, ge=1, le=10_000, description="how many jobs at once")
    queues: str = Field("", description="only the tasks of these queues, separated by commas; empty: all")
    grace: float = Field(30.0, ge=0, description="seconds that running jobs are given at a stop")
    builtins: str = Field(
        "http", description="built-in handlers to run, of `http` and `shell`, separated by commas; empty: none"
    )

    http_allow: str = Field(
        "",
        description="what `http.call` may reach although it is not public: addresses, networks and host names, each "
        "with or without :port, separated by commas, as `10.1.0.0/16, billing.internal:8443`",
    )
    http_app_url: str = Field("", description="base that relative URLs are appended to, where a job brings none")
    http_timeout: float = Field(30.0, gt=0, le=3600, description="seconds for a call that names no timeout")
    http_max_response_bytes: int = Field(1 << 20, ge=1, description="largest body of an answer, decompressed")
    http_max_redirects: int = Field(5, ge=0, le=50, description="how many redirects a call follows")
    http_max_retry_after: float = Field(
        3600.0, ge=0, description="longest pause in seconds that an answer's Retry-After can ask for"
    )
    http_secret_hosts: str = Field(
        "",
        description="NAME=host pairs, separated by commas: a secret that is named here is sent to these hosts only, "
        "as `STRIPE=api.stripe.com`; one that is not, to any",
    )
    secrets_dir: str = Field("", description="folder with a file for each secret, looked at before the environment")

    shell_allow: str = Field(
        "", description="programs that `shell.run` may start: absolute paths, or names on PATH, separated by commas"
    )
    shell_scripts: Literal["off", "on"] = Field(
        "off", description="`on`: jobs may bring scripts for bash, which may do whatever this process may"
    )
    shell_folders: str = Field(
        "", description="folders that a command's `cwd` may lie in, absolute, separated by commas; none: no `cwd`"
    )
    shell_pass_env: str = Field(
        "", description="variables of this process that commands get besides PATH and LANG, separated by commas"
    )
    shell_timeout: float = Field(3600.0, gt=0, description="seconds for a command whose job brings no timeout")
    shell_kill_grace: float = Field(
        0.8,
        ge=0,
        le=600,
        description="seconds between SIGTERM and SIGKILL; above 1, the next attempt may start in them",
    )
    shell_max_log_bytes: int = Field(
        1 << 20, ge=0, description="what one attempt's output may fill of the job's log; the rest is counted"
    )

    push_destinations: str = Field(
        "",
        description="where jobs are pushed to: a JSON object of destinations by name, or the path of a file with one; "
        "see the how-to of AWS Batch",
    )
    push_owner: str = Field(
        "",
        description="what this pusher's external jobs bear in their names: unique among all pushers of all clusters "
        "that use a destination, the same after a restart; `TASKFLOW_NAME` by default",
    )
    push_in_progress_timeout: float = Field(
        120.0, ge=15, le=86_400, description="seconds without a pusher after which its attempts are lost"
    )
    push_poll_interval: float = Field(
        5.0, ge=0.1, le=60, description="seconds between looks at external jobs, and words to TaskFlow about them"
    )
    push_sweep_interval: float = Field(
        60.0, ge=0.1, le=3600, description="seconds between looks for external jobs that are nobody's"
    )
    push_settle: float = Field(
        15.0, ge=0, le=600, description="seconds until a destination surely shows what was submitted to it"
    )
    push_call_timeout: float = Field(30.0, ge=1, le=300, description="seconds of one call to a destination")
    push_longest_pause: float = Field(
        60.0, ge=1, le=3600, description="longest pause in seconds before a destination that is away is asked again"
    )

    @property
    def queue_names(self) -> list[str]:
        return words(self.queues)

    @property
    def builtin_names(self) -> list[str]:
        return words(self.builtins)

    @cached_property
    def guard(self) -> Guard:
        return Guard(self.http_allow)

    @cached_property
    def secret_hosts(self) -> dict[str, list[str]]:
        """Where secrets may go, by name."""
        return parse_hosts(self.http_secret_hosts)

    @cached_property
    def programs(self) -> dict[str, str]:
        """What may be run, as a job may name it: the path, or the last word of it -> the path."""
        return _programs(self.shell_allow)

    @cached_property
    def destinations(self) -> dict[str, DestinationSettings]:
        """Where jobs are pushed to, by name."""
        return kinds.read(self.push_destinations)

    @property
    def owner(self) -> str:
        """In the names of external jobs."""
        return self.push_owner or self.name

    @field_validator("push_destinations")
    @classmethod
    def _destinations(cls, value: str) -> str:
        kinds.read(value)
        return value

    @field_validator("builtins")
    @classmethod
    def _known(cls, value: str) -> str:
        for name in words(value):
            if name not in BUILTINS:
                raise ValueError(f"there is no built-in handler {name!r}")
        return value

    @field_validator("http_allow")
    @classmethod
    def _rules(cls, value: str) -> str:
        Guard(value)
        return value

    @field_validator("http_secret_hosts")
    @classmethod
    def _pairs(cls, value: str) -> str:
        parse_hosts(value)
        return value

    @field_validator("http_app_url")
    @classmethod
    def _base(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError(f"{value!r} must begin with http:// or https://")
        return value

    @field_validator("secrets_dir")
    @classmethod
    def _folder(cls, value: str) -> str:
        if value and not Path(value).is_dir():
            raise ValueError(f"there is no folder {value!r}")
        return value

    @field_validator("shell_allow")
    @classmethod
    def _there(cls, value: str) -> str:
        _programs(value)
        return value

    @field_validator("shell_folders")
    @classmethod
    def _folders(cls, value: str) -> str:
        for folder in words(value):
            if not folder.startswith("/") or not Path(folder).is_dir():
                raise ValueError(f"{folder!r} is not the absolute path of a folder")
        return value


def words(value: str) -> list[str]:
    """The parts of a list that is separated by commas."""
    return [word.strip() for word in value.split(",") if word.strip()]


def _programs(value: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in words(value):
        path = shutil.which(word)
        if path is None or not path.startswith("/"):
            raise ValueError(f"there is no program {word!r}" + ("" if "/" in word else " on PATH"))
        for name in (path, path.rpartition("/")[2]):
            if found.setdefault(name, path) != path:
                raise ValueError(f"{found[name]!r} and {path!r} have the same name")
    return found

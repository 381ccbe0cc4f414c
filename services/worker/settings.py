"""Settings of the packaged worker."""

from __future__ import annotations

import os
import shutil
from functools import cached_property
from typing import Literal

from pydantic import Field, field_validator

from taskflow_server.runtime.settings import ServiceSettings, address
from taskflow_server.worker.http.guard import Guard
from taskflow_server.worker.http.secrets import parse_hosts
from taskflow_server.worker.push import destination_types
from taskflow_server.worker.push.destination import DestinationSettings

BUILTINS = ("http", "alert", "shell")


class WorkerSettings(ServiceSettings):
    port: int = Field(9004, ge=1, le=65535, description="gRPC port, for health and reflection")
    metrics_port: int = Field(9104, ge=0, le=65535, description="Prometheus metrics; 0 turns them off")
    name: str = Field("worker-1", description="stable name of this instance")
    scheduler_address: str = Field(
        "127.0.0.1:9003", description="the scheduler, host:port; `TASKFLOW_ADDRESS` says the same"
    )
    app: str = Field("", description="module:attribute of the app to run; none: only the built-in handlers")
    concurrency: int = Field(20, ge=1, le=10_000, description="maximum number of concurrent jobs")
    queues: str = Field("", description="only the tasks of these queues, comma-separated; empty: all")
    grace: float = Field(30.0, ge=0, description="seconds that running jobs are given at a stop")
    strict: bool = Field(
        False,
        description="drain and end the process, to be started again, when a handler outlives its attempt or the lease",
    )
    strict_after: float = Field(
        60.0, ge=0, description="with strict: seconds that a handler may go on after the end of its attempt"
    )
    prefetch: float = Field(
        0.01,
        ge=0,
        description="seconds of work, by the recent run times, that are fetched beyond the free slots: at most 10 jobs "
        "for each slot, and 256; a job that has not started after five times as long is returned; 0: none",
    )
    builtins: str = Field(
        "http,alert",
        description="built-in handlers to run, of `http`, `alert` and `shell`, comma-separated; empty: none",
    )

    http_allow: str = Field(
        "",
        description="addresses that `http.call` may call although they are not public: addresses, networks and host "
        "names, each with or without :port, comma-separated, as in `10.1.0.0/16, billing.internal:8443`",
    )
    http_app_url: str = Field("", description="base of relative URLs, for jobs without one")
    http_timeout: float = Field(30.0, gt=0, le=3600, description="timeout of a call without one, in seconds")
    http_max_response_bytes: int = Field(1 << 20, ge=1, description="maximum size of a response body, decompressed")
    http_max_redirects: int = Field(5, ge=0, le=50, description="maximum number of redirects that a call follows")
    http_max_retry_after: float = Field(
        3600.0, ge=0, description="maximum pause that Retry-After of an answer can set, in seconds"
    )
    http_secret_hosts: str = Field(
        "",
        description="NAME=host pairs, comma-separated: a secret that is listed is sent only to its hosts, "
        "as in `STRIPE=api.stripe.com`; any other secret to any host",
    )
    secrets_dir: str = Field("", description="folder with a file for each secret, read before the environment")

    shell_allow: str = Field(
        "", description="programs that `shell.run` may start: absolute paths, or names on PATH, comma-separated"
    )
    shell_scripts: Literal["off", "on"] = Field(
        "off", description="`on`: jobs may contain scripts for bash, which have all rights of this process"
    )
    shell_folders: str = Field(
        "", description="folders in which the `cwd` of a command may be, absolute, comma-separated; none: no `cwd`"
    )
    shell_pass_env: str = Field(
        "", description="variables of this process that commands get besides PATH and LANG, comma-separated"
    )
    shell_timeout: float = Field(3600.0, gt=0, description="timeout of a command whose job has none, in seconds")
    shell_kill_grace: float = Field(
        0.8,
        ge=0,
        le=600,
        description="seconds between SIGTERM and SIGKILL; above 1, the next attempt may start in them",
    )
    shell_max_log_bytes: int = Field(
        1 << 20, ge=0, description="maximum size of an attempt's output in the job's log; the rest is only counted"
    )

    push_destinations: str = Field(
        "",
        description="destinations of pushed jobs: a JSON object by name, or the path of a file with one; "
        "see the guides to AWS Batch, Kubernetes, Mesos and Ray",
    )
    push_owner: str = Field(
        "",
        description="part of the names of this pusher's external jobs: unique among all pushers of all clusters "
        "that use a destination, the same after a restart; `TASKFLOW_NAME` by default",
    )
    push_in_progress_timeout: float = Field(
        120.0, ge=15, le=86_400, description="seconds without a pusher after which its attempts are lost"
    )
    push_poll_interval: float = Field(
        5.0, ge=0.1, le=60, description="seconds between checks of external jobs, and notifications about them"
    )
    push_sweep_interval: float = Field(
        60.0, ge=0.1, le=3600, description="seconds between searches for orphaned external jobs"
    )
    push_settle: float = Field(
        15.0, ge=0, le=600, description="seconds after which a destination certainly lists a submitted job"
    )
    push_call_timeout: float = Field(30.0, ge=1, le=300, description="timeout of a call to a destination, in seconds")
    push_longest_pause: float = Field(
        60.0, ge=1, le=3600, description="maximum pause before an unavailable destination is called again, in seconds"
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
        """The commands that may be run, as a job may name them: the path, or its last component -> the path."""
        return _programs(self.shell_allow)

    @cached_property
    def destinations(self) -> dict[str, DestinationSettings]:
        """Where jobs are pushed to, by name."""
        return destination_types.read(self.push_destinations)

    @property
    def owner(self) -> str:
        """In the names of external jobs."""
        return self.push_owner or self.name

    @field_validator("scheduler_address")
    @classmethod
    def _address(cls, value: str) -> str:
        return address(value)

    @field_validator("push_destinations")
    @classmethod
    def _destinations(cls, value: str) -> str:
        destination_types.read(value)
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
            shown = "it" if "@" in value else repr(value)  # a name and a password may stand before an @
            raise ValueError(f"{shown} must begin with http:// or https://")
        return value

    @field_validator("secrets_dir")
    @classmethod
    def _folder(cls, value: str) -> str:
        if value and not os.path.isdir(value):
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
            if not folder.startswith("/") or not os.path.isdir(folder):
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

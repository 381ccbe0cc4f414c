"""The operator's rules for commands."""

from __future__ import annotations

import os
import re
import shutil

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from taskflow_server.worker.failures import give_up
from taskflow_server.worker.settings import WorkerSettings, words

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# They change which code a program runs, before it has looked at its arguments.
_NOT_A_JOBS = re.compile(
    r"PATH|ENV|IFS|PS4|BASH.*|SHELLOPTS|LD_.*|DYLD_.*|GCONV_PATH|GLIBC_TUNABLES|LOCPATH|MALLOC_.*|PYTHON.*|PERL.*|RUBY.*"
    r"|NODE_.*|JAVA_TOOL_OPTIONS|_?JAVA_OPTIONS|JDK_JAVA_OPTIONS|GIT_.*|EDITOR|VISUAL|PAGER|BROWSER|TASKFLOW_.*"
)


class ShellPayload(BaseModel):
    """The payload of a job of `shell.run`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    command: str | list[str] | None = None
    args: list[str] = Field(default_factory=list)
    script: str | None = Field(None, min_length=1)
    env: dict[str, str] = Field(default_factory=dict, max_length=200)
    cwd: str | None = None
    stdin: str | None = None

    @field_validator("command", "args", "script", "cwd")
    @classmethod
    def _no_zero(cls, value: str | list[str] | None) -> str | list[str] | None:
        if value is not None and any("\0" in part for part in ([value] if isinstance(value, str) else value)):
            raise ValueError("may hold no zero byte")
        return value

    @field_validator("env")
    @classmethod
    def _variables(cls, env: dict[str, str]) -> dict[str, str]:
        for name, value in env.items():
            if not _VARIABLE.fullmatch(name):
                raise ValueError(f"{name[:60]!r} is not the name of a variable")
            if _NOT_A_JOBS.fullmatch(name):
                raise ValueError(f"{name} is for the worker's operator to set, by TASKFLOW_SHELL_PASS_ENV")
            if "\0" in value:
                raise ValueError(f"{name}: may hold no zero byte")
        return env

    @model_validator(mode="after")
    def _one(self) -> ShellPayload:
        if (self.command is None) == (self.script is None):
            raise ValueError("give either command or script")
        if isinstance(self.command, list) and self.args:
            raise ValueError("args goes with a command that is one word, or with a script")
        if self.command is not None and not (self.command and self.command[0]):
            raise ValueError("command is empty")
        return self


def argv_of(payload: ShellPayload, settings: WorkerSettings) -> list[str]:
    """With the path of an allowed program in front; what is not allowed ends the job."""
    if payload.script is not None:
        bash = shutil.which("bash")
        if settings.shell_scripts != "on" or bash is None:
            why = "no bash" if settings.shell_scripts == "on" else "no scripts; its operator can allow them"
            raise give_up("Forbidden", f"payload.script: this worker runs {why} (TASKFLOW_SHELL_SCRIPTS)")
        return [bash, "-c", payload.script, "script", *payload.args]
    command = payload.command if isinstance(payload.command, list) else [payload.command or "", *payload.args]
    path = settings.programs.get(command[0])
    if path is None:
        names = ", ".join(name for name in settings.programs if "/" not in name) or "none"
        raise give_up(
            "Forbidden",
            f"payload.command: {command[0][:200]!r} is none of the programs that this worker's operator allows"
            f" (TASKFLOW_SHELL_ALLOW): {names}",
        )
    return [path, *command[1:]]


def folder_of(payload: ShellPayload, settings: WorkerSettings) -> str | None:
    """The folder that the job asks for; what is not in an allowed one ends the job. None: it asks for none."""
    if payload.cwd is None:
        return None
    folder = os.path.realpath(payload.cwd)
    allowed = [os.path.realpath(each) for each in words(settings.shell_folders)]
    inside = any(folder == each or folder.startswith(each.rstrip("/") + "/") for each in allowed)
    if not payload.cwd.startswith("/") or not inside or not os.path.isdir(folder):
        where = ", ".join(allowed) or "none"
        raise give_up(
            "Forbidden",
            f"payload.cwd: {payload.cwd[:200]!r} is not a folder inside those that this worker's operator allows"
            f" (TASKFLOW_SHELL_FOLDERS): {where}",
        )
    return folder


def environment_of(payload: ShellPayload, settings: WorkerSettings) -> dict[str, str]:
    """PATH and LANG, what the operator passes on, and what the job sets."""
    base = {"PATH": os.environ.get("PATH", os.defpath), "LANG": os.environ.get("LANG", "C.UTF-8")}
    passed = {name: os.environ[name] for name in words(settings.shell_pass_env) if name in os.environ}
    return {**base, **passed, **payload.env}

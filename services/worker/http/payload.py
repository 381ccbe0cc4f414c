"""The payload of a job of `http.call`, checked."""

from __future__ import annotations

import re
from typing import Any, Literal
from urllib.parse import urlencode

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from taskflow_server.worker.http.secrets import NAME

MAX_TIMEOUT = 3_600.0  # seconds
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,200}")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# They frame the message or name its receiver, which the client does by itself.
_OURS = {"host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "expect"}

INSTEAD = {"expect": "expected_status", "auth.kind": "scheme"}  # what others call them

_CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")

Scalar = str | int | float | bool


class Auth(BaseModel):
    """How a call says who it is."""

    model_config = ConfigDict(extra="forbid", strict=True)

    scheme: Literal["bearer", "basic", "header"]
    secret: str
    username: str | None = Field(None, max_length=500)
    header: str | None = None

    @field_validator("secret")
    @classmethod
    def _name(cls, secret: str) -> str:
        if not re.fullmatch(NAME, secret):
            raise ValueError("name the secret: 1 to 128 letters, digits, '-' and '_'")
        return secret

    @model_validator(mode="after")
    def _whole(self) -> Auth:
        if (self.header is None) == (self.scheme == "header"):
            raise ValueError(f"{'needs' if self.header is None else 'has no'} header with scheme {self.scheme}")
        if self.username is not None and self.scheme != "basic":
            raise ValueError(f"has no username with scheme {self.scheme}")
        if self.header is not None:
            _check_header(self.header, "")
        if self.username is not None and (":" in self.username or _CONTROL.search(self.username)):
            raise ValueError("username: may hold no colon and no control character")
        return self


class HttpCall(BaseModel):
    """One call, in the words of a workflow's step (taskflow_server.core.workflow.rest)."""

    model_config = ConfigDict(extra="forbid", strict=True)

    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] = "GET"
    url: str = Field(min_length=1)
    app_url: str | None = None
    query: dict[str, Scalar | list[Scalar]] = Field(default_factory=dict)
    headers: dict[str, str] = Field(default_factory=dict, max_length=100)
    body: Any = None
    auth: Auth | None = None
    timeout: float | None = Field(None, gt=0, le=MAX_TIMEOUT)
    expected_status: list[int | str] = Field(default=["2xx"], min_length=1, max_length=100)

    @field_validator("expected_status")
    @classmethod
    def _statuses(cls, expected: list[int | str]) -> list[int | str]:
        for one in expected:
            if not (one in _CLASSES if isinstance(one, str) else 100 <= one <= 599):
                raise ValueError(f"{one!r} is neither a status from 100 to 599 nor one of {', '.join(_CLASSES)}")
        return expected

    @field_validator("headers")
    @classmethod
    def _headers(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            _check_header(name, value)
        return headers

    @model_validator(mode="after")
    def _once(self) -> HttpCall:
        if self.auth is not None and (self.auth.header or "authorization").lower() in map(str.lower, self.headers):
            raise ValueError("headers: has what auth sets; leave one of them out")
        return self

    def full_url(self, app_url: str) -> str:
        """With the base of a relative one, and the query."""
        url = self.url
        base = self.app_url or app_url
        if base and not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", url):
            url = f"{base.rstrip('/')}/{url.lstrip('/')}"
        url = url.partition("#")[0]
        if not self.query:
            return url
        pairs = {name: [_text(v) for v in (value if isinstance(value, list) else [value])] for name, value in
                 self.query.items()}  # fmt: skip
        return url + ("&" if "?" in url else "?") + urlencode(pairs, doseq=True)

    def expects(self, status: int) -> bool:
        return status in self.expected_status or f"{status // 100}xx" in self.expected_status


def _check_header(name: str, value: str) -> None:
    if not _HEADER.fullmatch(name):
        raise ValueError(f"{name[:60]!r} is not a header's name")
    if name.lower() in _OURS or name.lower().startswith("proxy-"):
        raise ValueError(f"{name} is set by the worker")
    if _CONTROL.search(value):
        raise ValueError(f"{name}: may hold no line break and no control character")


def _text(value: Scalar) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)

"""The kind `task_flow`: calls REST services, each with a job of the handler `http.call`.

The value of a secret never enters a run: a call has its name, and the worker that makes the call reads it. A value
inside a URL is percent-encoded, so that it adds neither a path nor a parameter, except at the beginning of the URL.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlsplit

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from taskflow_server.core.workflow import values
from taskflow_server.core.workflow.kinds import Jobs, JobSpec, Kind, Moment, at
from taskflow_server.core.workflow.models import HeaderName, Name, Strict
from taskflow_server.core.workflow.templates import OPEN
from taskflow_server.core.workflow.values import BadValue

HANDLER = "http.call"
MAX_CALLS = 100
MAX_URL = 8_000  # characters, before and after its templates are rendered
MAX_TIMEOUT = 3_600.0  # seconds, for one call
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

Scalar = str | int | float | bool


class Auth(Strict):
    """The authentication of a call. The worker has the secret under this name."""

    scheme: Literal["bearer", "basic", "header"]
    secret: Name = Field(description="The secret's name: a token, a password, or the header's value.")
    username: str | None = Field(None, max_length=500, description="With `basic`.")
    header: HeaderName | None = Field(None, description="With `header`: its name.")

    @model_validator(mode="after")
    def _whole(self) -> Auth:
        needs = {"bearer": None, "basic": "username", "header": "header"}[self.scheme]
        for name in ("username", "header"):
            if (getattr(self, name) is None) == (name == needs):
                verb = "needs" if name == needs else "has no"
                why = f"{verb} {name} with scheme {self.scheme}"
                raise PydanticCustomError("of", "{why}", {"why": why})
        return self


class Call(Strict):
    """One REST call."""

    name: Name | None = Field(None, description="For people; names its result as well.")
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] = "GET"
    url: str = Field(
        min_length=1, max_length=MAX_URL, description="http:// or https://, or relative: appended to app_url."
    )
    query: dict[str, Scalar | list[Scalar]] = Field(default_factory=dict, max_length=200)
    headers: dict[HeaderName, str] = Field(
        default_factory=dict, max_length=100, json_schema_extra={"additionalProperties": False}
    )
    body: Any = Field(None, description="Sent as JSON; a text is sent unchanged.")
    auth: Auth | None = None
    timeout: float | None = Field(
        None, gt=0, le=MAX_TIMEOUT, description="Seconds for the whole call; by default the worker's limit."
    )
    expected_status: list[Annotated[int, Field(ge=100, le=599)] | Literal["1xx", "2xx", "3xx", "4xx", "5xx"]] = Field(
        default=["2xx"], min_length=1, max_length=100, description="Any other status fails the call."
    )

    @model_validator(mode="after")
    def _url(self) -> Call:
        try:
            if not self.url.startswith(OPEN):
                _check(self.url.partition(OPEN)[0], whole=OPEN not in self.url)
        except BadValue as error:
            raise PydanticCustomError("at", "{why}", {"field": "url", "why": error.message}) from None
        return self


class RestMeta(Strict):
    """Calls, in order or in parallel."""

    calls: list[Call] = Field(min_length=1, max_length=MAX_CALLS)
    parallel: bool = Field(False, description="Makes all calls at once, instead of one after the other.")
    continue_on_failure: bool = Field(False, description="Continues after a failed call, and the step succeeds.")

    @model_validator(mode="after")
    def _names(self) -> RestMeta:
        names = [call.name for call in self.calls if call.name]
        for n, call in enumerate(self.calls):
            if call.name and names.count(call.name) > 1:
                twice = {"field": f"calls[{n}].name", "why": "is also the name of another call"}
                raise PydanticCustomError("at", "{why}", twice)
        return self


class Rest(Kind):
    name = "task_flow"
    meta = RestMeta
    encoders = ((re.compile(r"[^.]*\.meta\.calls\[\d+\]\.url"), lambda value: quote(value, safe="")),)

    def plan(self, meta: Mapping[str, Any], moment: Moment) -> Jobs:
        jobs = [
            JobSpec(HANDLER, _call(call, f"calls[{n}]", moment.app_url), call.get("name"))
            for n, call in enumerate(meta["calls"])
        ]
        return Jobs(jobs, meta.get("parallel", False), meta.get("continue_on_failure", False))

    def tasks(self, meta: Mapping[str, Any]) -> Iterable[str | None]:
        return [HANDLER]

    def result(self, meta: Mapping[str, Any], results: Sequence[Any]) -> list[Any]:
        """A list in the order of the calls: each has its name, and status, headers and body, or its error."""
        return [
            {**({"name": call["name"]} if "name" in call else {}), **(found if isinstance(found, dict) else {})}
            for call, found in zip(meta["calls"], results, strict=True)
        ]


def _call(call: Mapping[str, Any], path: str, app_url: str | None) -> dict[str, Any]:
    """The handler's payload."""
    url = at(f"{path}.url", lambda value: _absolute(values.text(value), app_url), call["url"])
    headers = {name: at(f"{path}.headers.{name}", _header, value) for name, value in call.get("headers", {}).items()}
    query = {name: at(f"{path}.query.{name}", _parameter, value) for name, value in call.get("query", {}).items()}
    told = {
        "method": call.get("method", "GET"),
        "url": url,
        "query": query,
        "headers": headers,
        "expected_status": call.get("expected_status", ["2xx"]),
    }
    if "auth" in call:
        told["auth"] = {name: at(f"{path}.auth.{name}", values.text, value) for name, value in call["auth"].items()}
    return {**told, **{name: call[name] for name in ("body", "timeout") if name in call}}


def _absolute(url: str, app_url: str | None) -> str:
    if not _SCHEME.match(url):
        if not app_url:
            raise BadValue(f"{url[:60]!r} is relative, and neither workflow nor namespace has an app_url")
        url = f"{app_url.rstrip('/')}/{url.lstrip('/')}"
    _check(url, whole=True)
    return url


def _check(url: str, *, whole: bool) -> None:
    if _CONTROL.search(url) or " " in url:
        raise BadValue("must not contain a space or a control character")
    if _SCHEME.match(url):
        if not re.match(r"https?:", url, re.IGNORECASE):
            raise BadValue(f"{url[:60]!r} must begin with http:// or https://, or be relative")
        if whole and not _host(url):
            raise BadValue(f"{url[:60]!r} has no host")
    if len(url) > MAX_URL:
        raise BadValue(f"{len(url)} characters exceed the limit of {MAX_URL}")


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _header(value: Any) -> str:
    written = values.text(value)
    if _CONTROL.search(written):
        raise BadValue("must not contain a line break or a control character")
    return written


def _parameter(value: Any) -> Any:
    return [values.text(part) for part in value] if isinstance(value, list) else values.text(value)

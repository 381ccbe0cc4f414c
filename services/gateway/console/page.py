"""A page of the console: its path, its values, and its actions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from starlette.datastructures import QueryParams

from taskflow_server.gateway.errors import Failure
from taskflow_server.gateway.gateway import Gateway
from taskflow_server.gateway.upstream import Upstream

ACTOR = "console"  # in the time line of a job: who uses it is not known
PAGE_SIZE = 50
MOST_BACK = 50  # pages that can be gone back


@dataclass(frozen=True, slots=True)
class Ask:
    """A request, as a page or an action sees it. `form` is empty for a page."""

    gateway: Gateway
    path: str
    params: Mapping[str, str]  # of the path
    query: QueryParams
    form: Mapping[str, str]

    @property
    def up(self) -> Upstream:
        return self.gateway.upstream

    def said(self, name: str) -> str:
        """A parameter of the query, without blanks around it."""
        return self.query.get(name, "").strip()

    @property
    def key(self) -> str:
        """The same for all requests that show the same."""
        pairs = [(name, value) for name, value in self.query.multi_items() if name != "done"]
        return f"{self.path}?{urlencode(pairs)}" if pairs else self.path


@dataclass(frozen=True, slots=True)
class Page:
    """`load` gives the template its values; `status` among them, if it is not 200, and `template`, if it is another."""

    path: str
    template: str
    section: str  # of the navigation
    load: Callable[[Ask], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Action:
    """A form's target. `do` returns the page to show then; `done` is what that page says. `again` is the page of a form
    that is shown again, as it was filled in, with the `problem` for which it was refused."""

    path: str
    done: str
    do: Callable[[Ask], Awaitable[str]]
    again: Page | None = None


def full(namespace: str, name: str) -> str:
    """A name as the API takes it: bare in the namespace `default`."""
    return name if namespace in ("", "default") else f"{namespace}/{name}"


def link(*parts: str) -> str:
    """The path of a page; a name may hold a slash."""
    return "/" + "/".join(quote(part, safe="/") for part in parts)


def local(path: str, otherwise: str) -> str:
    """`path` if it is one of the console's, so that a form cannot lead to another site."""
    plain = path.isascii() and path.isprintable() and "\\" not in path
    return path if plain and path.startswith("/") and not path.startswith("//") else otherwise


def pager(ask: Ask, next_token: str, token: str = "token", back: str = "back") -> dict[str, str]:
    """Links to the pages before and after. A list knows its next token only, so a page's URL bears those before it."""
    here, before = ask.said(token), [word for word in ask.said(back).split(",") if word]
    kept = [(name, value) for name, value in ask.query.multi_items() if name not in (token, back, "done")]

    def to(at: str, trail: list[str]) -> str:
        pairs = [*kept, *([(token, at)] if at else []), *([(back, ",".join(trail))] if trail else [])]
        return f"{ask.path}?{urlencode(pairs)}" if pairs else ask.path

    links: dict[str, str] = {}
    if next_token:
        links["next"] = to(next_token, [*before, here or "-"][-MOST_BACK:])
    if here:
        last = before[-1] if before else "-"
        links["previous"] = to("" if last == "-" else last, before[:-1])
        links["first"] = to("", [])
    return links


def pairs_of(text: str, field: str) -> dict[str, str]:
    """`name=value, other=value` as a mapping."""
    found: dict[str, str] = {}
    for word in filter(None, (part.strip() for part in text.split(","))):
        name, sign, value = word.partition("=")
        if not sign or not name.strip():
            raise bad(field, f"{word!r} is not name=value; write as many as you like, separated by commas")
        found[name.strip()] = value.strip()
    return found


def bad(field: str, message: str) -> Failure:
    return Failure(400, "INVALID_ARGUMENT", f"{field}: {message}", field)

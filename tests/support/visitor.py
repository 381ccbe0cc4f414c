"""Somebody who reads the console without JavaScript: keeps cookies, reads tables, sends forms."""

from __future__ import annotations

import http.client
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.cookies import SimpleCookie
from urllib.parse import urlencode

TIMEOUT = 30.0
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
HTML = {"Accept": "text/html,application/xhtml+xml"}


@dataclass
class Form:
    """The fields that a form would send."""

    action: str
    method: str
    fields: dict[str, str] = field(default_factory=dict)
    button: str = ""


class Answer(HTMLParser):
    """A page as it is read: its words, its tables' rows by their labels, its links and forms."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes, path: str) -> None:
        super().__init__()
        self.status = status
        self.headers = {name.lower(): value for name, value in headers.items()}
        self.body = body
        self.path = path
        self.source = body.decode(errors="replace")
        self.rows: list[dict[str, str]] = []
        self.forms: list[Form] = []
        self.links: dict[str, str] = {}
        self.hrefs: set[str] = set()
        self.tags: list[str] = []
        self._words: list[str] = []
        self._cell: str | None = None
        self._link: str | None = None
        self._button = False
        if "text/html" in self.headers.get("content-type", ""):
            self.feed(self.source)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self._words).split())

    def row(self, **cells: str) -> dict[str, str]:
        """The only row with these cells; AssertionError when there are others, or none."""
        wanted = {name.replace("_", " "): value for name, value in cells.items()}
        found = [row for row in self.rows if wanted.items() <= row.items()]
        assert len(found) == 1, f"{wanted}: {len(found)} of {self.rows}"
        return found[0]

    def form(self, action: str) -> Form:
        found = [form for form in self.forms if form.action == action]
        assert len(found) == 1, f"{action}: {[form.action for form in self.forms]}"
        return found[0]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = {name: value or "" for name, value in attrs}
        if tag == "tr":
            self.rows.append({})
        elif tag in ("td", "th"):
            self._cell = given.get("data-label")
        elif tag == "form":
            self.forms.append(Form(given.get("action", ""), given.get("method", "get")))
        elif tag == "input" and self.forms:
            if given.get("type") != "checkbox" or "checked" in given:
                self.forms[-1].fields[given.get("name", "")] = given.get("value", "")
        elif tag == "button":
            self._button = True
        elif tag == "a":
            self._link = given.get("href")
            self.hrefs.add(given.get("href", ""))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cell = None
        elif tag == "button":
            self._button = False
        elif tag == "a":
            self._link = None

    def handle_data(self, data: str) -> None:
        text = " ".join(data.split())
        if not text:
            return
        self._words.append(text)
        if self._cell and self.rows:
            self.rows[-1][self._cell] = f"{self.rows[-1].get(self._cell, '')} {text}".strip()
        if self._button and self.forms:
            self.forms[-1].button = text
        if self._link:
            self.links.setdefault(text, self._link)


class Visitor:
    def __init__(self, address: str) -> None:
        self.address = address
        self.cookies: dict[str, str] = {}

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """One request, as it is said; underscores in names of headers are hyphens."""
        given = HTML | {name.replace("_", "-"): value for name, value in headers.items()}
        if self.cookies and "Cookie" not in given:
            given["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        connection = http.client.HTTPConnection(self.address, timeout=TIMEOUT)
        try:
            connection.request(method, path, body, given)
            said = connection.getresponse()
            data = said.read()
        finally:
            connection.close()
        for name, morsel in SimpleCookie(said.getheader("Set-Cookie", "")).items():
            self.cookies[name] = morsel.value
        return Answer(said.status, dict(said.getheaders()), data, path)

    def get(self, path: str, **query: str) -> Answer:
        return self.ask("GET", f"{path}?{urlencode(query)}" if query else path)

    def post(self, path: str, fields: Mapping[str, str], **headers: str) -> Answer:
        """A form as a browser sends it from a page of the gateway."""
        given = {"Origin": f"http://{self.address}", "Content-Type": "application/x-www-form-urlencoded", **headers}
        return self.ask("POST", path, urlencode(fields).encode(), **given)

    def send(self, page: Answer, action: str) -> Answer:
        """Presses the button of one of the page's forms, and goes where that leads."""
        form = page.form(action)
        answer = self.post(action, form.fields)
        if answer.status != 303:
            return answer
        return self.get(answer.headers["location"])


class Stream:
    """A page's events, as an EventSource hears them. A context manager."""

    def __init__(self, visitor: Visitor, path: str) -> None:
        self._connection = http.client.HTTPConnection(visitor.address, timeout=TIMEOUT)
        cookies = "; ".join(f"{name}={value}" for name, value in visitor.cookies.items())
        self._connection.request("GET", path, headers={"Accept": "text/event-stream", "Cookie": cookies})
        self.answer = self._connection.getresponse()
        self.path = path

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.answer.close()
        self._connection.close()

    def events(self) -> Iterator[tuple[str, Answer]]:
        """Each with its name and what it brings, until the stream ends."""
        name, data = "", []
        for raw in self.answer:
            line = raw.decode().rstrip("\n")
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                data.append(line.removeprefix("data: "))
            elif not line and data:
                body = "\n".join(data).encode()
                yield name, Answer(200, {"Content-Type": "text/html"}, body, self.path)
                name, data = "", []

    def until(self, name: str, words: str = "") -> Answer:
        """The next event of that name with these words."""
        for said, page in self.events():
            if said == name and words in page.words:
                return page
        raise AssertionError(f"the stream ended without {name!r} with {words!r}")


def metric(port: int, sample: str) -> float:
    """The value of a sample, written as in the text of a metrics page; 0 while there is none."""
    with _OPENER.open(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith(f"{sample} "):
                return float(line.split()[-1])
    return 0.0

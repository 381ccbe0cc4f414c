"""The gateway as a process: health, names and sizes, errors, a stop while somebody looks, its metrics."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from taskflow_server.cluster.health import is_serving
from tests.support.cluster import SPINE, ServiceCluster
from tests.support.visitor import Stream, Visitor, metric
from tests.support.waiting import eventually

SMALL = {"TASKFLOW_MAX_BODY_BYTES": "2048", "TASKFLOW_LIVE_INTERVAL": "0.2", "TASKFLOW_ALLOWED_HOSTS": "tasks.example"}


@pytest.fixture(scope="module")
def running(make_cluster: Callable[..., ServiceCluster]) -> ServiceCluster:
    cluster = make_cluster(services=(*SPINE, "gateway"), metrics=True, env={"gateway": SMALL})
    cluster.start_all()
    return cluster


@pytest.fixture
def visitor(running: ServiceCluster) -> Visitor:
    return Visitor(running.address("gateway"))


def test_health_follows_the_scheduler_and_the_gateway_outlives_it(running: ServiceCluster, visitor: Visitor) -> None:
    where = f"http://{running.address('gateway')}/healthz"
    assert is_serving(where, 5)

    running.kill("scheduler")

    said = visitor.get("/healthz")
    assert (said.status, json.loads(said.body)["status"]) == (503, "not serving")
    assert not is_serving(where, 5)
    running.start("scheduler")
    running.wait_healthy("scheduler")
    eventually(lambda: is_serving(where, 5), timeout=30)
    assert running.alive("gateway")


def test_without_its_scheduler_a_page_says_so_and_comes_back(running: ServiceCluster, visitor: Visitor) -> None:
    running.kill("scheduler")

    away = visitor.get("/queues")

    assert away.status == 503 and int(away.headers["retry-after"]) >= 1
    assert f"service at {running.scheduler_address} does not answer" in away.words
    assert away.links["Try again"] == "/queues" and away.headers["refresh"] == "5"
    assert "Traceback" not in away.source
    running.start("scheduler")
    running.wait_healthy("scheduler")
    eventually(lambda: visitor.get("/queues").status == 200, timeout=30)


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/nothing/here", 404, "there is nothing at /nothing/here"),
        ("/queues/never-made", 404, "never-made"),
        ("/jobs/01980a2c-7d1e-7c43-9b1f-0c5d2f6a7b8c", 404, "01980a2c-7d1e-7c43-9b1f-0c5d2f6a7b8c"),
        ("/jobs/no-id", 400, "no-id"),
        ("/jobs?state=bored", 400, "'bored' is none of scheduled, ready"),
        ("/jobs?after=yesterday", 400, "'yesterday' is not a date and time"),
        ("/jobs?metadata=user", 400, "'user' is not name=value"),
        ("/jobs?token=no-token", 400, "page_token"),
        ("/static/nothing.css", 404, "nothing.css"),
    ],
)
def test_what_cannot_be_shown_is_said_in_words(visitor: Visitor, path: str, status: int, words: str) -> None:
    page = visitor.ask("GET", path)

    assert (page.status, "html" in page.headers["content-type"]) == (status, True)
    assert words in page.words
    assert "Traceback" not in page.source and ".py" not in page.source


def test_a_program_gets_the_same_as_json(visitor: Visitor) -> None:
    said = visitor.ask("GET", "/queues/never-made", Accept="application/json")

    error = json.loads(said.body)["error"]
    assert (said.status, error["code"], error["type"]) == (404, "NOT_FOUND", "QUEUE_NOT_FOUND")
    assert "never-made" in error["message"]
    posted = visitor.ask("POST", "/healthz", Accept="*/*")
    assert posted.status == 405 and set(posted.headers["allow"].split(", ")) == {"GET", "HEAD"}


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8080"])
def test_a_name_that_leads_here_from_elsewhere_is_refused(visitor: Visitor, host: str) -> None:
    said = visitor.ask("GET", "/queues", Host=host)

    assert said.status == 421
    assert "TASKFLOW_ALLOWED_HOSTS" in said.words
    assert visitor.ask("GET", "/queues", Host="tasks.example:80").status == 200
    assert visitor.ask("GET", "/queues", Host="gateway").status == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_refused(visitor: Visitor, chunked: bool) -> None:
    headers = {"Transfer_Encoding": "chunked"} if chunked else {}
    body = b"".join([b"fff\r\n", b"a" * 0xFFF, b"\r\n0\r\n\r\n"]) if chunked else b"a" * 4095

    said = visitor.ask(
        "POST", "/queues/default/pause", body, Content_Type="application/x-www-form-urlencoded",
        Origin=f"http://{visitor.address}", **headers,
    )  # fmt: skip

    assert said.status == 413
    assert "2048" in said.words


def test_every_answer_has_the_headers_that_keep_a_page_to_itself(visitor: Visitor) -> None:
    page = visitor.get("/queues")
    for path in ("/queues", "/nothing", page.tags and "/healthz"):
        headers = visitor.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
    assert "server" not in page.headers


def test_files_are_kept_for_ever_since_their_names_change_with_them(visitor: Visitor) -> None:
    page = visitor.get("/queues")
    (style,) = [word.split('"')[0] for word in page.source.split('href="')[1:] if "console." in word]

    said = visitor.get(style)

    assert said.headers["content-type"].startswith("text/css")
    assert "immutable" in said.headers["cache-control"]


def test_a_stop_ends_open_pages_at_once_and_is_no_failure(running: ServiceCluster, visitor: Visitor) -> None:
    with Stream(visitor, "/queues") as stream:
        stream.until("page")
        began = time.monotonic()

        assert running.stop("gateway") == 0

        assert time.monotonic() - began < 4, "it waited for a stream"
        assert list(stream.events()) == []
    assert "Traceback" not in running.log("gateway")
    running.start("gateway")
    running.wait_healthy("gateway")


def test_requests_are_counted_by_the_pattern_of_their_path(running: ServiceCluster, visitor: Visitor) -> None:
    def counted(route: str, status: int) -> float:
        sample = f'taskflow_http_requests_total{{route="{route}",status="{status}"}}'
        return metric(running.metrics_port("gateway"), sample)

    before = counted("/queues/{name:path}", 404), counted("(none)", 404)

    for n in range(3):
        visitor.get(f"/queues/q-{n}")
        visitor.get(f"/nowhere/{n}")

    assert (counted("/queues/{name:path}", 404), counted("(none)", 404)) == (before[0] + 3, before[1] + 3)

"""`http.call` through a real cluster, against a real web server on loopback, which the worker's operator allows."""

from __future__ import annotations

import asyncio
import functools
import gzip
import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from aiohttp import web

from taskflow import JobHandle, JobInfo, JobState, JobUnsuccessful, TaskFlow
from taskflow.errors import InvalidArgument
from tests.support.cluster import ServiceCluster
from tests.support.processes import peak_memory
from tests.support.waiting import eventually
from tests.support.web import WebServer, certificate

TOKEN = "tok-4be1f0c2d9"
PASSWORD = 'p"ss-77aa31\\x'
BOUND = "bound-19c3e7"
EVERYTHING = ("queue", "coordinator", "scheduler", "worker")


async def echo(request: web.Request) -> web.Response:
    """Returns the request as JSON; the headers of both sides in the body, as careless servers do."""
    body = await request.text()
    shown = {
        "method": request.method,
        "query": [[name, value] for name, value in request.query.items()],
        "headers": dict(request.headers),
        "body": body,
    }
    return web.json_response(shown, headers={"X-Seen": request.headers.get("Authorization", "none")})


async def flaky(request: web.Request) -> web.Response:
    """503 twice for each key, then well."""
    seen = tries[request.query["key"]] = tries.get(request.query["key"], 0) + 1
    return web.json_response({"try": seen}) if seen > 2 else web.Response(status=503, text="not yet, come again")


async def busy(request: web.Request) -> web.Response:
    """429 once for each key, with a pause that the caller is asked for."""
    times.setdefault(request.query["key"], []).append(time.monotonic())
    if len(times[request.query["key"]]) > 1:
        return web.Response(text="now")
    return web.Response(status=429, headers={"Retry-After": request.query["after"]})


async def status(request: web.Request) -> web.Response:
    return web.Response(status=int(request.query["is"]), text="because of this", headers={"Location": "/echo"})


async def big(request: web.Request) -> web.Response:
    return web.Response(body=b"x" * int(request.query["bytes"]))


@functools.cache
def zeros() -> bytes:
    return gzip.compress(b"\0" * (256 << 20))


async def bomb(request: web.Request) -> web.Response:
    """256 MiB of zeros, in 256 kB."""
    return web.Response(body=zeros(), headers={"Content-Encoding": "gzip"}, content_type="text/plain")


async def slow(request: web.Request) -> web.Response:
    await asyncio.sleep(30)
    return web.Response()


async def there(request: web.Request) -> web.Response:
    return web.Response(status=int(request.query.get("status", "302")), headers={"Location": request.query["to"]})


async def round_and_round(request: web.Request) -> web.Response:
    return web.Response(status=302, headers={"Location": "/round"})


tries: dict[str, int] = {}
times: dict[str, list[float]] = {}
keys = map(str, itertools.count())
ROUTES = {
    "/echo": echo,
    "/base/echo": echo,
    "/flaky": flaky,
    "/busy": busy,
    "/status": status,
    "/big": big,
    "/bomb": bomb,
    "/slow": slow,
    "/there": there,
    "/round": round_and_round,
}


@pytest.fixture(scope="module")
def server() -> Iterator[WebServer]:
    found = WebServer(ROUTES)
    yield found
    found.close()


@pytest.fixture(scope="module")
def stranger() -> Iterator[WebServer]:
    """A second server, which the worker may call too: another origin."""
    found = WebServer(ROUTES)
    yield found
    found.close()


@pytest.fixture(scope="module")
def secure() -> Iterator[WebServer]:
    """One with TLS, whose certificate the worker trusts, and which names it localhost."""
    found = WebServer(ROUTES, tls=True)
    yield found
    found.close()


@pytest.fixture(scope="module")
def outside() -> Iterator[WebServer]:
    """A server on loopback that the worker may not call."""
    found = WebServer(ROUTES)
    yield found
    found.close()


@pytest.fixture(scope="module")
def closed_port() -> int:
    """A port of loopback where nobody listens. The worker may call it."""
    gone = WebServer({})
    gone.close()
    return gone.port


@pytest.fixture(scope="module")
def running(
    make_cluster: Callable[..., ServiceCluster],
    server: WebServer,
    stranger: WebServer,
    secure: WebServer,
    closed_port: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> ServiceCluster:
    secrets = tmp_path_factory.mktemp("secrets")
    (secrets / "in-a-file").write_text(PASSWORD + "\n")
    allowed = [f"127.0.0.1:{port}" for port in (server.port, stranger.port, secure.port, closed_port)]
    worker = {
        "TASKFLOW_BUILTINS": "http",
        "TASKFLOW_HTTP_ALLOW": ", ".join(allowed),
        "TASKFLOW_HTTP_APP_URL": f"{server.url}/base/",
        "TASKFLOW_HTTP_TIMEOUT": "20",
        "TASKFLOW_HTTP_MAX_RETRY_AFTER": "1.5",
        "TASKFLOW_HTTP_SECRET_HOSTS": f"BOUND=127.0.0.1:{stranger.port}",
        "TASKFLOW_SECRETS_DIR": str(secrets),
        "TASKFLOW_SECRET_API_TOKEN": TOKEN,
        "TASKFLOW_SECRET_BOUND": BOUND,
        "TASKFLOW_LOG_LEVEL": "debug",
        "SSL_CERT_FILE": str(certificate()),
    }
    cluster = make_cluster(services=EVERYTHING, env={"worker": worker})
    cluster.start_all()
    return cluster


@pytest.fixture(scope="module")
def tf(running: ServiceCluster) -> Iterator[TaskFlow]:
    with TaskFlow(running.scheduler_address) as app:
        yield app


def new(tf: TaskFlow, url: str, *, retries: int = 0, **payload: Any) -> JobHandle:
    return tf.new_job("calls", {"url": url, **payload}, task="http.call", retries=retries)


def ended(job: JobHandle, timeout: float = 30) -> JobInfo:
    try:
        return job.wait(timeout)
    except JobUnsuccessful as error:
        return error.job


def called(tf: TaskFlow, url: str, **payload: Any) -> JobInfo:
    return ended(new(tf, url, **payload))


def is_final(job: JobInfo, kind: str, *words: str) -> None:
    """It failed at its first try, for good, with an error of that type that says so."""
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert (job.error.type, job.error.final, job.attempt) == (kind, True, 1), job.error
    for word in words:
        assert word in job.error.message


@pytest.mark.feature("S0.1")
def test_a_call_sends_what_the_job_says_and_its_result_is_the_answer(tf: TaskFlow, server: WebServer) -> None:
    job = called(
        tf,
        f"{server.url}/echo?a=1",
        method="POST",
        query={"b": [2, True], "c": "ü &"},
        headers={"X-Mine": "yes"},
        body={"deep": [1, None, "ü"]},
    )

    assert job.state is JobState.SUCCEEDED, job.error
    assert job.result["status"] == 200
    assert job.result["headers"]["content-type"].startswith("application/json")
    seen = job.result["body"]
    assert (seen["method"], json.loads(seen["body"])) == ("POST", {"deep": [1, None, "ü"]})
    assert seen["query"] == [["a", "1"], ["b", "2"], ["b", "true"], ["c", "ü &"]]
    assert seen["headers"]["X-Mine"] == "yes"
    assert seen["headers"]["Content-Type"] == "application/json"
    assert seen["headers"]["User-Agent"].startswith("taskflow-worker/")


def test_a_body_that_is_text_goes_as_it_is(tf: TaskFlow, server: WebServer) -> None:
    plain = called(tf, f"{server.url}/echo", method="PUT", body="a,b\n1,2\n")
    csv = called(tf, f"{server.url}/echo", method="PUT", body="a,b", headers={"content-type": "text/csv"})

    assert plain.result["body"]["body"] == "a,b\n1,2\n"
    assert plain.result["body"]["headers"]["Content-Type"] == "text/plain; charset=utf-8"
    assert csv.result["body"]["headers"]["Content-Type"] == "text/csv"


@pytest.mark.feature("S0.1")
@pytest.mark.parametrize(
    ("sent", "kind", "body"),
    [
        (b'{"a": [1]}', "application/json", {"a": [1]}),
        (b'{"a": 1}', "application/problem+json; charset=utf-8", {"a": 1}),
        (b'{"a": 1}', "text/plain", '{"a": 1}'),
        (b"{broken", "application/json", "{broken"),
        (b"[NaN]", "application/json", "[NaN]"),
        (b"[1e999]", "application/json", "[1e999]"),
        (b'"\\ud800"', "application/json", '"\\ud800"'),
        (b"[" * 100_000, "application/json", "[" * 100_000),
        (b"9" * 10_000, "application/json", "9" * 10_000),
        ("ü".encode("latin-1"), "text/plain; charset=latin-1", "ü"),
        ("ü".encode("latin-1"), "text/plain; charset=nonsense", "/A=="),
        (b"\x00\xff", "application/octet-stream", "AP8="),
        (b"", "application/json", None),
    ],
)
def test_what_comes_back_is_json_text_or_base64(
    tf: TaskFlow, server: WebServer, sent: bytes, kind: str, body: Any
) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=sent, headers={"Content-Type": kind})

    ROUTES[path := f"/raw/{next(keys)}"] = answer

    job = called(tf, server.url + path)

    assert job.state is JobState.SUCCEEDED, job.error
    assert job.result["body"] == body
    assert job.result.get("encoding") == ("base64" if body in ("/A==", "AP8=") else None)


@pytest.mark.feature("S0.9")
def test_a_relative_url_is_appended_to_the_app_url(tf: TaskFlow, server: WebServer) -> None:
    assert called(tf, "/echo?x=1").result["body"]["query"] == [["x", "1"]]
    assert called(tf, "echo", app_url=server.url).result["status"] == 200
    assert server.paths()[-2:] == ["/base/echo", "/echo"]


@pytest.mark.feature("S0.1")
@pytest.mark.parametrize(
    ("auth", "sent"),
    [
        ({"scheme": "bearer", "secret": "API_TOKEN"}, {"Authorization": f"Bearer {TOKEN}"}),
        ({"scheme": "bearer", "secret": "api-token"}, {"Authorization": f"Bearer {TOKEN}"}),
        ({"scheme": "header", "header": "X-Api-Key", "secret": "API_TOKEN"}, {"X-Api-Key": TOKEN}),
        (
            {"scheme": "basic", "username": "ada", "secret": "in-a-file"},
            {"Authorization": "Basic YWRhOnAic3MtNzdhYTMxXHg="},
        ),
    ],
)
def test_a_secret_reaches_the_server_and_nothing_else(
    tf: TaskFlow, running: ServiceCluster, server: WebServer, auth: dict[str, str], sent: dict[str, str]
) -> None:
    """Though the server shows what it was sent, in a header, a body, and the body of an error."""
    good = called(tf, f"{server.url}/echo", auth=auth)
    bad = called(tf, f"{server.url}/echo", auth=auth, expected_status=[404])

    assert good.state is JobState.SUCCEEDED, good.error
    assert bad.state is JobState.FAILED and bad.error is not None and "it says:" in bad.error.message
    assert [headers.items() >= sent.items() for _, _, headers in server.requests[-2:]] == [True, True]
    assert "[secret]" in json.dumps(good.result) and "[secret]" in bad.error.message
    assert places(running, "/echo") != [], "the search finds what is there"
    assert places(running, TOKEN, PASSWORD, json.dumps(PASSWORD)[1:-1], "YWRhOnAic3MtNzdhYTMxXHg=") == []


def places(cluster: ServiceCluster, *words: str) -> list[str]:
    """The logs and tables that hold one of the words."""
    found = [name for name in EVERYTHING if any(word in cluster.log(name) for word in words)]
    with psycopg.connect(cluster.dsn, autocommit=True) as db:
        named = "select table_name from information_schema.tables where table_schema = 'taskflow'"
        for (table,) in db.execute(named).fetchall():
            for row in db.execute(f"select * from taskflow.{table}").fetchall():  # noqa: S608
                shown = [cell.decode(errors="replace") if isinstance(cell, bytes) else str(cell) for cell in row]
                found += [table for cell in shown if any(word in cell for word in words)]
    return found


@pytest.mark.parametrize(
    ("auth", "words"),
    [
        ({"scheme": "bearer", "secret": "MISSING"}, ("payload.auth.secret", "MISSING", "TASKFLOW_SECRET_MISSING")),
        ({"scheme": "bearer", "secret": "BOUND"}, ("payload.auth.secret", "TASKFLOW_HTTP_SECRET_HOSTS")),
    ],
)
def test_a_secret_that_is_not_there_or_not_for_this_host_is_not_sent(
    tf: TaskFlow, server: WebServer, auth: dict[str, str], words: tuple[str, ...]
) -> None:
    before = len(server.requests)

    is_final(called(tf, f"{server.url}/echo", auth=auth), "NoSecret", *words)

    assert len(server.requests) == before


def test_a_secret_for_one_host_is_sent_there(tf: TaskFlow, stranger: WebServer) -> None:
    assert called(tf, f"{stranger.url}/echo", auth={"scheme": "bearer", "secret": "BOUND"}).result["status"] == 200
    assert stranger.requests[-1][2]["Authorization"] == f"Bearer {BOUND}"


@pytest.mark.parametrize("code", [400, 401, 403, 404, 409, 422])
def test_another_status_of_the_400s_is_final(tf: TaskFlow, server: WebServer, code: int) -> None:
    job = ended(new(tf, f"{server.url}/status?is={code}", retries=3))

    is_final(job, "HttpStatus", f"status {code}", "because of this", f"GET {server.url}/status:")


def test_unavailable_is_tried_again(tf: TaskFlow, server: WebServer) -> None:
    job = new(tf, f"{server.url}/flaky?key={next(keys)}", retries=4)

    done = ended(job)

    assert (done.state, done.result["body"], done.attempt) == (JobState.SUCCEEDED, {"try": 3}, 3)
    attempts = list(tf.jobs.attempts(job.id))
    assert [a.error.type for a in attempts if a.error] == ["HttpStatus", "HttpStatus"]
    assert "not yet, come again" in attempts[0].error.message


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_what_may_pass_is_not_final(tf: TaskFlow, server: WebServer, code: int) -> None:
    job = called(tf, f"{server.url}/status?is={code}")

    assert job.error is not None and (job.error.type, job.error.final) == ("HttpStatus", False)


@pytest.mark.parametrize(("after", "least"), [("1", 0.95), ("86400", 1.45), ("date", 0.0)])
def test_the_pause_that_an_answer_asks_for_is_kept_within_reason(
    tf: TaskFlow, server: WebServer, after: str, least: float
) -> None:
    """The worker's operator allows 1.5 s at most; an instant in the past asks for none."""
    key, asked = next(keys), after.replace("date", "Wed, 21 Oct 2015 07:28:00 GMT")

    done = ended(new(tf, f"{server.url}/busy", query={"key": key, "after": asked}, retries=1))

    assert done.state is JobState.SUCCEEDED
    first, second = times[key]
    assert least <= second - first < 10


@pytest.mark.feature("S0.1")
@pytest.mark.parametrize(("expect", "code"), [([404], 404), (["4xx"], 418), ([302, 200], 302), (["2xx", 503], 503)])
def test_a_status_that_is_expected_is_the_answer(tf: TaskFlow, server: WebServer, expect: list[Any], code: int) -> None:
    job = called(tf, f"{server.url}/status?is={code}", expected_status=expect)

    assert job.state is JobState.SUCCEEDED, job.error
    assert (job.result["status"], job.result["body"]) == (code, "because of this")


def test_a_workflow_s_word_for_it_is_understood(tf: TaskFlow, server: WebServer) -> None:
    assert called(tf, f"{server.url}/status?is=404", expected_status=[404]).result["status"] == 404


@pytest.mark.parametrize("host", ["127.0.0.1", "nowhere.invalid"])
def test_a_server_that_is_not_there_is_tried_again(tf: TaskFlow, closed_port: int, host: str) -> None:
    job = called(tf, f"http://{host}:{closed_port}/")

    assert job.error is not None and (job.error.type, job.error.final) == ("HttpConnection", False)


def test_a_certificate_must_be_good_and_of_that_name(tf: TaskFlow, secure: WebServer) -> None:
    good = called(tf, f"https://localhost:{secure.port}/echo")
    bad = called(tf, f"https://127.0.0.1:{secure.port}/echo")

    assert good.state is JobState.SUCCEEDED, good.error
    assert bad.error is not None and (bad.error.type, bad.error.final) == ("HttpConnection", False)
    assert "CERTIFICATE_VERIFY_FAILED" in bad.error.message
    assert secure.paths() == ["/echo"]


@pytest.mark.feature("S0.1")
def test_a_call_has_a_limit_of_time(tf: TaskFlow, server: WebServer) -> None:
    started = time.monotonic()

    job = called(tf, f"{server.url}/slow", timeout=0.3)

    assert job.error is not None and (job.error.type, job.error.final) == ("HttpTimeout", False)
    assert "within 0.3 s" in job.error.message
    assert time.monotonic() - started < 10


def test_a_cancelled_call_ends_at_once(tf: TaskFlow, server: WebServer) -> None:
    before = server.paths().count("/slow")
    job = new(tf, f"{server.url}/slow")
    eventually(lambda: server.paths().count("/slow") > before)

    job.cancel()

    assert ended(job, 10).state is JobState.CANCELLED


# -- redirects -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "method", "then", "body"),
    [
        (301, "POST", "GET", ""),
        (302, "POST", "GET", ""),
        (303, "PUT", "GET", ""),
        (307, "POST", "POST", '{"a": 1}'),
        (308, "PUT", "PUT", '{"a": 1}'),
    ],
)
def test_a_redirect_is_followed_as_its_status_says(
    tf: TaskFlow, server: WebServer, code: int, method: str, then: str, body: str
) -> None:
    job = called(tf, f"{server.url}/there?status={code}&to=/echo", method=method, body={"a": 1})

    assert job.state is JobState.SUCCEEDED, job.error
    assert (job.result["body"]["method"], job.result["body"]["body"]) == (then, body)


@pytest.mark.parametrize(
    "auth",
    [{"scheme": "bearer", "secret": "API_TOKEN"}, {"scheme": "header", "header": "X-Api-Key", "secret": "API_TOKEN"}],
)
def test_a_secret_does_not_go_to_another_origin(
    tf: TaskFlow, server: WebServer, stranger: WebServer, auth: dict[str, str]
) -> None:
    to = f"{stranger.url}/echo"

    there = called(tf, f"{server.url}/there", query={"to": to}, auth=auth, headers={"Cookie": "c=1", "X-Mine": "y"})
    here = called(tf, f"{server.url}/there", query={"to": "/echo"}, auth=auth)

    assert there.state is here.state is JobState.SUCCEEDED
    seen = stranger.requests[-1][2]
    assert TOKEN not in str(seen) and "Cookie" not in seen and seen["X-Mine"] == "y"
    assert TOKEN in str(server.requests[-1][2])


def test_a_redirect_to_where_it_may_not_go_ends_the_job(tf: TaskFlow, server: WebServer, outside: WebServer) -> None:
    job = ended(new(tf, f"{server.url}/there", query={"to": f"{outside.url}/echo"}, retries=3))

    is_final(job, "Forbidden", "127.0.0.1 is not public", "TASKFLOW_HTTP_ALLOW")
    assert outside.requests == []


def test_redirects_are_bounded(tf: TaskFlow, server: WebServer) -> None:
    before = len(server.requests)

    is_final(called(tf, f"{server.url}/round"), "TooManyRedirects", "5 redirects")

    assert len(server.requests) - before == 6


# -- bounds ----------------------------------------------------------------------------------------------------------


def test_an_answer_over_the_limit_ends_the_job(tf: TaskFlow, server: WebServer) -> None:
    is_final(called(tf, f"{server.url}/big?bytes={(1 << 20) + 1}"), "TooLarge", "TASKFLOW_HTTP_MAX_RESPONSE_BYTES")
    is_final(called(tf, f"{server.url}/big?bytes={1 << 20}"), "TooLarge", "a job's result")
    assert called(tf, f"{server.url}/big?bytes={1_000_000}").state is JobState.SUCCEEDED


def test_an_answer_that_grows_when_it_is_unpacked_fills_no_memory(
    tf: TaskFlow, server: WebServer, running: ServiceCluster
) -> None:
    called(tf, f"{server.url}/big?bytes=1000000")
    before = peak_memory(running.pid("worker"))

    for _ in range(3):
        is_final(called(tf, f"{server.url}/bomb"), "TooLarge")

    assert peak_memory(running.pid("worker")) - before < 30 << 20


def test_a_step_of_a_workflow_may_name_it_as_its_task(tf: TaskFlow, server: WebServer) -> None:
    call = {"url": f"{server.url}/status?is={{{{ input.code }}}}", "expected_status": [404]}
    step = {"name": "a", "kind": "task", "meta": {"task": "http.call", "input": call}}
    tf.workflows.put({"name": "calling", "steps": [step]})

    run = tf.workflows.start("calling", {"code": 404})

    (job,) = tf.workflows.wait(run.id, 30).step("a").jobs
    assert tf.jobs.get(job.job_id).result["status"] == 404


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ("text", ("payload:", "url")),
        (None, ("payload:", "url")),
        ({}, ("payload.url", "required")),
        ({"url": "http://x/", "methd": "GET"}, ("payload.methd", "there is no such field", "method")),
        ({"url": "http://x/", "method": "get"}, ("payload.method", "'GET'")),
        ({"url": "http://x/", "timeout": 0}, ("payload.timeout",)),
        ({"url": "http://x/", "expected_status": [99]}, ("payload.expected_status", "99")),
        ({"url": "http://x/", "expect": [200]}, ("payload.expect: the word is expected_status",)),
        ({"url": "http://x/", "auth": {"kind": "bearer", "secret": "A"}}, ("payload.auth.kind: the word is scheme",)),
        ({"url": "http://x/", "headers": {"Host": "y"}}, ("payload.headers", "Host is set by the worker")),
        ({"url": "http://x/", "headers": {"X": "a\r\nY: b"}}, ("payload.headers", "line break")),
        ({"url": "http://x/", "headers": {"X y": "a"}}, ("payload.headers", "not a header's name")),
        ({"url": "http://x/", "auth": {"scheme": "basic"}}, ("payload.auth.secret", "required")),
        ({"url": "http://x/", "auth": {"scheme": "header", "secret": "A"}}, ("payload.auth", "needs header")),
        ({"url": "http://x/", "auth": {"scheme": "bearer", "secret": "../A"}}, ("payload.auth.secret", "letters")),
        ({"url": "http://x/ y"}, ("payload.url", "space")),
        ({"url": "http://u:p@x/"}, ("payload.url", "user name")),
        ({"url": "ftp://x/"}, ("payload.url", "http and https")),
    ],
)
def test_a_payload_that_does_not_fit_ends_the_job_and_names_the_field(
    tf: TaskFlow, payload: Any, words: tuple[str, ...]
) -> None:
    is_final(ended(tf.new_job("calls", payload, task="http.call", retries=3)), "InvalidPayload", *words)


# -- names and settings ----------------------------------------------------------------------------------------------


@pytest.mark.feature("R10")
def test_the_built_in_names_alone_hold_a_dot(tf: TaskFlow) -> None:
    for name in ("http.cal", "acme/http.call", "http.call/x.y", "shell.run "):
        with pytest.raises(InvalidArgument, match="task"):
            tf.new_job("calls", {}, task=name)


def test_a_worker_without_the_handler_leaves_its_jobs_alone(
    make_cluster: Callable[..., ServiceCluster], server: WebServer, tmp_path: Path
) -> None:
    cluster = make_cluster(
        services=EVERYTHING, app="tests.support.cli_drained:app", env={"worker": {"TASKFLOW_BUILTINS": ""}}
    )
    cluster.start_all()
    with TaskFlow(cluster.scheduler_address) as tf:
        call = new(tf, f"{server.url}/echo")
        other = tf.new_job("drained", {"seconds": 0, "started": str(tmp_path / "started")}, task="nap")

        other.wait(timeout=20)

        assert (call.get().state, call.get().attempt) == (JobState.READY, 0)
    cluster.close()

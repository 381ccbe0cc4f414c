"""The guard of `http.call`: what may not be called is not, however it is written."""

from __future__ import annotations

import ipaddress
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from hypothesis import given
from hypothesis import strategies as st

from taskflow import JobInfo, JobState, TaskFlow, testing
from taskflow_server.worker import builtins
from taskflow_server.worker.http.call import HttpCaller
from taskflow_server.worker.http.guard import Forbidden, Guard
from taskflow_server.worker.settings import WorkerSettings

# PORT is that of a server on loopback, which must see no connection.
FORBIDDEN = [
    # schemes
    "file:///etc/passwd",
    "ftp://127.0.0.1:PORT/",
    "gopher://127.0.0.1:PORT/_INFO",
    "dict://127.0.0.1:PORT/",
    "data:text/plain,hello",
    "ws://127.0.0.1:PORT/",
    "unix:///var/run/docker.sock",
    # loopback, in every form
    "http://127.0.0.1:PORT/",
    "https://127.0.0.1:PORT/",
    "HTTP://127.0.0.1:PORT/",
    "http://127.1:PORT/",
    "http://127.0.1:PORT/",
    "http://2130706433:PORT/",
    "http://0x7f000001:PORT/",
    "http://0x7F.0.0.1:PORT/",
    "http://0177.0.0.1:PORT/",
    "http://017700000001:PORT/",
    "http://127.000.000.001:PORT/",
    "http://127.0.0.1.:PORT/",
    "http://127.255.255.254:PORT/",
    "http://0:PORT/",
    "http://0.0.0.0:PORT/",
    "http://localhost:PORT/",
    "http://LocalHost:PORT/",
    "http://[::1]:PORT/",
    "http://[0:0:0:0:0:0:0:1]:PORT/",
    "http://[::]:PORT/",
    "http://[::ffff:127.0.0.1]:PORT/",
    "http://[::ffff:7f00:1]:PORT/",
    "http://[::127.0.0.1]:PORT/",
    "http://[64:ff9b::127.0.0.1]:PORT/",
    "http://[64:ff9b:1::7f00:1]:PORT/",
    "http://[2002:7f00:1::1]:PORT/",
    "http://[2001:0:7f00:1::1]:PORT/",
    "http://１２７.0.0.1:PORT/",
    "http://①②⑦.⓪.⓪.①:PORT/",
    "http://127。0。0。1:PORT/",
    "http://%31%32%37.0.0.1:PORT/",
    # private, link-local, metadata, multicast, reserved
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://192.168.1.1/",
    "http://100.64.0.1/",
    "http://100.100.100.200/latest/meta-data/",
    "http://169.254.169.254/latest/meta-data/",
    "http://[::ffff:169.254.169.254]/latest/meta-data/",
    "http://2852039166/latest/meta-data/",
    "http://192.0.0.192/opc/v2/instance/",
    "http://168.63.129.16/machine/",
    "http://[fd00:ec2::254]/latest/meta-data/",
    "http://[fe80::1]/",
    "http://[fe80::1%25lo]/",
    "http://[fc00::1]/",
    "http://198.18.0.1/",
    "http://224.0.0.1/",
    "http://240.0.0.1/",
    "http://255.255.255.255/",
    "http://[ff02::1]/",
    # what two readers of a URL may read in two ways
    "http://example.org@127.0.0.1:PORT/",
    "http://127.0.0.1:PORT\\@example.org/",
    "http://example.org\\@127.0.0.1:PORT/",
    "http://127.0.0.1:PORT\t/",
    "http:127.0.0.1:PORT/",
    "http:/127.0.0.1:PORT/",
    "http:///127.0.0.1:PORT/",
    "//127.0.0.1:PORT/",
    "http://[::1:PORT/",
    "http://127.0.0.1:0/",
    "http://127.0.0.1:99999/",
    "http://127.0.0.1:PORT:80/",
    "http://",
]


class Site:
    """A web server on loopback, and at the same port on loopback of IPv6 where there is one."""

    def __init__(self, location: str = "", address: str = "127.0.0.1") -> None:
        site = self
        self.visits = 0

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(302 if location else 200)
                self.send_header("Content-Length", "0")
                if location:
                    self.send_header("Location", location.encode().decode("latin-1"))
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def verify_request(self, request: object, client_address: object) -> bool:
                site.visits += 1
                return True

        class Server6(Server):
            address_family = socket.AF_INET6

        self._servers: list[Server] = [Server((address, 0), Handler)]
        self.port = self._servers[0].server_port
        with suppress(OSError):
            self._servers.append(Server6(("::1", self.port), Handler))
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()


@pytest.fixture
def canary() -> Iterator[Site]:
    """A server that must not be visited. The first test shows that it would tell."""
    with Site() as site:
        yield site


def called(url: str, **settings: str) -> JobInfo:
    """The job of a call that has nothing to wait for, when it is over."""
    app = TaskFlow()
    builtins.register(app, WorkerSettings(builtins="http", **settings))
    with testing.cluster(app) as cluster:
        job = app.new_job("default", {"url": url}, task="http.call", retries=3)
        cluster.run_until_idle()
        return job.get()


def is_refused(job: JobInfo) -> None:
    assert job.state is JobState.FAILED
    assert job.attempt == 1, "what is forbidden stays so: no further try"
    assert job.error is not None
    assert job.error.type in ("Forbidden", "InvalidPayload")
    assert job.error.final


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_where_it_is_allowed_a_call_comes_through(host: str, canary: Site) -> None:
    job = called(f"http://{host}:{canary.port}/", http_allow="127.0.0.1, ::1")

    assert job.state is JobState.SUCCEEDED, job.error
    assert canary.visits == 1


def test_there_are_at_least_forty() -> None:
    assert len(set(FORBIDDEN)) >= 40


@pytest.mark.parametrize("url", FORBIDDEN)
def test_a_forbidden_url_is_refused_and_nothing_is_connected_to(url: str, canary: Site) -> None:
    job = called(url.replace("PORT", str(canary.port)))

    is_refused(job)
    assert canary.visits == 0


@pytest.mark.parametrize("url", [url for url in FORBIDDEN if re.match(r"(?!https?:)[a-z]+:|https?://[^/]", url, re.I)])
def test_a_redirect_to_it_is_refused_too(url: str, canary: Site) -> None:
    with Site(location=url.replace("PORT", str(canary.port))) as site:
        job = called(f"http://127.0.0.1:{site.port}/", http_allow=f"127.0.0.1:{site.port}")

    assert site.visits == 1
    assert job.state is JobState.FAILED
    assert canary.visits == 0


class Rebinding(AbstractResolver):
    """A name server that answers each question with the next of its addresses."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        address = self.addresses.pop(0)
        return [ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)]

    async def close(self) -> None:
        pass


def test_a_name_that_means_another_address_the_second_time_is_looked_at_again(canary: Site) -> None:
    """First where it may go, which sends it on to the same name; then to loopback."""
    names = Rebinding("127.0.0.2", "127.0.0.1")

    with Site(location=f"http://rebound.example:{canary.port}/", address="127.0.0.2") as site:
        app = TaskFlow()
        caller = HttpCaller(WorkerSettings(http_allow="127.0.0.2"), names)
        with testing.cluster(app) as cluster:
            cluster.handle("calls", caller.__call__)
            job = app.new_job("calls", {"url": f"http://rebound.example:{site.port}/"})
            cluster.run_until_idle()
            found = job.get()

    assert names.addresses == [], "it was asked twice"
    is_refused(found)
    assert "rebound.example (127.0.0.1) is not public" in str(found.error)
    assert canary.visits == 0


def test_a_rule_for_a_name_is_none_for_the_address_that_it_led_to() -> None:
    """A name that is allowed sends the caller on to its own address, without the name."""
    with Site(address="127.0.0.2") as inside, Site(f"http://127.0.0.2:{inside.port}/", "127.0.0.2") as site:
        app = TaskFlow()
        caller = HttpCaller(WorkerSettings(http_allow="named.example"), Rebinding("127.0.0.2"))
        with testing.cluster(app) as cluster:
            cluster.handle("calls", caller.__call__)
            job = app.new_job("calls", {"url": f"http://named.example:{site.port}/"})
            cluster.run_until_idle()
            found = job.get()

    assert (site.visits, inside.visits) == (1, 0)
    is_refused(found)


def test_no_proxy_of_the_environment_is_used(canary: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would connect to an address that nobody has looked at."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{canary.port}")

    is_refused(called("http://10.0.0.1/"))
    assert canary.visits == 0


ALLOWED = [
    ("", "one.one.one.one", "1.1.1.1", 443),
    ("", "2606:4700::1111", "2606:4700::1111", 80),
    ("", "x", "64:ff9b::1.1.1.1", 80),
    ("10.0.0.0/8", "x", "10.9.8.7", 80),
    ("10.0.0.0/8", "x", "::ffff:10.9.8.7", 80),
    ("10.9.8.7", "10.9.8.7", "10.9.8.7", 80),
    ("10.9.8.7:8080", "x", "10.9.8.7", 8080),
    ("::1", "x", "::1", 80),
    ("[::1]:8080, 10.0.0.1", "x", "::1", 8080),
    ("fd00::/8", "x", "fd00::1", 80),
    ("billing.internal", "Billing.Internal.", "10.0.0.5", 80),
    ("billing.internal:8443", "billing.internal", "10.0.0.5", 8443),
]
REFUSED = [
    ("10.0.0.0/8", "x", "11.0.0.1x", 80),
    ("10.0.0.0/8", "x", "172.16.0.1", 80),
    ("10.9.8.7:8080", "x", "10.9.8.7", 80),
    ("billing.internal:8443", "billing.internal", "10.0.0.5", 80),
    ("billing.internal", "other.internal", "10.0.0.5", 80),
    ("billing.internal", "billing.internal.evil.example", "10.0.0.5", 80),
]


@pytest.mark.parametrize(("allow", "host", "address", "port"), ALLOWED)
def test_what_is_public_or_allowed_may_be_reached(allow: str, host: str, address: str, port: int) -> None:
    Guard(allow).check(host, address, port)


@pytest.mark.parametrize(("allow", "host", "address", "port"), REFUSED)
def test_a_rule_allows_no_more_than_it_says(allow: str, host: str, address: str, port: int) -> None:
    with pytest.raises(Forbidden):
        Guard(allow).check(host, address, port)


@pytest.mark.parametrize("word", ["10.0.0.1/8", "127.1", "0x7f000001", "a b", "name:", "name:99999", "-x", "*.local"])
def test_a_rule_that_means_nothing_stops_the_start(word: str) -> None:
    with pytest.raises(ValueError):
        Guard(word)


@given(st.ip_addresses())
def test_nothing_is_allowed_that_the_standard_library_calls_private(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    """A second opinion: ours may be narrower, never wider."""
    try:
        Guard().check("x", str(address), 80)
    except Forbidden:
        return
    assert address.is_global and not address.is_multicast


@given(st.ip_addresses(v=4))
def test_an_address_inside_of_another_counts_as_itself(address: ipaddress.IPv4Address) -> None:
    def allowed(text: str) -> bool:
        try:
            Guard().check("x", text, 80)
        except Forbidden:
            return False
        return True

    assert allowed(f"::ffff:{address}") == allowed(f"64:ff9b::{address}") == allowed(str(address))
    assert not allowed(f"::{address}")

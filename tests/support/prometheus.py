"""A real Prometheus on loopback, with our own configuration, for the tests that ask one."""

import json
import os
import re
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from taskflow_server.cluster.ports import free_ports
from tests.support.cluster import ROOT, Program
from tests.support.waiting import eventually

CONFIGURATION = ROOT / "deploy" / "prometheus" / "prometheus.yml"
RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def program(name: str) -> str:
    """The path of `prometheus` or `promtool`; where it is not installed, the test is skipped."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: it comes with Debian's package `prometheus`")
    return found


class Prometheus:
    def __init__(self, port: int, process: Program) -> None:
        self._port = port
        self.process = process

    def get(self, path: str, **parameters: str) -> Any:
        """`data` of an answer of its API; AssertionError with what it said when it refuses."""
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with _OPENER.open(url, timeout=10) as answer:
                said = json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None
        assert said["status"] == "success", said
        return said["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series that it answers with now."""
        result = self.get("query", query=expression)["result"]
        return [(series["metric"], float(series["value"][1])) for series in result]

    @property
    def ready(self) -> bool:
        try:
            with _OPENER.open(f"http://127.0.0.1:{self._port}/-/ready", timeout=5):
                return True
        except OSError:
            return False


def configuration(ports: Mapping[str, int], directory: Path) -> Path:
    """The file of deploy/, its hosts mapped to loopback, scraping every half second."""
    text = re.sub(r"(scrape|evaluation)_interval: \w+", r"\1_interval: 500ms", CONFIGURATION.read_text())
    text = text.replace("/etc/prometheus/rules.yml", str(RULES))
    for name, port in ports.items():
        text, count = re.subn(rf'"{name}:\d+"', f'"127.0.0.1:{port}"', text)
        assert count == 1, f"{CONFIGURATION} has {count} targets for {name}"
    written = directory / "prometheus.yml"
    written.write_text(text)
    return written


@contextmanager
def prometheus(ports: Mapping[str, int], directory: Path) -> Iterator[Prometheus]:
    """Scrapes the services at these metrics ports, until the end of the block."""
    where, port = program("prometheus"), free_ports(1)[0]
    command = [
        where, f"--config.file={configuration(ports, directory)}", f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    running = Prometheus(port, Program(command, directory / "prometheus.log", dict(os.environ), directory))
    try:
        eventually(lambda: running.ready or not running.process.alive, timeout=30)
        assert running.process.alive, running.process.output
        yield running
    finally:
        running.process.stop(grace=10.0)

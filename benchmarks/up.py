"""`taskflow up` with an app, as a user runs it: from its start to the first job done, then at rest.

Its data are there from a first start, which is `up.cold`; the client is an app that runs already. At rest nothing has
been run but that job: what the services take then is the least that they ever take.
"""

import json
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import procs
from benchmarks.lab import PATIENCE, BenchError, Lab
from benchmarks.measure import Measure
from taskflow import TaskFlow
from taskflow_server.cluster.cluster import SERVICES, fixed_ports, metrics_ports
from taskflow_server.cluster.ports import is_free
from taskflow_server.cluster.process import stop, tail
from taskflow_server.cluster.service import python

_REST = 1.0  # seconds that a cluster gets to come to rest
_STOP = 40.0


def measure(m: Measure) -> None:
    """A warm start, then rest; before the first one, a cold start."""
    if not m.lab.up_directory.exists():
        with _up(m.lab) as (_, seconds):
            m.add("up.cold", seconds)
    with _up(m.lab) as (process, seconds):
        m.add("up.start", seconds)
        m.lab.pause(_REST)
        services = _services(process.pid)
        with procs.window(lambda: services) as seen:
            m.lab.pause(m.plan.idle)
        m.add("up.cpu", sum(seen.cpu[name] for name in SERVICES) / seen.seconds * 100)
        memory = {name: max(map(procs.resident_mb, services[name])) for name in SERVICES}
    for name, megabytes in memory.items():
        m.add(f"up.mb.{name}", megabytes)
    m.add("up.mb", max(memory.values()))


@contextmanager
def _up(lab: Lab) -> Iterator[tuple["subprocess.Popen[bytes]", float]]:
    """The command's process and the seconds from its start to its first job's end; stopped at the end."""
    data, log = lab.up_directory, lab.directory / "logs" / "up.log"
    words = ["benchmarks.app:app", "--data-dir", str(data), "--port-base", str(_free_base())]
    began = time.monotonic()
    process = lab.spawn(python("taskflow._cli", "up", *words), log)
    try:
        with TaskFlow(_scheduler(lab, process, data / "up.json", log)) as tf:
            tf.new_job("up", task="nothing").wait(timeout=PATIENCE)
            seconds = time.monotonic() - began
        yield process, seconds
    finally:
        stop(process, ((signal.SIGTERM, _STOP),))


def _scheduler(lab: Lab, process: "subprocess.Popen[bytes]", state: Path, log: Path) -> str:
    """The scheduler's address, once the command says that all is up."""
    said: dict[str, dict[str, str]] = {}

    def is_up() -> bool:
        if process.poll() is not None:
            raise BenchError(f"taskflow up ended: {tail(log)}")
        if state.exists():
            said.update(json.loads(state.read_text()))
        return "addresses" in said

    lab.until(is_up, "taskflow up", every=0.005)
    return said["addresses"]["scheduler"]


def _services(pid: int) -> dict[str, list[int]]:
    """The services that came of the command, by name."""
    words = {each: procs.command(each) for each in procs.tree(pid)}
    found = {
        name: [each for each, said in words.items() if {"taskflow_server.cli", name} <= set(said)] for name in SERVICES
    }
    if missing := sorted(name for name, pids in found.items() if not pids):
        raise BenchError(f"of taskflow up, these do not run: {', '.join(missing)}")
    return found


def _free_base() -> int:
    """A first port for `taskflow up` below those that the system gives out by itself."""
    while True:
        base = random.randrange(10_000, 30_000)
        ports = fixed_ports(base)
        if all(map(is_free, (*ports.values(), *metrics_ports(base).values()))):
            return ports["coordinator"]

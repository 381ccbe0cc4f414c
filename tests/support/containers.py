"""A real Docker engine for the tests: base images made here, and the compose file's services of a project of its own.

No image is pulled. The base is Debian's packages (mmdebstrap), Postgres that of the embedded cluster, and pip finds the
wheels that this machine's pip has loaded: nothing of where they came from is in an image. All that is made has a name
of this process, and is removed.
"""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from taskflow_server.cluster.binaries import NoPostgresError, find
from taskflow_server.cluster.ports import free_ports
from tests.support.cluster import ROOT

ENGINE_PATIENCE = 20  # seconds for an answer of the Docker engine
PACKAGES_PATIENCE = 300  # seconds for Debian's packages, and for pip's
BUILD_PATIENCE = 900  # seconds for the images: a storage driver may be slow with many small files
UP_PATIENCE = 300
PACKAGES = ("python3", "python3-venv", "tini", "wget")
PUBLISHED = ("queue", "coordinator", "scheduler", "gateway", "prometheus")
POSTGRES = """FROM {base}
COPY bundle /opt/postgres
COPY entry /usr/local/bin/
RUN useradd --system --uid 999 postgres && mkdir -p /var/lib/postgresql && chown postgres /var/lib/postgresql
ENV PATH=/opt/postgres/{bin}:/usr/local/bin:/usr/bin:/bin
USER postgres
STOPSIGNAL SIGINT
ENTRYPOINT ["entry"]
"""
ENTRY = """#!/bin/sh
# The official image's use of its variables.
set -eu
data=/var/lib/postgresql/data
if [ ! -s "$data/PG_VERSION" ]; then
    printf '%s\\n' "$POSTGRES_PASSWORD" > /tmp/password
    initdb --pgdata="$data" --username="$POSTGRES_USER" --pwfile=/tmp/password --auth-local=trust \\
        --auth-host=scram-sha-256 --encoding=UTF8 --no-locale
    echo "host all all all scram-sha-256" >> "$data/pg_hba.conf"
    echo "create database \\"$POSTGRES_DB\\"" | postgres --single -D "$data" postgres
fi
exec postgres -D "$data" -c listen_addresses='*' -c unix_socket_directories=/tmp
"""
PYTHON = """FROM {base}
COPY wheels /opt/wheels
ENV PIP_NO_INDEX=1 PIP_FIND_LINKS=/opt/wheels
"""
PROMETHEUS = """FROM {base}
COPY prometheus /usr/local/bin/
RUN mkdir /prometheus && chown 65534 /prometheus
WORKDIR /prometheus
USER 65534
ENTRYPOINT ["prometheus"]
"""


@functools.cache
def reason_without() -> str:
    """Why images cannot be built and run here; empty where they can."""
    if shutil.which("docker") is None:
        return "there is no docker command"
    try:
        answer = subprocess.run(["docker", "info"], capture_output=True, text=True, timeout=ENGINE_PATIENCE)
    except subprocess.TimeoutExpired:
        return "the Docker engine does not answer"
    if answer.returncode != 0:
        return "no Docker engine answers"
    if not compose_command():
        return "neither `docker compose` nor docker-compose is installed"
    if shutil.which("mmdebstrap") is None or os.geteuid() != 0:
        return "base images are made by root, with Debian's package mmdebstrap"
    try:
        found = find()
    except NoPostgresError:
        return "there is no Postgres to put into an image"
    return "" if found.root else "its image needs the Postgres of the extra `embedded`"


@functools.cache
def _client() -> tuple[str, bool]:
    """The first docker command that can use BuildKit, and whether there is one: without, each line takes its time."""
    found = [shutil.which("docker", path=folder) for folder in os.environ.get("PATH", "").split(os.pathsep)]
    with_buildkit = {**os.environ, "DOCKER_BUILDKIT": "1"}
    for each in filter(None, found):
        if subprocess.run([each, "build", "--help"], env=with_buildkit, capture_output=True).returncode == 0:
            return each, True
    return next(filter(None, found)), False


def _environment() -> dict[str, str]:
    """For docker and for compose, 1.29 of which builds by the docker command only if it is asked to."""
    client, buildkit = _client()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TASKFLOW_")}
    path = os.pathsep.join([str(Path(client).parent), kept.get("PATH", "")])
    return {**kept, "PATH": path, "DOCKER_BUILDKIT": str(int(buildkit)), "COMPOSE_DOCKER_CLI_BUILD": str(int(buildkit))}


@functools.cache
def compose_command() -> tuple[str, ...]:
    """Docker Compose 2, else 1.29; nothing where neither is there."""
    for words in (("docker", "compose"), ("docker-compose",)):
        if shutil.which(words[0]) and subprocess.run([*words, "version"], capture_output=True).returncode == 0:
            return words
    return ()


def docker(*words: str, timeout: float = 60, check: bool = True) -> str:
    """The command's standard output. AssertionError with its output when it fails."""
    done = subprocess.run([_client()[0], *words], env=_environment(), capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0 or not check, f"docker {' '.join(words)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout.strip()


class Images:
    """Those that the compose file's services are built from, and the names that theirs get."""

    def __init__(self, prefix: str, directory: Path) -> None:
        self.prefix = prefix
        self._directory = directory
        self.base, self.python = f"{prefix}-base:test", f"{prefix}-python:test"
        self.postgres, self.prometheus = f"{prefix}-postgres:test", f"{prefix}-prometheus:test"

    def make(self) -> None:
        """Skips the test where packages cannot be had."""
        self._make_base()
        self._build("python", PYTHON, self._wheels)
        self._build("postgres", POSTGRES.replace("{bin}", self._bin()), self._bundle)
        if shutil.which("prometheus"):
            self._build("prometheus", PROMETHEUS, lambda folder: shutil.copy(shutil.which("prometheus") or "", folder))

    def remove(self) -> None:
        """Also what was built from them."""
        listed = docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", check=False).splitlines()
        ours = [name for name in listed if name.startswith(f"{self.prefix}-")]
        label = f"label=taskflow.test={self.prefix}"
        if ours:
            docker("image", "rm", "--force", *ours, timeout=BUILD_PATIENCE, check=False)
        # Layers of stages that have no name, by the label that the base gave them.
        docker("image", "prune", "--force", "--filter", label, timeout=BUILD_PATIENCE, check=False)

    def _make_base(self) -> None:
        archive = self._directory / "base.tar"
        # In memory where there is some: thousands of small files, each synced, take minutes on a busy disk.
        scratch = Path("/dev/shm")
        quick = scratch.is_dir() and shutil.disk_usage(scratch).free > 2 << 30
        env = {**os.environ, **({"TMPDIR": str(scratch)} if quick else {})}
        exclude = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")]
        words = [
            "mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", f"--include={','.join(PACKAGES)}",
            "--dpkgopt=force-unsafe-io", *exclude, _suite(), str(archive),
        ]  # fmt: skip
        _need(words, "Debian's packages cannot be had", env)
        docker("import", f"--change=LABEL taskflow.test={self.prefix}", str(archive), self.base, timeout=BUILD_PATIENCE)
        archive.unlink()

    def _build(self, name: str, text: str, fill: Any) -> None:
        folder = self._directory / name
        folder.mkdir()
        fill(folder)
        (folder / "Dockerfile").write_text(text.replace("{base}", self.base))
        docker("build", "--quiet", "--tag", f"{self.prefix}-{name}:test", str(folder), timeout=BUILD_PATIENCE)
        shutil.rmtree(folder)

    def _wheels(self, folder: Path) -> None:
        version = docker("run", "--rm", self.base, "python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
        locked = (ROOT / "requirements.lock").read_text().splitlines()
        constraints = folder / "constraints.txt"
        constraints.write_text("\n".join(line.rstrip(" \\") for line in locked if "--hash=" not in line))
        words = [
            sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", f"--python-version={version}",
            f"--constraint={constraints}", f"--dest={folder / 'wheels'}", "hatchling", *_requirements(),
        ]  # fmt: skip
        _need(words, "the wheels of Python's packages cannot be had", os.environ)

    def _bin(self) -> str:
        found = find()
        assert found.root
        return str(found.bin.relative_to(found.root))

    def _bundle(self, folder: Path) -> None:
        found = find()
        assert found.root
        for part in found.bundle:
            shutil.copytree(part, folder / "bundle" / part.relative_to(found.root), symlinks=True)
        (folder / "entry").write_text(ENTRY)
        (folder / "entry").chmod(0o755)


class Project:
    """One `docker-compose up` of the repository's file, with images, ports, volumes and network of its own."""

    def __init__(self, name: str, images: Images, directory: Path, settings: Mapping[str, str]) -> None:
        self.name = name
        self.ports = dict(zip(PUBLISHED, free_ports(len(PUBLISHED)), strict=True))
        variables = {
            "TASKFLOW_IMAGES": images.prefix,
            "TASKFLOW_PYTHON_IMAGE": images.python,
            "TASKFLOW_POSTGRES_IMAGE": images.postgres,
            "TASKFLOW_PROMETHEUS_IMAGE": images.prometheus,
            **{f"TASKFLOW_{service.upper()}_PORT": str(port) for service, port in self.ports.items()},
            **settings,
        }
        env_file = directory / ".env"
        env_file.write_text("".join(f"{name}='{value}'\n" for name, value in variables.items()))
        self._words = [*compose_command(), "--project-name", name, "--env-file", str(env_file)]

    def compose(self, *words: str, timeout: float = UP_PATIENCE, status: int = 0) -> str:
        """Its output. AssertionError with it when its exit status is another."""
        done = subprocess.run(
            [*self._words, *words], cwd=ROOT, env=_environment(), capture_output=True, text=True, timeout=timeout
        )
        assert done.returncode == status, f"{' '.join(words)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
        return done.stdout + done.stderr

    def container(self, service: str) -> str:
        """The id of the service's only container, which may have ended."""
        label = f"label=com.docker.compose.service={service}"
        mine = f"label=com.docker.compose.project={self.name}"
        found = docker("ps", "--all", "--quiet", "--no-trunc", "--filter", mine, "--filter", label).split()
        assert len(found) == 1, f"{service}: {found}"
        return found[0]

    def state(self, service: str) -> dict[str, Any]:
        """The engine's record of its container."""
        found: dict[str, Any] = json.loads(docker("inspect", "--format", "{{json .State}}", self.container(service)))
        return found

    def healthy(self, service: str) -> bool:
        """As its health check says, which the engine runs inside."""
        return bool(self.state(service).get("Health", {}).get("Status") == "healthy")

    def inside(self, service: str, *words: str) -> str:
        """The output of a command in the service's container."""
        return docker("exec", self.container(service), *words)

    def logs(self) -> str:
        """The last lines of all services."""
        return self.compose("logs", "--tail=15")


@contextmanager
def project(directory: Path, settings: Mapping[str, str]) -> Iterator[Project]:
    """With its images made, and nothing started. Skips where there is no engine, or no packages."""
    if reason := reason_without():
        pytest.skip(reason)
    images = Images(f"tfimages{os.getpid()}", directory)
    try:
        images.make()
        running = Project(f"tfproject{os.getpid()}", images, directory, settings)
        try:
            yield running
        finally:
            running.compose("down", "--volumes", "--remove-orphans")
    finally:
        images.remove()


def _suite() -> str:
    """This machine's release, whose packages its apt can get; Debian's last one but that anywhere else."""
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    return release["VERSION_CODENAME"].strip('"') if release.get("ID") == "debian" else "bookworm"


def _requirements() -> list[str]:
    """The packages that the distributions of the two folders need, as the Dockerfile installs them."""
    server, sdk = (tomllib.loads((folder / "pyproject.toml").read_text())["project"] for folder in (ROOT, ROOT / "sdk"))
    extras = re.search(r"'\.\[([\w,]+)\]'", (ROOT / "Dockerfile").read_text())
    assert extras, "the Dockerfile installs the server with its extras"
    needed = [
        *server["dependencies"], *sdk["dependencies"], *sdk["optional-dependencies"]["cli"],
        *(line for extra in extras[1].split(",") for line in server["optional-dependencies"][extra]),
    ]  # fmt: skip
    return [line for line in needed if not line.startswith("taskflow")]


def _need(words: Sequence[str], otherwise: str, env: Mapping[str, str]) -> None:
    try:
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=PACKAGES_PATIENCE)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{otherwise}: no answer within {PACKAGES_PATIENCE} s")
    if done.returncode != 0:
        pytest.skip(f"{otherwise}: {' '.join(done.stderr.split())[-300:]}")

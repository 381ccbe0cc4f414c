"""docker-compose.yml rehearsed without an engine: each service of ours as the process that its container would run.

Their commands, environments, health checks and order of starting are the file's. Host names become loopback and ports
free ones; Postgres is the tests' own, with an empty database.
"""

import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from taskflow_server.cluster.ports import free_ports
from taskflow_server.cluster.service import environment
from taskflow_server.worker.settings import WorkerSettings
from tests.support import forkserver
from tests.support import postgres as pg
from tests.support.cluster import ROOT, Program
from tests.support.plainyaml import read
from tests.support.waiting import eventually
from tools.reference import SERVICES

COMPOSE = read(ROOT / "docker-compose.yml")["services"]
OURS = {name: part for name, part in COMPOSE.items() if "build" in part}
PORTS = {  # name -> gRPC and metrics port, as the services have them by default
    cls.model_fields["name"].default.removesuffix("-1"): (
        cls.model_fields["port"].default,
        cls.model_fields["metrics_port"].default,
    )
    for cls in SERVICES.values()
}
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def plain(text: str) -> str:
    """With the file's own defaults for its variables."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


class Rehearsal:
    """The file's services of ours, as processes on this machine."""

    def __init__(self, dsn: str, directory: Path) -> None:
        self._dsn = dsn
        self._directory = directory
        self.programs: dict[str, Program] = {}
        self.ports = dict(zip(PORTS, zip(*[iter(free_ports(2 * len(PORTS)))] * 2, strict=True), strict=True))

    def here(self, text: str) -> str:
        """With the file's own defaults, loopback for its hosts, and free ports for its ports."""
        text = plain(text)
        for name, (port, _) in PORTS.items():
            text = re.sub(rf"\b({name}|127\.0\.0\.1):{port}\b", f"127.0.0.1:{self.ports[name][0]}", text)
        return "127.0.0.1" if text == "0.0.0.0" else text

    def environment(self, name: str) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("TASKFLOW_")}
        env = environment(inherited) | {
            k: self.here(v) for k, v in OURS[name].get("environment", {}).items() if v is not None
        }
        env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", "")])
        if "TASKFLOW_DATABASE_URL" in env:
            env["TASKFLOW_DATABASE_URL"] = self._dsn
        if name in PORTS:
            port, metrics_port = self.ports[name]
            env |= {"TASKFLOW_PORT": str(port), "TASKFLOW_METRICS_PORT": str(metrics_port)}
        return env

    def start(self, name: str) -> None:
        """After what it depends on, as the file says how."""
        for other, wanted in OURS[name].get("depends_on", {}).items():
            if other not in OURS:
                continue  # Postgres is there
            if other not in self.programs:
                self.start(other)
            if wanted["condition"] == "service_completed_successfully":
                assert self.programs[other].wait(60) == 0, self.programs[other].output
            else:
                assert wanted["condition"] == "service_healthy"
                self.wait_healthy(other)
        env, log = self.environment(name), self._directory / f"{name}.log"
        self.programs[name] = Program(self.command(OURS[name]["command"], env), log, env, self._directory)

    def command(self, words: list[str], env: Mapping[str, str]) -> list[str]:
        """As it is here, with the whole path of its program."""
        program, *arguments = map(self.here, words)
        return [shutil.which(program, path=env["PATH"]) or program, *arguments]

    def healthy(self, name: str) -> bool:
        """The engine's part: the health check's command, inside."""
        kind, *command = OURS[name]["healthcheck"]["test"]
        assert kind == "CMD"
        env = self.environment(name)
        return forkserver.run(self.command(command, env), env=env).returncode == 0

    def wait_healthy(self, name: str) -> None:
        eventually(lambda: self.healthy(name), timeout=40)

    def example(self, name: str) -> tuple[list[str], dict[str, str]]:
        """One of the README's programs, and the environment of a host's app."""
        env = environment({k: v for k, v in os.environ.items() if not k.startswith("TASKFLOW_")})
        return [sys.executable, str(ROOT / "sdk" / "examples" / name)], env | {
            "TASKFLOW_ADDRESS": self.here("127.0.0.1:9003")
        }


@pytest.fixture(scope="module")
def rehearsal(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    name = f"compose_{os.getpid()}"
    running = Rehearsal(pg.create_database(postgres, name, "template1"), tmp_path_factory.mktemp("compose"))
    try:
        for service in OURS:
            if service not in running.programs:
                running.start(service)
        for service in PORTS:
            running.wait_healthy(service)
        yield running
    finally:
        for program in running.programs.values():
            program.stop(grace=5.0)
        pg.drop_database(postgres, name)


@pytest.mark.feature("S3.6")
def test_the_readme_s_example_runs_against_it(rehearsal: Rehearsal, tmp_path: Path) -> None:
    command, env = rehearsal.example("02_worker.py")
    worker = Program(command, tmp_path / "worker.log", env)
    try:
        command, env = rehearsal.example("01_new_job.py")
        done = forkserver.run(command, env=env)

        assert "{'delivered': 'ada@example.org'}" in done.stdout, done.stderr + worker.output
        assert worker.stop() == 0
    finally:
        worker.stop()


@pytest.mark.feature("S3.6")
def test_a_health_check_tells_when_its_service_is_gone(rehearsal: Rehearsal) -> None:
    assert rehearsal.healthy("worker")

    assert rehearsal.programs["worker"].stop() == 0

    assert not rehearsal.healthy("worker")


@pytest.mark.feature("S3.6")
def test_migrating_again_does_nothing_and_succeeds(rehearsal: Rehearsal) -> None:
    rehearsal.start("migrate")

    assert rehearsal.programs["migrate"].wait(60) == 0
    assert "nothing to do" in rehearsal.programs["migrate"].output


@pytest.mark.feature("S3.6")
def test_all_stop_within_the_time_that_the_file_gives_them(rehearsal: Rehearsal) -> None:
    for name in ("gateway", "scheduler", "coordinator", "queue"):
        grace = float(OURS[name]["stop_grace_period"].removesuffix("s"))

        assert rehearsal.programs[name].stop(grace) == 0, rehearsal.programs[name].output


# -- the files by themselves ------------------------------------------------------------------------------------------


def target(name: str) -> str:
    """The lines of one stage of the Dockerfile."""
    found = re.search(rf"^FROM \S+ AS {name}$(.*?)(?=^FROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL)
    assert found, f"the Dockerfile has no target {name}"
    return found[1].replace("\\\n", " ")


def words(text: str) -> list[str]:
    return re.findall(r'"([^"]*)"', text)


@pytest.mark.feature("S3.6")
@pytest.mark.parametrize("name", PORTS)
def test_an_image_runs_and_checks_what_the_compose_file_says(name: str) -> None:
    port, metrics_port = PORTS[name]
    part, stage = OURS[name], target(name)
    commands = {kind: words(rest) for kind, rest in re.findall(r"^(HEALTHCHECK|CMD)(.*)$", stage, re.MULTILINE)}

    assert part["build"]["target"] == name
    assert commands["CMD"] == part["command"] == ["taskflow-server", name]
    assert ["CMD", *commands["HEALTHCHECK"]] == part["healthcheck"]["test"]
    where = f"127.0.0.1:{port}"
    assert part["healthcheck"]["test"][-1] == (f"http://{where}/healthz" if name == "gateway" else where)
    assert f"EXPOSE {port} {metrics_port}" in stage
    assert part["restart"] == "unless-stopped"


def test_images_run_as_a_user_of_their_own_and_hold_what_is_there() -> None:
    assert re.search(r"^USER 10001$", target("base"), re.MULTILINE)
    for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE):
        for source in line.split():
            assert (ROOT / source).exists(), source
            assert f"!{source}" in (ROOT / ".dockerignore").read_text().splitlines()


def test_every_published_port_is_on_loopback_and_an_app_on_the_host_finds_all_three() -> None:
    published = {plain(port) for part in COMPOSE.values() for port in part.get("ports", [])}

    assert all(re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port) for port in published)
    for name in ("coordinator", "queue", "scheduler", "gateway"):
        assert f"127.0.0.1:{PORTS[name][0]}:{PORTS[name][0]}" in map(plain, OURS[name]["ports"])


@pytest.mark.parametrize(
    ("service", "variable", "of"),
    [
        ("scheduler", "TASKFLOW_ADVERTISE", "scheduler"),
        ("coordinator", "TASKFLOW_ADVERTISE", "coordinator"),
        ("coordinator", "TASKFLOW_QUEUE_ADVERTISE", "queue"),
    ],
)
def test_an_instance_says_where_containers_and_where_the_host_find_it(service: str, variable: str, of: str) -> None:
    port, published = PORTS[of][0], OURS[of]["ports"][0].rpartition(":")[0]

    assert OURS[service]["environment"][variable] == f"{of}:{port},{published}"
    assert plain(published) == f"127.0.0.1:{port}"


def test_only_who_needs_postgres_knows_its_password_and_variables_are_settings() -> None:
    with_url = {name for name, part in OURS.items() if "TASKFLOW_DATABASE_URL" in part["environment"]}
    known: dict[str, Mapping[str, Any]] = {
        cls.model_fields["name"].default.removesuffix("-1"): cls.model_fields for cls in SERVICES.values()
    }

    with_password = {name for name, part in OURS.items() if "PGPASSWORD" in part["environment"]}

    assert with_url == with_password == {"coordinator", "migrate", "scheduler"}
    for name in PORTS:
        for variable in OURS[name]["environment"].keys() - {"PGPASSWORD"}:
            alias = {"TASKFLOW_ADDRESS": "TASKFLOW_SCHEDULER_ADDRESS"}
            assert alias.get(variable, variable).removeprefix("TASKFLOW_").lower() in known[name]


@pytest.mark.feature("S3.6")
def test_prometheus_scrapes_each_service_at_its_metrics_port() -> None:
    config = read(ROOT / "deploy" / "prometheus" / "prometheus.yml")
    targets = {t for job in config["scrape_configs"] for static in job["static_configs"] for t in static["targets"]}

    assert targets == {f"{name}:{metrics_port}" for name, (_, metrics_port) in PORTS.items()}


@pytest.mark.feature("S3.6")
def test_every_file_and_folder_that_is_mounted_is_there() -> None:
    mounted = [volume.split(":") for part in COMPOSE.values() for volume in part.get("volumes", [])]
    volumes = read(ROOT / "docker-compose.yml")["volumes"]

    for source, *_ in mounted:
        assert (ROOT / source).is_dir() if source.startswith("./") else source in volumes
    for name in ("provisioning/datasources/prometheus.yml", "provisioning/dashboards/taskflow.yml"):
        assert read(ROOT / "deploy" / "grafana" / name)["apiVersion"] == 1


@pytest.mark.parametrize("password", ["p@ss/w%rd", "a:b?c#d&e f'g", "pl+us%41[x]"])
def test_postgres_may_have_any_password(password: str, postgres: str) -> None:
    """It goes beside the URL, as libpq takes it: in a URL some of its characters would have to be encoded."""
    part = OURS["migrate"]["environment"]
    assert "TASKFLOW_POSTGRES_PASSWORD" not in part["TASKFLOW_DATABASE_URL"]
    assert part["PGPASSWORD"] == COMPOSE["postgres"]["environment"]["POSTGRES_PASSWORD"]
    info, role = conninfo_to_dict(postgres), f"compose_{os.getpid()}"
    url = part["TASKFLOW_DATABASE_URL"].replace("taskflow@postgres:5432", f"{role}@{info['host']}:{info['port']}")
    url = url.replace("/taskflow", f"/{info['dbname']}")
    with psycopg.connect(postgres, autocommit=True) as conn:
        conn.execute(sql.SQL("create role {} login password {}").format(sql.Identifier(role), sql.Literal(password)))
        try:
            env = {**os.environ, "TASKFLOW_DATABASE_URL": url, "PGPASSWORD": password}
            words = [sys.executable, "-m", "taskflow_server.cli", "db", "doctor"]
            done = forkserver.run(words, env=env)
        finally:
            conn.execute(sql.SQL("drop role {}").format(sql.Identifier(role)))

    assert done.returncode == 1, done.stderr
    assert "FAULT migrations" in done.stdout  # it has looked


def test_each_container_has_an_init_that_reaps_what_handlers_leave_behind() -> None:
    assert all(part.get("init") is True for part in OURS.values())
    assert 'ENTRYPOINT ["tini", "-s", "--"]' in target("base")
    assert "install --yes --no-install-recommends tini" in target("base")


def test_no_two_services_build_an_image_of_one_name() -> None:
    images = [part["image"] for part in OURS.values()]

    assert len(images) == len(set(images))


def test_the_worker_can_be_given_its_settings_and_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one file: a name without a value under `environment` would take away what that file or the image says."""
    for part in OURS.values():
        assert None not in part["environment"].values()
    default = plain(OURS["worker"]["env_file"])
    assert OURS["worker"]["env_file"] == f"${{TASKFLOW_WORKER_ENV:-{default}}}"
    lines = [line.removeprefix("# ") for line in (ROOT / default).read_text().splitlines() if "=" in line]
    settings = {name: value.strip("'") for name, value in (line.split("=", 1) for line in lines if line[0].isupper())}
    assert "TASKFLOW_SECRET_SHOP_TOKEN" in settings
    assert settings.keys() >= {
        "TASKFLOW_APP", "TASKFLOW_BUILTINS", "TASKFLOW_HTTP_ALLOW", "TASKFLOW_HTTP_SECRET_HOSTS",
        "TASKFLOW_SHELL_ALLOW", "TASKFLOW_SHELL_SCRIPTS", "TASKFLOW_PUSH_DESTINATIONS", "TASKFLOW_PUSH_OWNER",
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert WorkerSettings().destinations.keys() == {"batch"}  # every example is a valid value
    assert "'.[aws,k8s,mesos,ray]'" in DOCKERFILE


def test_the_base_image_can_be_another() -> None:
    """A mirror of the public one, or one that has the certificates and the pip.conf of a network."""
    assert re.findall(r"^FROM (\S+) AS (?:build|base)$", DOCKERFILE, re.MULTILINE) == ["${PYTHON_IMAGE}"] * 2
    default = re.search(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert default
    for part in OURS.values():
        assert part["build"]["args"]["PYTHON_IMAGE"] == f"${{TASKFLOW_PYTHON_IMAGE:-{default[1]}}}"


def test_every_variable_of_the_file_is_in_the_reference_with_its_default() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    page = (ROOT / "docs" / "reference" / "settings.md").read_text()

    for name, default in set(re.findall(r"\$\{(\w+):-([^}]*)\}", text)):
        assert f"| `{name}` | `{default}` |" in page

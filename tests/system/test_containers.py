"""The images and the compose file with a real Docker engine: built, started, used, restarted and stopped.

Without an engine, `test_compose.py` runs the same commands as processes.
"""

import json
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskflow import TaskFlow
from tests.support.containers import BUILD_PATIENCE, Project, docker, project
from tests.support.waiting import eventually

pytestmark = pytest.mark.long

OURS = ("queue", "coordinator", "scheduler", "gateway", "worker")
PASSWORD = "p@ss/w%rd $HOME#1"
WORKER = """TASKFLOW_BUILTINS=http,shell
TASKFLOW_HTTP_ALLOW=gateway
TASKFLOW_SECRET_SHOP_TOKEN=s3cr3t-0815
TASKFLOW_SHELL_SCRIPTS=on
TASKFLOW_PUSH_OWNER=city
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The file's services but Grafana, whose packages nobody here has."""
    directory = tmp_path_factory.mktemp("containers")
    worker_env = directory / "worker.env"
    worker_env.write_text(WORKER)
    settings = {"TASKFLOW_POSTGRES_PASSWORD": PASSWORD, "TASKFLOW_WORKER_ENV": str(worker_env)}
    with project(directory, settings) as made:
        made.compose("build", "migrate", *OURS, timeout=BUILD_PATIENCE)
        monitoring = ["prometheus"] if shutil.which("prometheus") else []
        made.compose("up", "--detach", "postgres", "migrate", *OURS, *monitoring)
        yield made


@pytest.fixture
def tf(running: Project) -> Iterator[TaskFlow]:
    with TaskFlow(f"127.0.0.1:{running.ports['scheduler']}", timeout=60) as client:
        yield client


def run_script(tf: TaskFlow, script: str) -> str:
    job = tf.new_job("containers", {"script": script}, task="shell.run", retries=5)
    printed: str = job.wait(timeout=90).result["stdout_tail"]
    return printed


def processes(running: Project, service: str) -> list[str]:
    """What /proc says of those in its container, which may end meanwhile."""
    return running.inside(service, "sh", "-c", "cat /proc/[0-9]*/stat 2> /dev/null || true").splitlines()


@pytest.mark.feature("S3.6")
def test_every_service_becomes_healthy_and_a_host_s_app_gets_its_jobs_run(running: Project, tf: TaskFlow) -> None:
    for service in ("postgres", *OURS):
        eventually(lambda service=service: running.healthy(service), timeout=120)

    assert run_script(tf, "id -u") == "10001\n"
    assert running.state("migrate")["ExitCode"] == 0  # with a password that no URL could have as it is


@pytest.mark.feature("S3.6")
def test_the_worker_has_the_settings_and_secrets_of_its_file(running: Project, tf: TaskFlow) -> None:
    call = {"url": "http://gateway:8080/healthz", "auth": {"scheme": "bearer", "secret": "SHOP_TOKEN"}}

    assert tf.new_job("containers", call, task="http.call", retries=5).wait(timeout=90).result["status"] == 200
    assert "TASKFLOW_PUSH_OWNER=city" in running.inside("worker", "env").splitlines()
    assert "queue" in running.inside("worker", "taskflow", "job", "list", "--queue", "containers").lower()


@pytest.mark.feature("S3.6")
def test_no_container_keeps_a_zombie(running: Project) -> None:
    """A process whose parent has ended, in the worker's container: process 1 reaps it."""
    orphan = "(sleep 0.2 & echo $!) && exec sleep 0"
    pid = running.inside("worker", "sh", "-c", orphan).strip()

    eventually(lambda: not any(line.startswith(f"{pid} (") for line in processes(running, "worker")), timeout=20)

    for service in OURS:
        eventually(lambda service=service: not any(") Z " in line for line in processes(running, service)), timeout=20)


def test_a_password_that_is_not_postgres_s_is_one_line_without_it(running: Project) -> None:
    """As after a change of `.env` alone: Postgres keeps the one of its first start."""
    said = running.compose("run", "--rm", "--no-deps", "-T", "-e", "PGPASSWORD=sw0rdf1sh", "migrate", status=3)

    assert "the user or the password is wrong" in said
    assert "sw0rdf1sh" not in said and "Traceback" not in said


@pytest.mark.feature("S3.6")
def test_an_image_by_itself_has_an_init_too(running: Project) -> None:
    """`docker run`, without the compose file's `init`."""
    image = json.loads(docker("inspect", running.container("worker")))[0]["Config"]["Image"]
    orphan = "(sleep 0.1 & echo $!) > /tmp/pid"
    script = f"{orphan}; while cat /proc/$(cat /tmp/pid)/stat; do sleep 0.1; done 2>&1; echo gone"

    assert docker("run", "--rm", "--network=none", image, "timeout", "20", "sh", "-c", script).endswith("gone")


@pytest.mark.feature("S3.6")
def test_no_image_knows_where_packages_came_from_or_has_what_was_built_elsewhere(running: Project) -> None:
    for service in OURS:
        image = json.loads(docker("inspect", running.container(service)))[0]["Config"]["Image"]

        made_by = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image)
        assert "http" not in made_by.replace("http://127.0.0.1", "")  # the health check's
    assert running.inside("worker", "sh", "-c", "ls -d /src /app/* 2> /dev/null || true") == ""


@pytest.mark.feature("S3.6")
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="there is no Prometheus to put into an image")
def test_prometheus_finds_every_service_by_its_name(running: Project) -> None:
    url = f"http://127.0.0.1:{running.ports['prometheus']}/api/v1/targets"

    def up() -> set[str]:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                targets = json.load(answer)["data"]["activeTargets"]
        except OSError:  # it starts
            return set()
        return {target["labels"]["instance"].split(":")[0] for target in targets if target["health"] == "up"}

    eventually(lambda: up() == set(OURS), timeout=60)
    eventually(lambda: running.healthy("prometheus"), timeout=60)


@pytest.mark.feature("S3.6")
@pytest.mark.parametrize("service", [*OURS, "postgres"])
def test_jobs_run_after_a_restart_of_any_service(service: str, running: Project, tf: TaskFlow) -> None:
    began = running.state(service)["StartedAt"]

    running.compose("restart", service)

    assert running.state(service)["StartedAt"] != began
    assert run_script(tf, f"echo after {service}") == f"after {service}\n"


@pytest.mark.feature("S3.6")
def test_all_end_with_status_0_in_their_time_and_the_data_stay(running: Project, tmp_path: Path) -> None:
    """`down` removes containers and network; the next `up` has the jobs that were there."""
    running.compose("stop")
    ended = {service: running.state(service)["ExitCode"] for service in ("postgres", *OURS)}

    assert ended == dict.fromkeys(ended, 0)

    running.compose("down")
    running.compose("up", "--detach", "postgres", "migrate", "queue", "coordinator", "scheduler")
    with TaskFlow(f"127.0.0.1:{running.ports['scheduler']}", timeout=60) as tf:
        assert [job for job in tf.jobs.list(queue="containers") if job.task == "shell.run"]

"""Every service of a real cluster is scraped, by the tests and by a real Prometheus."""

import json
import re
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import grpc
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from taskflow import Constant, Job, TaskFlow
from taskflow_server.runtime.metrics import OTHER_QUEUES
from tests.support.api import Api
from tests.support.cluster import ROOT, ServiceCluster
from tests.support.docs import metrics_of_the_reference, table
from tests.support.prometheus import RULES, Prometheus, program, prometheus
from tests.support.waiting import eventually
from tests.support.workers import working
from tests.unit.test_rules_and_dashboard import expressions

SERVICES = ("queue", "coordinator", "scheduler", "worker", "gateway")
REFERENCE = ROOT / "docs" / "reference" / "metrics.md"
SOON = {"scheduler": {"TASKFLOW_DEPTH_INTERVAL": "0.5"}}
EXAMPLE = str(ROOT / "sdk" / "examples" / "02_worker.py")
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.fixture(scope="module")
def scraped(make_cluster: Callable[..., ServiceCluster]) -> ServiceCluster:
    cluster = make_cluster(services=SERVICES, metrics=True, app="tests.support.metrics_app:tf", env=SOON)
    cluster.start_all()
    cluster.run("example", EXAMPLE, env={"TASKFLOW_ADDRESS": cluster.scheduler_address})
    return cluster


@pytest.fixture
def tf(scraped: ServiceCluster) -> TaskFlow:
    return TaskFlow(scraped.scheduler_address)


def page(cluster: ServiceCluster, service: str) -> str:
    with _OPENER.open(f"http://127.0.0.1:{cluster.metrics_port(service)}/metrics", timeout=5) as answer:
        assert answer.status == 200
        return str(answer.read().decode())


def scrape(cluster: ServiceCluster, service: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(page(cluster, service))}


def value(cluster: ServiceCluster, service: str, name: str, **labels: str) -> float:
    """The sum over the series with these labels."""
    family = re.sub("_(total|count|sum|bucket)$", "", name)
    samples = scrape(cluster, service)[family].samples
    return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())


def counted(cluster: ServiceCluster, name: str, **labels: str) -> float:
    """The value of a coordinator's metric."""
    return value(cluster, "coordinator", f"taskflow_{name}", **labels)


def series(cluster: ServiceCluster) -> set[tuple[str, str, str]]:
    return {
        (service, sample.name, json.dumps(sample.labels, sort_keys=True))
        for service in SERVICES
        for name, family in scrape(cluster, service).items()
        if name.startswith("taskflow_")
        for sample in family.samples
    }


def work(tf: TaskFlow, count: int) -> None:
    for job in list(tf.new_jobs([{"queue": "EmailQueue", "payload": {"to": str(n)}} for n in range(count)])):
        job.wait(timeout=30)


# -- what is counted -------------------------------------------------------------------------------------------------
def test_each_service_counts_what_it_did(scraped: ServiceCluster, tf: TaskFlow) -> None:
    work(tf, 20)

    mail = {"queue": "EmailQueue"}
    eventually(lambda: counted(scraped, "attempts_finished_total", **mail, outcome="succeeded") >= 20)
    assert counted(scraped, "jobs_finished_total", **mail, outcome="succeeded") >= 20
    eventually(lambda: counted(scraped, "attempts_started_total", **mail) >= 20)
    assert value(scraped, "scheduler", "taskflow_jobs_created_total", **mail) >= 20
    assert counted(scraped, "shards_owned") == 16
    eventually(lambda: counted(scraped, "workers_connected") == 2)
    assert counted(scraped, "lanes") >= 1
    eventually(lambda: counted(scraped, "jobs_in_memory") == 0)
    eventually(lambda: value(scraped, "queue", "taskflow_polls_waiting") >= 1)
    assert value(scraped, "queue", "taskflow_queue_service_tasks") == 0
    create = "/taskflow.v1.JobService/CreateJobs"
    assert value(scraped, "scheduler", "taskflow_rpc_seconds_count", method=create) >= 1
    for service in ("scheduler", "coordinator"):
        assert value(scraped, service, "taskflow_db_pool_size") >= 1
        assert value(scraped, service, "taskflow_commit_rows_count") >= 1
    for service in SERVICES:
        assert "process_cpu_seconds" in scrape(scraped, service)


def test_each_attempt_is_timed_from_when_it_could_start(scraped: ServiceCluster, tf: TaskFlow) -> None:
    """One job that is due in a second, fails, and succeeds half a second later: each time counts from its own zero."""
    job = tf.new_job("timed", task="second_time", delay=1.0, retries=1, backoff=Constant(0.5, jitter=0))

    assert job.wait(timeout=30).result == 2

    timed = {"queue": "timed"}
    eventually(lambda: counted(scraped, "job_end_to_end_seconds_count", **timed) == 1)
    assert counted(scraped, "attempts_started_total", **timed) == 2
    assert counted(scraped, "attempts_finished_total", **timed, outcome="failed") == 1
    assert counted(scraped, "jobs_finished_total", **timed) == 1
    assert counted(scraped, "attempt_wait_seconds_count", **timed) == 2
    assert counted(scraped, "attempt_wait_seconds_sum", **timed) < 2 * 0.9, "the delay and the backoff are no waiting"
    assert counted(scraped, "attempt_run_seconds_count", **timed) == 2
    assert 0.2 <= counted(scraped, "attempt_run_seconds_sum", **timed) < 0.5
    assert 0.7 <= counted(scraped, "job_end_to_end_seconds_sum", **timed) < 0.7 + 1.0, "its delay does not count"


def test_a_start_is_counted_while_the_attempt_runs_and_not_again_at_its_end(
    scraped: ServiceCluster, tf: TaskFlow
) -> None:
    go_on = threading.Event()

    def hold(job: Job) -> bool:
        return go_on.wait(60)

    with working(TaskFlow(scraped.scheduler_address), "held", handler=hold):
        job = tf.new_job("held")
        eventually(lambda: counted(scraped, "attempts_started_total", queue="held") == 1)
        assert counted(scraped, "attempt_wait_seconds_count", queue="held") == 1
        assert counted(scraped, "attempt_run_seconds_count", queue="held") == 0
        go_on.set()
        assert job.wait(timeout=30).result is True

    eventually(lambda: counted(scraped, "attempt_run_seconds_count", queue="held") == 1)
    assert counted(scraped, "attempts_started_total", queue="held") == 1
    assert counted(scraped, "attempt_wait_seconds_count", queue="held") == 1


def test_depth_and_age_of_a_queue_that_nobody_serves_are_seen(scraped: ServiceCluster, tf: TaskFlow) -> None:
    tf.new_jobs([{"queue": "nobody", "payload": n} for n in range(7)])

    eventually(lambda: value(scraped, "scheduler", "taskflow_queue_ready", queue="nobody") == 7, timeout=30)
    eventually(lambda: value(scraped, "queue", "taskflow_queue_service_tasks") == 7)
    assert counted(scraped, "lanes_live") >= 1
    eventually(lambda: value(scraped, "scheduler", "taskflow_queue_oldest_seconds", queue="nobody") > 0, timeout=30)


def test_a_task_without_a_worker_is_named_beside_one_that_waits_for_its_worker(
    scraped: ServiceCluster, tf: TaskFlow
) -> None:
    """They share a queue, whose other jobs run."""
    go_on = threading.Event()

    def oldest(task: str, served: str) -> float:
        name = "taskflow_task_oldest_seconds"
        return value(scraped, "scheduler", name, queue="shared", task=task, served=served)

    app = TaskFlow(scraped.scheduler_address)
    app.task(name="slow", queue="shared")(lambda: go_on.wait(60))
    with working(app, concurrency=1):
        jobs = [tf.new_job("shared", {}, task="slow") for _ in range(3)]
        tf.new_job("shared", {}, task="slwo")
        eventually(lambda: oldest("slwo", "no") > 0 and oldest("slow", "yes") > 0, timeout=30)
        assert oldest("slwo", "yes") == oldest("slow", "no") == 0
        go_on.set()
        for job in jobs:
            job.wait(timeout=30)
    eventually(lambda: oldest("slow", "yes") == 0, timeout=30)
    assert oldest("slwo", "no") > 0


def test_more_jobs_make_no_more_series(scraped: ServiceCluster, tf: TaskFlow) -> None:
    work(tf, 10)
    eventually(lambda: value(scraped, "scheduler", "taskflow_queue_ready", queue="EmailQueue") == 0, timeout=30)
    before = series(scraped)

    work(tf, 100)

    methods = {s for s in series(scraped) - before if "method" not in json.loads(s[2])}
    methods = {s for s in methods if s[1] != "taskflow_task_oldest_seconds"}  # as many as wait for long
    assert methods == set(), "an RPC's first call makes its series; nothing else does"


def test_queues_beyond_the_setting_share_a_label_and_lanes_beyond_their_room_are_spilled(
    make_cluster: Callable[..., ServiceCluster],
) -> None:
    few = {"TASKFLOW_METRICS_QUEUES": "2", "TASKFLOW_LANE_DEPTH": "10"}
    cluster = make_cluster(services=SERVICES[:3], metrics=True, env={"scheduler": few, "coordinator": few})
    cluster.start_all()
    tf = TaskFlow(cluster.scheduler_address)

    jobs = list(tf.new_jobs([{"queue": f"q{n % 4}", "payload": n} for n in range(200)]))

    eventually(lambda: counted(cluster, "lanes_spilled") == 4)
    with ExitStack() as stack:
        for n in range(4):
            app = TaskFlow(cluster.scheduler_address)
            stack.enter_context(working(app, f"q{n}", handler=lambda job: job.payload))
        for job in jobs:
            job.wait(timeout=30)

    eventually(lambda: counted(cluster, "lanes_spilled") == 0)
    for service, name, each in (
        ("scheduler", "jobs_created_total", 50), ("coordinator", "jobs_finished_total", 50),
        ("coordinator", "attempt_wait_seconds_count", 50),
    ):  # fmt: skip
        samples = [s for f in scrape(cluster, service).values() for s in f.samples if s.name == f"taskflow_{name}"]
        sums: dict[str, float] = {}
        for sample in samples:
            sums[sample.labels["queue"]] = sums.get(sample.labels["queue"], 0) + sample.value
        assert sums.pop(OTHER_QUEUES) == 2 * each
        assert len(sums) == 2 and set(sums.values()) == {each}


# -- names -----------------------------------------------------------------------------------------------------------
def test_names_and_labels_are_those_of_the_reference(scraped: ServiceCluster) -> None:
    known = metrics_of_the_reference()
    values = {row[0].strip("`"): set(re.findall(r"`([^`]+)`", row[1])) for row in table(REFERENCE, "label")}

    for service in SERVICES:
        for name, family in scrape(scraped, service).items():
            if not name.startswith("taskflow_"):
                continue
            shown = name + ("_total" if family.type == "counter" else "")
            assert shown in known, f"{service} has {shown}, and docs/reference/metrics.md has not"
            for sample in family.samples:
                assert set(sample.labels) - {"le"} <= known[shown]
                for label in {"outcome", "reason", "what"} & sample.labels.keys():
                    assert sample.labels[label] in values[label]


def test_a_queue_has_as_many_series_as_the_reference_says(scraped: ServiceCluster, tf: TaskFlow) -> None:
    work(tf, 1)
    words = " ".join(REFERENCE.read_text().split())
    told = re.search(r"has (\d+) series in a coordinator, (\d+) in a scheduler", words)
    assert told is not None

    def of(service: str) -> int:
        return page(scraped, service).count('queue="EmailQueue"')

    eventually(lambda: of("scheduler") == int(told[2]), timeout=30)
    eventually(lambda: of("coordinator") == int(told[1]))


@pytest.mark.parametrize("service", SERVICES)
def test_promtool_finds_nothing_wrong_with_a_page(scraped: ServiceCluster, service: str) -> None:
    command = [program("promtool"), "check", "metrics"]

    done = subprocess.run(command, input=page(scraped, service), capture_output=True, text=True)

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


# -- a real Prometheus -----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def asked(scraped: ServiceCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """It has scraped every service, each of which has something to tell."""
    ports = {service: scraped.metrics_port(service) for service in SERVICES}
    with prometheus(ports, tmp_path_factory.mktemp("prometheus")) as running:
        work(TaskFlow(scraped.scheduler_address), 20)
        with Api(scraped.scheduler_address) as api:
            _provoke_failures(api)
        eventually(lambda: {s["job"] for s, up in running.query("up") if up} == {f"taskflow-{s}" for s in SERVICES})
        yield running


def _provoke_failures(api: Api) -> None:
    """Some series begin with the first mishap of their kind."""
    with pytest.raises(grpc.RpcError):
        api.new("not a name")


@pytest.mark.feature("S3.6")
def test_a_real_prometheus_answers_for_every_name_of_the_reference(asked: Prometheus) -> None:
    told = asked.get("metadata")
    for row in table(REFERENCE, "metric"):
        name, kind, labels = row[0].strip("`"), row[1], set(re.findall(r"`(\w+)`", row[2]))
        for shown in [f"{name}_{part}" for part in ("bucket", "sum", "count")] if kind == "histogram" else [name]:
            found = eventually(lambda shown=shown: asked.query(shown), timeout=30)  # type: ignore[misc]
            for series, _ in found:
                # An empty label, as the task of a queue's own handler, is none to Prometheus.
                assert labels - {"task"} <= series.keys(), shown
        (meta,) = told.get(name) or told[name.removesuffix("_total")]
        assert (meta["type"], meta["help"]) == (kind, row[4])


def test_prometheus_and_the_services_tell_the_same(scraped: ServiceCluster, tf: TaskFlow, asked: Prometheus) -> None:
    work(tf, 5)

    for name in ("jobs_finished_total", "attempts_started_total", "job_end_to_end_seconds_count"):

        def both(name: str = name) -> tuple[float, float]:
            ((_, theirs),) = asked.query(f'sum(taskflow_{name}{{queue="EmailQueue"}})')
            return theirs, counted(scraped, name, queue="EmailQueue")

        eventually(lambda both=both: len(set(both())) == 1)  # type: ignore[misc]
        assert both()[0] >= 25


def test_prometheus_takes_what_rules_dashboard_and_page_ask(asked: Prometheus) -> None:
    answered = [expression for expression in expressions() if asked.query(expression)]

    assert len(answered) > len(expressions()) / 2, "alerts are silent; panels show something"


def test_its_rules_are_loaded_and_healthy(asked: Prometheus) -> None:
    def rules() -> list[dict[str, str]]:
        return [rule for group in asked.get("rules")["groups"] for rule in group["rules"]]

    eventually(lambda: all(rule["health"] == "ok" for rule in rules()), timeout=30)
    assert {rule["name"] for rule in rules()} == set(re.findall(r"- alert: (\w+)", RULES.read_text()))

"""Every service of a real cluster is scraped: what stands there is what the reference, rules and dashboard name."""

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from taskflow import TaskFlow
from tests.support.cluster import ROOT, ServiceCluster
from tests.support.docs import table
from tests.support.plainyaml import read
from tests.support.waiting import eventually

SERVICES = ("queue", "coordinator", "scheduler", "worker")
RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "taskflow.json"
EXAMPLE = str(ROOT / "sdk" / "examples" / "02_worker.py")
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_FUNCTIONS = {
    "and", "by", "histogram_quantile", "increase", "max", "min", "on", "or", "rate", "sum", "unless", "up", "without"
}  # fmt: skip


@pytest.fixture(scope="module")
def scraped(make_cluster: Callable[..., ServiceCluster]) -> ServiceCluster:
    cluster = make_cluster(services=SERVICES, metrics=True)
    cluster.start_all()
    cluster.run("example", EXAMPLE, env={"TASKFLOW_ADDRESS": cluster.scheduler_address})
    return cluster


def scrape(cluster: ServiceCluster, service: str) -> dict[str, Metric]:
    with _OPENER.open(f"http://127.0.0.1:{cluster.metrics_port(service)}/metrics", timeout=5) as answer:
        assert answer.status == 200
        return {family.name: family for family in text_string_to_metric_families(answer.read().decode())}


def value(cluster: ServiceCluster, service: str, name: str, **labels: str) -> float:
    """The sum over the series with these labels."""
    family = name.removesuffix("_total").removesuffix("_count")
    samples = scrape(cluster, service)[family].samples
    return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())


def documented() -> dict[str, set[str]]:
    """Names of metrics in the reference, and their labels."""
    page = ROOT / "docs" / "reference" / "metrics.md"
    return {row[0].strip("`"): set(re.findall(r"`(\w+)`", row[2])) for row in table(page, "metric")}


def series(cluster: ServiceCluster) -> set[tuple[str, str, str]]:
    return {
        (service, sample.name, json.dumps(sample.labels, sort_keys=True))
        for service in SERVICES
        for name, family in scrape(cluster, service).items()
        if name.startswith("taskflow_")
        for sample in family.samples
    }


def work(cluster: ServiceCluster, count: int) -> None:
    tf = TaskFlow(cluster.scheduler_address)
    for job in list(tf.new_jobs([{"queue": "EmailQueue", "payload": {"to": str(n)}} for n in range(count)])):
        job.wait(timeout=30)


def test_each_service_counts_what_it_did(scraped: ServiceCluster) -> None:
    work(scraped, 20)

    def finished() -> float:
        labels = {"queue": "EmailQueue", "outcome": "succeeded"}
        return value(scraped, "coordinator", "taskflow_attempts_finished_total", **labels)

    eventually(lambda: finished() >= 20)
    assert value(scraped, "scheduler", "taskflow_jobs_created_total", queue="EmailQueue") >= 20
    assert value(scraped, "coordinator", "taskflow_shards_owned") == 16
    assert value(scraped, "coordinator", "taskflow_workers_connected") == 1
    assert value(scraped, "coordinator", "taskflow_lanes") >= 1
    eventually(lambda: value(scraped, "coordinator", "taskflow_jobs_in_memory") == 0)
    eventually(lambda: value(scraped, "queue", "taskflow_polls_waiting") >= 1)
    assert value(scraped, "queue", "taskflow_queue_service_tasks") == 0
    create = "/taskflow.v1.JobService/CreateJobs"
    assert value(scraped, "scheduler", "taskflow_rpc_seconds_count", method=create) >= 1
    for service in ("scheduler", "coordinator"):
        assert value(scraped, service, "taskflow_db_pool_size") >= 1
    for service in SERVICES:
        assert "process_cpu_seconds" in scrape(scraped, service)


def test_depth_and_age_of_a_queue_that_nobody_serves_are_seen(scraped: ServiceCluster) -> None:
    TaskFlow(scraped.scheduler_address).new_jobs([{"queue": "nobody", "payload": n} for n in range(7)])

    eventually(lambda: value(scraped, "scheduler", "taskflow_queue_ready", queue="nobody") == 7, timeout=30)
    assert value(scraped, "queue", "taskflow_queue_service_tasks") == 7
    eventually(lambda: value(scraped, "scheduler", "taskflow_queue_oldest_seconds", queue="nobody") > 0, timeout=30)


def test_more_jobs_make_no_more_series(scraped: ServiceCluster) -> None:
    work(scraped, 10)
    eventually(lambda: value(scraped, "scheduler", "taskflow_queue_ready", queue="EmailQueue") == 0, timeout=30)
    before = series(scraped)

    work(scraped, 100)

    methods = {s for s in series(scraped) - before if "method" not in json.loads(s[2])}
    assert methods == set(), "an RPC's first call makes its series; nothing else does"


def test_names_and_labels_are_those_of_the_reference(scraped: ServiceCluster) -> None:
    known = documented()

    for service in SERVICES:
        for name, family in scrape(scraped, service).items():
            if not name.startswith("taskflow_") or name.endswith("_created"):
                continue
            shown = name + ("_total" if family.type == "counter" else "")
            assert shown in known, f"{service} has {shown}, and docs/reference/metrics.md has not"
            for sample in family.samples:
                assert set(sample.labels) - {"le"} <= known[shown]


def expressions() -> list[str]:
    rules = [rule["expr"] for group in read(RULES)["groups"] for rule in group["rules"]]
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return rules + [target["expr"] for panel in panels for target in panel["targets"]]


@pytest.mark.parametrize("expression", expressions())
def test_rules_and_dashboard_ask_for_metrics_that_there_are(expression: str) -> None:
    """Not PromQL's grammar: words, labels and brackets. promtool knows the rest, where it is installed."""
    known = documented()
    bare = re.sub(r'"[^"]*"', '""', expression)
    labels = {
        label
        for inside in re.findall(r"(?:by|on|without) \(([^)]*)\)", bare) + re.findall(r"\{([^}]*)\}", bare)
        for label in re.findall(r"[a-z]\w*", inside)
    }
    words = re.findall(r"[a-z_]\w*", re.sub(r"\{[^}]*\}|\[\d+[smhd]\]|\((?:[a-z]+(?:, )?)+\)", " ", bare))

    metrics = {word for word in words if word not in _FUNCTIONS}
    families = {re.sub(r"_(bucket|sum|count)$", "", word) for word in metrics}
    assert families <= known.keys()
    assert labels <= {"le", "instance", "job"}.union(*(known[name] for name in families))
    for left, right in ("()", "[]", "{}"):
        assert bare.count(left) == bare.count(right)


def test_every_alert_says_what_it_is_about() -> None:
    for group in read(RULES)["groups"]:
        names = [rule["alert"] for rule in group["rules"]]
        assert len(names) == len(set(names))
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("critical", "warning")
            assert rule["annotations"]["summary"]
            assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))


def test_promtool_takes_the_rules(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian's package prometheus has it)")

    done = subprocess.run([promtool, "check", "rules", RULES], capture_output=True, text=True, cwd=tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr

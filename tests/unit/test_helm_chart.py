"""The Helm chart, rendered by Helm's own engine: valid for Kubernetes and for the operators whose resources it has, and
with no variable that the services do not have. docs/operations/kubernetes.md says what is open without a cluster."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from taskflow_server.coordinator.settings import CoordinatorSettings
from taskflow_server.gateway.settings import GatewaySettings
from taskflow_server.queue.__main__ import QueueSettings
from taskflow_server.runtime.settings import ServiceSettings, load
from taskflow_server.scheduler.settings import SchedulerSettings
from taskflow_server.worker.settings import WorkerSettings
from tests.support.docs import ROOT, blocks, table

helm = pytest.importorskip("helm_python", reason="its wheel is for Linux on x86-64")
kubernetes_validate = pytest.importorskip("kubernetes_validate")

CHART = ROOT / "deploy" / "helm" / "taskflow"
PAGE = ROOT / "docs" / "operations" / "kubernetes.md"
OLDEST, NEWEST = "1.28", "1.37"  # the first is Chart.yaml's kubeVersion
SERVICES: dict[str, type[ServiceSettings]] = {
    "scheduler": SchedulerSettings, "coordinator": CoordinatorSettings, "queue": QueueSettings,
    "gateway": GatewaySettings, "worker": WorkerSettings,
}  # fmt: skip
URL = "postgresql://me:xyzzyplugh@db:5432/shop"

EVERYTHING: dict[str, Any] = {
    "fullnameOverride": "jobs",
    "image": {"repository": "registry.example.com/tf/taskflow", "tag": "1.2.3", "pullSecrets": ["registry"]},
    "database": {"existingSecret": "pg", "key": "uri", "tlsSecret": "pg-ca"},
    "serviceAccount": {"name": "jobs-runner", "annotations": {"team": "city"}},
    "networkPolicy": {
        "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    },
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "scheduler": {
        "replicas": 3, "antiAffinity": "hard", "settings": {"TASKFLOW_MAX_BATCH": "2000"},
        "service": {"type": "LoadBalancer", "annotations": {"internal": "true"}}, "podLabels": {"tier": "api"},
        "podAnnotations": {"note": "api"}, "nodeSelector": {"disk": "ssd"}, "priorityClassName": "high",
        "tolerations": [{"key": "jobs", "operator": "Exists"}], "extraEnv": [{"name": "TZ", "value": "UTC"}],
    },
    "coordinator": {
        "replicas": 3, "antiAffinity": "hard", "advertise": ["jobs.example.com:9001"],
        "settings": {"TASKFLOW_MEMORY_BYTES": "1048576000"},
    },
    "queue": {"advertise": ["jobs.example.com:9002"], "settings": {"TASKFLOW_PRIORITY_AGING": "3"}},
    "gateway": {
        "allowedHosts": ["jobs.internal"],
        "extraVolumes": [{"name": "nodes", "configMap": {"name": "designer"}}],
        "extraVolumeMounts": [{"name": "nodes", "mountPath": "/etc/designer"}],
        "ingress": {
            "enabled": True, "className": "nginx", "annotations": {"nginx.ingress.kubernetes.io/auth-url": "https://a"},
            "hosts": ["jobs.example.com"], "tls": [{"secretName": "jobs-tls", "hosts": ["jobs.example.com"]}],
        },
    },
    "worker": {
        "image": "registry.example.com/shop/worker", "tag": "7", "app": "shop.tasks:app", "concurrency": 5,
        "queues": ["emails", "a+b"], "graceSeconds": 120, "envFromSecrets": ["shop"],
        "settings": {"TASKFLOW_BUILTINS": "http,shell"},
        "extraVolumes": [{"name": "shop", "secret": {"secretName": "shop-files"}}],
        "extraVolumeMounts": [{"name": "shop", "mountPath": "/etc/shop", "readOnly": True}],
        "extraEnv": [{"name": "SHOP_REGION", "valueFrom": {"configMapKeyRef": {"name": "shop", "key": "region"}}}],
        "keda": {"enabled": True, "prometheusAddress": "http://prometheus.monitoring:9090", "maxReplicas": 50},
    },
}  # fmt: skip
LITTLE: dict[str, Any] = {
    "migrate": {"enabled": False},
    "serviceAccount": {"create": False},
    "networkPolicy": {"enabled": False},
    **{
        name: {"replicas": 1, "antiAffinity": "off", "podDisruptionBudget": {"enabled": False}}
        for name in ("scheduler", "coordinator")
    },
    "gateway": {"enabled": False},
    "worker": {"enabled": False},
}
SETS: dict[str, dict[str, Any]] = {"defaults": {}, "everything": EVERYTHING, "little": LITTLE} | {
    f"page-{n}": yaml.safe_load(text) for n, text in enumerate(blocks(PAGE, "yaml") if PAGE.exists() else [])
}


@pytest.fixture(scope="module")
def chart() -> Iterator[Any]:
    with helm.Chart.load(CHART) as loaded:
        yield loaded


@pytest.fixture(params=SETS)
def documents(chart: Any, request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """The chart rendered with one set of values."""
    return rendered(chart, SETS[request.param])


@pytest.fixture
def everything(chart: Any) -> list[dict[str, Any]]:
    return rendered(chart, EVERYTHING)


def rendered(chart: Any, values: dict[str, Any]) -> list[dict[str, Any]]:
    """Made once for each set of values."""
    key = json.dumps(values)
    if key not in _made:
        texts = chart.render(values, name="tf", namespace="city")
        parts = [yaml.safe_load_all(text) for path, text in texts.items() if path.endswith(".yaml")]
        _made[key] = [each for part in parts for each in part if each]
    return _made[key]


read_schema = functools.cache(kubernetes_validate.utils.schema_contents)  # it parses megabytes for each document
_made: dict[str, list[dict[str, Any]]] = {}


def of_kind(documents: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [each for each in documents if each["kind"] in kinds]


def one(documents: list[dict[str, Any]], kind: str, end: str = "") -> dict[str, Any]:
    (found,) = [each for each in of_kind(documents, kind) if each["metadata"]["name"].endswith(end)]
    return found


def workloads(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return of_kind(documents, "StatefulSet", "Deployment", "Job")


def container(workload: dict[str, Any]) -> dict[str, Any]:
    (found,) = workload["spec"]["template"]["spec"]["containers"]
    return dict(found)


def labels_of_pods(workload: dict[str, Any]) -> dict[str, str]:
    return dict(workload["spec"]["template"]["metadata"]["labels"])


def services(documents: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The workloads of the five services, by name."""
    return {container(each)["name"]: each for each in of_kind(documents, "StatefulSet", "Deployment")}


# -- is it valid ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("values", "version"), [*((name, NEWEST) for name in SETS), ("everything", OLDEST)])
def test_what_is_rendered_is_valid_for_kubernetes(
    chart: Any, values: str, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strictly: a field that the published schema does not have is refused."""
    monkeypatch.setattr(kubernetes_validate.utils, "schema_contents", read_schema)
    documents = rendered(chart, SETS[values])
    known = [each for each in documents if each["kind"] not in ("ScaledObject", "ServiceMonitor")]
    assert len(known) >= 5
    for each in known:
        kubernetes_validate.validate(each, version, strict=True)


def test_what_operators_read_is_valid_for_their_definitions(everything: list[dict[str, Any]]) -> None:
    """The models are made of the operators' own CRDs. They pass over a field that they do not know, so what they have
    understood is compared with what was rendered."""
    keda = pytest.importorskip("cloudcoil.models.keda.v1alpha1")
    operator = pytest.importorskip("cloudcoil.models.prometheus_operator.v1")
    for kind, model in (("ScaledObject", keda.ScaledObject), ("ServiceMonitor", operator.ServiceMonitor)):
        resource = one(everything, kind)

        understood = model.model_validate(resource).model_dump(by_alias=True, exclude_unset=True, mode="json")

        assert understood["spec"] == resource["spec"]
        assert understood["apiVersion"] == resource["apiVersion"]


def test_helm_s_linter_finds_no_fault() -> None:
    found = helm.lint(CHART, EVERYTHING, strict=True)

    assert found["errors"] == []
    assert [message for message in found["messages"] if message["severity"] > 1] == []


def test_the_chart_is_of_the_version_of_the_services() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)

    assert version is not None and chart["appVersion"] == version[1]
    assert chart["kubeVersion"] == f">={OLDEST}.0-0"


WRONG = [
    ({"scheduler": {"replicas": "two"}}, "at '/scheduler/replicas': got string, want integer"),
    ({"shceduler": {}}, "additional properties 'shceduler' not allowed"),
    ({"scheduler": {"antiAffinity": "strong"}}, "/antiAffinity': value must be one of 'soft', 'hard', 'off'"),
    ({"worker": {"settings": {"TASKFLOW_NAME": "x"}}}, "at '/worker/settings': additional properties 'TASKFLOW_NAME'"),
    ({"worker": {"settings": {"TASKFLOW_GRASE": "1"}}}, "additional properties 'TASKFLOW_GRASE' not allowed"),
    ({"coordinator": {"settings": {"TASKFLOW_LEASE": 20}}}, "settings/TASKFLOW_LEASE': got number, want string"),
    ({"worker": {"keda": {"enabled": True}}}, "at '/worker/keda/prometheusAddress'"),
    ({"worker": {"image": "shop/worker"}}, "at '/worker/tag'"),
    ({"worker": {"app": "shop.tasks"}}, "at '/worker/app'"),
    ({"gateway": {"ingress": {"enabled": True}}}, "at '/gateway/ingress/hosts': minItems"),
    ({"database": {"existingSecret": ""}}, "at '/database/existingSecret'"),
    ({"database": {"url": URL}}, "at '/database': additional properties 'url' not allowed"),
    ({"queue": {"replicas": 2}}, "at '/queue': additional properties 'replicas' not allowed"),
    ({"log": {"level": "loud"}}, "at '/log/level': value must be one of 'debug', 'info', 'warning', 'error'"),
    ({"scheduler": {"podDisruptionBudget": {"maxUnavailable": 0}}}, "'/scheduler/podDisruptionBudget/maxUnavailable'"),
    ({"coordinator": {"advertise": ["http://a:9001"]}}, "at '/coordinator/advertise/0'"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "said"), WRONG, ids=[said[:60] for _, said in WRONG])
def test_a_wrong_value_is_refused_with_its_place(chart: Any, values: dict[str, Any], said: str) -> None:
    with pytest.raises(helm.HelmError) as refused:
        chart.render(values, name="tf", namespace="city")

    assert said in str(refused.value)
    assert "xyzzyplugh" not in str(refused.value)


# -- is it what the services have ------------------------------------------------------------------------------------


def settings_in(workload: dict[str, Any]) -> dict[str, str]:
    """The environment of a container as its process would see it."""
    found: dict[str, str] = {}
    for variable in container(workload)["env"]:
        name, source = variable["name"], variable.get("valueFrom", {})
        assert name not in found, "the last of two would count"
        if "fieldRef" in source:
            found[name] = f"{workload['metadata']['name']}-0"
        elif "secretKeyRef" in source:
            found[name] = URL
        elif "value" in variable:
            found[name] = re.sub(r"\$\((\w+)\)", lambda match: found[match[1]], variable["value"])
    return found


@pytest.mark.parametrize("values", SETS)
@pytest.mark.parametrize("service", SERVICES)
def test_a_service_takes_each_variable_that_it_is_given(
    chart: Any, service: str, values: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload = services(rendered(chart, SETS[values])).get(service)
    if workload is None:
        assert not SETS[values][service]["enabled"]
        return
    given = settings_in(workload)
    cls = SERVICES[service]
    ours = {name for name in given if name.startswith("TASKFLOW_")}
    assert ours <= {f"TASKFLOW_{field.upper()}" for field in cls.model_fields}
    for name in ours:
        monkeypatch.setenv(name, given[name])

    settings = load(cls)

    assert settings.name == given["POD_NAME"]
    assert settings.host == "0.0.0.0"
    ports = {port["name"]: port["containerPort"] for port in container(workload)["ports"]}
    assert {settings.port, settings.metrics_port} == set(ports.values())


@pytest.mark.parametrize("service", SERVICES)
def test_the_schema_has_each_setting_that_the_chart_does_not_set_itself(chart: Any, service: str) -> None:
    known = {f"TASKFLOW_{field.upper()}" for field in SERVICES[service].model_fields}
    offered = set(chart.schema["properties"][service]["properties"]["settings"]["properties"])
    everything = dict(EVERYTHING, **{service: {**EVERYTHING[service], "settings": {}}})
    set_by_the_chart = set(settings_in(services(rendered(chart, everything))[service])) & known
    ports = {"TASKFLOW_PORT", "TASKFLOW_METRICS_PORT"}  # the chart has no others
    unused = {"TASKFLOW_ADVERTISE"} if service in ("queue", "gateway", "worker") else set()  # the coordinator says it

    assert offered == known - set_by_the_chart - ports - unused, "change values.schema.json of the chart"


def test_parts_find_each_other_by_the_names_of_services_that_are_there(everything: list[dict[str, Any]]) -> None:
    names = {f"{each['metadata']['name']}.city.svc": each for each in of_kind(everything, "Service")}
    given = {name: settings_in(workload) for name, workload in services(everything).items()}
    addresses = [
        address
        for env in given.values()
        for name, value in env.items()
        if name.endswith(("_ADDRESS", "_ADVERTISE"))
        for address in value.split(",")
        if not address.startswith("jobs.example.com")
    ]

    assert len(addresses) == 6
    for address in addresses:
        host, _, port = address.partition(":")
        pod, _, service = host.partition(".") if host.count(".") > 2 else ("", "", host)
        assert int(port) in [each["port"] for each in names[service]["spec"]["ports"]]
        assert not pod or pod in given[pod.split("-")[1]]["TASKFLOW_NAME"]
    assert given["coordinator"]["TASKFLOW_QUEUE_NAME"] == given["queue"]["TASKFLOW_NAME"]
    assert given["coordinator"]["TASKFLOW_QUEUE_ADVERTISE"].endswith(",jobs.example.com:9002")


def test_services_budgets_and_monitors_select_the_pods_that_they_name(documents: list[dict[str, Any]]) -> None:
    parts = services(documents)
    for each in of_kind(documents, "Service", "PodDisruptionBudget", "ScaledObject"):
        part = each["metadata"]["labels"]["app.kubernetes.io/component"]
        if each["kind"] == "ScaledObject":
            assert each["spec"]["scaleTargetRef"]["name"] == parts[part]["metadata"]["name"]
            assert "replicas" not in parts[part]["spec"], "KEDA and Helm would both set it"
            continue
        wanted = each["spec"]["selector"].get("matchLabels", each["spec"]["selector"])
        chosen = [name for name, work in parts.items() if wanted.items() <= labels_of_pods(work).items()]
        assert chosen == [part]
    for name, work in parts.items():
        assert work["spec"]["selector"]["matchLabels"].items() <= labels_of_pods(work).items()
        headless = work["spec"].get("serviceName")
        assert headless is None or one(documents, "Service", headless)["spec"]["clusterIP"] == "None", name
    for policy in of_kind(documents, "NetworkPolicy"):
        wanted = policy["spec"]["podSelector"]["matchLabels"]
        assert all(wanted.items() <= labels_of_pods(each).items() for each in parts.values())
    names = [(each["kind"], each["metadata"]["name"]) for each in documents]
    assert len(names) == len(set(names))
    assert all(len(name) <= 63 for _, name in names)


def test_prometheus_scrapes_each_service_once_under_the_job_of_its_rules(everything: list[dict[str, Any]]) -> None:
    monitor = one(everything, "ServiceMonitor")
    wanted = monitor["spec"]["selector"]["matchLabels"]
    chosen = [each for each in of_kind(everything, "Service") if wanted.items() <= each["metadata"]["labels"].items()]
    parts = [each["metadata"]["labels"]["app.kubernetes.io/component"] for each in chosen]
    ports = [port["port"] for each in chosen for port in each["spec"]["ports"] if port["name"] == "metrics"]

    assert sorted(parts) == sorted(SERVICES)
    assert sorted(ports) == sorted(cls.model_fields["metrics_port"].default for cls in SERVICES.values())
    scraped = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    rule = monitor["spec"]["endpoints"][0]["relabelings"][0]
    assert rule["targetLabel"] == "job"
    assert {rule["replacement"].replace("$1", part) for part in parts} == {each["job_name"] for each in scraped}


@pytest.mark.feature("X.23")
def test_keda_asks_for_a_metric_that_the_scheduler_has(everything: list[dict[str, Any]]) -> None:
    (trigger,) = one(everything, "ScaledObject")["spec"]["triggers"]
    query = trigger["metadata"]["query"]
    (row,) = [row for row in table(ROOT / "docs" / "reference" / "metrics.md", "metric")
              if row[0] == "`taskflow_queue_ready`"]  # fmt: skip

    assert query == 'sum(max by (queue) (taskflow_queue_ready{namespace="city",queue=~"emails|a\\\\+b"}))'
    assert row[2:4] == ["`queue`", "scheduler"]
    assert trigger["metadata"]["threshold"] == "50"


def test_the_ingress_s_hosts_are_those_that_the_gateway_answers_to(everything: list[dict[str, Any]]) -> None:
    ingress = one(everything, "Ingress")
    hosts = [rule["host"] for rule in ingress["spec"]["rules"]]

    assert settings_in(services(everything)["gateway"])["TASKFLOW_ALLOWED_HOSTS"] == "jobs.internal,jobs.example.com"
    assert hosts == ["jobs.example.com"] == ingress["spec"]["tls"][0]["hosts"]


def test_an_image_runs_what_its_target_in_the_dockerfile_runs(documents: list[dict[str, Any]]) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    targets = dict(re.findall(r"^FROM base AS (\w+)\n.*?^CMD (\[.*?\])$", dockerfile, re.MULTILINE | re.DOTALL))
    for name, workload in services(documents).items():
        assert container(workload)["args"] == json.loads(targets[name])
    for job in of_kind(documents, "Job"):
        assert container(job)["args"] == ["taskflow-server", "db", "migrate"]
        assert "-scheduler:" in container(job)["image"]


# -- is it safe ------------------------------------------------------------------------------------------------------


def test_no_pod_has_more_rights_than_it_needs(documents: list[dict[str, Any]]) -> None:
    for workload in workloads(documents):
        pod, image = workload["spec"]["template"]["spec"], container(workload)
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001, "the Dockerfile's"
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False, "a Service named taskflow would set TASKFLOW_PORT"
        assert image["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        assert {"name": "tmp", "mountPath": "/tmp"} in image["volumeMounts"]
        assert {"requests", "limits"} <= image["resources"].keys()


def test_the_database_s_url_is_in_a_secret_and_only_where_it_is_needed(everything: list[dict[str, Any]]) -> None:
    with_url = {}
    for workload in workloads(everything):
        for variable in container(workload)["env"]:
            if variable["name"] == "TASKFLOW_DATABASE_URL":
                with_url[container(workload)["name"]] = variable["valueFrom"]["secretKeyRef"]
        mounted = "database-tls" in [each["name"] for each in container(workload)["volumeMounts"]]
        assert mounted == (container(workload)["name"] in with_url)

    assert with_url == {name: {"name": "pg", "key": "uri"} for name in ("scheduler", "coordinator", "migrate")}
    assert not of_kind(everything, "Secret")


def test_only_the_namespace_and_named_peers_reach_the_pods(chart: Any, everything: list[dict[str, Any]]) -> None:
    peers = [{"podSelector": {}}]
    assert one(rendered(chart, {}), "NetworkPolicy")["spec"]["ingress"] == [{"from": peers}]
    more = EVERYTHING["networkPolicy"]["from"]
    assert one(everything, "NetworkPolicy")["spec"]["ingress"] == [{"from": [*peers, *more]}]


# -- does it come and go in order --------------------------------------------------------------------------------------


def test_migrations_go_before_the_services(everything: list[dict[str, Any]]) -> None:
    job = one(everything, "Job")

    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert "serviceAccountName" not in job["spec"]["template"]["spec"], "at an install it is not there yet"
    assert job["spec"]["activeDeadlineSeconds"] == 600


def test_a_pod_has_the_time_that_its_service_needs_to_stop(
    documents: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, workload in services(documents).items():
        for variable, value in settings_in(workload).items():
            monkeypatch.setenv(variable, value)
        settings = load(SERVICES[name])
        hook = container(workload).get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["", "0"])
        needed = float(hook[1]) + settings.stop_grace + (settings.grace if isinstance(settings, WorkerSettings) else 0)

        assert workload["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > needed
        for variable in settings_in(workload):
            monkeypatch.delenv(variable)


def test_probes_ask_what_a_restart_or_an_endpoint_can_mend(documents: list[dict[str, Any]]) -> None:
    """Alive: it listens. Ready: its health; but a standby coordinator does not serve, and must not stop a rollout."""
    for name, workload in services(documents).items():
        image, port = container(workload), SERVICES[name].model_fields["port"].default
        ports = {each["name"]: each["containerPort"] for each in image["ports"]}
        assert ports[image["livenessProbe"]["tcpSocket"]["port"]] == port
        assert ports[image["startupProbe"]["tcpSocket"]["port"]] == port
        ready = image["readinessProbe"]
        if name == "gateway":
            assert ready["httpGet"] == {"path": "/healthz", "port": "http"}
        elif name == "coordinator":
            assert ready["tcpSocket"] == {"port": "grpc"}
        else:
            assert ready["grpc"] == {"port": port}


@pytest.mark.parametrize(("how", "field"), [("soft", "preferred"), ("hard", "required"), ("off", "")])
def test_replicas_are_kept_apart_as_far_as_one_says(chart: Any, how: str, field: str) -> None:
    documents = rendered(chart, {name: {"antiAffinity": how} for name in SERVICES if name != "queue"})
    for name, workload in services(documents).items():
        affinity = workload["spec"]["template"]["spec"].get("affinity", {}).get("podAntiAffinity", {})
        wanted = f"{field}DuringSchedulingIgnoredDuringExecution"
        assert list(affinity) == ([wanted] if field and name != "queue" else [])
    budgets = of_kind(documents, "PodDisruptionBudget")
    parts = {each["metadata"]["labels"]["app.kubernetes.io/component"] for each in budgets}
    assert parts == set(SERVICES) - {"queue"}, "one would keep its only pod from being moved"

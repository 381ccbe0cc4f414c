"""Services and clients on IPv6, and on the wrong port."""

import socket
from collections.abc import Callable

import pytest

from taskflow import TaskFlow, Unavailable
from taskflow_server.cluster.health import is_serving
from taskflow_server.cluster.ports import free_ports
from tests.support.cluster import ServiceCluster
from tests.support.waiting import eventually


def _needs_ipv6() -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6 on loopback")


def test_a_whole_cluster_works_on_ipv6_alone(make_cluster: Callable[..., ServiceCluster], database: str) -> None:
    """Each spelling of the address once, and both of several addresses of a name."""
    _needs_ipv6()
    queue, coordinator, scheduler, gateway, metrics = free_ports(5)
    cluster = make_cluster()
    common = {"TASKFLOW_DATABASE_URL": database, "TASKFLOW_METRICS_PORT": "0"}
    services = {
        "queue": (queue, {"TASKFLOW_HOST": "::1", "TASKFLOW_METRICS_PORT": str(metrics)}),
        "coordinator": (coordinator, {"TASKFLOW_HOST": "[::1]", "TASKFLOW_QUEUE_ADDRESS": f"[::1]:{queue}"}),
        "scheduler": (scheduler, {"TASKFLOW_HOST": "::"}),
        "gateway": (gateway, {"TASKFLOW_HOST": "::1", "TASKFLOW_SCHEDULER_ADDRESS": f"[::1]:{scheduler}"}),
    }
    for name, (port, env) in services.items():
        cluster.run(f"{name}-6", "-m", "taskflow_server.cli", name, env={**common, **env, "TASKFLOW_PORT": str(port)})
    eventually(lambda: is_serving(f"http://[::1]:{gateway}/healthz", 2), timeout=30)
    eventually(lambda: is_serving(f"[::1]:{coordinator}", 2), timeout=30)

    cluster.run(
        "adder", "-m", "taskflow._cli", "worker", "tests.support.cli_app:app",
        env={"TASKFLOW_ADDRESS": f"[0:0:0:0:0:0:0:1]:{scheduler}"},
    )  # fmt: skip
    with TaskFlow(f"[::1]:{scheduler}") as tf:
        assert tf.new_job("sums", {"a": 1, "b": 1}, task="add").wait(timeout=30).result == 2
    with TaskFlow(f"localhost:{scheduler}") as tf:
        assert len(list(tf.jobs.list())) == 1
    with socket.create_connection(("::1", metrics), 5):
        pass


def test_the_gateway_s_port_in_place_of_the_scheduler_s_is_told_apart(
    make_cluster: Callable[..., ServiceCluster],
) -> None:
    cluster = make_cluster()
    (port,) = free_ports(1)
    env = {"TASKFLOW_PORT": str(port), "TASKFLOW_METRICS_PORT": "0"}
    cluster.run("gateway-9", "-m", "taskflow_server.cli", "gateway", env=env)
    eventually(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, timeout=30)

    with TaskFlow(f"127.0.0.1:{port}", timeout=2) as tf, pytest.raises(Unavailable) as refused:
        list(tf.jobs.list())

    assert "speaks HTTP/1, as TaskFlow's gateway does; the scheduler's port is 9003 by default" in str(refused.value)

"""The whole cluster behind a real PgBouncer that pools sessions."""

from collections.abc import Callable

from taskflow import TaskFlow
from tests.support.cluster import ServiceCluster
from tests.support.pgbouncer import pgbouncer


def test_jobs_run_behind_a_pooler_of_sessions(database: str, make_cluster: Callable[..., ServiceCluster]) -> None:
    with pgbouncer(database, "session") as pooled:
        cluster = make_cluster(dsn=pooled)
        cluster.start_all()
        cluster.run(
            "adder", "-m", "taskflow._cli", "worker", "tests.support.cli_app:app",
            env={"TASKFLOW_ADDRESS": cluster.scheduler_address},
        )  # fmt: skip
        with TaskFlow(cluster.scheduler_address) as tf:
            jobs = [tf.new_job("sums", {"a": n, "b": 1}, task="add") for n in range(20)]
            assert [job.wait(timeout=30).result for job in jobs] == list(range(1, 21))
        cluster.close()

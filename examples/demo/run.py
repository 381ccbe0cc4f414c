"""The course of the demo: start a cluster, submit, watch, check, stop."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from examples.demo import report
from examples.demo.parcels import Parcels
from examples.demo.report import Plan
from taskflow_server.cluster.local import local_cluster
from taskflow_server.cluster.process import Interrupted

if TYPE_CHECKING:
    from examples.shop.smtp import FlakyReceiver
    from taskflow import JobInfo, TaskFlow
    from taskflow_server.cluster.cluster import Cluster

Stop = Callable[[], bool]  # whether a signal asked the demo to stop

APP = "examples.shop:app"
SHARE = 0.25  # of the deliveries that the mail server puts off
LOOK = 0.2  # seconds between two looks at the jobs
PATIENCE = 120.0  # seconds after which what is not done counts as lost


def demo(orders: int, pictures: int, rows: int, stop: Stop) -> int:
    """0: everything adds up; 1: something does not. Interrupted, when asked to stop; the errors of what it starts."""
    from examples.shop.smtp import receiving

    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="taskflow-shop-") as name, receiving(share=SHARE) as receiver:
        settings = {"SHOP_SMTP_PORT": str(receiver.port), "TASKFLOW_GRACE": "5"}
        _say("starting Postgres, queue, coordinator, scheduler, worker and gateway, and a mail server in a bad mood")
        with local_cluster(app=APP, environ={**os.environ, **settings}, stopping=stop) as cluster:
            _say(f"up after {time.monotonic() - began:.1f} s: {_addresses(cluster)}")
            plan = report.plan(Path(name), orders, pictures, rows)
            _say(f"drew {len(plan.pictures)} pictures and wrote {rows:,} sales into a CSV")
            facts, parcels = _work(cluster, plan, receiver, stop)
            _say("stopping")
        faults = [*report.check(facts, plan, receiver.mailbox), *parcels.faults()]
        report.show(facts, plan, receiver.mailbox)
        parcels.show()
    for fault in faults:
        print(f"WRONG: {fault}")
    verdict = f"{len(faults)} things do not add up" if faults else "everything adds up"
    print(f"\n{verdict}; {time.monotonic() - began:.1f} s in all, and nothing is left running")
    return 1 if faults else 0


def _work(cluster: Cluster, plan: Plan, receiver: FlakyReceiver, stop: Stop) -> tuple[report.Facts, Parcels]:
    """Submits the jobs, waits until all have ended, and gathers the facts while there is a cluster to ask."""
    import examples.shop as shop
    from taskflow import TaskFlow, apps

    tf = apps.load(APP, scheduler=cluster.scheduler_address)  # the app is made already, for the default address
    assert isinstance(tf, TaskFlow)
    parcels = Parcels(tf, cluster["gateway"].address, plan.folder, dict(os.environ))
    try:
        started = time.monotonic()
        plan.ids = {
            "mails": [job.id for job in shop.send_confirmation.new_jobs(plan.orders)],
            "thumbnails": [job.id for job in shop.make_thumbnail.new_jobs(plan.thumbnails())],
            "imports": [shop.import_sales.new_job(path=str(plan.csv), database=str(plan.database)).id],
        }
        _say(f"submitted {plan.count} jobs in {(time.monotonic() - started) * 1000:.0f} ms; watch:")
        jobs = _watch(tf, plan, receiver, parcels, stop)
        seconds = time.monotonic() - started
        parcels.end()
        dsn = cluster["scheduler"].env["TASKFLOW_DATABASE_URL"]
        return report.gather(tf, dsn, plan, jobs, seconds), parcels
    finally:
        parcels.close()
        tf.close()


def _watch(tf: TaskFlow, plan: Plan, receiver: FlakyReceiver, parcels: Parcels, stop: Stop) -> list[JobInfo]:
    """Prints the progress until all jobs are final, or PATIENCE is over. Returns the jobs as they are then."""
    live = sys.stdout.isatty()
    began = said = time.monotonic()
    while True:
        jobs = report.look(tf, plan)
        parcels.look()
        now = time.monotonic()
        done = parcels.done and all(job.state.final for job in jobs) and len(jobs) == plan.count
        if live or done or now - said >= 1 or jobs[-1].progress:
            line = f"  {now - began:5.1f} s  {report.progress(jobs, plan, receiver.mailbox)}"
            print(f"\r{line}\x1b[K" if live else line, end="" if live else "\n", flush=True)
            said = now
        if done or now - began > PATIENCE:
            print(end="\n" if live else "")
            return jobs
        _pause(LOOK, stop)


def _pause(seconds: float, stop: Stop) -> None:
    if not stop():
        time.sleep(seconds)  # short: a signal is seen after it
    if stop():
        raise Interrupted


def _addresses(cluster: Cluster) -> str:
    return ", ".join(f"{name} {service.port}" for name, service in cluster.services.items())


def _say(text: str) -> None:
    print(text, flush=True)

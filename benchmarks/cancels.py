"""Cancelling everything that waits in a queue, as a person does by SQL: how fast, and in how much memory."""

import time

from benchmarks import procs
from benchmarks.measure import Measure
from benchmarks.plan import BATCH

QUEUE = "cancels"
_WISHES = """
    insert into taskflow.cancels (job_id, shard, reason)
    select j.id, q.shard, 'all of them' from taskflow.jobs j join taskflow.queues q on q.name = j.queue
    where j.queue = %s and j.id > %s
"""


def measure(m: Measure) -> None:
    """As many jobs as fill a queue."""
    lab = m.lab
    jobs, since = min(m.plan.waiting, BATCH), lab.here()
    lab.client("bulk", queue=QUEUE, jobs=jobs)
    before = _memory(m)
    most = before
    lab.conn.execute(_WISHES, (QUEUE, since))
    began = time.monotonic()

    def all_cancelled() -> bool:
        nonlocal most
        most = max(most, _memory(m))
        return bool(lab.value("select count(*) from taskflow.attempts where job_id >= %s", since) >= jobs)

    lab.until(all_cancelled, f"the cancels of {jobs} jobs", every=0.1)
    m.add("cancels.rate", jobs / (time.monotonic() - began))
    m.add("cancels.mb", most - before)


def _memory(m: Measure) -> float:
    return max(map(procs.resident_mb, m.lab.pids()["coordinator"]))

"""A deep backlog: how fast its front is drained, and what the services hold of it in memory.

Beside it, in turns, the same number of jobs is drained from a queue that holds no others. The jobs that a round takes
from the deep queue are put back behind the others.
"""

import time
from uuid import UUID

from benchmarks import procs
from benchmarks.measure import FIRST, Measure
from benchmarks.plan import BATCH

QUEUE = "deep"
_SLOTS = range(FIRST, FIRST + 1)
_BEGINNING = UUID(int=0)


def measure(m: Measure) -> None:
    """All rounds."""
    _fill(m, m.plan.waiting)
    for _ in range(m.plan.rounds):
        _empty(m)
        _front(m)


def _fill(m: Measure, jobs: int) -> None:
    """Clients make them one after the other: one with a million would hold them all."""
    made, took = jobs, 0.0
    while jobs > 0:
        told = m.lab.client("bulk", queue=QUEUE, jobs=min(jobs, BATCH))
        jobs -= BATCH
        took += told["ended"] - told["began"]
    m.add("deep.made", made / took)


def _empty(m: Measure) -> None:
    """A backlog of the plan's size, alone in its queue."""
    lab = m.lab
    m.bulk()
    jobs, settled = lab.waiting, lab.settled(lab.waiting_since)
    with m.let_go("backlog", _SLOTS) as began:
        m.add("deep.alone", _rate(m, "alone", jobs, began))
        m.drained(_SLOTS, settled)


def _front(m: Measure) -> None:
    """As many from the front of the deep queue."""
    lab, jobs = m.lab, m.plan.jobs
    before = lab.settled(_BEGINNING)
    with m.let_go(QUEUE, _SLOTS) as began:
        m.add("deep.rate", _rate(m, "deep", jobs, began))
        for name in ("coordinator", "queue"):
            m.add(f"deep.mb.{name}", max(map(procs.resident_mb, lab.pids()[name])))
    begun = lab.board.count(FIRST)
    lab.until(lambda: lab.settled(_BEGINNING) - before >= begun, f"the outcomes of {begun} jobs", every=0.05)
    _fill(m, begun)


def _rate(m: Measure, name: str, jobs: int, began: float) -> float:
    """Handlers begun a second, until so many have; and what they cost, which a disturbed machine changes less."""
    with m.costs(name) as costs:
        m.lab.until(lambda: m.lab.board.count(FIRST) >= jobs, f"the handlers of {jobs} jobs")
        ended = time.monotonic()
        costs.append((jobs, 0.0))
    return jobs / (ended - began)

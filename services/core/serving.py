"""Whether a worker or executor can run the jobs of a lane, and if none can, which names are similar. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence, Set
from dataclasses import dataclass
from difflib import get_close_matches

from taskflow_server.core.names import bare

NEAR = 3  # limit of proposed names
MOST_COMPARED = 2_000  # limit of names that are compared


@dataclass(frozen=True, slots=True)
class Taker:
    """A live worker or an executor: its tasks, the queues whose jobs without a task it takes, and the only queues from
    which it takes jobs (empty: all)."""

    tasks: frozenset[str]
    queues: frozenset[str]
    only: frozenset[str] = frozenset()

    def takes(self, queue: str, task: str) -> bool:
        here = not self.only or queue in self.only
        return here and (task in self.tasks if task else queue in self.queues)


@dataclass(frozen=True, slots=True)
class Unserved:
    """Why no worker can run a job: a reason for programs, a message for people."""

    reason: str
    message: str


def unserved(queue: str, task: str, takers: Sequence[Taker], ever: Set[str]) -> Unserved | None:
    """Why no worker can run jobs of this lane; None if one can. `ever`: tasks that a worker has ever registered."""
    if any(taker.takes(queue, task) for taker in takers):
        return None
    live = {name for taker in takers for name in taker.tasks}
    if not task:
        said = f"no live worker has a handler for jobs without a task in queue {queue!r}"
        hint = _near_queue(queue, takers) or _near_task(queue, live) or _tasks(queue, takers)
        return Unserved("NO_LIVE_WORKER", said + hint)
    here = [taker for taker in takers if task in taker.tasks]
    if here:
        served = {name for taker in here for name in taker.only}
        said = f"no live worker takes jobs of task {task!r} from queue {queue!r}, only from "
        return Unserved("QUEUE_NOT_SERVED", said + _listed([*_close(queue, served), *sorted(served)]))
    if task in ever:
        said = f"no live worker has a handler for task {task!r}"
        return Unserved("NO_LIVE_WORKER", said + _near(task, live))
    return Unserved("HANDLER_NOT_SEEN", f"no worker has ever had a handler for task {task!r}{_near(task, live | ever)}")


def _near_queue(queue: str, takers: Sequence[Taker]) -> str:
    return _near(queue, {name for taker in takers for name in taker.queues})


def _near_task(queue: str, live: Set[str]) -> str:
    """A hint if the name of the queue is similar to that of a task."""
    found = _close(queue, live)
    return f"; near in name: task {_listed(found)}, which a job names by its task" if found else ""


def _tasks(queue: str, takers: Sequence[Taker]) -> str:
    """A hint with the tasks of workers for the queue: the caller may have forgotten the job's task."""
    tasks = sorted({name for taker in takers if not taker.only or queue in taker.only for name in taker.tasks})
    return f"; a job of a task names the task: live workers have {_listed(tasks)}" if tasks else ""


def _near(name: str, known: Set[str]) -> str:
    found = _close(name, known)
    return f"; near in name: {_listed(found)}" if found else ""


def _close(name: str, known: Set[str]) -> list[str]:
    """Similar names, compared without their namespaces, which are more often missing or wrong than misspelt."""
    by_bare: defaultdict[str, list[str]] = defaultdict(list)
    for other in sorted(known)[:MOST_COMPARED]:
        by_bare[bare(other)].append(other)
    return [full for near in get_close_matches(bare(name), by_bare, n=NEAR) for full in by_bare[near]][:NEAR]


def _listed(names: Sequence[str]) -> str:
    """The first names, without repetitions."""
    names = list(dict.fromkeys(names))
    shown = ", ".join(map(repr, names[:NEAR]))
    return f"{shown} and {len(names) - NEAR} more" if len(names) > NEAR else shown

"""Quotas of namespaces: tasks, waiting jobs, payload size (S4.6)."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import grpc
import psycopg
import pytest

from taskflow import (
    AlreadyExists,
    FiringState,
    InvalidArgument,
    Job,
    NamespaceInfo,
    NotFound,
    QuotaExceeded,
    Quotas,
    TaskFlow,
)
from taskflow.v1 import cluster_pb2, cluster_pb2_grpc, jobs_pb2
from tests.support import rows
from tests.support.api import TIMEOUT, Api, refusal, spec
from tests.support.cluster import ServiceCluster
from tests.support.waiting import eventually
from tests.support.workers import working

pytestmark = pytest.mark.feature("S4.6")

LARGE = "x" * 11  # bytes: over a quota of 10

_numbers = itertools.count(1)


@pytest.fixture
def space() -> str:
    """The name of a namespace of the test's own, that does not exist yet."""
    return f"space-{next(_numbers)}"


def stored(cluster: ServiceCluster, queue: str) -> int:
    ((count,),) = rows.found(cluster.dsn, "select count(*) from taskflow.jobs where queue = %s", queue)
    return int(count)


def at_once(calls: list[Callable[[], object]]) -> list[object]:
    """The value or the error of each call, when all are made at the same time."""

    def outcome(call: Callable[[], object]) -> object:
        try:
            return call()
        except QuotaExceeded as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(outcome, calls))


# -- settings ----------------------------------------------------------------------------------------------------------
def test_quotas_are_set_changed_and_taken_away(tf: TaskFlow, space: str) -> None:
    def shown() -> NamespaceInfo:
        return next(each for each in tf.namespaces.list() if each.name == space)

    assert tf.namespaces.create(space).quotas == Quotas() == shown().quotas, "unlimited unless set"
    preset = tf.namespaces.update(space, quota_preset="app-tasks", quota_payload_bytes=9)
    assert preset.quotas == Quotas(tasks=5, payload_bytes=9) == shown().quotas
    tf.namespaces.update(space, quota_waiting_jobs=7, app_url="https://x.example.org")
    assert shown().quotas == Quotas(tasks=5, waiting_jobs=7, payload_bytes=9), "the others stay"
    assert tf.namespaces.update(space, app_url="").quotas == shown().quotas
    assert tf.namespaces.update(space, quota_tasks=None).quotas == Quotas(waiting_jobs=7, payload_bytes=9)
    assert tf.namespaces.update(space, quota_preset="app-tasks", quota_tasks=8).quotas == Quotas(tasks=8)
    assert tf.namespaces.update(space, quota_tasks=0).quotas == Quotas(tasks=0)
    with pytest.raises(NotFound):
        tf.namespaces.update("absent", quota_tasks=1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"quota_tasks": -1}, "quota_tasks"),
        ({"quota_waiting_jobs": "many"}, "quota_waiting_jobs"),
        ({"quota_payload_bytes": 2**31}, "quota_payload_bytes"),
        ({"quota_preset": "app-taks"}, "'app-taks' is not a valid preset; use app-tasks"),
        ({}, "nothing to change"),
    ],
)
def test_a_wrong_quota_is_refused_with_its_field(tf: TaskFlow, given: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        tf.namespaces.update("default", **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("quotas", "paths", "field"),
    [
        (cluster_pb2.Quotas(tasks=-1), ["quotas"], "namespace.quotas.tasks"),
        (cluster_pb2.Quotas(waiting_jobs=-5), ["quotas"], "namespace.quotas.waiting_jobs"),
        (cluster_pb2.Quotas(preset="app-tasks"), ["quotas.tasks"], "update_mask"),
        (cluster_pb2.Quotas(), ["name"], "update_mask"),
    ],
)
def test_a_wrong_call_of_update_is_refused_with_its_field(
    api: Api, quotas: cluster_pb2.Quotas, paths: list[str], field: str
) -> None:
    request = cluster_pb2.UpdateNamespaceRequest(namespace=cluster_pb2.Namespace(name="default", quotas=quotas))
    request.update_mask.paths.extend(paths)

    with pytest.raises(grpc.RpcError) as refused:
        cluster_pb2_grpc.NamespaceServiceStub(api.channel).UpdateNamespace(request, timeout=TIMEOUT)

    assert (refusal(refused.value).code, refusal(refused.value).field) == (grpc.StatusCode.INVALID_ARGUMENT, field)


def test_an_update_without_a_mask_keeps_quotas_that_it_does_not_bring(api: Api, tf: TaskFlow, space: str) -> None:
    tf.namespaces.create(space, quota_tasks=3)
    call = cluster_pb2_grpc.NamespaceServiceStub(api.channel).UpdateNamespace
    url = cluster_pb2.Namespace(name=space, app_url="https://x.example.org")

    answer = call(cluster_pb2.UpdateNamespaceRequest(namespace=url), timeout=TIMEOUT)

    assert (answer.quotas.tasks, answer.app_url) == (3, "https://x.example.org")


# -- tasks -------------------------------------------------------------------------------------------------------------
def test_creators_at_once_make_exactly_as_many_tasks_as_the_quota_allows(tf: TaskFlow, space: str) -> None:
    tf.namespaces.create(space, quota_preset="app-tasks")

    answers = at_once([lambda n=n: tf.tasks.create(f"{space}/task-{n}") for n in range(16)])  # type: ignore[misc]

    refused = [answer for answer in answers if isinstance(answer, QuotaExceeded)]
    assert len(answers) - len(refused) == 5 == sum(task.namespace == space for task in tf.tasks.list())
    assert {(e.reason, e.namespace, e.quota, e.used, e.limit, e.retry_after) for e in refused} == {
        ("QUOTA_TASKS", space, "tasks", 5, 5, None)
    }
    assert f"the quota of namespace '{space}': 5 of 5 tasks are used" in str(refused[0])


def test_a_creator_waits_for_one_that_has_not_committed_yet(tf: TaskFlow, cluster: ServiceCluster, space: str) -> None:
    """Another creator, as another scheduler is one, has locked the quota and written its task."""
    tf.namespaces.create(space, quota_tasks=1)
    waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like '%quota_tasks%'"
    with psycopg.connect(cluster.dsn) as other, ThreadPoolExecutor(1) as pool:
        other.execute("select from taskflow.namespaces where name = %s for no key update", [space])
        new = "insert into taskflow.tasks (id, name, target) values (gen_random_uuid(), %s, 'x')"
        other.execute(new, [f"{space}/first"])
        second = pool.submit(tf.tasks.create, f"{space}/second")
        eventually(lambda: second.done() or rows.found(cluster.dsn, waits) == [(1,)])
        other.commit()

        with pytest.raises(QuotaExceeded):
            second.result(30)


def test_a_full_namespace_refuses_only_what_would_be_a_task_more(tf: TaskFlow, space: str) -> None:
    tf.namespaces.create(space, quota_tasks=1)
    tf.tasks.create(f"{space}/only", frequency="@daily")

    with pytest.raises(AlreadyExists):
        tf.tasks.create(f"{space}/only")
    with pytest.raises(QuotaExceeded):
        tf.tasks.create(f"{space}/more", frequency="@daily")
    elsewhere = tf.tasks.create(f"{space}-elsewhere")
    with pytest.raises(QuotaExceeded, match=r"changes\.name"):
        tf.tasks.update(elsewhere.id, name=f"{space}/moved")
    assert tf.tasks.get(elsewhere.id).name == f"{space}-elsewhere"
    assert tf.tasks.update(f"{space}/only", name=f"{space}/renamed").name == "renamed"
    assert [s.task for s in tf.schedules.list() if space in s.task] == [f"{space}/renamed"], "nothing of it is stored"
    tf.namespaces.update(space, quota_tasks=0)
    assert tf.tasks.update(f"{space}/renamed", title="still here").title == "still here"
    tf.tasks.remove(f"{space}/renamed")
    with pytest.raises(QuotaExceeded):
        tf.tasks.create(f"{space}/again")
    tf.namespaces.update(space, quota_tasks=1)
    assert tf.tasks.update(elsewhere.id, name=f"{space}/moved").namespace == space


# -- payload size ------------------------------------------------------------------------------------------------------
def test_a_payload_over_the_quota_is_refused_with_its_size(tf: TaskFlow, cluster: ServiceCluster, space: str) -> None:
    queue = f"{space}/q"
    tf.namespaces.create(space, quota_payload_bytes=10)

    tf.new_job(queue, "x" * 10)
    with pytest.raises(QuotaExceeded, match=r"payload: 11 bytes exceed the quota of namespace 'space-") as refused:
        tf.new_job(queue, LARGE)

    error = refused.value
    assert (error.reason, error.quota, error.used, error.limit) == ("QUOTA_PAYLOAD_BYTES", "payload_bytes", 11, 10)
    assert error.retry_after is None, "time does not help"
    with pytest.raises(QuotaExceeded, match=r"jobs\[2\]\.payload"):
        tf.new_jobs([{"queue": queue, "payload": "x" * n} for n in (1, 2, 11)])
    assert stored(cluster, queue) == 1, "nothing of a refused call is stored"
    with pytest.raises(QuotaExceeded, match=r"task\.payload"):
        tf.tasks.create(f"{space}/heavy", queue=queue, payload=LARGE)
    task = tf.tasks.create(f"{space}/light", queue=queue, payload="1")
    with pytest.raises(QuotaExceeded, match=r"changes\.payload"):
        tf.tasks.update(task.id, payload=LARGE)
    with pytest.raises(QuotaExceeded):
        tf.tasks.run(task.id, LARGE)
    assert tf.new_job(f"{space}-elsewhere", "x" * 1000).id


def test_a_quota_counts_at_once_where_another_scheduler_or_sql_has_set_it(
    tf: TaskFlow, cluster: ServiceCluster, space: str
) -> None:
    tf.namespaces.create(space)
    tf.new_job(f"{space}/q", LARGE)
    rows.run(cluster.dsn, "update taskflow.namespaces set quota_payload_bytes = 10 where name = %s", space)

    def refused() -> bool:
        try:
            tf.new_job(f"{space}/q", LARGE)
        except QuotaExceeded:
            return True
        return False

    eventually(refused)


# -- waiting jobs ------------------------------------------------------------------------------------------------------
def test_waiting_jobs_over_the_quota_are_refused_until_some_have_run(
    tf: TaskFlow, api: Api, cluster: ServiceCluster, space: str
) -> None:
    queue = f"{space}/q"
    tf.namespaces.create(space, quota_waiting_jobs=5)
    tf.new_jobs([{"queue": queue, "payload": n} for n in range(3)])
    tf.new_job(f"{space}/other", 1, delay=3600)  # scheduled jobs wait too

    with pytest.raises(QuotaExceeded) as refused:
        tf.new_jobs([{"queue": queue, "payload": n} for n in range(2)])

    error = refused.value
    assert (error.reason, error.namespace, error.quota) == ("QUOTA_WAITING_JOBS", space, "waiting_jobs")
    assert (error.used, error.limit) == (4, 5)
    assert error.retry_after is not None and 0 < error.retry_after <= 1
    assert f"2 more jobs would exceed the quota of namespace '{space}': about 4 of 5" in str(error)
    assert stored(cluster, queue) == 3, "nothing of a refused call is stored"
    tf.new_job(queue, "the fifth")
    with pytest.raises(grpc.RpcError) as over:
        api.new(queue)
    said = refusal(over.value)
    assert (said.code, said.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_WAITING_JOBS")
    assert said.retry_after > 0
    with working(tf, queue, handler=lambda job: None):
        eventually(lambda: _accepted(tf, queue))
    assert tf.new_job(f"{space}-elsewhere", 1).id


def _accepted(tf: TaskFlow, queue: str) -> bool:
    try:
        tf.new_jobs([{"queue": queue, "payload": n} for n in range(4)])
    except QuotaExceeded:
        return False
    return True


def test_of_a_partial_call_as_many_jobs_are_stored_as_fit(
    tf: TaskFlow, api: Api, cluster: ServiceCluster, space: str
) -> None:
    queue = f"{space}/q"
    tf.namespaces.create(space, quota_waiting_jobs=2, quota_payload_bytes=10)
    payloads = [LARGE.encode(), b"1", b"2", b"3"]
    specs = [spec(queue, payload=payload, encoding=jobs_pb2.ENCODING_TEXT) for payload in payloads]

    answer = api.jobs.CreateJobs(jobs_pb2.CreateJobsRequest(jobs=specs, allow_partial=True), timeout=TIMEOUT)

    found = {error.index: error for error in answer.errors}
    assert {index: error.reason for index, error in found.items()} == {
        0: "QUOTA_PAYLOAD_BYTES", 3: "QUOTA_WAITING_JOBS",
    }  # fmt: skip
    assert dict(found[3].metadata) == {"namespace": space, "quota": "waiting_jobs", "used": "0", "limit": "2"}
    assert found[3].HasField("retry_delay") and not found[0].HasField("retry_delay")
    assert stored(cluster, queue) == 2


def test_a_job_that_is_stored_is_answered_again_however_full_its_namespace_is(
    tf: TaskFlow, api: Api, space: str
) -> None:
    queue = f"{space}/q"
    tf.namespaces.create(space)
    keyed = tf.new_job(queue, LARGE, key="once")
    plain = spec(queue, payload=LARGE.encode(), encoding=jobs_pb2.ENCODING_TEXT)
    first = api.create(plain)
    tf.namespaces.update(space, quota_waiting_jobs=1, quota_payload_bytes=5)

    assert tf.new_job(queue, LARGE, key="once").id == keyed.id
    assert api.create(plain).id == first.id
    with pytest.raises(QuotaExceeded):
        tf.new_job(queue, 1, key="another")
    tf.namespaces.update(space, quota_waiting_jobs=3)
    again = tf.new_jobs([{"queue": queue, "payload": LARGE, "key": "once"}, {"queue": queue, "payload": 1}])
    assert again[0].id == keyed.id, "only the second is a job more"
    with pytest.raises(QuotaExceeded):
        tf.new_job(queue, 1)


def test_creators_at_once_store_no_more_jobs_than_may_wait(
    tf: TaskFlow, cluster: ServiceCluster, space: str
) -> None:
    queue = f"{space}/q"
    tf.namespaces.create(space, quota_waiting_jobs=10)

    answers = at_once([lambda n=n: tf.new_job(queue, n) for n in range(30)])  # type: ignore[misc]

    refused = [answer for answer in answers if isinstance(answer, QuotaExceeded)]
    assert (len(refused), stored(cluster, queue)) == (20, 10)


def test_a_job_that_runs_does_not_wait(tf: TaskFlow, space: str) -> None:
    """As soon as a worker has it, and long before it has a lease row."""
    queue = f"{space}/q"
    tf.namespaces.create(space, quota_waiting_jobs=1)

    async def until_cancelled(job: Job) -> None:
        await asyncio.Event().wait()

    with working(tf, queue, handler=until_cancelled, concurrency=1):
        first = tf.new_job(queue, 1)
        second = eventually(lambda: _new(tf, queue))
        with pytest.raises(QuotaExceeded):
            tf.new_job(queue, 3)
        for job_id in (second, first.id):
            tf.jobs.cancel(job_id)


def _new(tf: TaskFlow, queue: str) -> str:
    try:
        return tf.new_job(queue, 2).id
    except QuotaExceeded:
        return ""


# -- schedules ---------------------------------------------------------------------------------------------------------
def test_a_firing_over_a_quota_is_skipped_and_its_row_says_so(
    tf: TaskFlow, cluster: ServiceCluster, space: str
) -> None:
    queue = f"{space}/q"
    tf.namespaces.create(space, quota_waiting_jobs=1)
    tf.new_job(queue, "waits")
    tf.tasks.create(f"{space}/heavy", queue=queue, payload=LARGE)

    each_second = tf.schedules.create(f"{space}/heavy", cron="* * * * * *").id
    # One of two that are decided together may be skipped for the other.
    off = FiringState.SKIPPED_OFF
    firing, *_ = eventually(lambda: [each for each in tf.schedules.firings(each_second) if each.state is off])

    assert firing.job_id == ""
    assert "about 1 of 1 waiting jobs are used" in firing.reason
    tf.namespaces.update(space, quota_waiting_jobs=None, quota_payload_bytes=5)
    said = "11 bytes exceed the quota"
    eventually(lambda: any(said in firing.reason for firing in tf.schedules.firings(each_second)))
    tf.schedules.delete(each_second)
    assert stored(cluster, queue) == 1
    hourly = tf.schedules.create(f"{space}/heavy", cron="@hourly")
    tf.schedules.pause(hourly.id)
    day = datetime.now(UTC) - timedelta(days=1)
    with pytest.raises(QuotaExceeded):
        tf.schedules.backfill(hourly.id, start=day, end=day + timedelta(hours=3))
    assert stored(cluster, queue) == 1

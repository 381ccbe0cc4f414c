"""`taskflow.testing`: an app's tasks in memory, by a clock that the test moves."""

from __future__ import annotations

import asyncio
import contextvars
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import taskflow
from taskflow import (
    AsyncTaskFlow,
    Constant,
    DeadlineExceeded,
    Exponential,
    FailedPrecondition,
    InvalidArgument,
    Job,
    JobCancelled,
    JobFailed,
    JobOptions,
    JobState,
    NewJob,
    NotFound,
    Outcome,
    Snooze,
    TaskFlow,
    testing,
)

pytestmark = pytest.mark.feature("X.27")


@pytest.fixture
def tf() -> TaskFlow:
    return TaskFlow("localhost:1")


@pytest.fixture
def c(tf: TaskFlow) -> Iterator[testing.MemoryCluster]:
    with testing.cluster(tf) as cluster:
        yield cluster


def failing(tf: TaskFlow, **options: Any) -> Any:
    @tf.task(**options)
    def fails() -> None:
        raise ValueError("no")

    return fails


# -- running ---------------------------------------------------------------------------------------------------------


def test_jobs_run_when_the_test_says_so_and_not_before(tf: TaskFlow, c: testing.MemoryCluster) -> None:
    seen = []

    @tf.task
    def note(n: int) -> int:
        seen.append(n)
        return 2 * n

    job = note.new_job(21)
    assert (seen, job.get().state) == ([], JobState.READY)

    assert c.run_until_idle() == 1

    assert job.get().result == 42 and seen == [21]
    assert c.run_until_idle() == 0


def test_a_wait_runs_what_is_ready(tf: TaskFlow, c: testing.MemoryCluster) -> None:
    job = tf.task(name="one")(_one).new_job()

    assert job.wait(timeout=10).result == 1


def _one() -> int:
    return 1


def test_a_wait_for_a_job_that_waits_for_the_clock_says_how_long(tf: TaskFlow, c: testing.MemoryCluster) -> None:
    job = tf.new_job("q", task="one", delay=90)

    with pytest.raises(DeadlineExceeded, match=r"scheduled, due in 90 s.*advance"):
        job.wait()


def test_a_failed_and_a_cancelled_job_raise_from_wait(tf: TaskFlow, c: testing.MemoryCluster) -> None:
    failed, cancelled = failing(tf).new_job(), tf.new_job("q")
    cancelled.cancel("no need")

    with pytest.raises(JobFailed, match="ValueError: no"):
        failed.wait()
    with pytest.raises(JobCancelled):
        cancelled.wait()
    assert c.job(cancelled).error == taskflow.ErrorInfo("cancelled", "cancelled before its start: no need")


def test_a_job_without_a_handler_waits_for_one(tf: TaskFlow, c: testing.MemoryCluster) -> None:
    job = tf.new_job("EmailQueue", {"to": "ada"})
    assert c.run_until_idle() == 0 and job.get().state == "ready"

    c.handle("EmailQueue", lambda job: job.payload["to"])

    assert job.wait().result == "ada"


def test_handlers_make_jobs_as_the_test_does(tf: TaskFlow, c: testing.MemoryCluster) -> None:
    @tf.task
    def child(n: int) -> int:
        return n + 1

    @tf.task
    async def parent(n: int) -> int:
        await asyncio.sleep(5)
        made = child.new_job(n)
        done = await asyncio.to_thread(lambda: made.id)
        await asyncio.sleep(5)
        return int(tf.jobs.get(done).result) * 10

    job = parent.new_job(1)
    c.advance(10)

    assert job.wait().result == 20
    assert [j.task for j in c.jobs] == ["parent", "child"]


def test_a_plain_handler_that_waits_for_a_job_is_told_that_it_would_wait_for_ever(
    tf: TaskFlow, c: testing.MemoryCluster
) -> None:
    one = tf.task(name="one")(_one)

    @tf.task
    def waits() -> None:
        one.new_job().wait()

    waits.new_job()
    c.run_until_idle()

    error = c.jobs[0].error
    assert error is not None and error.type == "FailedPrecondition" and "await it" in error.message


def test_an_async_handler_that_blocks_for_a_job_is_told_so_too(tf: TaskFlow, c: testing.MemoryCluster) -> None:
    one = tf.task(name="one")(_one)

    @tf.task
    async def waits() -> None:
        one.new_job().wait()

    waits.new_job()
    c.run_until_idle()

    error = c.jobs[0].error
    assert error is not None and error.type == "FailedPrecondition" and "AsyncTaskFlow" in error.message
    assert c.jobs[1].state == "succeeded"


def test_handlers_may_talk_to_real_sockets(tf: TaskFlow, c: testing.MemoryCluster) -> None:
    """They count as idle only after a moment without an answer."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()

    @tf.task(timeout=5)
    async def talks() -> str:
        server = await asyncio.start_server(greet, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"hello\n")
            answer = (await reader.readline()).decode().strip()
            writer.close()
        return answer

    talks.new_job()
    assert c.run_until_idle() == 1

    assert c.jobs[0].result == "hello"


def test_a_silent_socket_is_waited_for_with_patience_and_then_by_the_clock(tf: TaskFlow) -> None:
    @tf.task(timeout=5)
    async def listens() -> None:
        here, there = socket.socketpair()
        with here, there:
            here.setblocking(False)
            await asyncio.get_running_loop().sock_recv(here, 1)

    with testing.cluster(tf, patience=0.01) as c:
        listens.new_job()
        assert c.run_until_idle() == 0 and c.jobs[0].state == "running"
        c.advance(5)

        assert c.jobs[0].outcomes == ["timed_out"]


def test_jobs_that_make_each_other_without_end_are_stopped(tf: TaskFlow) -> None:
    @tf.task
    def again() -> None:
        again.new_job()

    with testing.cluster(tf, limit=50) as c:
        again.new_job()
        with pytest.raises(FailedPrecondition, match="50 attempts more than"):
            c.run_until_idle()


def test_priority_goes_before_order(tf: TaskFlow, c: testing.MemoryCluster) -> None:
    seen: list[str] = []
    c.handle("q", lambda job: seen.append(job.payload))

    tf.new_jobs([NewJob("q", n, priority=p) for n, p in [("a", 5), ("b", 2), ("c", 9), ("d", 5)]])
    c.run_until_idle()

    assert seen == ["c", "a", "d", "b"]


def test_concurrency_holds_for_async_handlers(tf: TaskFlow) -> None:
    most = running = 0

    @tf.task
    async def one() -> None:
        nonlocal most, running
        running += 1
        most = max(most, running)
        await asyncio.sleep(1)
        running -= 1

    with testing.cluster(tf, concurrency=3) as c:
        one.new_jobs([{}] * 7)
        c.advance(3)

        assert most == 3 and {job.state for job in c.jobs} == {"succeeded"}


# -- the clock -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backoff", "waits"),
    [(None, [1, 2, 4]), (Constant(7), [7, 7, 7]), (Exponential(first=10, factor=3, limit=50), [10, 30, 50])],
)
def test_backoff_is_waited_for_and_exact(
    backoff: Any, waits: list[float], tf: TaskFlow, c: testing.MemoryCluster
) -> None:
    failing(tf, retries=3, backoff=backoff).new_job()
    job = c.jobs[0]
    c.run_until_idle()

    for number, wait in enumerate(waits, 1):
        assert job.state == "retrying" and len(job.attempts) == number
        assert job.due == c.now() + timedelta(seconds=wait)
        c.advance(wait - 0.001)
        assert len(job.attempts) == number
        c.advance(0.001)

    assert job.state == "failed" and job.outcomes == ["failed"] * 4


def test_backoff_is_spread_by_numbers_that_the_test_gives(tf: TaskFlow) -> None:
    with testing.cluster(tf, rng=lambda: 0.0) as c:
        failing(tf, retries=1, backoff=Constant(10)).new_job()
        c.run_until_idle()

        assert c.jobs[0].due == c.now() + timedelta(seconds=9)


def test_delay_and_run_at_obey_the_moved_clock(tf: TaskFlow, c: testing.MemoryCluster) -> None:
    c.handle("q", lambda job: None)
    delayed, timed = tf.new_job("q", delay=60), tf.new_job("q", run_at=c.now() + timedelta(hours=1))

    c.advance(59)
    assert (delayed.get().state, timed.get().state) == ("scheduled", "scheduled")
    c.advance(1)
    assert (delayed.get().state, timed.get().state) == ("succeeded", "scheduled")
    c.advance(timedelta(minutes=59))
    assert timed.get().state == "succeeded"


def test_each_thing_happens_at_its_moment_within_one_advance(tf: TaskFlow, c: testing.MemoryCluster) -> None:
    start, seen = c.now(), []
    c.handle("q", lambda job: seen.append((job.payload, (c.now() - start).total_seconds())))

    for n in (30, 10, 20):
        tf.new_job("q", n, delay=n)
    c.advance(100)

    assert seen == [(10, 10), (20, 20), (30, 30)]
    assert c.now() - start == timedelta(seconds=100)


@pytest.mark.parametrize("seconds", [0.1, 0.3, 1 / 3, 29.999999, 86_400 * 365, 1e-6])
def test_a_timeout_comes_at_its_moment_however_the_sums_are_rounded(
    seconds: float, tf: TaskFlow, c: testing.MemoryCluster
) -> None:
    @tf.task(timeout=seconds)
    async def hangs() -> None:
        await asyncio.Event().wait()

    c.advance(0.7)
    hangs.new_job()
    c.run_until_idle()
    for _ in range(3):
        c.advance(seconds / 3)
    c.advance(1e-6)

    assert c.jobs[0].outcomes == ["timed_out"]


def test_sleep_and_timeout_in_handlers_obey_the_moved_clock(tf: TaskFlow, c: testing.MemoryCluster) -> None:
    @tf.task
    async def patient() -> str:
        try:
            async with asyncio.timeout(3600):
                await asyncio.sleep(7200)
        except TimeoutError:
            return "an hour"
        return "two"

    job, began = patient.new_job(), time.perf_counter()
    c.advance(3599)
    assert job.get().state == "running"
    c.advance(1)

    assert job.wait().result == "an hour"
    assert time.perf_counter() - began < 5


def test_a_heartbeat_keeps_a_handler_alive_and_its_absence_ends_it(tf: TaskFlow, c: testing.MemoryCluster) -> None:
    @tf.task(heartbeat_timeout=10)
    async def beats(job: Job) -> None:
        for _ in range(5):
            await asyncio.sleep(9)
            job.heartbeat()
        await asyncio.sleep(11)

    beats.new_job()
    c.advance(54)
    assert c.jobs[0].state == "running"
    c.advance(1)

    error = c.jobs[0].error
    assert error is not None and error.type == "HeartbeatTimedOut"


def test_a_plain_handler_times_out_by_the_time_that_it_takes_itself(tf: TaskFlow, c: testing.MemoryCluster) -> None:
    @tf.task(timeout=30)
    def takes(seconds: float) -> str:
        c.advance(seconds)
        return "done"

    takes.new_jobs([{"seconds": 29}, {"seconds": 30}])
    c.run_until_idle()

    assert [job.outcomes for job in c.jobs] == [["succeeded"], ["timed_out"]]


def test_a_snooze_uses_no_try_and_a_year_of_them_takes_moments(tf: TaskFlow, c: testing.MemoryCluster) -> None:
    @tf.task
    def daily(job: Job) -> int:
        if job.attempt <= 365:
            raise Snooze(timedelta(days=1))
        return job.attempt

    job = daily.new_job()
    assert c.advance(timedelta(days=365)) == 366

    assert job.wait().result == 366
    assert set(c.job(job).outcomes[:-1]) == {Outcome.SNOOZED}


@pytest.mark.feature("R7")
def test_start_by_ends_what_has_not_started(tf: TaskFlow, c: testing.MemoryCluster) -> None:
    by = c.now() + timedelta(seconds=10)
    options = JobOptions(start_by=by, retries=1)
    tf.new_job("q", options=options)
    failing(tf, backoff=Constant(20)).new_job(_options=options)

    c.advance(9)
    assert [job.state for job in c.jobs] == ["ready", "retrying"]
    c.advance(1)
    assert [job.state for job in c.jobs] == ["cancelled", "retrying"]
    c.advance(10)
    assert [job.state for job in c.jobs] == ["cancelled", "failed"]
    assert c.jobs[0].error == taskflow.ErrorInfo("expired", "it had not started by its start_by")


def test_the_clock_starts_where_the_test_wants(tf: TaskFlow) -> None:
    start = datetime(2024, 2, 29, 12, tzinfo=UTC)
    with testing.cluster(tf, start=start) as c:
        job = tf.new_job("q")
        c.advance(60)

        assert job.get().create_time == start and c.now() == start + timedelta(minutes=1)


def test_a_start_without_a_zone_is_refused(tf: TaskFlow) -> None:
    with pytest.raises(InvalidArgument, match=r"start: .* has no time zone"):
        testing.cluster(tf, start=datetime(2024, 2, 29))  # noqa: DTZ001


# -- what people do, and see -------------------------------------------------------------------------------------------


@pytest.mark.feature("R7")
@pytest.mark.parametrize("finishes", [False, True])
def test_a_cancelled_handler_ends_as_it_pleases(finishes: bool, tf: TaskFlow, c: testing.MemoryCluster) -> None:
    @tf.task(retries=5)
    async def waits() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if not finishes:
                raise
        return "in the end"

    job = waits.new_job()
    c.run_until_idle()
    assert job.cancel("enough").cancelling
    c.run_until_idle()

    assert c.job(job).outcomes == ["succeeded" if finishes else "cancelled"]


@pytest.mark.feature("R8")
def test_a_retry_by_hand_gives_fresh_tries_and_counts_on(tf: TaskFlow, c: testing.MemoryCluster) -> None:
    job = failing(tf, retries=1).new_job()
    with pytest.raises(FailedPrecondition) as caught:
        job.retry()
    c.advance(1)

    assert caught.value.reason == "JOB_NOT_FINISHED"
    assert job.retry().state == "ready"
    c.advance(1)
    assert [a.number for a in c.job(job).attempts] == [1, 2, 3, 4]
    assert job.get().state == "failed"


def test_a_key_makes_one_job(tf: TaskFlow, c: testing.MemoryCluster) -> None:
    first, second = tf.new_job("q", 1, key="k"), tf.new_job("q", 2, key="k")
    other = tf.new_job("space/q", 3, key="k")

    assert (first.id, first.existing, second.existing) == (second.id, False, True)
    assert other.id != first.id and len(c.jobs) == 2


def test_progress_logs_and_payload_are_kept(tf: TaskFlow, c: testing.MemoryCluster) -> None:
    @tf.task(retries=1)
    async def imports(rows: int, job: Job) -> None:
        for row in range(1, rows + 1):
            job.progress(row, total=rows, unit="rows")
            await asyncio.sleep(1)
        job.log(f"attempt {job.attempt}", level="warning")
        raise ValueError

    imports.new_job(rows=3)
    c.advance(1)
    assert c.jobs[0].info.progress == taskflow.ProgressInfo(2, 3, "rows")
    c.advance(10)

    assert [p.current for p in c.jobs[0].progress] == [1, 2, 3, 1, 2, 3]
    assert [(line.attempt, line.level, line.message) for line in c.jobs[0].logs] == [
        (1, "warning", "attempt 1"),
        (2, "warning", "attempt 2"),
    ]
    assert c.jobs[0].payload == {"rows": 3}


@pytest.mark.feature("S4.7")
def test_a_handler_sees_whom_the_job_was_made_for(tf: TaskFlow, c: testing.MemoryCluster) -> None:
    @tf.task
    def who(job: Job) -> list[object]:
        return [job.caller.name, job.caller.namespace, job.requester]

    job = who.new_job(_options=JobOptions(requester={"user": "ada"}, label="for Ada"))

    assert job.wait().result == ["anonymous", "default", {"user": "ada"}]
    assert (job.get().requester, job.get().label) == ({"user": "ada"}, "for Ada")


def test_lists_filter_as_a_cluster_s(tf: TaskFlow, c: testing.MemoryCluster) -> None:
    c.handle("mails", lambda job: job.payload)
    first, late, big = tf.new_job("mails", 1), tf.new_job("mails", 2, delay=9), tf.new_job("others", "x" * 2000)
    c.run_until_idle()

    assert [job.id for job in tf.jobs.list()] == [big.id, late.id, first.id]
    assert [job.id for job in tf.jobs.list(queue="mails", states="succeeded")] == [first.id]
    assert [job.payload for job in tf.jobs.list(queue="others")] != ["x" * 2000]
    assert [(q.name, q.ready, q.scheduled) for q in tf.queues.list()] == [
        ("default", 0, 0),
        ("mails", 0, 1),
        ("others", 1, 0),
    ]
    assert len(list(tf.workers.list())) == 1


@pytest.mark.parametrize(
    ("call", "kind", "field"),
    [
        (lambda tf: tf.new_job("not a name"), InvalidArgument, "queue"),
        (lambda tf: tf.new_job("q", retries=1001), InvalidArgument, "retries"),
        (lambda tf: tf.new_job("q", key="k" * 256), InvalidArgument, "key"),
        (lambda tf: tf.new_jobs([("q", 1), NewJob("q", retries=1001)]), InvalidArgument, "jobs[1].retries"),
        (lambda tf: tf.jobs.get("0198c0de-0000-7000-8000-000000000000"), NotFound, None),
        (lambda tf: tf.jobs.get("what"), InvalidArgument, "id"),
        (lambda tf: tf.queues.get("unheard-of"), NotFound, None),
        (lambda tf: tf.run(), FailedPrecondition, None),
    ],
)
def test_what_is_wrong_is_the_error_of_the_real_thing(
    call: Any, kind: type[Exception], field: str | None, tf: TaskFlow, c: testing.MemoryCluster
) -> None:
    with pytest.raises(kind) as caught:
        call(tf)

    if field is not None:
        assert caught.value.field == field  # type: ignore[attr-defined]
    assert c.jobs == []


# -- around it -------------------------------------------------------------------------------------------------------


def test_the_app_is_given_back_and_no_thread_stays(tf: TaskFlow) -> None:
    before, kept = threading.active_count(), dict(vars(tf))

    @tf.task
    async def threads() -> int:
        return await asyncio.to_thread(lambda: 1)

    with testing.cluster(tf) as c:
        assert threads.new_job().wait().result == 1
        tf.new_job("q", task="threads", delay=1)
        job = threads.new_job()
    c.close()

    assert vars(tf) == kept and threading.active_count() == before
    assert len(c.jobs) == 3
    with pytest.raises(FailedPrecondition, match="closed"):
        job.wait()


def test_what_still_runs_at_the_end_is_cancelled(tf: TaskFlow) -> None:
    ended = []

    @tf.task
    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    with testing.cluster(tf) as c:
        forever.new_job()
        c.run_until_idle()
        assert c.jobs[0].state == "running"

    assert ended == [True]


def test_an_app_is_in_one_cluster_at_a_time_and_apps_share_one(tf: TaskFlow, c: testing.MemoryCluster) -> None:
    with pytest.raises(FailedPrecondition, match="already"):
        testing.cluster(tf)

    shop, mailer = TaskFlow("localhost:1"), TaskFlow("localhost:2")
    mailer.task(name="one")(_one)
    with testing.cluster(shop, mailer):
        assert shop.new_job("q", task="one").wait().result == 1


def test_a_ctrl_c_in_a_handler_ends_the_test(tf: TaskFlow, c: testing.MemoryCluster) -> None:
    @tf.task
    def interrupted() -> None:
        raise KeyboardInterrupt

    interrupted.new_job()

    with pytest.raises(KeyboardInterrupt):
        c.run_until_idle()


async def test_an_async_app_in_an_async_test() -> None:
    tf = AsyncTaskFlow("localhost:1")

    @tf.task(retries=1)
    async def add(a: int, b: int, job: Job) -> int:
        await asyncio.sleep(30)
        if job.attempt == 1:
            raise ValueError
        return a + b

    @tf.task
    async def both() -> int:
        made = await add.new_job(1, 2)
        return int((await made.wait(timeout=100)).result) + 1

    before = threading.active_count()
    async with testing.cluster(tf) as c:
        job = await both.new_job()
        many = await tf.new_jobs([("q", 1), ("q", 2)])
        with pytest.raises(DeadlineExceeded):
            await job.wait()
        c.advance(61)

        assert (await job.wait()).result == 4
        assert [j.id async for j in tf.jobs.list(queue="q")] == [many[1].id, many[0].id]
        with pytest.raises(FailedPrecondition):
            await tf.run()
    assert threading.active_count() == before


async def test_a_sync_app_in_an_async_test_keeps_context_variables(tf: TaskFlow) -> None:
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who")
    who.set("ada")
    tf.task(name="ask")(lambda: who.get())

    async with testing.cluster(tf):
        assert tf.new_job("q", task="ask").wait().result == "ada"


def test_importing_it_is_an_attribute_of_the_package() -> None:
    assert taskflow.testing is testing
    assert sorted(testing.__all__) == testing.__all__


def test_a_job_by_its_tasks_name_has_the_tasks_options_in_memory_too() -> None:
    app = TaskFlow("localhost:1")

    @app.task(queue="own", retries=2, priority="high", timeout=9)
    def counted(n: int = 0) -> int:
        return n

    with testing.cluster(app):
        by_name = app.new_job(task="counted").get()
        assert (by_name.queue, by_name.retries, by_name.priority, by_name.timeout) == ("own", 2, 7, 9.0)
        said = app.new_job("q", task="counted", retries=0, priority=1).get()
        assert (said.queue, said.retries, said.priority, said.timeout) == ("q", 0, 1, 9.0)
        assert app.new_job("q").get().retries == 0


def test_a_missed_sla_is_told_in_memory_too() -> None:
    app = TaskFlow("localhost:1")

    @app.task(queue="own", sla=30)
    def quick() -> None:
        pass

    with testing.cluster(app) as c:
        prompt, later = app.new_job(task="quick"), app.new_job(task="quick", delay=60)
        waits = app.new_job("nobody", sla=30)
        c.advance(20)
        assert [job.get().sla_missed for job in (prompt, later, waits)] == [False, False, False]
        c.advance(100)
        assert [job.get().sla_missed for job in (prompt, later, waits)] == [False, False, True]
        assert prompt.get().sla == 30


@pytest.mark.feature("M.8")
def test_a_fenced_transaction_needs_no_cluster_and_is_committed_or_rolled_back(
    tf: TaskFlow, c: testing.MemoryCluster
) -> None:
    books = sqlite3.connect(":memory:")
    books.execute("create table effect (attempt integer, fence integer)")
    books.commit()

    @tf.task(retries=1)
    def write(job: Job) -> None:
        with job.fenced(books):
            books.execute("insert into effect values (?, ?)", (job.attempt, job.fence))
        with job.fenced(books):
            books.execute("insert into effect values (0, 0)")
            if job.attempt == 1:
                raise ValueError("rolled back")
            books.execute("delete from effect where attempt = 0")

    write.new_job()
    c.run_until_idle()
    c.advance(3600)
    (first, low), (second, high) = books.execute("select attempt, fence from effect order by attempt").fetchall()
    assert (first, second) == (1, 2) and 0 < low < high

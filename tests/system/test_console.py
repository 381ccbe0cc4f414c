"""The console, read and used over HTTP without JavaScript, against a real cluster with jobs in every state."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest

from taskflow import Constant, Exponential, Fail, Job, JobHandle, JobState, Quotas, TaskFlow
from taskflow.errors import NotFound
from tests.support import rows
from tests.support.cluster import SPINE, ServiceCluster
from tests.support.visitor import Answer, Stream, Visitor, metric
from tests.support.waiting import eventually
from tests.support.workers import working

SOON = {"TASKFLOW_LIVE_INTERVAL": "0.2", "TASKFLOW_LIVE_STREAMS": "3"}
EVIL = '<script>alert("x")</script>&<img src=x onerror=alert(1)>'
STATES = ("scheduled", "ready", "running", "retrying", "succeeded", "failed", "cancelled")


@pytest.fixture(scope="module")
def running(make_cluster: Callable[..., ServiceCluster]) -> ServiceCluster:
    cluster = make_cluster(services=(*SPINE, "gateway"), metrics=True, env={"gateway": SOON})
    cluster.start_all()
    return cluster


@pytest.fixture(scope="module")
def tf(running: ServiceCluster) -> Iterator[TaskFlow]:
    with TaskFlow(running.scheduler_address) as client:
        yield client


@pytest.fixture
def visitor(running: ServiceCluster) -> Visitor:
    return Visitor(running.address("gateway"))


@pytest.fixture(scope="module")
def go_on() -> threading.Event:
    """Until then one job runs."""
    return threading.Event()


@pytest.fixture(scope="module")
def jobs(running: ServiceCluster, tf: TaskFlow, go_on: threading.Event) -> Iterator[dict[str, JobHandle]]:
    """One job of queue `shop` in each state, by its name; a worker serves that queue."""
    app = TaskFlow(running.scheduler_address)

    def handle(job: Job) -> object:
        match job.payload:
            case "run":
                job.progress(3, total=8, unit="mails", message="sending")
                job.log("halfway there")
                go_on.wait(300)
            case "fail":
                raise Fail("the card was refused")
            case "retry":
                raise ValueError("no luck yet")
        return {"done": job.payload}

    with ExitStack() as stack:
        stack.callback(go_on.set)
        stack.enter_context(working(app, "shop", handler=handle))
        made = {
            "scheduled": tf.new_job("shop", "later", delay=86_400),
            "running": tf.new_job("shop", "run", tags=["slow"], metadata={"user": "u1"}),
            "retrying": tf.new_job("shop", "retry", retries=3, backoff=Constant(3600)),
            "succeeded": tf.new_job("shop", "well", tags=["nice", "quick"], metadata={"user": "u2"}),
            "failed": tf.new_job("shop", "fail"),
            "cancelled": tf.new_job("shop", "never", delay=86_400),
            "ready": tf.new_job("nobody", "waits"),
        }
        made["cancelled"].cancel(reason="not wanted")
        for name, job in made.items():
            eventually(lambda job=job, name=name: job.get().state == JobState(name), timeout=30)  # type: ignore[misc]
        yield made


def ids(page: Answer) -> set[str]:
    """The jobs that a list links to."""
    return {path.removeprefix("/jobs/") for path in page.links.values() if path.startswith("/jobs/0")}


# -- queues ----------------------------------------------------------------------------------------------------------
@pytest.mark.feature("S3.7")
def test_the_queues_page_tells_what_the_api_tells(jobs: dict[str, JobHandle], tf: TaskFlow, visitor: Visitor) -> None:
    front = visitor.get("/")
    assert (front.status, front.headers["location"]) == (307, "/queues")

    row = eventually(lambda: _busy(visitor.get("/queues").row(Queue="shop")), timeout=20)

    told = tf.queues.get("shop")
    assert row["State"] == "active"
    assert (row["Ready"], row["Running"], row["Due later"]) == ("0", "1", "2") == (
        str(told.ready), str(told.running), str(told.scheduled),
    )  # fmt: skip
    assert row["Workers"] == "1"
    waits = visitor.get("/queues").row(Queue="nobody")
    assert (waits["Ready"], waits["Workers"]) == ("1", "none")
    assert waits["Oldest"].endswith(("s", "ms"))


def _busy(row: dict[str, str]) -> dict[str, str] | None:
    return row if row["Running"] == "1" and row["Due later"] == "2" else None


@pytest.mark.feature("S3.7")
def test_a_queue_s_page_has_its_newest_jobs(jobs: dict[str, JobHandle], visitor: Visitor) -> None:
    page = visitor.get("/queues/shop")

    assert {job.id for name, job in jobs.items() if name != "ready"} <= ids(page)
    assert jobs["ready"].id not in ids(page)


@pytest.mark.feature("S3.7", "R12")
def test_a_job_that_nobody_runs_says_so_on_its_pages(jobs: dict[str, JobHandle], visitor: Visitor) -> None:
    said = "no live worker has a handler for jobs without a task in queue 'nobody'"
    assert said in visitor.get(f"/jobs/{jobs['ready'].id}").words
    assert said in visitor.get("/queues/nobody").words
    assert "no live worker" not in visitor.get("/queues/shop").words


@pytest.mark.feature("S3.8", "S3.7")
def test_a_queue_is_paused_and_resumed_by_its_buttons(tf: TaskFlow, visitor: Visitor) -> None:
    tf.new_job("steered", 1)
    page = visitor.get("/queues")

    paused = visitor.send(page, "/queues/steered/pause")

    assert "Paused: nothing of it is handed out" in paused.words
    assert paused.path.startswith("/queues?"), "back where the button was"
    assert paused.row(Queue="steered")["State"] == "paused"
    assert tf.queues.get("steered").paused
    alone = visitor.get("/queues/steered")
    resumed = visitor.send(alone, "/queues/steered/resume")
    assert resumed.path.startswith("/queues/steered?")
    assert not tf.queues.get("steered").paused
    drained = visitor.send(visitor.get("/queues/steered"), "/queues/steered/drain")
    assert "no new jobs are accepted" in drained.words and "draining" in drained.words
    assert tf.queues.get("steered").draining
    visitor.send(drained, "/queues/steered/resume")
    assert not tf.queues.get("steered").draining


# -- jobs ------------------------------------------------------------------------------------------------------------
@pytest.mark.feature("S3.7")
@pytest.mark.parametrize("state", STATES)
def test_jobs_of_a_state_are_listed(jobs: dict[str, JobHandle], visitor: Visitor, state: str) -> None:
    page = visitor.get("/jobs", state=state)

    assert jobs[state].id in ids(page)
    assert {row["State"] for row in page.rows if row} == {state}


@pytest.mark.feature("S3.7", "X.19")
@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({"queue": "nobody"}, {"ready"}),
        ({"tags": "quick, nice"}, {"succeeded"}),
        ({"metadata": "user=u1"}, {"running"}),
        ({"error": "card was REFUSED"}, {"failed"}),
        ({"error": "ValueError", "state": "retrying"}, {"retrying"}),
        ({"queue": "shop", "state": "cancelled"}, {"cancelled"}),
        ({"queue": "shop", "before": "2020-01-01T00:00"}, set()),
        ({"queue": "no-such-queue"}, set()),
    ],
)
def test_a_filter_narrows_the_list(
    jobs: dict[str, JobHandle], visitor: Visitor, query: dict[str, str], names: set[str]
) -> None:
    page = visitor.get("/jobs", **query)

    assert ids(page) == {jobs[name].id for name in names}
    search = page.form("/jobs")
    assert {name: search.fields[name] for name in query} == query, "the form keeps what was asked for"
    if not names:
        assert "No such jobs" in page.words


@pytest.mark.feature("S3.7")
def test_lists_are_paged_forth_and_back(tf: TaskFlow, visitor: Visitor) -> None:
    made = [job.id for job in tf.new_jobs([{"queue": "many", "payload": n} for n in range(120)])]

    seen, page = [], visitor.get("/jobs", queue="many")
    while True:
        seen.append(ids(page))
        if "Next" not in page.links:
            break
        page = visitor.get(page.links["Next"])

    assert [len(part) for part in seen] == [50, 50, 20]
    assert set().union(*seen) == set(made)
    for part in reversed(seen[:-1]):
        page = visitor.get(page.links["Previous"])
        assert ids(page) == part
    assert "Previous" not in page.links


@pytest.mark.feature("S3.7")
def test_a_job_s_page_has_its_payload_result_attempts_and_log(jobs: dict[str, JobHandle], visitor: Visitor) -> None:
    done = visitor.get(f"/jobs/{jobs['succeeded'].id}")
    assert '"well"' in done.words and '"done": "well"' in done.words
    assert done.row(No="1")["Outcome"] == "succeeded final"
    assert "Metadata user=u2" in done.words and "taskflow.run" not in done.words
    assert "nice" in done.links and done.links["nice"] == "/jobs?tags=nice"

    busy = eventually(lambda: _logged(visitor.get(f"/jobs/{jobs['running'].id}")), timeout=20)
    assert "sending 3 of 8 mails" in busy.words
    assert busy.row(No="1")["Outcome"] == "running"
    path = f"/jobs/{jobs['running'].id}"
    eventually(lambda: visitor.get(path).row(No="1").get("Ran", "").endswith(" so far"), timeout=20)
    assert re.search(r"Ran \S+ s so far Worker", visitor.get(path).words)

    failed = visitor.get(f"/jobs/{jobs['failed'].id}")
    assert "Fail the handler said that no retry can help the card was refused" in failed.words
    assert re.search(r"UTC (now|\d+ s ago)", failed.words)

    retrying = visitor.get(f"/jobs/{jobs['retrying'].id}")
    assert "ValueError" in retrying.words and "Traceback" in retrying.words
    assert re.search(r"in (5|6)\d min", retrying.words)


def _logged(page: Answer) -> Answer | None:
    return page if "halfway there" in page.words and "sending" in page.words else None


@pytest.mark.feature("S3.7")
def test_whatever_a_job_brings_is_text(tf: TaskFlow, running: ServiceCluster, visitor: Visitor) -> None:
    def refuse(job: Job) -> None:
        job.log(EVIL)
        raise Fail(EVIL)

    with working(TaskFlow(running.scheduler_address), "evil", handler=refuse):
        job = tf.new_job("evil", {EVIL: EVIL}, tags=[EVIL], metadata={EVIL: EVIL}, key=EVIL)
        eventually(lambda: job.get().state is JobState.FAILED)

    for path in (f"/jobs/{job.id}", "/jobs?state=failed", "/queues/evil", f"/jobs?error={EVIL[:8]}&task=%3Cb%3E"):
        page = visitor.get(path)
        assert page.tags.count("script") == 1, path
        assert page.tags.count("img") == 1, "our own mark"
    page = visitor.get(f"/jobs/{job.id}")
    assert page.words.count('alert("x")') >= 4, "payload, tags, metadata, error"
    assert page.source.count("onerror=alert(1)&gt;") >= 4


@pytest.mark.feature("S3.7")
def test_a_large_payload_is_cut_and_can_be_saved_whole(tf: TaskFlow, visitor: Visitor) -> None:
    text = tf.new_job("large", "ä" * 200_000)
    data = tf.new_job("large", bytes(range(256)) * 40)

    page = visitor.get(f"/jobs/{text.id}")
    assert len(page.source) < 60_000
    assert "Cut: this is the beginning of" in page.words
    saved = visitor.get(page.links["Save all of it"])
    assert saved.body.decode().strip('"') == "ä" * 200_000
    assert saved.headers["content-disposition"].startswith("attachment")
    page = visitor.get(f"/jobs/{data.id}")
    assert "000000 00 01 02" in page.words
    assert visitor.get(page.links["Save all of it"]).body == bytes(range(256)) * 40


@pytest.mark.feature("S3.7", "S1.2")
def test_a_job_is_cancelled_and_retried_by_its_buttons(
    tf: TaskFlow, visitor: Visitor, running: ServiceCluster
) -> None:
    job = tf.new_job("unserved", "again")
    page = visitor.get(f"/jobs/{job.id}")

    cancelled = visitor.send(page, f"/jobs/{job.id}/cancel")

    assert "Cancelled" in cancelled.words
    eventually(lambda: job.get().state is JobState.CANCELLED)
    assert "by hand, in the console" in eventually(lambda: visitor.get(f"/jobs/{job.id}")).words
    ended = visitor.get(f"/jobs/{job.id}")
    assert 'data-confirm="The state of this job is cancelled. Run it again' in ended.source
    retried = visitor.send(ended, f"/jobs/{job.id}/retry")
    assert "Back in its queue" in retried.words
    eventually(lambda: job.get().state is JobState.READY)
    late = visitor.post(f"/jobs/{job.id}/retry", page.form(f"/jobs/{job.id}/cancel").fields)
    assert late.status == 409 and "JOB_NOT_FINISHED" in late.words
    asked = "select event from taskflow.events where job_id = %s and actor = 'console' order by at"
    assert rows.found(running.dsn, asked, job.id) == [("cancel_requested",), ("retried",)]


# -- tasks and schedules ---------------------------------------------------------------------------------------------
@pytest.mark.feature("S4.3", "S1.5")
def test_tasks_show_their_last_and_next_runs_and_schedules_their_ledger(
    tf: TaskFlow, running: ServiceCluster, visitor: Visitor
) -> None:
    with TaskFlow(running.scheduler_address) as app:

        @app.task(queue="reports")
        def report() -> dict[str, int]:
            return {"pages": 7}

        with working(app):
            task = tf.tasks.create("report", queue="reports", schedule="0 8 * * mon", title="Monday's report")
            tf.tasks.update("report", concurrency=2)
            once = tf.schedules.create("report", at=datetime.now(UTC) + timedelta(seconds=1))
            eventually(lambda: [firing for firing in tf.schedules.firings(once.id) if firing.job_id], timeout=30)
            ran = visitor.send(visitor.get("/tasks/report"), "/tasks/report/run")
            assert "A job of it is made." in ran.words and ran.path.startswith("/jobs/")
            eventually(lambda: tf.tasks.logs("report").count == 2, timeout=30)

    row = visitor.get("/tasks").row(Task="report Monday's report")
    assert row["Schedule"] == "0 8 * * mon UTC"
    assert " UTC" in row["Last run"] and "08:00:00 UTC" in row["Next run"]
    page = visitor.get("/tasks/report")
    assert '"pages": 7' in page.words and "2 at once" in page.words
    assert {row["State"] for row in page.rows if "When" in row} >= {"active"}
    ledger = visitor.get(f"/schedules/{once.id}")
    fired = ledger.row(Outcome="fired")
    assert " UTC" in fired["Instant"] and ids(ledger)
    (own,) = [s for s in tf.schedules.list() if s.cron]
    coming = visitor.get(f"/schedules/{own.id}")
    assert coming.words.count("08:00:00 UTC") >= 6, "next, and the five after"
    assert task.name in visitor.get("/schedules").words


EVERY_FIELD = {
    "name": "whole", "title": "All of it", "description": "Each field, by the form.", "target": "report",
    "queue": "reports", "priority": "7", "retries": "2", "sla": "600", "timeout": "90", "backoff_first": "300",
    "backoff_factor": "1", "backoff_limit": "300", "schedule": "0 8 * * mon", "time_zone": "Asia/Kolkata",
    "start": "2099-01-01T00:00", "end": "2099-12-31T23:59:59", "active": "on", "payload": '{"month": 3}',
}  # fmt: skip


@pytest.mark.feature("S1.1", "S3.7")
def test_a_task_is_made_and_changed_by_its_form_and_each_field_is_shown(tf: TaskFlow, visitor: Visitor) -> None:
    form = visitor.get("/edit/tasks").form("/edit/tasks").fields
    bad = visitor.post("/edit/tasks", {**form, **EVERY_FIELD, "end": "2098-01-01T00:00"})
    assert (bad.status, "is before start" in bad.words) == (400, True)
    again = bad.form("/edit/tasks").fields
    assert (again["title"], again["end"]) == ("All of it", "2098-01-01T00:00"), "as it was filled in"

    made = visitor.post("/edit/tasks", {**form, **EVERY_FIELD})

    assert (made.status, made.headers["location"]) == (303, "/tasks/whole?done=saved")
    task = tf.tasks.get("whole")
    assert (task.target, task.queue, task.priority, task.retries) == ("report", "reports", 7, 2)
    assert (task.sla, task.timeout, task.backoff) == (600, 90, Exponential(first=300, factor=1, limit=300))
    assert (task.start, task.end) == (datetime(2099, 1, 1, tzinfo=UTC), datetime(2099, 12, 31, 23, 59, 59, tzinfo=UTC))
    assert (task.schedule, task.time_zone, task.payload, task.active) == (
        "0 8 * * mon", "Asia/Kolkata", {"month": 3}, True,
    )  # fmt: skip
    page = visitor.get("/tasks/whole").words
    for words in (
        "All of it", "Each field, by the form.", "7 (high)", "starts within 10 min", "1 min 30 s", "Backoff 5 min",
        "Not before 2099-01-01 00:00:00 UTC", "Not after 2099-12-31 23:59:59 UTC", '"month": 3',
    ):  # fmt: skip
        assert words in page

    before = visitor.get("/edit/tasks/whole").form("/edit/tasks/whole").fields
    tf.tasks.update("whole", title="By another hand", retries=5)
    gone = dict.fromkeys(("sla", "start", "end", "backoff_first", "backoff_factor", "backoff_limit"), "")
    changed = {**before, "priority": "7", "payload": '{"month": 3}', **gone, "description": "Shorter."}
    del changed["active"]
    assert visitor.post("/edit/tasks/whole", changed).status == 303
    task = tf.tasks.get("whole")
    assert (task.sla, task.start, task.end, task.backoff, task.active) == (None, None, None, None, False)
    assert (task.title, task.retries, task.description) == ("By another hand", 5, "Shorter."), "others stay"
    assert visitor.post("/edit/tasks", {**form, **EVERY_FIELD}).status == 409
    assert visitor.post("/edit/tasks/whole", {**changed, "retries": "many"}).status == 400


@pytest.mark.feature("S1.1")
def test_a_job_s_page_tells_that_it_missed_its_sla(tf: TaskFlow, visitor: Visitor) -> None:
    missed, waits = tf.new_job("nobody", sla=0.1), tf.new_job("nobody", sla=3600)
    eventually(lambda: missed.get().sla_missed, timeout=30)
    assert "SLA missed: did not start within 100 ms" in visitor.get(f"/jobs/{missed.id}").words
    assert "SLA starts within 1 h" in visitor.get(f"/jobs/{waits.id}").words
    for job in (missed, waits):
        job.cancel()


@pytest.mark.feature("S1.5", "S3.7")
def test_a_schedule_is_told_in_its_own_zone_too(tf: TaskFlow, visitor: Visitor) -> None:
    made = tf.schedules.create("never-registered", cron="0 9 * * mon", time_zone="Asia/Kolkata")

    page = visitor.get(f"/schedules/{made.id}")

    assert page.words.count("03:30:00 UTC") >= 6, "next, and the five after"
    assert page.words.count("09:00:00 +0530 Asia/Kolkata") >= 6
    assert "09:00:00 +0530" in visitor.get("/schedules").row(Runs="never-registered")["Next"]


@pytest.mark.feature("S3.7")
def test_no_link_of_a_page_leads_nowhere(jobs: dict[str, JobHandle], tf: TaskFlow, visitor: Visitor) -> None:
    """Also those to handlers without a named task, and to a workflow that was deleted."""
    tf.schedules.create("never-registered", cron="0 4 * * *")
    step = {"name": "a", "kind": "wait", "meta": {"duration": "1d"}}
    tf.workflows.put({"name": "gone", "steps": [step]})
    tf.schedules.create(workflow="gone", cron="0 5 * * *")
    run = tf.workflows.start("gone")
    tf.workflows.delete("gone")

    found: dict[str, str] = {}
    sections = ("queues", "jobs", "tasks", "schedules", "workflows", "runs", "workers", "alerts", f"runs/{run.id}")
    for path in (f"/{section}" for section in sections):
        page = visitor.get(path)
        found |= {to: path for to in page.hrefs if to.startswith("/") and not to.startswith(("/static", "/jobs"))}

    assert {"/tasks/never-registered", "/workflows/gone", "/workflows/gone?version=1"} <= found.keys()
    assert {to: at for to, at in found.items() if visitor.get(to).status not in (200, 307)} == {}
    assert "no named task of this name" in visitor.get("/tasks/never-registered").words
    assert visitor.get("/tasks/nobody-knows").status == visitor.get("/workflows/nobody-knows").status == 404


@pytest.mark.feature("S1.5", "S3.7")
def test_a_schedule_is_paused_and_resumed_by_its_buttons(tf: TaskFlow, visitor: Visitor) -> None:
    made = tf.schedules.create("report", cron="30 3 * * *")

    paused = visitor.send(visitor.get("/schedules"), f"/schedules/{made.id}/pause")

    assert "Paused: it makes no jobs" in paused.words
    assert not tf.schedules.get(made.id).active
    resumed = visitor.send(visitor.get(f"/schedules/{made.id}"), f"/schedules/{made.id}/resume")
    assert "It goes on." in resumed.words
    assert tf.schedules.get(made.id).active


@pytest.mark.feature("S3.7")
def test_workers_and_services_are_shown(jobs: dict[str, JobHandle], running: ServiceCluster, visitor: Visitor) -> None:
    page = visitor.get("/workers")
    (worker,) = [row["Worker"] for row in page.rows if row.get("Queues") == "shop"]
    of_the_worker = visitor.get("/jobs", worker=worker)
    assert ids(of_the_worker) == {jobs["running"].id} == ids(visitor.get("/jobs", worker=worker, longer="0"))
    assert not ids(visitor.get("/jobs", longer="1000"))
    assert "is not a number of minutes" in visitor.get("/jobs", longer="soon").words

    assert any(row.get("Queues") == "shop" for row in page.rows)
    for service in ("scheduler", "coordinator", "queue"):
        assert running.address(service) in page.words


# -- forms from elsewhere --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"Origin": "http://evil.example"}, "OTHER_ORIGIN"),
        ({"Origin": "null"}, "OTHER_ORIGIN"),
        ({"Origin": ""}, "OTHER_ORIGIN"),
        ({"Sec_Fetch_Site": "cross-site"}, "OTHER_ORIGIN"),
        ({"Sec_Fetch_Site": "same-site"}, "OTHER_ORIGIN"),
        ({"Cookie": ""}, "FORM_TOKEN"),
        ({"Cookie": "taskflow_forms=" + "x" * 43}, "FORM_TOKEN"),
    ],
)
def test_a_form_from_elsewhere_changes_nothing(
    tf: TaskFlow, visitor: Visitor, headers: dict[str, str], reason: str
) -> None:
    tf.new_job("guarded")
    form = visitor.get("/queues/guarded").form("/queues/guarded/pause")

    refused = visitor.post("/queues/guarded/pause", form.fields, **headers)

    assert refused.status == 403 and reason in refused.words
    assert not tf.queues.get("guarded").paused
    assert visitor.post("/queues/guarded/pause", form.fields, Sec_Fetch_Site="same-origin").status == 303
    tf.queues.resume("guarded")


def test_a_form_leads_to_no_other_site(tf: TaskFlow, visitor: Visitor) -> None:
    tf.new_job("guarded")
    form = visitor.get("/queues/guarded").form("/queues/guarded/pause")

    for to in ("https://evil.example", "//evil.example/x", "/\\evil.example"):
        said = visitor.post("/queues/guarded/resume", {**form.fields, "to": to})
        assert said.headers["location"] == "/queues/guarded?done=resumed"


def test_times_are_told_by_the_cluster_s_own_clock(make_cluster: Callable[..., ServiceCluster]) -> None:
    manual = {"TASKFLOW_CLOCK": "manual"}
    cluster = make_cluster(services=(*SPINE, "gateway"), env={"scheduler": manual, "gateway": SOON})
    cluster.start_all()
    visitor = Visitor(cluster.address("gateway"))
    with TaskFlow(cluster.scheduler_address) as tf:
        job = tf.new_job("later", delay=5 * 3600)
        assert "in 5 h" in visitor.get(f"/jobs/{job.id}").words

        tf.advance_clock(timedelta(hours=2), step=3600)

    eventually(lambda: "in 3 h" in visitor.get(f"/jobs/{job.id}").words)
    cluster.close()


@pytest.mark.feature("S3.7")
def test_the_tiles_sum_all_queues_and_not_only_those_of_the_page(tf: TaskFlow, visitor: Visitor) -> None:
    tf.new_jobs([{"queue": f"tile-{n}", "payload": n} for n in range(60)])

    front = visitor.get("/queues")

    queues = list(tf.queues.list(page_size=1000))
    assert len([row for row in front.rows if "Ready" in row]) == 50 < len(queues)
    assert f"{len(queues)} queues {sum(queue.ready for queue in queues)} ready" in front.words
    second = visitor.get(front.links["Next"])
    assert f"{len(queues)} queues" in second.words


# -- live ------------------------------------------------------------------------------------------------------------
@pytest.mark.feature("S3.7")
def test_an_open_page_hears_what_changed(tf: TaskFlow, visitor: Visitor) -> None:
    job = tf.new_job("watched")
    visitor.get("/queues")

    with Stream(visitor, f"/jobs/{job.id}") as stream:
        before = stream.until("page", "ready")
        assert before.form(f"/jobs/{job.id}/cancel").fields["form_token"] == visitor.cookies["taskflow_forms"]
        job.cancel()
        after = stream.until("page", "cancelled")

    assert after.form(f"/jobs/{job.id}/retry")
    assert "<html" not in after.source, "the part that changes, not the whole"


def test_those_who_look_at_the_same_page_share_one_look_and_get_their_own_tokens(
    tf: TaskFlow, running: ServiceCluster
) -> None:
    tf.new_job("watched")
    one, other = (Visitor(running.address("gateway")) for _ in range(2))
    for each in (one, other):
        each.get("/queues")
    assert one.cookies != other.cookies

    def open_pages() -> list[float]:
        port = running.metrics_port("gateway")
        return [metric(port, f"taskflow_live_{what}") for what in ("streams", "pages")]

    with Stream(one, "/queues/watched?done=paused") as first, Stream(other, "/queues/watched") as second:
        tokens = [stream.until("page").form("/queues/watched/pause").fields["form_token"] for stream in (first, second)]
        assert open_pages() == [2, 1]

    eventually(lambda: open_pages() == [0, 0], timeout=30)
    assert tokens == [one.cookies["taskflow_forms"], other.cookies["taskflow_forms"]]


def test_more_open_pages_than_the_setting_allows_are_refused_and_read_as_ever(
    running: ServiceCluster, visitor: Visitor
) -> None:
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(Stream(visitor, "/queues")).until("page")
        with Stream(visitor, "/queues") as one_more:
            assert one_more.answer.status == 503
            assert b"too many pages are open" in one_more.answer.read()
        assert visitor.get("/queues").status == 200

    def free() -> bool:
        with Stream(visitor, "/queues") as stream:
            return stream.answer.status == 200

    eventually(free, timeout=20)


def test_an_open_page_is_told_when_the_scheduler_is_away_and_when_it_is_back(
    running: ServiceCluster, visitor: Visitor
) -> None:
    with Stream(visitor, "/workers") as stream:
        stream.until("page")
        running.kill("scheduler")
        assert "does not answer" in stream.until("away").words
        running.start("scheduler")
        running.wait_healthy("scheduler")
        stream.until("page", running.scheduler_address)


# -- namespaces --------------------------------------------------------------------------------------------------------
@pytest.mark.feature("S3.7", "S4.6")
def test_quotas_of_a_namespace_are_shown_and_changed(tf: TaskFlow, visitor: Visitor) -> None:
    tf.namespaces.create("limited", quota_preset="app-tasks", app_url="https://shop.example.org")
    row = visitor.get("/namespaces").row(Namespace="limited")
    assert (row["Tasks"], row["Waiting jobs"], row["Payload"]) == ("5", "no limit", "no limit")

    page = visitor.get("/namespaces/limited")
    form = page.form("/namespaces/limited/update")
    assert (form.fields["tasks"], form.fields["waiting_jobs"]) == ("5", "")
    form.fields |= {"tasks": "", "waiting_jobs": "300", "payload_bytes": "2048"}
    saved = visitor.send(page, "/namespaces/limited/update")

    assert "Saved." in saved.words
    (found,) = [space for space in tf.namespaces.list() if space.name == "limited"]
    assert (found.quotas, found.app_url) == (Quotas(waiting_jobs=300, payload_bytes=2048), "https://shop.example.org")
    form = saved.form("/namespaces/limited/update")
    for wrong in ("-1", "many", str(2**31)):
        form.fields["payload_bytes"] = wrong
        refused = visitor.send(saved, "/namespaces/limited/update")
        assert refused.status == 400 and "payload_bytes" in refused.words and wrong in refused.words
    assert visitor.get("/namespaces/none").status == 404


@pytest.mark.feature("S1.10", "S3.7")
def test_alert_rules_are_shown_tested_paused_and_deleted_by_their_pages(tf: TaskFlow, visitor: Visitor) -> None:
    url = "https://hooks.example.org/in/a-secret-path"
    tf.alerts.create("paged", events=["job_failed", "backlog_old"], queue="pages", window=90, url=url, secret="on-call")

    row = visitor.get("/alerts").row(Rule="paged")

    assert (row["State"], row["Selects"], row["Sent as"]) == ("active", "queue pages", "webhook")
    page = visitor.get("/alerts/paged")
    assert "webhook to https://hooks.example.org, signed with the secret on-call" in page.words
    assert "a-secret-path" not in page.words
    tested = visitor.send(page, "/alerts/paged/test")
    assert "This job delivers the test message" in tested.words and "taskflow.alert" in tested.words
    paused = visitor.send(visitor.get("/alerts/paged"), "/alerts/paged/pause")
    assert "gathers nothing until you resume it" in paused.words and not tf.alerts.get("paged").active
    visitor.send(visitor.get("/alerts/paged"), "/alerts/paged/resume")
    assert tf.alerts.get("paged").active
    gone = visitor.send(visitor.get("/alerts/paged"), "/alerts/paged/delete")
    assert "The rule is deleted" in gone.words
    with pytest.raises(NotFound):
        tf.alerts.get("paged")

"""REST calls and commands as steps, on a real cluster and against a real web server; and the campaign of
sdk/examples/campaign.json."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

import pytest
from aiohttp import web

from taskflow import RunFailed, RunInfo, RunState, StepState, TaskFlow
from tests.support import rows
from tests.support.cluster import ServiceCluster
from tests.support.docs import EXAMPLES
from tests.support.waiting import eventually
from tests.support.web import Handler, WebServer

TOKEN = "tok-91c0"
DOCUMENT = json.loads((EXAMPLES / "campaign.json").read_text())


class Shop:
    """The app: users, mails, and its own knowledge of whom to leave alone."""

    def __init__(self) -> None:
        self.mails: list[dict[str, str]] = []
        self.refusals = 0  # how many mails are refused first
        self.unscheduled: list[str] = []
        self.here, self.both = 0, asyncio.Event()
        self.tf: TaskFlow | None = None
        self.routes: dict[str, Handler] = {
            "/users/u1": self.user,
            "/users/u2": self.user,
            "/mails": self.mail,
            "/echo": self.echo,
            "/gone": self.gone,
        }
        self.server = WebServer(self.routes)

    async def user(self, request: web.Request) -> web.Response:
        return web.json_response({"name": "Ada"})

    async def mail(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.Response(status=401)
        if self.refusals:
            self.refusals -= 1
            return web.Response(status=503)
        self.mails.append(await request.json())
        return web.Response(status=202)

    async def echo(self, request: web.Request) -> web.Response:
        """Echoes the request once two calls are here: they are made at once."""
        self.here += 1
        if self.here > 1:
            self.both.set()
        async with asyncio.timeout(20):
            await self.both.wait()
        return web.json_response({"query": dict(request.query), "header": request.headers.get("X-From")})

    async def gone(self, request: web.Request) -> web.Response:
        return web.json_response({"why": "gone"}, status=410)

    async def unschedule(self, request: web.Request) -> web.Response:
        """Ends what is scheduled for the user in this campaign, whatever it is."""
        assert self.tf is not None
        delete = self.tf.schedules.delete
        self.unscheduled += await asyncio.to_thread(lambda: delete(metadata=dict(request.query)))
        return web.json_response({"ended": self.unscheduled})


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    found = Shop()
    yield found
    found.server.close()


@pytest.fixture(scope="module")
def cluster(make_cluster: Callable[..., ServiceCluster], shop: Shop) -> ServiceCluster:
    worker = {
        "TASKFLOW_BUILTINS": "http,shell",
        "TASKFLOW_SHELL_ALLOW": "sort,false",
        "TASKFLOW_HTTP_ALLOW": f"127.0.0.1:{shop.server.port}",
        "TASKFLOW_SECRET_MAILER": TOKEN,
        "TASKFLOW_HTTP_SECRET_HOSTS": f"MAILER=127.0.0.1:{shop.server.port}",
    }
    env = {"scheduler": {"TASKFLOW_CLOCK": "manual"}, "worker": worker}
    running = make_cluster(services=("queue", "coordinator", "scheduler", "worker"), env=env)
    running.start_all()
    running.run("app", "-m", "tests.support.workflow_app", running.scheduler_address)
    return running


@pytest.fixture
def tf(cluster: ServiceCluster, shop: Shop) -> Iterator[TaskFlow]:
    with TaskFlow(cluster.scheduler_address) as app:
        shop.tf = app
        app.namespaces.update("default", app_url=shop.server.url)
        app.workflows.put(DOCUMENT)
        yield app


def now_of(cluster: ServiceCluster) -> datetime:
    ((now,),) = rows.found(cluster.dsn, "select taskflow.now()")
    assert isinstance(now, datetime)
    return now


def begun(cluster: ServiceCluster, tf: TaskFlow, shop: Shop, **metadata: str) -> RunInfo:
    """A run of the campaign, started by a schedule at one instant."""
    now = now_of(cluster)
    schedule = tf.schedules.create(
        workflow="win-back",
        at=now + timedelta(minutes=5),
        payload={"gift": "tea", "ends_at": (now + timedelta(days=10)).isoformat()},
        metadata=metadata,
    )
    shop.routes[f"/schedules/{schedule.id}"] = shop.unschedule
    tf.advance_clock(timedelta(minutes=6), step=30)
    eventually(lambda: list(tf.workflows.runs(metadata=metadata)), timeout=30)
    (run,) = tf.workflows.runs(metadata=metadata)
    assert (run.schedule_id, run.trigger) == (schedule.id, "schedule")
    return run


def until(tf: TaskFlow, run: RunInfo, step: str, state: StepState, by: timedelta) -> RunInfo:
    """Lets time pass, little by little, until the step is in the state."""
    passed = timedelta()
    while True:
        found = tf.workflows.get_run(run.id)
        if found.step(step).state is state:
            return found
        assert passed < by, f"{step} is {found.step(step).state} after {passed}"
        tf.advance_clock(by / 40, step=by / 40)
        passed += by / 40


@pytest.mark.feature("S0.1", "S0.2", "S0.3", "S0.4", "S0.5", "S0.8", "S0.9", "S1.4")
def test_the_user_is_reminded_answers_and_everything_of_theirs_is_unscheduled(
    cluster: ServiceCluster, tf: TaskFlow, shop: Shop
) -> None:
    mine = {"user": "u1", "campaign": "c9"}
    shop.refusals = 4  # three tries of the call, and the first of the sequence's retry

    run = begun(cluster, tf, shop, **mine)
    invited = until(tf, run, "answer", StepState.WAITING, timedelta(hours=1))
    assert invited.step("invite").iteration == 2
    assert [mail["template"] for mail in shop.mails] == ["invite"]
    until(tf, run, "last_chance", StepState.WAITING, timedelta(days=4))
    assert shop.mails[-1]["text"] == "Dear Ada, your tea waits."

    waits = tf.workflows.start("win-back", {"gift": "cup", "ends_at": "2099-01-01T00:00:00Z"}, metadata=mine)
    again = tf.schedules.create(workflow="win-back", cron="@monthly", metadata=mine)
    until(tf, waits, "answer", StepState.WAITING, timedelta(hours=1))
    tf.workflows.signal(run.id, "answered", {"by": "mail"})

    done = tf.workflows.wait(run.id, 60)
    assert done.output == {"answered": True}
    assert set(shop.unscheduled) >= {waits.id, again.id}
    assert run.id not in shop.unscheduled
    eventually(lambda: tf.workflows.get_run(waits.id).state is RunState.CANCELLED)
    assert again.id not in [schedule.id for schedule in tf.schedules.list(workflow="win-back")]
    ((secret,),) = rows.found(
        cluster.dsn, "select count(*) from taskflow.job_states where payload like %s or result like %s",
        f"%{TOKEN}%", f"%{TOKEN}%",
    )  # fmt: skip
    assert secret == 0


@pytest.mark.feature("S0.2", "S0.4", "S0.5")
def test_who_does_not_answer_is_given_up_a_day_before_the_offer_ends(
    cluster: ServiceCluster, tf: TaskFlow, shop: Shop
) -> None:
    run = begun(cluster, tf, shop, user="u2", campaign="c10")

    until(tf, run, "last_chance", StepState.WAITING, timedelta(days=4))
    until(tf, run, "give_up", StepState.SUCCEEDED, timedelta(days=8))

    done = tf.workflows.wait(run.id, 60)
    assert done.output == {"answered": False}
    job = tf.jobs.get(done.step("give_up").jobs[0].job_id)
    assert job.result == "closed for u2"


@pytest.mark.feature("S0.1", "S0.3", "S1.4")
def test_calls_are_made_at_once_and_a_failed_one_stops_nothing_where_the_step_says_so(tf: TaskFlow) -> None:
    echo = {"url": "/echo", "query": {"n": "{{ input.n }}"}, "headers": {"X-From": "run {{ context.run_id }}"}}
    calls = [
        {"name": "one", **echo},
        {"name": "two", **echo},
        {"name": "lost", "url": "/gone"},
        {"name": "fine", "url": "/gone", "expected_status": [410]},
    ]
    all_at_once = {"name": "calls", "kind": "task_flow", "meta": {"calls": calls, "parallel": True}}
    lenient = {**all_at_once, "meta": {**all_at_once["meta"], "continue_on_failure": True}}  # type: ignore[dict-item]
    tf.workflows.put({"name": "lenient", "steps": [lenient], "output": "{{ steps.calls.result }}"})
    tf.workflows.put({"name": "strict", "steps": [all_at_once]})

    run = tf.workflows.start("lenient", {"n": 7})
    one, two, lost, fine = tf.workflows.wait(run.id, 60).output
    strict = tf.workflows.start("strict", {"n": 7})

    assert one["body"] == two["body"] == {"query": {"n": "7"}, "header": f"run {run.id}"}
    assert (one["status"], fine["status"], fine["body"]) == (200, 410, {"why": "gone"})
    assert (lost["name"], lost["error"]["type"]) == ("lost", "HttpStatus")
    with pytest.raises(RunFailed, match="410"):
        tf.workflows.wait(strict.id, 60)


@pytest.mark.feature("S0.2", "S1.9")
def test_a_step_runs_a_command_that_the_operator_allows(tf: TaskFlow) -> None:
    def shell(name: str, *command: str, **more: object) -> dict[str, object]:
        return {"name": name, "kind": "shell", "meta": {"command": list(command)}, **more}

    tf.workflows.put({
        "name": "commands",
        "steps": [
            shell("sorted", "sort", "--version"),
            shell("fails", "false", depends_on=["sorted"]),
            shell("refused", "rm", "-r", "/"),
        ],
        "edges": [{"from": "fails", "to": "refused", "on": "failure"}],
    })  # fmt: skip

    with pytest.raises(RunFailed) as failed:
        tf.workflows.wait(tf.workflows.start("commands").id, 60)

    sorted_, fails, refused = failed.value.run.steps
    assert [str(step.state) for step in (sorted_, fails, refused)] == ["succeeded", "failed", "failed"]
    assert "sort" in "".join(line.message for line in tf.jobs.logs(sorted_.jobs[0].job_id))
    assert refused.error is not None and "rm" in refused.error.message

"""The designer in a real browser: workflows made, changed, checked, tried and compared, by clicks, keys and touch."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from playwright.sync_api import Browser, Locator, Page, expect

from taskflow import NotFound, RunState, StepState, TaskFlow
from taskflow_server.gateway.console.designer import MOST_CHECKS
from tests.support.chromium import chromium
from tests.support.cluster import ROOT, SPINE, ServiceCluster
from tests.support.docs import EXAMPLES
from tests.support.visitor import Answer, Visitor
from tests.support.waiting import eventually
from tests.support.web import WebServer

WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
PATIENCE = 30_000  # ms
JSON = {"Accept": "application/json"}
CAMPAIGN = json.loads((EXAMPLES / "campaign.json").read_text())
NODES = [
    {"name": "greet", "title": "Greet a user", "description": "The app's own.", "kind": "task_flow",
     "meta": {"calls": [{"url": "/users/{{ input.user }}"}]}},
    {"name": "close", "kind": "task", "queue": "campaigns", "meta": {"task": "close-campaign", "input": "u7"}},
]  # fmt: skip


@pytest.fixture(scope="module")
def shop() -> Iterator[WebServer]:
    """The app whose REST services the steps call."""

    async def user(request: web.Request) -> web.Response:
        return web.json_response({"name": "Ada"})

    async def mail(request: web.Request) -> web.Response:
        return web.Response(status=202)

    async def unschedule(request: web.Request) -> web.Response:
        return web.json_response({"ended": dict(request.query)})

    server = WebServer({"/users/u1": user, "/mails": mail, "/schedules/s1": unschedule})
    yield server
    server.close()


@pytest.fixture(scope="module")
def running(
    make_cluster: Callable[..., ServiceCluster], shop: WebServer, tmp_path_factory: pytest.TempPathFactory
) -> ServiceCluster:
    nodes = tmp_path_factory.mktemp("nodes") / "nodes.json"
    nodes.write_text(json.dumps(NODES))
    worker = {
        "TASKFLOW_BUILTINS": "http",
        "TASKFLOW_HTTP_ALLOW": f"127.0.0.1:{shop.port}",
        "TASKFLOW_SECRET_MAILER": "tok-91c0",
        "TASKFLOW_HTTP_SECRET_HOSTS": f"MAILER=127.0.0.1:{shop.port}",
    }
    kinds = {"TASKFLOW_STEP_KINDS": "tests.support.step_kinds:Letters"}
    env = {
        "gateway": {"TASKFLOW_DESIGNER_NODES": str(nodes)},
        "worker": worker,
        "scheduler": kinds,
        "coordinator": kinds,
    }
    cluster = make_cluster(services=(*SPINE, "worker", "gateway"), env=env)
    cluster.start_all()
    with TaskFlow(cluster.scheduler_address) as client:
        client.namespaces.update("default", app_url=shop.url)
    return cluster


@pytest.fixture(scope="module")
def tf(running: ServiceCluster) -> Iterator[TaskFlow]:
    with TaskFlow(running.scheduler_address) as client:
        yield client


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def look(browser: Browser, running: ServiceCluster) -> Iterator[Callable[..., Page]]:
    contexts, complaints = [], []

    def open_tab(**options: object) -> Page:
        options.setdefault("viewport", WIDE)
        contexts.append(browser.new_context(base_url=f"http://{running.address('gateway')}", **options))  # type: ignore[arg-type]
        contexts[-1].set_default_timeout(PATIENCE)
        page = contexts[-1].new_page()
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        return page

    expect.set_options(timeout=PATIENCE)
    yield open_tab
    expect.set_options(timeout=None)
    for context in contexts:
        context.close()
    explained = ("409 (Conflict)", "503 (Service Unavailable)")  # refusals that the page explains in words
    assert [each for each in complaints if not any(words in each for words in explained)] == []


def opened(page: Page, workflow: str = "") -> Page:
    page.goto(f"/designer?workflow={workflow}" if workflow else "/designer")
    expect(page.get_by_role("toolbar")).to_contain_text("+ task")
    return page


def field(page: Page, path: str) -> Locator:
    """The field of this place in the document."""
    return page.locator(f'[id="f-{path}"]')


def fill(page: Page, prefix: str, **values: Any) -> None:
    for name, value in values.items():
        found = field(page, f"{prefix}{name}")
        if found.evaluate("e => e.tagName") == "SELECT":
            found.select_option(str(value))
        else:
            found.fill(value if isinstance(value, str) else json.dumps(value))


def node(page: Page, name: str) -> Locator:
    return page.locator(".graph .node", has=page.get_by_text(name, exact=True))


def add(page: Page, kind: str, on: str = "success") -> None:
    page.locator("#mode").select_option(on)
    page.get_by_role("button", name=f"+ {kind}", exact=True).click()


def document_of(page: Page) -> Any:
    return json.loads(page.locator("#json").input_value())


def saved(page: Page, version: int) -> None:
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator("#word")).to_have_text(f"Saved as version {version}.")


def more(page: Page) -> None:
    page.locator("#pane-form details > summary").last.click()


@pytest.mark.feature("S0.10")
def test_a_step_is_added_saved_and_run(tf: TaskFlow, look: Callable[..., Page]) -> None:
    page = look()
    page.goto("/workflows")
    page.get_by_role("link", name="New workflow").click()
    page.get_by_role("button", name="+ wait").click()
    page.get_by_label("Duration").fill("0.01s")
    saved(page, 1)

    page.get_by_role("button", name="Run", exact=True).click()

    expect(page.locator(".run-top .badge").first).to_have_text("succeeded")
    expect(node(page, "wait")).to_contain_text("wait · succeeded")
    (run,) = tf.workflows.runs(workflow="new-workflow")
    assert (run.state, run.version, run.label) == (RunState.SUCCEEDED, 1, "test run")


@pytest.mark.feature("S0.10")
def test_the_campaign_is_built_by_clicks_alone_and_runs_to_its_end(
    tf: TaskFlow, shop: WebServer, look: Callable[..., Page], tmp_path: Path
) -> None:
    page = opened(look())
    steps = {step["name"]: step for step in CAMPAIGN["steps"]}
    fill(page, "", name="win-back", title=CAMPAIGN["title"])
    for n, (kind, name, on) in enumerate([
        ("task_flow", "invite", "success"),
        ("wait", "answer", "success"),
        ("task_flow", "remind", "failure"),
        ("wait", "last_chance", "success"),
        ("task_flow", "unschedule", "success"),
    ]):  # fmt: skip
        add(page, kind, on)
        step, at = steps[name], f"steps[{n}]."
        fill(page, at, name=name, **({"title": step["title"]} if "title" in step else {}))
        if kind == "wait":
            fill(page, f"{at}meta.", **step["meta"])
            continue
        if "retries" in step:
            more(page)
            fill(page, at, retries=step["retries"])
        for m, call in enumerate(step["meta"]["calls"]):
            if m:
                page.get_by_role("button", name="Add call").click()
            calls = f"{at}meta.calls[{m}]."
            plain = {key: call[key] for key in ("name", "method", "url", "body", "timeout") if key in call}
            fill(page, calls, **plain)
            if "auth" in call:
                field(page, f"{calls}auth").click()
                fill(page, f"{calls}auth.", **call["auth"])
            for key, value in call.get("query", {}).items():
                group = page.get_by_role("group", name="Query").nth(m)
                field(page, f"{calls}query").click()
                group.get_by_placeholder("name").last.fill(key)
                group.get_by_placeholder("value").last.fill(value)
            for k, status in enumerate(call.get("expected_status", ())):
                field(page, f"{calls}expected_status").click()
                fill(page, calls, **{f"expected_status[{k}]": status})
    node(page, "last_chance").click()
    add(page, "task", "failure")
    fill(page, "steps[5].", name="give_up")
    fill(page, "steps[5].meta.", **steps["give_up"]["meta"])
    page.locator("#mode").select_option("success")
    node(page, "answer").locator(".handle .reach").hover()
    page.mouse.down()
    node(page, "unschedule").locator("rect").hover()
    page.mouse.up()
    expect(page.locator("#word")).to_have_text("unschedule follows answer on success.")

    page.locator("#graph").click(position={"x": 6, "y": 6})
    field(page, "start").click()
    field(page, "start[0]").select_option("invite")
    field(page, "groups").click()
    group = CAMPAIGN["groups"][0]
    fill(page, "groups[0].", name=group["name"], title=group["title"], retries=group["retries"])
    for n, name in enumerate(group["steps"]):
        if n:
            field(page, "groups[0].steps").click()
        field(page, f"groups[0].steps[{n}]").select_option(name)
    field(page, "groups[0].backoff").click()
    fill(page, "groups[0].backoff.", **group["backoff"])
    fill(page, "", output=CAMPAIGN["output"])
    page.locator("#mode").select_option("failure")
    node(page, "sequence").click()
    page.get_by_role("button", name="Connect", exact=True).first.click()
    node(page, "give_up").click()
    expect(page.locator("#problems")).to_contain_text("No problems")
    page.screenshot(path=tmp_path / "campaign.png", full_page=True)
    saved(page, 1)

    def key(edge: dict[str, str]) -> str:
        return json.dumps(edge, sort_keys=True)

    made = dict(tf.workflows.get("win-back").document)
    for document in (made, CAMPAIGN):
        document["edges"] = sorted(document["edges"], key=key)
    for edge in CAMPAIGN["edges"]:
        if edge.get("on") == "success":
            del edge["on"]  # the default is left out
    CAMPAIGN["edges"].sort(key=key)
    assert made == CAMPAIGN

    page.get_by_role("tab", name="Test run").click()
    page.locator("#try-input").fill('{"gift": "tea", "ends_at": "2099-01-01T00:00:00Z"}')
    page.locator("#try-metadata").fill("user=u1, campaign=c9, schedule_id=s1")
    page.get_by_role("button", name="Start a run").click()
    invite = page.locator('[data-step="invite"]')
    expect(invite.get_by_label("Request").nth(0)).to_contain_text(f'"url": "{shop.url}/users/u1"')
    expect(invite.get_by_label("Answer").nth(0)).to_contain_text('"name": "Ada"')
    expect(invite.get_by_label("Request").nth(1)).to_contain_text('"gift": "tea"')
    expect(node(page, "answer")).to_contain_text("waiting")
    page.screenshot(path=tmp_path / "waiting.png", full_page=True)
    page.get_by_role("button", name="Send answered").click()
    expect(page.locator(".run-top .badge").first).to_have_text("succeeded")
    expect(page.locator(".run-top").get_by_label("Output")).to_contain_text('"answered": true')
    assert "/schedules/s1" in shop.paths()
    assert "tok-91c0" not in page.content()


@pytest.mark.feature("S0.10")
def test_a_small_workflow_is_made_by_keyboard_alone(tf: TaskFlow, look: Callable[..., Page]) -> None:
    page = opened(look())

    def to(name: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.id || document.activeElement.textContent") == name:
                return
        raise AssertionError(f"Tab never reaches {name}")

    to("+ wait")
    page.keyboard.press("Enter")
    to("f-steps[0].name")
    page.keyboard.type("wait-a")
    to("f-steps[0].meta.duration")
    page.keyboard.type("0.01s")
    page.locator("a.brand").focus()
    to("+ wait")
    page.keyboard.press("Enter")
    to("f-steps[1].meta.duration")
    page.keyboard.type("0.01s")
    page.locator("a.brand").focus()
    to("+ wait")
    page.keyboard.press("Enter")
    to("f-steps[2].meta.duration")
    page.keyboard.type("0.01s")
    page.locator("a.brand").focus()
    for _ in range(60):  # to the graph
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.dataset.id ?? ''").startswith("step:"):
            break
    assert page.evaluate("document.activeElement.dataset.id") == "step:2"
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("c")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    edges = [{"from": "wait-a", "to": "wait"}, {"from": "wait", "to": "wait-2"}, {"from": "wait-a", "to": "wait-2"}]
    assert document_of(page)["edges"] == edges
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Delete")
    assert [step["name"] for step in document_of(page)["steps"]] == ["wait-a", "wait-2"]
    page.keyboard.press("Control+z")
    assert document_of(page)["edges"] == edges
    page.keyboard.press("Control+Shift+z")
    assert document_of(page)["edges"] == [{"from": "wait-a", "to": "wait-2"}]
    page.locator("a.brand").focus()
    to("tab-form")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#json")).to_be_visible()
    page.locator("#json").fill(page.locator("#json").input_value().replace("new-workflow", "by-keys"))
    page.keyboard.press("Control+s")
    expect(page.locator("#word")).to_have_text("Saved as version 1.")

    run = tf.workflows.start("by-keys")
    assert tf.workflows.wait(run.id, 60).state is RunState.SUCCEEDED


@pytest.mark.feature("S0.10")
def test_on_a_phone_steps_are_connected_by_touch(tf: TaskFlow, look: Callable[..., Page], tmp_path: Path) -> None:
    tf.workflows.put({"name": "phone", "steps": [
        {"name": name, "kind": "wait", "meta": {"duration": 0}} for name in ("one", "two", "three")
    ]})  # fmt: skip
    page = opened(look(viewport=PHONE, has_touch=True, is_mobile=True), "phone")

    node(page, "one").tap()
    page.locator("#mode").select_option("always")
    page.get_by_role("button", name="Connect", exact=True).first.tap()
    node(page, "two").tap()
    assert document_of(page)["edges"] == [{"from": "one", "to": "two", "on": "always"}]
    expect(page.locator("#problems")).to_have_text("No problems")
    fingers = page.context.new_cdp_session(page)

    def touch(kind: str, at: Locator | None) -> None:
        points = []
        if at is not None:
            box = at.bounding_box()
            assert box is not None
            points = [{"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}]
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    page.locator("#mode").select_option("failure")
    touch("touchStart", node(page, "two").locator(".handle .reach"))
    touch("touchMove", node(page, "three").locator("rect"))
    touch("touchEnd", None)
    expect(page.locator("#word")).to_have_text("three follows two on failure.")
    node(page, "three").tap()
    page.screenshot(path=tmp_path / "phone.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    saved(page, 2)
    assert tf.workflows.get("phone").document["edges"] == [
        {"from": "one", "to": "two", "on": "always"},
        {"from": "two", "to": "three", "on": "failure"},
    ]


@pytest.mark.feature("S0.10")
def test_the_second_of_two_editors_is_told_and_nothing_is_lost(
    tf: TaskFlow, look: Callable[..., Page], tmp_path: Path
) -> None:
    wait = {"name": "wait", "kind": "wait", "meta": {"duration": 1}}
    tf.workflows.put({"name": "shared", "steps": [wait]})
    first, second = opened(look(), "shared"), opened(look(viewport=PHONE), "shared")
    fill(first, "", title="of the first")
    fill(second, "", title="of the second")
    saved(first, 2)
    second.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # as they come back to the page
    expect(second.get_by_role("alert").filter(has_text="Version 2 of shared was saved")).to_be_visible()

    second.get_by_role("button", name="Save", exact=True).click()

    notice = second.get_by_role("alert").filter(has_text="Not saved")
    expect(notice).to_contain_text("Version 2 of shared was saved")
    assert document_of(second)["title"] == "of the second"
    assert tf.workflows.get("shared").version == 2
    notice.get_by_text("Differences").click()
    expect(notice.locator(".removed")).to_contain_text("of the first")
    expect(notice.locator(".added")).to_contain_text("of the second")
    second.screenshot(path=tmp_path / "told.png")
    notice.get_by_role("button", name="Take up theirs").click()
    assert document_of(second)["title"] == "of the first"
    second.get_by_role("button", name="Undo").click()
    assert document_of(second)["title"] == "of the second"
    saved(second, 3)
    titles = [tf.workflows.get("shared", version=n).document["title"] for n in (2, 3)]
    assert titles == ["of the first", "of the second"]

    fill(first, "", title="again of the first")
    first.get_by_role("button", name="Save", exact=True).click()
    first.get_by_role("button", name="Save this as version 4").click()
    expect(first.locator("#word")).to_have_text("Saved as version 4.")
    first.on("dialog", lambda dialog: dialog.accept())
    tf.workflows.put({"name": "shared", "steps": [wait]})
    first.get_by_role("button", name="Delete this workflow").click()
    expect(first.locator("#notice")).to_contain_text("Version 5 of shared was saved")
    assert tf.workflows.get("shared").version == 5
    opened(first, "shared")
    first.get_by_role("button", name="Delete this workflow").click()
    first.wait_for_url("**/workflows")
    with pytest.raises(NotFound):
        tf.workflows.get("shared")


@pytest.mark.feature("S0.10")
def test_a_bad_step_shows_its_error_while_one_types(look: Callable[..., Page], tmp_path: Path) -> None:
    page = opened(look())
    add(page, "wait")
    add(page, "task_flow")
    duration = field(page, "steps[0].meta.duration")
    node(page, "wait").locator("rect").click()

    duration.press_sequentially("3 days")

    fault = page.locator('[data-path="steps[0].meta.duration"] > .fault')
    expect(fault).to_contain_text("'3 days' is not a duration")
    expect(duration).to_have_attribute("aria-invalid", "true")
    expect(duration).to_be_focused()
    expect(node(page, "wait").locator(".count")).to_have_text("1")
    expect(node(page, "task-flow")).to_have_class(re.compile("bad"))
    page.screenshot(path=tmp_path / "bad.png", full_page=True)
    page.get_by_role("button", name="task-flow › meta.calls[0].url").click()
    expect(field(page, "steps[1].meta.calls[0].url")).to_be_focused()
    fill(page, "steps[1].meta.calls[0].", url="/x", body='{"half": ')
    expect(page.locator('[data-path="steps[1].meta.calls[0].body"] > .fault')).to_contain_text("is not JSON yet")
    fill(page, "steps[1].meta.calls[0].", body='{"whole": "{{ input.x }}"}')
    node(page, "wait").locator("rect").click()
    fill(page, "steps[0].meta.", duration="3d")
    expect(page.locator("#problems")).to_have_text("No problems")
    fill(page, "steps[0].", name="task-flow")
    expect(page.locator('[data-path="steps[0].name"] > .fault')).to_have_text("there is another 'task-flow'")
    assert [step["name"] for step in document_of(page)["steps"]] == ["wait", "task-flow"]
    fill(page, "steps[0].", name="pause")

    made = document_of(page)
    page.locator("#json").evaluate("(e, text) => { e.value = text; e.dispatchEvent(new Event('input')); }", json.dumps(
        {**made, "edges": [{"from": "pause", "to": "task-flow", "on": "sometimes"}]}
    ))  # fmt: skip
    page.get_by_role("button", name="edges[0].on").click()
    expect(page.locator('[data-path="edges[0].on"] > .fault')).to_contain_text("should be 'success', 'failure' or")
    expect(page.locator(".graph .link.bad")).to_have_count(1)
    field(page, "edges[0].on").select_option("failure")
    expect(page.locator("#problems")).to_have_text("No problems")
    assert document_of(page)["edges"] == [{"from": "pause", "to": "task-flow", "on": "failure"}]


@pytest.mark.feature("S0.10")
def test_the_json_is_edited_both_ways_and_every_change_is_undone(look: Callable[..., Page]) -> None:
    page = opened(look())
    page.get_by_role("tab", name="JSON").click()
    area = page.locator("#json")
    evil = "<img src=x onerror=alert(1)>"
    made = {"name": "json", "steps": [
        {"name": "send-mail", "title": evil, "kind": "task", "meta": {"task": "t"}},
        {"name": "b", "kind": "task", "depends_on": ["send-mail"],
         "meta": {"task": "t", "input": "{{ steps.\"send-mail\".result }} {{ input.send_mail }}"}},
    ], "output": {"__proto__": evil}}  # fmt: skip

    area.fill(json.dumps(made))
    expect(node(page, "send-mail")).to_be_visible()
    expect(page.locator("#problems")).to_have_text("No problems")
    area.fill(json.dumps(made)[:-1])
    expect(page.locator("#json-fault")).to_contain_text("JSON")
    page.keyboard.press("Control+s")
    expect(page.locator("#word")).to_contain_text("The JSON cannot be read")
    area.fill('{"name": "big", "steps": [], "output": 12345678901234567890}')
    expect(page.locator("#json-fault")).to_contain_text("cannot hold the number 12345678901234567890 exactly")
    area.fill(json.dumps(made))
    node(page, "send-mail").click()
    expect(field(page, "steps[0].title")).to_have_value(evil)

    fill(page, "steps[0].", name="post")

    renamed = document_of(page)
    assert renamed["steps"][1]["depends_on"] == ["post"]
    assert renamed["steps"][1]["meta"]["input"] == "{{ steps.post.result }} {{ input.send_mail }}"
    assert renamed["output"] == {"__proto__": evil}
    node(page, "post").click()
    page.get_by_role("button", name="Delete", exact=True).first.click()
    assert document_of(page)["steps"] == [{key: renamed["steps"][1][key] for key in ("name", "kind", "meta")}]
    for _ in range(2):
        page.get_by_role("button", name="Undo").click()
    assert document_of(page) == made
    for _ in range(10):
        if page.get_by_role("button", name="Undo").is_enabled():
            page.get_by_role("button", name="Undo").click()
    assert document_of(page) == {"name": "new-workflow", "steps": []}
    while page.get_by_role("button", name="Redo").is_enabled():
        page.get_by_role("button", name="Redo").click()
    assert [step["name"] for step in document_of(page)["steps"]] == ["b"]
    asked = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.accept()))
    page.goto("/workflows")
    assert asked == ["beforeunload"]


@pytest.mark.feature("S0.10")
def test_a_file_is_exported_and_imported(look: Callable[..., Page], tmp_path: Path, tf: TaskFlow) -> None:
    tf.workflows.put(
        {"name": "files", "title": "Grüße", "steps": [{"name": "a", "kind": "wait", "meta": {"duration": 1}}]}
    )
    page = opened(look(), "files")
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    assert download.value.suggested_filename == "files.json"
    text = Path(download.value.path()).read_text()
    assert json.loads(text) == tf.workflows.get("files").document
    bad, good = tmp_path / "bad.json", tmp_path / "good.json"
    bad.write_text("[1, 2")
    good.write_text(text.replace("files", "imported"))

    page.locator("#file").set_input_files(bad)
    expect(page.locator("#word")).to_contain_text("This is not a document")
    assert document_of(page)["name"] == "files"
    page.locator("#file").set_input_files(good)
    expect(page.locator("#word")).to_contain_text("Imported good.json")
    saved(page, 1)

    assert tf.workflows.get("imported").document["title"] == "Grüße"
    assert tf.workflows.get("files").version == 1


@pytest.mark.feature("S0.10")
def test_two_versions_are_compared_and_an_older_one_is_taken_up(
    tf: TaskFlow, look: Callable[..., Page], tmp_path: Path
) -> None:
    for seconds in (1, 2, 3):
        tf.workflows.put({"name": "ages", "steps": [{"name": "a", "kind": "wait", "meta": {"duration": seconds}}]})
    page = opened(look(), "ages")
    page.get_by_role("tab", name="Versions").click()
    page.get_by_label("From", exact=True).select_option("1")
    page.get_by_label("To", exact=True).select_option("3")

    expect(page.locator(".diff .removed")).to_have_text(re.compile(r'-\s+"duration": 1'))
    expect(page.locator(".diff .added")).to_have_text(re.compile(r'\+\s+"duration": 3'))
    page.screenshot(path=tmp_path / "versions.png", full_page=True)
    page.get_by_role("button", name="Take up the first").click()
    expect(page.locator("#word")).to_contain_text("Version 1 is taken up")
    assert document_of(page)["steps"][0]["meta"] == {"duration": 1}
    saved(page, 4)
    assert tf.workflows.get("ages").document["steps"][0]["meta"] == {"duration": 1}


@pytest.mark.feature("S0.10")
def test_the_app_s_own_nodes_are_in_the_palette(
    tf: TaskFlow, shop: WebServer, look: Callable[..., Page], tmp_path: Path
) -> None:
    page = opened(look(viewport=PHONE))
    fill(page, "", name="of-nodes")

    add(page, "Greet a user")
    add(page, "close")
    made = document_of(page)
    assert made["steps"] == [{key: value for key, value in each.items() if key != "description"} for each in NODES]
    assert made["edges"] == [{"from": "greet", "to": "close"}]
    expect(page.get_by_role("button", name="+ Greet a user")).to_have_attribute("title", "The app's own.")
    page.get_by_role("tab", name="Test run").click()
    page.locator("#try-input").fill('{"user": "u1"}')
    page.get_by_role("button", name="Save and run").click()

    expect(page.locator('[data-step="greet"]').get_by_label("Answer")).to_contain_text("Ada")
    page.screenshot(path=tmp_path / "trial.png", full_page=True)
    (run,) = tf.workflows.runs(workflow="of-nodes")
    eventually(lambda: tf.workflows.get_run(run.id).step("greet").state is StepState.SUCCEEDED, timeout=30)
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".run-top .badge").first).to_have_text("cancelled")


@pytest.mark.feature("S0.10", "S0.1")
def test_a_kind_of_the_users_own_has_a_form_from_its_schema(tf: TaskFlow, look: Callable[..., Page]) -> None:
    page = opened(look())
    fill(page, "", name="of-letters")
    add(page, "letters")
    expect(page.locator("#pane-form")).to_contain_text("A template: the letter.")
    fill(page, "steps[0].meta.", **{"to[0]": "ada", "text": "Dear you"})
    page.get_by_role("button", name="Add to").click()
    fill(page, "steps[0].meta.", **{"to[1]": "bob"})
    page.get_by_role("button", name="Move to 2 up").click()
    saved(page, 1)

    assert tf.workflows.get("of-letters").document["steps"] == [
        {"name": "letters", "kind": "letters", "meta": {"to": ["bob", "ada"], "text": "Dear you"}}
    ]


PURE = (ROOT / "tests" / "support" / "designer_pure.js").read_text()


def test_the_pure_modules_keep_their_promises(look: Callable[..., Page]) -> None:
    page = opened(look())
    script = page.locator("script[type=module]").get_attribute("src")
    assert script is not None

    assert page.evaluate(PURE, script.removesuffix("designer.js")) == []


@pytest.mark.feature("S0.10")
def test_calls_from_elsewhere_and_bad_ones_change_nothing(tf: TaskFlow, running: ServiceCluster) -> None:
    visitor = Visitor(running.address("gateway"))
    page = visitor.get("/designer")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    token = {"form_token": visitor.cookies["taskflow_forms"]}
    document = json.dumps({"name": "guarded", "steps": []})
    for path in ("save", "check", "delete", "run", "runs/x/signal", "runs/x/cancel"):
        for headers in ({"Origin": "http://evil.example"}, {"Sec_Fetch_Site": "cross-site"}, {"Cookie": ""}):
            refused = visitor.post(f"/designer/{path}", {**token, "document": document}, **JSON, **headers)
            assert refused.status == 403, (path, headers)
    assert [each.name for each in tf.workflows.list() if each.name == "guarded"] == []

    def said(path: str, **fields: str) -> tuple[int, Any]:
        answer = visitor.post(f"/designer/{path}", {**token, **fields}, **JSON)
        return answer.status, json.loads(answer.source)

    assert said("check", document=document)[1]["problems"][0]["path"] == "steps"
    assert said("check", document="{")[1]["problems"][0]["message"].startswith("the document is not JSON")
    assert said("save", document=document) == (400, {"problems": said("check", document=document)[1]["problems"]})
    assert said("save", document=document, version="x")[1]["error"]["data"]["field"] == "version"
    assert said("run", workflow="none", input="{")[0] == 404
    assert said("runs/1/cancel")[0] == 400
    assert said("check", document='"' + "x" * (1 << 20) + '"')[1]["problems"][0]["message"].endswith("1048576 bytes")
    assert visitor.ask("GET", "/designer/jobs/1", **JSON).status == 400
    assert visitor.get("/designer", workflow="none").status == 404


@pytest.mark.feature("S0.10")
def test_no_more_documents_are_checked_at_once_than_the_limit(running: ServiceCluster) -> None:
    visitor = Visitor(running.address("gateway"))
    visitor.get("/designer")
    fields = {"form_token": visitor.cookies["taskflow_forms"], "document": "{}"}

    def check(_: int) -> Answer:
        return visitor.post("/designer/check", fields, **JSON)

    with ThreadPoolExecutor(3 * MOST_CHECKS) as editors:
        running.kill("scheduler", signal.SIGSTOP)
        try:
            asked = [editors.submit(check, n) for n in range(3 * MOST_CHECKS)]
            refused = [each.result() for each in islice(as_completed(asked, timeout=30), 2 * MOST_CHECKS)]
        finally:
            running.kill("scheduler", signal.SIGCONT)
        answers = [each.result() for each in asked]
    assert {(answer.status, answer.headers["retry-after"]) for answer in refused} == {(429, "1")}
    assert sum(answer.status == 429 for answer in answers) == 2 * MOST_CHECKS
    assert check(0).status == 200


@pytest.mark.feature("S0.10")
def test_while_the_scheduler_is_away_nothing_that_was_typed_is_lost(
    tf: TaskFlow, running: ServiceCluster, look: Callable[..., Page]
) -> None:
    page = opened(look())
    fill(page, "", name="patient")
    add(page, "wait")
    running.kill("scheduler")

    fill(page, "steps[0].meta.", duration="1s")

    expect(page.locator("#problems")).to_contain_text("Not checked: TaskFlow's service", timeout=PATIENCE)
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator("#word")).to_contain_text("Not saved: TaskFlow's service", timeout=PATIENCE)
    running.start("scheduler")
    running.wait_healthy("scheduler")
    expect(page.locator("#problems")).to_have_text("No problems", timeout=PATIENCE)
    saved(page, 1)
    assert tf.workflows.get("patient").document["steps"][0]["meta"] == {"duration": "1s"}

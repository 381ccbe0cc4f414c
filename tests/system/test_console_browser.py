"""The console in a real browser: live, under its own content policy, light and dark, on a phone, by keyboard."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from taskflow import Constant, Fail, Job, JobHandle, JobState, StepState, TaskFlow
from tests.support.chromium import chromium
from tests.support.cluster import ROOT, SPINE, ServiceCluster
from tests.support.waiting import eventually
from tests.support.workers import working

SOON = {"TASKFLOW_LIVE_INTERVAL": "0.3"}
FORK = {
    "name": "fork",
    "steps": [
        {"name": "charge", "kind": "task", "queue": "shop", "meta": {"input": {"do": "fail"}}},
        {"name": "pack", "kind": "task", "queue": "shop", "meta": {"input": {"do": "well"}}},
        {"name": "ship", "kind": "wait", "meta": {"signal": "shipped", "duration": "2d"}, "depends_on": ["pack"]},
        {"name": "thank", "kind": "task", "queue": "shop", "meta": {"input": {"do": "well"}}},
        {"name": "apologise", "kind": "task", "queue": "shop", "meta": {"input": {"do": "well"}}},
        {"name": "close", "kind": "task", "queue": "shop", "meta": {"input": {"do": "well"}}},
    ],
    "edges": [
        {"from": "charge", "to": "thank"},
        {"from": "charge", "to": "apologise", "on": "failure"},
        {"from": "ship", "to": "close", "on": "always"},
        {"from": "apologise", "to": "close"},
    ],
}
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
PATIENCE = 30_000  # ms
AA = 4.5  # the least contrast of text, by WCAG


@pytest.fixture(scope="module")
def running(make_cluster: Callable[..., ServiceCluster]) -> ServiceCluster:
    cluster = make_cluster(services=(*SPINE, "gateway"), env={"gateway": SOON})
    cluster.start_all()
    return cluster


@pytest.fixture(scope="module")
def tf(running: ServiceCluster) -> Iterator[TaskFlow]:
    with TaskFlow(running.scheduler_address) as client:
        yield client


@pytest.fixture(scope="module")
def shop(running: ServiceCluster, tf: TaskFlow) -> Iterator[dict[str, JobHandle]]:
    """A few jobs, of which one runs until the end."""
    go_on = threading.Event()

    def handle(job: Job) -> object:
        match job.payload["do"]:
            case "wait":
                job.progress(3, total=8, unit="mails", message="sending")
                go_on.wait(300)
            case "fail":
                job.log("the bank answers 402", level="warning")
                raise Fail("the card was refused")
            case "retry":
                raise ConnectionError("bank.example does not answer")
        return {"receipt": 4711}

    with working(TaskFlow(running.scheduler_address), "shop", handler=handle):
        made = {
            "running": tf.new_job("shop", {"do": "wait"}, tags=["slow"]),
            "failed": tf.new_job("shop", {"do": "fail"}, metadata={"user": "u1"}),
            "retrying": tf.new_job("shop", {"do": "retry"}, retries=3, backoff=Constant(3600)),
            "succeeded": tf.new_job("shop", {"do": "well", "to": "ada@example.org"}),
            "ready": tf.new_job("unserved", {"do": "wait"}),
        }
        for name, job in made.items():
            eventually(lambda job=job, name=name: job.get().state == JobState(name), timeout=30)  # type: ignore[misc]
        tf.tasks.create("report", queue="shop", schedule="0 8 * * mon")
        tf.workflows.put(json.loads((ROOT / "sdk" / "examples" / "campaign.json").read_text()))
        tf.workflows.put(FORK)
        yield made
        go_on.set()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


class Seen:
    """A tab, and what the browser complained of in it."""

    def __init__(self, context: BrowserContext) -> None:
        context.set_default_timeout(PATIENCE)
        self.page: Page = context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))


@pytest.fixture
def look(browser: Browser, running: ServiceCluster) -> Iterator[Callable[..., Seen]]:
    contexts: list[BrowserContext] = []

    def open_tab(**options: object) -> Seen:
        options.setdefault("viewport", WIDE)
        contexts.append(browser.new_context(base_url=f"http://{running.address('gateway')}", **options))  # type: ignore[arg-type]
        return Seen(contexts[-1])

    yield open_tab
    for context in contexts:
        context.close()


@pytest.mark.feature("S3.7")
def test_an_open_page_follows_a_job_without_being_loaded_again(
    tf: TaskFlow, running: ServiceCluster, look: Callable[..., Seen]
) -> None:
    job = tf.new_job("later", {"n": 1})
    seen = look()
    seen.page.goto(f"/jobs/{job.id}")
    expect(seen.page.get_by_text("This page is live.")).to_be_visible(timeout=PATIENCE)
    seen.page.evaluate("window.loadedOnce = true")

    with working(TaskFlow(running.scheduler_address), "later", handler=lambda job: {"answer": 42}):
        expect(seen.page.locator("h1 + .badge, .head .badge")).to_have_text("succeeded", timeout=PATIENCE)

    expect(seen.page.get_by_text('"answer": 42')).to_be_visible()
    assert seen.page.evaluate("window.loadedOnce") is True
    assert seen.complaints == []


@pytest.mark.feature("S3.7", "S3.8")
def test_a_queue_is_paused_with_a_click_and_the_word_of_it_does_not_stay_in_the_address(
    shop: dict[str, JobHandle], tf: TaskFlow, look: Callable[..., Seen]
) -> None:
    seen = look()
    seen.page.goto("/queues")

    seen.page.get_by_role("row", name=re.compile("^shop")).get_by_role("button", name="Pause").click()

    expect(seen.page.get_by_role("status").first).to_contain_text("Paused")
    assert tf.queues.get("shop").paused
    assert seen.page.url.endswith("/queues")
    seen.page.get_by_role("row", name=re.compile("^shop")).get_by_role("button", name="Resume").click()
    expect(seen.page.get_by_role("status").first).to_contain_text("Resumed")
    assert not tf.queues.get("shop").paused
    assert seen.complaints == []


@pytest.mark.feature("S3.7")
def test_a_page_says_that_the_scheduler_is_away_and_goes_on_by_itself(
    running: ServiceCluster, look: Callable[..., Seen]
) -> None:
    page, late = look().page, look().page
    page.goto("/workers")
    expect(page.get_by_text("This page is live.")).to_be_visible(timeout=PATIENCE)

    running.kill("scheduler")
    expect(page.locator("#away")).to_contain_text("does not answer", timeout=PATIENCE)
    expect(page.get_by_role("table", name="Services")).to_be_visible()
    late.goto("/workers")
    expect(late.get_by_role("heading", name="Not available")).to_be_visible()
    running.start("scheduler")
    running.wait_healthy("scheduler")

    expect(page.locator("#away")).to_be_hidden(timeout=PATIENCE)
    expect(late.get_by_role("heading", name="Workers")).to_be_visible(timeout=PATIENCE)


@pytest.mark.feature("S3.7")
def test_a_cancel_asks_first(tf: TaskFlow, look: Callable[..., Seen]) -> None:
    job = tf.new_job("unserved", {})
    seen = look()
    seen.page.goto(f"/jobs/{job.id}")
    cancel = seen.page.get_by_role("button", name="Cancel")

    seen.page.once("dialog", lambda dialog: dialog.dismiss())
    cancel.click()
    assert job.get().state is JobState.READY
    seen.page.once("dialog", lambda dialog: dialog.accept())
    cancel.click()

    expect(seen.page.get_by_role("button", name="Retry")).to_be_visible(timeout=PATIENCE)
    assert job.get().state is JobState.CANCELLED
    assert seen.complaints == []


@pytest.mark.feature("S3.7")
def test_without_javascript_everything_is_read_and_done(
    shop: dict[str, JobHandle], tf: TaskFlow, look: Callable[..., Seen]
) -> None:
    page = look(java_script_enabled=False).page
    page.goto("/queues")
    page.get_by_role("link", name="Jobs").click()
    page.get_by_label("failed").check()
    page.get_by_role("button", name="Show").click()
    page.locator(f'a[href="/jobs/{shop["failed"].id}"]').click()

    expect(page.get_by_text("the card was refused").first).to_be_visible()
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_role("status").first).to_contain_text("Back in its queue")
    eventually(lambda: shop["failed"].get().state is JobState.FAILED and shop["failed"].get().attempt == 2, timeout=30)


@pytest.mark.feature("S3.7")
def test_what_a_job_brings_runs_nowhere(tf: TaskFlow, look: Callable[..., Seen]) -> None:
    evil = "<script>window.broken=1</script><img src=x onerror='window.broken=1'><style>*{display:none}</style>"
    job = tf.new_job("evil", {evil: evil}, tags=[evil], metadata={"who": evil})
    seen = look()

    for path in (f"/jobs/{job.id}", f"/jobs?tags={evil}", "/jobs"):
        seen.page.goto(path)
        expect(seen.page.get_by_text("This page is live.")).to_be_visible(timeout=PATIENCE)
        assert seen.page.evaluate("window.broken") is None
        expect(seen.page.get_by_role("heading", level=1)).to_be_visible()
    assert seen.complaints == []


@pytest.mark.feature("S3.7")
def test_what_one_is_reading_is_not_taken_away(
    shop: dict[str, JobHandle], tf: TaskFlow, look: Callable[..., Seen]
) -> None:
    page = look().page
    page.goto(f"/jobs/{shop['retrying'].id}")
    page.get_by_text("Traceback", exact=True).click()
    button = page.get_by_role("button", name="Cancel")
    button.focus()
    before = page.evaluate("document.getElementById('live').firstElementChild.dataset.old = 'yes'")
    assert before == "yes"

    eventually(lambda: page.evaluate("!document.getElementById('live').firstElementChild.dataset.old"), timeout=30)

    assert page.evaluate("document.getElementById('trace').open")
    assert page.evaluate("document.activeElement.textContent.trim()") == "Cancel"


def _contrast(page: Page) -> list[tuple[str, float]]:
    """Texts that stand out too little from what is behind them."""
    return [tuple(each) for each in page.evaluate(CONTRAST, AA)]


CONTRAST = """(least) => {
  const numbers = (css) => css.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const colour = numbers(getComputedStyle(node).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const poor = new Map();
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !node.checkVisibility() || node.closest("svg, .hide, .skip")) continue;
    const [a, b] = [light(numbers(getComputedStyle(node).color)), light(behind(node))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < least) poor.set(walk.currentNode.data.trim().slice(0, 40), ratio);
  }
  return [...poor];
}"""


@pytest.mark.parametrize(
    ("size", "scheme"),
    [
        pytest.param(WIDE, "light", id="wide-light"),
        pytest.param(PHONE, "dark", id="phone-dark"),
        pytest.param(WIDE, "dark", id="wide-dark", marks=pytest.mark.long),
        pytest.param(PHONE, "light", id="phone-light", marks=pytest.mark.long),
    ],
)
@pytest.mark.feature("S3.7")
def test_every_page_can_be_read(
    shop: dict[str, JobHandle],
    tf: TaskFlow,
    look: Callable[..., Seen],
    tmp_path: Path,
    scheme: str,
    size: dict[str, int],
) -> None:
    """Nothing is wider than the window, every text stands out, every field has a label; pictures go to disk."""
    run = tf.workflows.start("fork", label="order 4711")
    eventually(lambda: tf.workflows.get_run(run.id).step("apologise").state is StepState.SUCCEEDED, timeout=30)
    seen = look(color_scheme=scheme, viewport=size)
    paths = ["/queues", "/queues/shop", "/jobs", "/jobs?state=bored", "/tasks", "/tasks/report", "/schedules"]
    paths += ["/edit/tasks", "/edit/tasks/report"]
    paths += [f"/jobs/{shop[name].id}" for name in ("running", "failed", "retrying")]
    paths += ["/workflows", "/workflows/win-back", "/designer?workflow=win-back", "/runs", f"/runs/{run.id}"]
    tf.alerts.create(f"loud-{scheme}-{size['width']}", events=["no_worker"], kind="slack", url_secret="CHAT")
    paths += ["/workers", "/namespaces", "/namespaces/default", "/alerts", f"/alerts/loud-{scheme}-{size['width']}"]
    paths += ["/nothing"]

    for n, path in enumerate(paths):
        seen.page.goto(path)
        if path.startswith("/designer"):
            expect(seen.page.locator("#problems")).to_have_text("No problems", timeout=PATIENCE)
        seen.page.screenshot(path=tmp_path / f"{n:02}-{scheme}-{size['width']}.png", full_page=True)
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= size["width"], path
        assert _contrast(seen.page) == [], path
        nameless = "input:not([type=hidden]), button, select, nav, pre, table"
        names = seen.page.eval_on_selector_all(
            nameless,
            "all => all.filter(e => !(e.labels?.length || e.ariaLabel || e.textContent.trim()"
            " || e.querySelector('caption'))).map(e => e.outerHTML)",
        )
        assert names == [], path
        assert seen.page.locator("h1").count() == 1, path


LONG = "mail.example.org does not answer: " + "again and again, " * 400
DRAWN = """() => {
  const graph = document.querySelector(".graph"), svg = graph.querySelector("svg");
  const steps = svg.querySelectorAll("a[href^='#step-branch-']").length;
  return [
    graph.scrollWidth <= graph.clientWidth, svg.getBoundingClientRect().width / svg.viewBox.baseVal.width, steps,
  ];
}"""
BRANCHES = [f"branch-{n}" for n in range(1, 41)]
MANY = {
    "name": "many-branches",
    "steps": [
        {"name": "begin", "kind": "task", "queue": "crowd", "meta": {"task": "send"}},
        *(
            {"name": name, "kind": "task", "queue": "crowd", "meta": {"task": "send"}, "depends_on": ["begin"]}
            for name in BRANCHES
        ),
        {"name": "end", "kind": "wait", "meta": {"duration": "1d"}, "depends_on": BRANCHES},
    ],
}  # fmt: skip
BROKEN = """() => [...document.querySelectorAll(".rows th, .rows td, .tag, .tiles li, .facts dd")].flatMap((cell) => {
  const walk = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT), found = [];
  while (walk.nextNode()) {
    for (const word of walk.currentNode.data.matchAll(/[^\\s-]+/g)) {
      const range = document.createRange();
      range.setStart(walk.currentNode, word.index);
      range.setEnd(walk.currentNode, word.index + word[0].length);
      const lines = new Set([...range.getClientRects()].map((box) => Math.round(box.top)));
      if (word[0].length <= 20 && lines.size > 1) found.push(word[0]);
    }
  }
  return found;
})"""


@pytest.fixture(scope="module")
def crowded(running: ServiceCluster, tf: TaskFlow, shop: dict[str, JobHandle]) -> Iterator[str]:
    """Long names and errors, full lists, a schedule in another zone, and a run of forty parallel steps: its id."""
    app = TaskFlow(running.scheduler_address)

    @app.task(name="rebuild_search_index", queue="crowd")
    def rebuild_search_index() -> None:
        raise Fail(LONG)

    @app.task(name="send", queue="crowd")
    def send() -> None: ...

    with working(app, name="worker-1-of-the-north"):
        app.new_jobs([{"queue": "crowd", "payload": {}, "task": "rebuild_search_index"} for _ in range(50)])
        eventually(lambda: len(list(tf.jobs.list(queue="crowd", states=["failed"]))) == 50, timeout=30)
        tf.schedules.create("rebuild_search_index", cron="0 9 * * mon", time_zone="America/New_York")
        tf.workflows.put(MANY)
        run = tf.workflows.start("many-branches")
        eventually(lambda: tf.workflows.get_run(run.id).step("begin").state is StepState.SUCCEEDED, timeout=30)
        yield run.id


@pytest.mark.parametrize("size", [pytest.param(WIDE, id="wide"), pytest.param(PHONE, id="phone")])
@pytest.mark.feature("S3.7")
def test_crowded_pages_break_no_word_and_stay_short(
    crowded: str, look: Callable[..., Seen], tmp_path: Path, size: dict[str, int]
) -> None:
    page = look(viewport=size).page
    tallest = {"/jobs?queue=crowd": 6_000, "/schedules": 1_200, "/workers": 1_000, f"/runs/{crowded}": 6_200}
    page.goto("/jobs?queue=crowd&state=failed")
    one = page.locator(".rows a[href^='/jobs/0']").first.get_attribute("href")
    tallest[str(one)] = 1_900
    page.goto("/schedules")
    row = page.locator(".rows tr", has_text="America/New_York").first
    zoned = row.locator("a[href^='/schedules/0']").first.get_attribute("href")
    tallest[str(zoned)] = 1_300

    for n, (path, most) in enumerate(tallest.items()):
        page.goto(path)
        page.screenshot(path=tmp_path / f"{n}-{size['width']}.png", full_page=True)
        assert page.evaluate(BROKEN) == [], path
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], path
        assert page.evaluate("document.documentElement.scrollHeight") <= most, path
        spilt = "facts => facts.filter(each => each.scrollWidth > each.clientWidth).map(each => each.innerText)"
        assert page.eval_on_selector_all(".facts dd", spilt) == [], path


@pytest.mark.feature("S3.7")
def test_forty_parallel_steps_are_seen_at_once(crowded: str, look: Callable[..., Seen]) -> None:
    page = look().page
    page.goto(f"/runs/{crowded}")

    fits, scale, steps = page.evaluate(DRAWN)  # in one look: a live page replaces its elements

    assert fits and scale > 0.9, "legible"
    assert steps == 40


@pytest.mark.feature("S3.7")
def test_the_keyboard_reaches_everything_and_shows_where_it_is(
    shop: dict[str, JobHandle], look: Callable[..., Seen]
) -> None:
    page = look().page
    page.goto("/queues")

    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        at = page.evaluate(
            "[document.activeElement.textContent.trim(), getComputedStyle(document.activeElement).outlineStyle]"
        )
        if page.evaluate("document.activeElement === document.body"):
            break  # the page's end
        assert at[1] != "none" or not at[0], at
        reached.add(at[0])

    assert {"TaskFlow", "Jobs", "shop", "Pause"} <= reached

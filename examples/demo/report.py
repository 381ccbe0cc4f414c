"""The demo's jobs, their outcomes, and whether the two agree."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskflow_server.store.database import Database

if TYPE_CHECKING:
    from examples.shop.data import Totals
    from examples.shop.smtp import Mailbox
    from taskflow import JobInfo, TaskFlow

QUEUES = ("mails", "thumbnails", "imports")
UNDELIVERABLE = 2  # orders with an address that is refused for good
EDGE = 256  # pixels of a thumbnail's longer side


@dataclass
class Plan:
    """The work. `ids` are those of its jobs, by queue, once they are submitted."""

    folder: Path
    orders: list[dict[str, Any]]
    pictures: list[Path]
    totals: Totals
    ids: dict[str, list[str]] = field(default_factory=dict)

    @property
    def csv(self) -> Path:
        return self.folder / "sales.csv"

    @property
    def database(self) -> Path:
        return self.folder / "sales.sqlite"

    @property
    def count(self) -> int:
        return sum(map(len, self.ids.values()))

    @property
    def recipients(self) -> set[str]:
        """Those who must get their mail."""
        return {order["to"] for order in self.orders if not order["to"].endswith("@nowhere.invalid")}

    def thumbnails(self) -> list[dict[str, Any]]:
        target = self.folder / "thumbnails"
        target.mkdir(exist_ok=True)
        return [{"picture": str(path), "folder": str(target), "edge": EDGE} for path in self.pictures]


@dataclass
class Facts:
    """The cluster's account of the jobs, by the SDK and by SQL, and how long it all took."""

    jobs: list[JobInfo]
    states: list[dict[str, Any]]
    latencies: dict[str, tuple[float, float]]
    log: list[str]
    seconds: float


def plan(folder: Path, orders: int, pictures: int, rows: int) -> Plan:
    """Makes the goods in `folder`: real pictures and a real CSV."""
    from examples.shop.data import draw_pictures, make_orders, write_sales

    made = make_orders(orders)
    for number in range(UNDELIVERABLE):
        lost = {"order": orders + number + 1, "to": f"lost.{number}@nowhere.invalid", "name": "Nemo", "total": "1.00"}
        made.append(lost)
    drawn = draw_pictures(folder / "pictures", pictures)
    return Plan(folder, made, drawn, write_sales(folder / "sales.csv", rows))


def look(tf: TaskFlow, plan: Plan) -> list[JobInfo]:
    """The plan's jobs as they stand, queue by queue."""
    found: list[JobInfo] = []
    for queue in QUEUES:
        wanted = set(plan.ids[queue])
        for job in tf.jobs.list(queue=queue, page_size=1000):
            if job.id in wanted:
                wanted.discard(job.id)
                found.append(job)
            if not wanted:
                break
    return found


def progress(jobs: list[JobInfo], plan: Plan, mailbox: Mailbox) -> str:
    """One line on how far they are."""
    done = Counter(job.queue for job in jobs if job.state.final)
    parts = [f"{queue} {done[queue]}/{len(plan.ids[queue])}" for queue in QUEUES[:2]]
    retrying = sum(job.state == "retrying" for job in jobs)
    parts[0] += f" ({mailbox.put_off.total()} refused for now, {retrying} wait for their next try)"
    at = next((job.progress for job in jobs if job.queue == "imports"), None)
    rows = f"{at.current:,.0f}/{at.total:,.0f} rows" if at else f"{done['imports']}/1"
    return "   ".join([*parts, f"import {rows}"])


def gather(tf: TaskFlow, dsn: str, plan: Plan, jobs: list[JobInfo], seconds: float) -> Facts:
    """Gathers the facts while there is a cluster to ask."""
    ids = [id for queue in QUEUES for id in plan.ids[queue]]

    async def ask() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        database = Database(dsn)
        await database.open()
        try:
            return await database.rows("count_states", ids=ids), await database.rows("job_latencies", ids=ids)
        finally:
            await database.close()

    states, latencies = asyncio.run(ask())
    log = [line.message for line in tf.jobs.logs(plan.ids["imports"][0])]
    return Facts(jobs, states, {row["queue"]: (row["p50"], row["p99"]) for row in latencies}, log, seconds)


def check(facts: Facts, plan: Plan, mailbox: Mailbox) -> list[str]:
    """The contradictions, a line each."""
    faults = []
    jobs = facts.jobs
    if len(jobs) != plan.count:
        faults.append(f"{plan.count} jobs were submitted, and {len(jobs)} are there")
    lost = [job for job in jobs if job.queue == "mails" and job.payload["to"].endswith("@nowhere.invalid")]
    for job in jobs:
        if (expected := "failed" if job in lost else "succeeded") != job.state:
            faults.append(f"job {job.id} of {job.queue} is {job.state}, not {expected}: {job.error}")
    faults += [f"job {job.id} was refused for good, and tried {job.attempt} times" for job in lost if job.attempt != 1]
    by_sdk = Counter((job.queue, str(job.state)) for job in jobs)
    by_sql = {(row["queue"], row["state"]): row["jobs"] for row in facts.states}
    if by_sdk != by_sql:
        faults.append(f"the SDK counts {dict(by_sdk)}, Postgres {by_sql}")
    tries = sum(job.attempt for job in jobs)
    if tries != sum(row["attempts"] for row in facts.states):
        faults.append(f"the SDK counts {tries} attempts, Postgres {sum(row['attempts'] for row in facts.states)}")
    return faults + _check_mails(jobs, plan, mailbox) + _check_files(plan) + _check_import(facts, plan)


def _check_mails(jobs: list[JobInfo], plan: Plan, mailbox: Mailbox) -> list[str]:
    faults = [f"{to} has no mail" for to in sorted(plan.recipients - mailbox.mails.keys())]
    faults += [f"{to} has a mail that nobody ordered" for to in sorted(mailbox.mails.keys() - plan.recipients)]
    asked = mailbox.received + mailbox.put_off.total() + mailbox.refused.total()
    tries = sum(job.attempt for job in jobs if job.queue == "mails")
    if tries != asked:
        faults.append(f"{tries} attempts at mails, but the mail server was asked {asked} times")
    return faults


def _check_files(plan: Plan) -> list[str]:
    from PIL import Image

    faults = []
    for picture in plan.pictures:
        thumbnail = plan.folder / "thumbnails" / f"{picture.stem}.webp"
        try:
            with Image.open(thumbnail) as image:
                image.load()
                if max(image.size) != EDGE:
                    faults.append(f"{thumbnail.name} is {image.size[0]} × {image.size[1]}")
        except OSError as error:
            faults.append(f"{thumbnail.name} is no picture: {error}")
    return faults


def _check_import(facts: Facts, plan: Plan) -> list[str]:
    result = next((job.result for job in facts.jobs if job.queue == "imports"), None)
    totals = plan.totals
    expected = {"rows": totals.rows, "good": totals.good, "bad": totals.bad, "cents": totals.cents}
    faults = [] if result == expected else [f"the import says {result}, and the CSV holds {expected}"]
    booked = dict(_booked(plan.database))
    if booked != totals.cents_by_country:
        faults.append(f"booked by country {booked}, in the CSV {totals.cents_by_country}")
    if not any("booked" in line for line in facts.log):
        faults.append(f"the import's log should say what it booked; it holds {facts.log}")
    return faults


def _booked(database: Path) -> list[tuple[str, int]]:
    if not database.exists():
        return []
    with closing(sqlite3.connect(database)) as db:
        return db.execute("select country, sum(cents) from sales group by country order by country").fetchall()


def show(facts: Facts, plan: Plan, mailbox: Mailbox) -> None:
    """The summary for a person."""
    print(f"\nWhat happened, in {facts.seconds:.1f} s:\n")
    print(f"{'queue':<12}{'jobs':>6}{'succeeded':>11}{'failed':>8}{'attempts':>10}{'retries':>9}{'p50':>10}{'p99':>10}")
    for queue in QUEUES:
        jobs = [job for job in facts.jobs if job.queue == queue]
        states = Counter(str(job.state) for job in jobs)
        tries = sum(job.attempt for job in jobs)
        p50, p99 = facts.latencies.get(queue, (0.0, 0.0))
        counts = f"{len(jobs):>6}{states['succeeded']:>11}{states['failed']:>8}{tries:>10}{tries - len(jobs):>9}"
        print(f"{queue:<12}{counts}{p50:>7.0f} ms{p99:>7.0f} ms")
    got = len(mailbox.mails.keys() & plan.recipients)
    twice = sum(len(mails) > 1 for mails in mailbox.mails.values())
    sizes = [path.stat().st_size for path in (plan.folder / "thumbnails").glob("*.webp")]
    booked = sum(cents for _, cents in _booked(plan.database))
    rows, tries = (sum(row[name] for row in facts.states) for name in ("jobs", "attempts"))
    print(f"\nmails       {got} of {len(plan.recipients)} customers have theirs, {twice} of them more than once")
    later, never = mailbox.put_off.total(), mailbox.refused.total()
    print(f"            the server said «later» {later} times, «never» {never} times")
    print(f"thumbnails  {len(sizes)} of {len(plan.pictures)} on disk, {sum(sizes) / 1024:,.0f} KiB")
    print(f"import      {booked / 100:,.2f} EUR booked; its log: {'; '.join(facts.log) or 'empty'}")
    print(f"Postgres    holds {rows} jobs and {tries} attempts; p50 and p99 are its own, from stored to finished")

"""The shop's app: work of several kinds, each with a handler of another kind.

    send_confirmation   a mail over SMTP; waits for the network, so a plain function in a thread
    make_thumbnail      pixels; needs a core of its own, so a process
    import_sales        50,000 rows into a database as one job, which says how far it is
    report              by a schedule: what the shop has done so far
    pack_parcel         a step of the workflow in parcel.json; the courier's step is done by courier.sh
"""

import csv
import os
import smtplib
import sqlite3
from contextlib import closing
from datetime import date
from decimal import Decimal, InvalidOperation
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from examples.shop.data import COUNTRIES, SKUS
from taskflow import Cancelled, Exponential, Fail, Job, TaskFlow

SMTP_HOST = "127.0.0.1"
SMTP_PORT = int(os.environ.get("SHOP_SMTP_PORT", "2525"))

app = TaskFlow()  # the scheduler: TASKFLOW_ADDRESS, or localhost:9003


@app.task(queue="mails", retries=8, timeout=30, backoff=Exponential(first=0.2, factor=2, limit=5))
def send_confirmation(job: Job, order: int, to: str, name: str, total: str) -> dict[str, Any]:
    """Confirms an order. A receiver that says «later» (4xx) is tried again; one that says «never» (5xx) is not."""
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "shop@example.com", to, f"Your order {order}"
    mail["Message-ID"] = f"<order-{order}@shop.example.com>"  # the same in every try: a receiver can tell repeats
    mail["X-Attempt"] = str(job.attempt)
    mail.set_content(f"Dear {name},\n\nthank you for order {order}. We have charged {total} EUR.\n")
    try:
        with smtplib.SMTP(SMTP_HOST, SMTP_PORT, timeout=10) as server:
            server.send_message(mail)
    except smtplib.SMTPRecipientsRefused as error:
        code, reason = error.recipients[to]
        if 500 <= code < 600:
            raise Fail(f"{to} is refused for good: {code} {reason.decode(errors='replace')}") from None
        raise
    return {"order": order, "attempt": job.attempt}


@app.task(queue="thumbnails", processes=2, retries=2, timeout=60)
def make_thumbnail(picture: str, folder: str, edge: int = 256) -> dict[str, Any]:
    """Makes a thumbnail of at most `edge` pixels a side. A repetition replaces the file by an equal one."""
    from PIL import Image, ImageFilter

    source = Path(picture)
    target = Path(folder) / f"{source.stem}.webp"
    with Image.open(source) as image:
        image.thumbnail((edge, edge), Image.Resampling.LANCZOS)
        small = image.convert("RGB").filter(ImageFilter.UnsharpMask(radius=1, percent=120))
    partial = target.with_suffix(f".{os.getpid()}.partial")
    small.save(partial, "WEBP", quality=85, method=6)
    partial.replace(target)
    return {"file": str(target), "width": small.width, "height": small.height, "bytes": target.stat().st_size}


@app.task(queue="imports", retries=1, timeout=120)
def import_sales(job: Job, path: str, database: str) -> dict[str, Any]:
    """Books a CSV of sales into a fresh SQLite file: all its good rows, or, if it fails half-way, nothing."""
    with Path(path).open("rb") as file:
        total = sum(1 for _ in file) - 1
    good: list[tuple[Any, ...]] = []
    faults: list[str] = []
    with Path(path).open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file), start=1):
            try:
                good.append((row["order"], row["date"], row["sku"], row["country"], row["email"], check_sale(row)))
            except ValueError as error:
                faults.append(f"row {number}: {error}")
            if number % 1_000 == 0:
                job.progress(number, total=total, unit="rows")
                if job.cancelled:
                    raise Cancelled("stopped half-way; nothing is booked")
    _book(good, Path(database))
    job.progress(total, total=total, unit="rows")
    job.log(f"booked {len(good)} of {total} rows; {len(faults)} are faulty, the first: {next(iter(faults), 'none')}")
    return {"rows": total, "good": len(good), "bad": len(faults), "cents": sum(sale[-1] for sale in good)}


@app.task(queue="reports", timeout=10)
def report(job: Job) -> dict[str, Any]:
    """The progress so far, by the cluster's own counts."""
    mails = app.queues.get("mails")
    done = {str(outcome): count for outcome, count in mails.finished.items()}
    return {"at": job.metadata.get("taskflow.instant", "now"), "mails": done, "waiting": mails.ready + mails.scheduled}


@app.task(queue="parcels", retries=3, timeout=10)
async def pack_parcel(order: int) -> dict[str, Any]:
    """Gives the order its parcel."""
    return {"parcel": f"P{order:06}"}


@app.task(queue="parcels", retries=3, timeout=10)
async def search_parcel(order: int) -> None:
    """For a parcel that nobody saw arrive; the demo's all do."""
    raise Fail(f"order {order} is lost")


def _book(sales: list[tuple[Any, ...]], target: Path) -> None:
    """A repetition replaces the file by an equal one."""
    partial = target.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    with closing(sqlite3.connect(partial)) as db, db:
        db.execute("create table sales (id integer primary key, day, sku, country, email, cents integer)")
        db.executemany("insert into sales values (?, ?, ?, ?, ?, ?)", sales)
    partial.replace(target)


_SKUS = frozenset(SKUS)
_COUNTRIES = frozenset(COUNTRIES)


def check_sale(row: dict[str, str]) -> int:
    """The value of a sale in cents. ValueError says what is wrong with the row."""
    if row["sku"] not in _SKUS:
        raise ValueError(f"there is no article {row['sku']}")
    if row["country"] not in _COUNTRIES:
        raise ValueError(f"we do not sell to «{row['country']}»")
    if "@" not in row["email"]:
        raise ValueError(f"«{row['email']}» is no e-mail address")
    date.fromisoformat(row["date"])
    try:
        quantity, cents = int(row["quantity"]), Decimal(row["price"]) * 100
    except InvalidOperation:
        raise ValueError(f"«{row['price']}» is no price") from None
    if quantity < 1 or cents < 0:
        raise ValueError("quantity and price must be positive")
    return quantity * int(cents)

"""The shop's goods: orders, product pictures and a list of sales, made up from a seed, the same every time."""

import csv
import random
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

SKUS = tuple(f"{kind}-{number:03d}" for kind in ("TEA", "MUG", "TIN", "POT") for number in range(1, 251))
COUNTRIES = ("AT", "BR", "DE", "FR", "GB", "IN", "JP", "KE", "NZ", "US")
COLUMNS = ("order", "date", "sku", "quantity", "price", "country", "email")
FAULTS = (("quantity", -1), ("price", "free"), ("sku", "CAR-001"), ("email", "nobody"), ("date", "2026-13-01"),
          ("country", ""))  # fmt: skip
NAMES = ("Ada", "Alan", "Barbara", "Claude", "Edsger", "Frances", "Grace", "Hedy", "Leslie", "Radia", "Tony")


@dataclass(frozen=True)
class Totals:
    """The expected result of an import of sales."""

    rows: int
    good: int
    bad: int
    cents: int
    cents_by_country: dict[str, int]


def make_orders(count: int, *, seed: int = 1) -> list[dict[str, Any]]:
    """`count` orders; the payload of `send_confirmation` each. Every recipient is another one."""
    rng = random.Random(seed)
    orders = []
    for number in range(1, count + 1):
        name = rng.choice(NAMES)
        total = Decimal(rng.randrange(500, 30_000)) / 100
        email = f"{name.lower()}.{number}@example.org"
        orders.append({"order": number, "to": email, "name": name, "total": f"{total:.2f}"})
    return orders


def draw_pictures(folder: Path, count: int, *, seed: int = 1, size: tuple[int, int] = (1600, 1200)) -> list[Path]:
    """Draws `count` pictures into `folder`, JPEG and PNG by turns, and returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    sky = Image.linear_gradient("L").resize(size)
    paths = []
    for number in range(1, count + 1):
        tint = [Image.new("L", size, rng.randrange(60, 256)) for _ in range(2)]
        picture = Image.merge("RGB", (tint[0], sky, tint[1]))
        pen = ImageDraw.Draw(picture)
        for _ in range(12):
            x, y, r = rng.randrange(size[0]), rng.randrange(size[1]), rng.randrange(20, 300)
            pen.ellipse((x - r, y - r, x + r, y + r), fill=tuple(rng.randrange(256) for _ in range(3)))
        path = folder / f"product-{number:03d}.{'jpg' if number % 2 else 'png'}"
        picture.save(path, compress_level=1) if path.suffix == ".png" else picture.save(path, quality=90)
        paths.append(path)
    return paths


def write_sales(path: Path, rows: int = 50_000, *, seed: int = 1) -> Totals:
    """Writes a CSV of `rows` sales, about 1 in 500 of them faulty, and returns what an import must find in it."""
    rng = random.Random(seed)
    cents: Counter[str] = Counter()
    bad = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for number in range(1, rows + 1):
            quantity, price, country = rng.randrange(1, 9), rng.randrange(199, 9_999), rng.choice(COUNTRIES)
            row = [number, f"2026-{rng.randrange(1, 13):02d}-{rng.randrange(1, 29):02d}", rng.choice(SKUS), quantity,
                   f"{price // 100}.{price % 100:02d}", country, f"{rng.choice(NAMES).lower()}.{number}@example.org"]
            if rng.randrange(500) == 0:
                column, value = rng.choice(FAULTS)
                row[COLUMNS.index(column)] = value
                bad += 1
            else:
                cents[country] += quantity * price
            writer.writerow(row)
    return Totals(rows, rows - bad, bad, cents.total(), dict(sorted(cents.items())))

"""`make bench`, as small as it gets: real processes, real figures."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MEASURED = ("P.5", "P.11", "P.12")


@pytest.mark.long
def test_a_small_run_measures_runs_every_job_and_tells_what_it_has_reached(tmp_path: Path) -> None:
    target = tmp_path / "figures.json"
    words = ["--quick", "--scale", "0.1", "--rounds", "1", "--json", str(target), "--only", ",".join(MEASURED)]

    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *words], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )

    assert done.returncode == 0, done.stderr
    told = json.loads(target.read_text())
    targets = {f"{row['id']} {row['figure']}": row for row in told["targets"]}
    assert {row["id"] for row in targets.values()} >= set(MEASURED)
    for name in ("P.5 single.rate", "P.11 held.p99", "P.12 rows.wal"):
        assert 0 < targets[name]["low"] <= targets[name]["high"], name
    assert targets["P.12 rows.dead"] | {"median": 0, "met": "final"} == targets["P.12 rows.dead"]
    assert targets["P.12 rows.appended"]["median"] < 2.1
    assert told["figures"]["unary.rate"]["median"] > told["figures"]["single.rate"]["median"] > 0
    assert told["machine"]["fsync"] is True
    for id_ in MEASURED:
        assert f"\n{id_} " in done.stdout
    assert "SMALL SIZES" in done.stdout

"""`make bench`, as small as it gets: real processes, real figures."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_small_run_measures_runs_every_job_and_tells_it_as_json(tmp_path: Path) -> None:
    target = tmp_path / "figures.json"
    shapes = ("copy", "unary", "single", "drain1", "strangers", "latency")
    words = ["--quick", "--scale", "0.1", "--rounds", "1", "--json", str(target)]

    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *words, *(word for shape in shapes for word in ("--only", shape))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    told = json.loads(target.read_text())
    figures = told["figures"]
    for shape in shapes:
        assert figures.get(f"{shape}.rate", figures.get(f"{shape}.p50"))["median"] > 0, shape
    assert figures["rows.appended"]["median"] < 3
    assert figures["rows.dead"]["median"] == 0
    assert told["machine"]["fsync"] is True
    assert "drain a backlog, one worker" in done.stdout

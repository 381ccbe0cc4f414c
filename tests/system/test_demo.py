"""`make demo`: it works, on its own cluster, and leaves nothing."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import descendants, runs
from tests.support.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
PROXIES = [f"{word}_proxy" for word in ("http", "https", "all", "grpc")]
BARE = {"HOME": "/nonexistent", "LC_ALL": "xx_YY.UTF-8", "TZ": "No/Where", "PYTHONTZPATH": ""}
BARE |= {name: "http://127.0.0.1:1" for word in PROXIES for name in (word, word.upper())}


def demo(output: Path, temporary: Path, *options: str, **variables: str) -> "subprocess.Popen[bytes]":
    """The demo, with a folder for all that it makes and an address that nobody serves as the environment's own."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TASKFLOW_")}
    environ |= {"TASKFLOW_ADDRESS": "127.0.0.1:1", "TMPDIR": str(temporary)} | variables
    with output.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "examples.demo", *options],
            cwd=ROOT,
            env=environ,
            stdout=file,
            stderr=subprocess.STDOUT,
        )


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Not pytest's own, which an ordinary user's Postgres could not reach."""
    folder = Path(tempfile.mkdtemp(prefix="taskflow-demo-test-"))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.feature("M.5", "S1.4", "S1.5", "S2.8")
def test_the_demo_adds_up_and_leaves_nothing(tmp_path: Path, temporary: Path) -> None:
    """Without a home, a locale, zone files and a way out of the machine."""
    output = tmp_path / "out"

    status = demo(output, temporary, "--orders", "20", "--pictures", "4", "--rows", "2000", **BARE).wait(120)

    assert status == 0, output.read_text()
    said = output.read_text()
    assert "everything adds up" in said
    assert "5 of 5 runs of the workflow are done" in said
    assert "collected by sh and curl" in said or shutil.which("curl") is None
    assert list(temporary.iterdir()) == []


@pytest.mark.feature("M.5")
@pytest.mark.long
@pytest.mark.parametrize("moment", ["starting", "submitted"])
def test_ctrl_c_at_any_moment_of_the_demo_leaves_nothing(tmp_path: Path, temporary: Path, moment: str) -> None:
    output = tmp_path / "out"
    running = demo(output, temporary, "--orders", "500")
    eventually(lambda: moment in output.read_text() or running.poll() is not None, timeout=60)
    children = descendants(running.pid)

    running.send_signal(signal.SIGINT)

    assert running.wait(60) == 130, output.read_text()
    assert output.read_text().splitlines()[-1] == "interrupted; everything is stopped"
    assert [child for child in children if runs(child)] == []
    assert list(temporary.iterdir()) == []


@pytest.mark.long
@pytest.mark.feature("M.5")
def test_what_a_killed_demo_started_ends_with_it(tmp_path: Path, temporary: Path) -> None:
    output = tmp_path / "out"
    running = demo(output, temporary)
    eventually(lambda: "submitted" in output.read_text() or running.poll() is not None, timeout=60)
    children = descendants(running.pid)

    running.kill()
    running.wait()

    assert len(children) >= 5
    eventually(lambda: not any(runs(child) for child in children), timeout=30)


def test_a_database_that_is_not_there_is_one_line_and_status_2(tmp_path: Path, temporary: Path) -> None:
    output = tmp_path / "out"
    url = "postgresql://ada:secret@127.0.0.1:1/shop"

    status = demo(output, temporary, TASKFLOW_DATABASE_URL=url).wait(60)

    first, last = output.read_text().splitlines()
    assert (status, first.partition(" ")[0]) == (2, "starting")
    assert last.startswith("demo: ") and "127.0.0.1:1" in last and "secret" not in last
    assert list(temporary.iterdir()) == []


def test_wrong_arguments_are_status_2(tmp_path: Path, temporary: Path) -> None:
    output = tmp_path / "out"

    assert demo(output, temporary, "--orders", "none").wait(60) == 2
    assert "'none' is not a whole number from 1" in output.read_text()

"""`make demo`: it works, on its own cluster, and leaves nothing."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]


def demo(output: Path, temporary: Path, *options: str) -> "subprocess.Popen[bytes]":
    """The demo, with a folder for all that it makes and an address that nobody serves as the environment's own."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TASKFLOW_")}
    environ |= {"TASKFLOW_ADDRESS": "127.0.0.1:1", "TMPDIR": str(temporary)}
    with output.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "services.cluster.demo", *options],
            cwd=ROOT,
            env=environ,
            stdout=file,
            stderr=subprocess.STDOUT,
        )


@pytest.fixture
def temporary() -> Path:
    """Not pytest's own, which an ordinary user's Postgres could not reach."""
    return Path(tempfile.mkdtemp(prefix="taskflow-demo-test-"))


@pytest.mark.feature("M.5")
def test_the_demo_adds_up_and_leaves_nothing(tmp_path: Path, temporary: Path) -> None:
    output = tmp_path / "out"

    status = demo(output, temporary, "--orders", "20", "--pictures", "4", "--rows", "2000").wait(120)

    assert status == 0, output.read_text()
    assert "everything adds up" in output.read_text()
    assert list(temporary.iterdir()) == []
    temporary.rmdir()


@pytest.mark.feature("M.5")
def test_ctrl_c_in_the_middle_of_the_demo_leaves_nothing(tmp_path: Path, temporary: Path) -> None:
    output = tmp_path / "out"
    running = demo(output, temporary, "--orders", "500")
    eventually(lambda: "handed in" in output.read_text() or running.poll() is not None, timeout=60)

    running.send_signal(signal.SIGINT)

    assert running.wait(60) == 130, output.read_text()
    assert output.read_text().splitlines()[-1] == "interrupted; everything is stopped"
    assert list(temporary.iterdir()) == []
    temporary.rmdir()

"""The Makefile on machines that lack something: one clear line each."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r} and "clone" not in sys.prefix:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What `make` needs of a clone, without .venv."""
    folder = tmp_path / "clone"
    (folder / "sdk").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "sdk/pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "tools", folder / "tools")
    return folder


def make(clone: Path, *words: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "PYTHON"))}
    command = ["make", "--no-print-directory", *words]
    return subprocess.run(command, cwd=clone, env=env | environ, capture_output=True, text=True, timeout=60)


def test_make_alone_prints_help(clone: Path) -> None:
    answer = make(clone)

    assert answer.returncode == 0
    for target in ("demo", "up", "test", "proto", "lint", "type", "verify", "features", "bench", "help"):
        assert f"make {target} " in answer.stdout


def test_a_python_that_is_too_old_is_one_line(clone: Path) -> None:
    old = clone / "old-python"
    old.write_text('#!/bin/sh\ncase "$*" in *"%d.%d"*) echo 3.9;; *version_info*) exit 1;; esac\n')
    old.chmod(0o755)

    answer = make(clone, "venv", f"PYTHON={old}")

    assert answer.returncode != 0
    line = f"make: TaskFlow needs Python 3.11 or newer; {old} is 3.9; install one, or name it: "
    assert answer.stderr.startswith(line)
    assert answer.stdout == ""


def test_no_ensurepip_and_no_pip_is_one_line(clone: Path) -> None:
    block = clone / "block"
    block.mkdir()
    (block / "sitecustomize.py").write_text(BLOCK.format(names={"ensurepip", "pip", "virtualenv"}))

    base = getattr(sys, "_base_executable", sys.executable)
    answer = make(clone, "venv", f"PYTHON={base}", PYTHONPATH=str(block))

    assert answer.returncode != 0
    first, *rest = answer.stderr.splitlines()
    assert "has neither ensurepip nor pip: install its venv package" in first
    assert all(line.startswith("make: ***") for line in rest)


def test_a_venv_that_is_set_up_is_left_alone(clone: Path) -> None:
    """By the stamp's content, where a checkout has touched the files."""
    code = "import tools.venv as venv; print(venv.stamp())"
    stamp = subprocess.run([sys.executable, "-c", code], cwd=clone, capture_output=True, text=True, check=True).stdout
    (clone / ".venv" / "bin").mkdir(parents=True)
    (clone / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (clone / ".venv" / ".taskflow-stamp").write_text(stamp.strip())
    os.utime(clone / ".venv" / ".taskflow-stamp", (0, 0))

    answer = make(clone, "venv", PYTHON=sys.executable)

    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")

"""Sets up .venv from requirements.lock: our two packages, editable, and the tools of development.

Does nothing when the stamp in .venv matches: the same lock file, pyprojects, folder and Python as last time. Needs only
the standard library and pip; where Python came without ensurepip, pip of the Python that runs us is used instead.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".taskflow-stamp"
INPUTS = ("requirements.lock", "pyproject.toml", "sdk/pyproject.toml", "tools/venv.py")


def fail(line: str) -> NoReturn:
    """One clear line."""
    sys.exit(f"make: {line}")


def stamp() -> str:
    """What the content of .venv depends on."""
    digest = hashlib.sha256(str(ROOT).encode())
    for name in INPUTS:
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def works(python: Path) -> bool:
    """Whether this Python starts and is new enough: the one that .venv was made of may be gone."""
    check = "import sys; sys.exit(sys.version_info < (3, 11))"
    try:
        return subprocess.run([python, "-c", check], capture_output=True).returncode == 0
    except OSError:
        return False


def has(module: str) -> bool:
    """Whether the Python that runs us has the module."""
    command = [sys.executable, "-c", f"import {module}"]
    return subprocess.run(command, capture_output=True).returncode == 0


def create() -> None:
    """Make .venv, with pip in it."""
    if VENV.exists():
        shutil.rmtree(VENV)
    ways = []
    if has("venv") and has("ensurepip"):
        ways.append([sys.executable, "-m", "venv", str(VENV)])
    if has("virtualenv"):
        ways.append([sys.executable, "-m", "virtualenv", "-q", str(VENV)])
    for way in ways:
        if subprocess.run(way).returncode == 0:
            return
    if has("venv") and has("pip"):
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(VENV)], check=True)
        pip(sys.executable, "--python", str(PYTHON), "install", "--quiet", "pip")
        return
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    fail(
        f"{sys.executable} has neither ensurepip nor pip: install its venv package (on Debian and Ubuntu:"
        f" python{version}-venv), or pip, or name another Python: make PYTHON=/path/to/python3"
    )


def pip(python: str, *words: str) -> None:
    """Run pip; the last line of an error is the user's."""
    command = [python, "-m", "pip", "--disable-pip-version-check", *words]
    # An install for the user's own folder, as some systems set it, would miss .venv.
    env = {**os.environ, "PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0"}
    if subprocess.run(command, env=env).returncode != 0:
        fail("pip failed, see above; what it needs: a package index or mirror that it can reach, and room on the disk")


def main() -> None:
    """Set up .venv unless it is as it should be."""
    wanted = stamp()
    if STAMP.exists() and STAMP.read_text() == wanted and works(PYTHON):
        STAMP.touch()
        return
    print("setting up .venv (the first time takes a minute or two) ...", flush=True)
    if not works(PYTHON) or not (VENV / "bin" / "pip").exists():
        create()
    quiet = ("install", "--quiet", "--no-deps")
    pip(str(PYTHON), *quiet, "--require-hashes", "--requirement", str(ROOT / "requirements.lock"))
    pip(str(PYTHON), *quiet, "--no-build-isolation", "--editable", str(ROOT / "sdk"), "--editable", str(ROOT))
    STAMP.write_text(wanted)


if __name__ == "__main__":
    main()

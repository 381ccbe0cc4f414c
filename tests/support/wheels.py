"""Wheels and source archives made on the spot, for a pip that has no index; and the build backend of such archives.

A folder of them is an index for `pip install --no-index --find-links`. Put beside a pyproject.toml that names it, this
file builds that project, with nothing but the standard library.
"""

import hashlib
import tarfile
import tomllib
import zipfile
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

PYPROJECT = """
[build-system]
requires = []
build-backend = "wheels"
backend-path = ["."]
[project]
name = "{name}"
version = "{version}"
"""


def write(folder: Path, name: str, version: str = "1.0", tag: str = "py3-none-any") -> Path:
    """A wheel with one module, that is empty."""
    stem = name.replace("-", "_")
    info = f"{stem}-{version}.dist-info"
    wheel = folder / f"{stem}-{version}-{tag}.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{stem}.py", "")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def write_source(folder: Path, name: str, version: str = "1.0") -> Path:
    """An archive that has to be built."""
    stem = f"{name.replace('-', '_')}-{version}"
    project = folder / stem
    make_buildable(project, name, version)
    (project / "PKG-INFO").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    with tarfile.open(folder / f"{stem}.tar.gz", "w:gz") as archive:
        archive.add(project, stem)
    return folder / f"{stem}.tar.gz"


def make_buildable(project: Path, name: str, version: str = "1.0") -> None:
    """A folder that pip can install."""
    project.mkdir(exist_ok=True, parents=True)
    (project / "pyproject.toml").write_text(PYPROJECT.format(name=name, version=version))
    (project / "wheels.py").write_text(Path(__file__).read_text())


def rewrite(folder: Path, name: str) -> Path:
    """The wheel that an installed, pure distribution came from, put together again."""
    installed = distribution(name)
    wheel = folder / f"{name.replace('-', '_')}-{installed.version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in installed.files or ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                archive.write(str(file.locate()), str(file))
    return wheel


def lock(*files: Path) -> str:
    """Lines of a requirements.lock."""
    lines = ["# Made for a test.\n"]
    for file in files:
        name, version = file.name.removesuffix(".tar.gz").split("-")[:2]
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        lines.append(f"{name.replace('_', '-')}=={version} \\\n    --hash=sha256:{digest}\n")
    return "".join(lines)


def build_wheel(folder: str, *_: Any) -> str:
    """Hook of PEP 517, called where the pyproject.toml is."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    return write(Path(folder), project["name"], project["version"]).name


def build_editable(folder: str, *_: Any) -> str:
    """Hook of PEP 660."""
    return build_wheel(folder)


def get_requires_for_build_wheel(*_: Any) -> Iterable[str]:
    """Hook of PEP 517."""
    return ()

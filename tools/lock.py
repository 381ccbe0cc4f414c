"""Rewrites requirements.lock: every package that we need, in one version, with the hashes of all its files.

`python -m tools.lock`, with the oldest Python that we support. pip-tools is installed into a folder of its own for it.
"""

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
BUILD = ["hatchling", "editables"]  # no build isolation: what it would fetch has no hashes
NOTE = "# Made by `make lock` from both pyproject.toml. Versions and hashes only.\n"


def wanted() -> list[str]:
    """The requirements of both distributions, their extras and the dev group, but for our own."""
    found = set(BUILD)
    for path in ("pyproject.toml", "sdk/pyproject.toml"):
        project = tomllib.loads((ROOT / path).read_text())
        extras = project["project"].get("optional-dependencies", {})
        groups = [project["project"]["dependencies"], *extras.values(), *project.get("dependency-groups", {}).values()]
        found |= {name for group in groups for name in group if not name.startswith("taskflow-")}
    return sorted(found)


def main() -> None:
    """Resolve, starting from the versions locked now; `--upgrade` starts afresh."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "requirements.in").write_text("\n".join(wanted()))
        (folder / "out").write_text(LOCK.read_text() if LOCK.exists() else "")
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        python = folder / "venv" / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "pip-tools"], check=True)
        command = [
            python,
            "-m",
            "piptools",
            "compile",
            "--quiet",
            "--generate-hashes",
            "--strip-extras",
            "--allow-unsafe",
        ]
        command += ["--no-emit-index-url", "--no-emit-find-links", "--no-header", "--no-annotate", *sys.argv[1:]]
        subprocess.run([*command, "--output-file", folder / "out", folder / "requirements.in"], check=True)
        text = "".join(line for line in (folder / "out").read_text().splitlines(True) if not line.startswith("#"))
        if "://" in text:
            sys.exit("the lock file would hold an address of an index: see your pip's settings")
        LOCK.write_text(NOTE + text)


if __name__ == "__main__":
    main()

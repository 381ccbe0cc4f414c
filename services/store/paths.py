"""Where `data/` is: the repository's own in a checkout, `services/data` inside an installed wheel."""

from functools import cache
from pathlib import Path


@cache
def data_dir() -> Path:
    """The folder that holds migrations/ and queries/. Raises FileNotFoundError when the installation lacks it."""
    package = Path(__file__).resolve().parent.parent
    for candidate in (package.parent / "data", package / "data"):
        if (candidate / "migrations").is_dir():
            return candidate
    raise FileNotFoundError(f"no data/ folder beside or inside {package}: the installation is incomplete")

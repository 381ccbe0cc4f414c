"""The SDK's sync classes, derived from the async ones: each `_async/name.py` makes a `_sync/name.py` beside it.

`python -m tools.faces` rewrites them. `AsyncJobs` becomes `Jobs`, a coroutine a function, `acall` becomes `call`.
"""

import re
import shutil
import tempfile
from pathlib import Path

import unasync

SDK = Path(__file__).resolve().parents[1] / "sdk"
HEAD = "# Generated from ../_async/{} by `make faces`. Change that instead.\n"
_NAMES = {"acall": "call", "aeach": "each"}  # of the I/O thread, and of lists that are read page by page


def sources() -> list[Path]:
    """The async modules, but not the packages that hold them."""
    return sorted(path for path in SDK.glob("taskflow/**/_async/*.py") if path.name != "__init__.py")


def derived() -> dict[Path, str]:
    """The sync modules, by their paths below sdk/."""
    with tempfile.TemporaryDirectory() as folder:
        copies = [Path(shutil.copy(path, _parent(Path(folder) / path.relative_to(SDK)))) for path in sources()]
        classes = {name for path in copies for name in re.findall(r"^class (Async\w+)", path.read_text(), re.MULTILINE)}
        names = _NAMES | {name: name.removeprefix("Async") for name in classes}
        rule = unasync.Rule("/_async/", "/_sync/", additional_replacements=names)
        unasync.unasync_files([str(path) for path in copies], [rule])
        made = [path.parent.parent / "_sync" / path.name for path in copies]
        return {path.relative_to(folder): HEAD.format(path.name) + path.read_text() for path in made}


def _parent(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def stale() -> list[str]:
    """The sync modules that are not what their async ones make, or have none."""
    new = derived()
    there = {path.relative_to(SDK) for path in SDK.glob("taskflow/**/_sync/*.py") if path.name != "__init__.py"}
    wrong = {path for path, text in new.items() if path not in there or (SDK / path).read_text() != text}
    return sorted(str(path) for path in wrong | (there - new.keys()))


if __name__ == "__main__":
    for path, text in derived().items():
        (SDK / path).write_text(text)

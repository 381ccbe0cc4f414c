"""An app whose own folders have the names of folders of ours."""

from pathlib import Path

NAMES = ("services", "tests", "data", "examples")


def write_app(folder: Path, *, packages: bool) -> None:
    """`shop:app` in `folder`, which imports from each. `packages`: whether they have an __init__.py."""
    for name in NAMES:
        (folder / name).mkdir(parents=True)
        (folder / name / "billing.py").write_text(f"NAME = {name!r}\n")
        if packages:
            (folder / name / "__init__.py").touch()
    imports = "\n".join(f"from {name}.billing import NAME as {name}" for name in NAMES)
    (folder / "shop.py").write_text(
        f"from taskflow import TaskFlow\n{imports}\n\napp = TaskFlow()\n\n\n"
        f"@app.task(queue='folders')\ndef mine() -> list[str]:\n    return [{', '.join(NAMES)}]\n"
    )

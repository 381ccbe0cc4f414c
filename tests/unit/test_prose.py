"""Docs, docstrings, comments and messages keep to the word list of tools/prose.py (`make lint`)."""

from __future__ import annotations

import pytest

from tools import prose

_MOST = "services/a.py:1: «are the most»: exceeds the limit of N; is below the minimum of N"


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.py", '"""What a handler gets."""\n', ["a.py:1: «What a»: name the subject first"]),
        ("a.py", 'def f():\n    """Runs.\n\n    Of those, one.\n    """\n', ["a.py:4: «Of t»: name the subject first"]),
        ("a.py", "x = 1  # Whoever asks.\n", ["a.py:1: «Whoever a»: name the subject first"]),
        ("a.py", "x = 1\n# It ended. What ran has failed.\n", ["a.py:2: «What r»: name the subject first"]),
        ("a.py", 'x = 1\n"""Seconds; trying on."""\n', ["a.py:2: «trying on»: retrying"]),
        ("a.py", 'x = "What a string of a test says is not prose"\n', []),
        ("sdk/a.py", 'raise E("job: 5 is no id")\n', ["sdk/a.py:1: «is no id»: is not a valid …"]),
        (
            "sdk/a.py",
            'raise E(\n    f"job: {x!r} is"\n    f" no id"\n)\n',
            ["sdk/a.py:2: «is no id»: is not a valid …"],
        ),
        ("services/a.py", 'log.info("lost; trying on", at=1)\n', ["services/a.py:1: «trying on»: retrying"]),
        (
            "services/a.py",
            'x: int = Field(5, description="of a pod")\n',
            ["services/a.py:1: «Of a»: name the subject first"],
        ),
        ("services/a.py", 'x = Option(help="What follows.")\n', ["services/a.py:1: «What f»: name the subject first"]),
        ("services/a.py", 'x = {"what": "of"}, "of_a", f"{x}"\n', []),
        ("a.py", '"""What is a lane? A part of a queue."""\n', []),
        ("a.py", '"""Says what it has of it."""\n', []),
        ("README.md", "# Title\n\n- What was done\n", ["README.md:3: «What w»: name the subject first"]),
        ("README.md", "| `x` | Of its jobs |\n", ["README.md:1: «Of i»: name the subject first"]),
        ("README.md", "Its Time-out ends.\n", ["README.md:1: «Time-out»: timeout"]),
        ("README.md", "```\nWhat a block shows\n```\n\n    Of a block\n", []),
        ("README.md", "There is no id, and 5 is no id.\n", ["README.md:1: «is no id»: is not a valid …"]),
        ("services/a.py", 'raise E(f"{n} bytes; {m} are the most (MAX)")\n', [_MOST]),
        ("README.md", "It is the most common one, and has the most jobs.\n", []),
    ],
)
def test_a_phrase_with_a_plainer_form_is_found_with_its_line_and_cure(name: str, text: str, found: list[str]) -> None:
    assert prose.faults(name, text) == found


def test_every_folder_of_the_lists_exists_and_most_files_are_checked() -> None:
    assert [name for name in (*prose.CHECKED, *prose.OTHERS) if not (prose.ROOT / name).exists()] == []
    names = {name for name, _ in prose.files()}
    assert {"README.md", "docs/architecture.md", "sdk/taskflow/_handlers/job.py", "services/gateway/app.py"} <= names

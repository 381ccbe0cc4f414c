"""A type checker's verdict on programs that use the SDK: nothing for right ones, the error's place for wrong ones."""

import re
import subprocess
import sys
from collections import Counter

from tests.support.cluster import ROOT


def check(*paths: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", *paths],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return [line for line in done.stdout.splitlines() if not line.startswith(("sdk/taskflow/", "services/"))]


def test_the_examples_are_right() -> None:
    examples = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "sdk" / "examples").glob("*.py"))

    assert check(*examples) == []


def test_misuse_is_found_where_it_stands() -> None:
    path = "tests/support/sdk_misuse.py"
    expected = Counter(
        (number, code)
        for number, line in enumerate((ROOT / path).read_text().splitlines(), 1)
        for code in re.findall(r"# wrong: ([\w-]+)$", line)
    )

    found = Counter(
        (int(match[1]), match[2])
        for line in check(path)
        if (match := re.match(rf"{path}:(\d+): error: .*\[([\w-]+)\]$", line))
    )

    assert expected <= found
    assert {line for line, _ in found} == {line for line, _ in expected}

"""What README and docs show is there: programs, commands, make targets, files, tests, variables."""

import ast
import functools
import re
from collections.abc import Collection
from pathlib import Path

import pytest

from tests.support.docs import EXAMPLES, PAGES, ROOT, blocks, prose
from tools import reference

README = ROOT / "README.md"
ADDRESS = 'os.environ.get("TASKFLOW_ADDRESS", "localhost:9003")'

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def code(page: Path) -> list[str]:
    """Lines of code: of fenced and indented blocks, and between backticks."""
    text = page.read_text()
    fenced = [line for _, body in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S) for line in body.splitlines()]
    indented = [line for line in prose(page).splitlines() if line.startswith("    ")]
    return [line.strip() for line in fenced + indented] + re.findall(r"`([^`\n]+)`", prose(page))


def program(example: str) -> str:
    """An example as the README shows it: without its docstring, and with the address written out."""
    text = (EXAMPLES / example).read_text().partition('"""\n\n')[2]
    return text.removeprefix("import os\n\n").replace(ADDRESS, '"localhost:9003"')


def test_the_first_two_programs_are_the_first_two_examples() -> None:
    first, second = blocks(README, "python")[:2]

    assert first == program("01_new_job.py")
    assert second == program("02_worker.py")
    assert len((first + second).strip().splitlines()) <= 20


@every_page
def test_python_blocks_compile(page: Path) -> None:
    for text in blocks(page, "python"):
        ast.parse(text)


@every_page
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    named = {word for line in code(page) for word in re.findall(r"^make ([a-z]+)", line)}

    assert named <= targets


@functools.cache
def commands() -> Collection[str]:
    return reference.commands()


@functools.cache
def names_of_tests() -> set[str]:
    return {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in [path.stem, *re.findall(r"def (test_\w+)", path.read_text())]
    }


@every_page
def test_commands_exist(page: Path) -> None:
    known = commands()
    groups = {path.rpartition(" ")[0] for path in known}

    for line in code(page):
        for words in re.findall(r"(?:^|\$ |\$\(|^\.venv/bin/)taskflow ([a-z][a-z |]*)", line):
            path = "taskflow"
            for word in words.split():
                assert any(f"{path} {choice}" in known for choice in word.split("|")), f"{line}: {path} {word}"
                assert all(f"{path} {choice}" in known for choice in word.split("|"))
                path = f"{path} {word}"
                if path not in groups:
                    break


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", prose(page)):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@every_page
def test_files_and_tests_that_are_named_exist(page: Path) -> None:
    tests = names_of_tests()
    for line in code(page):
        if re.fullmatch(r"(?:tests|services|sdk|data|docs|tools|proto|examples)/[\w./-]+", line) and "NNNN" not in line:
            assert (ROOT / line).exists(), line
        if re.fullmatch(r"test_\w+(\.py)?", line) and page.parent.name != "howto":
            assert line.removesuffix(".py") in tests, line


def test_every_variable_of_ours_is_in_the_reference_and_none_else_is_named() -> None:
    def named(text: str) -> set[str]:
        every = set(re.findall(r"\bTASKFLOW_[A-Z_]+[A-Z]\b", text))
        return {name for name in every if not name.startswith("TASKFLOW_SECRET_")}  # what follows is the user's

    documented = named((ROOT / "docs" / "reference" / "settings.md").read_text())
    folders = [ROOT / "services", ROOT / "sdk" / "taskflow", ROOT / "tests" / "support"]
    used = {name for folder in folders for path in folder.rglob("*.py") for name in named(path.read_text())}

    assert used - documented == set()
    assert {name for page in PAGES for name in named(page.read_text())} - documented == set()

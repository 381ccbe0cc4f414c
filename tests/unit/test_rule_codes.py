"""Every rule that is cited by its code, as A8 or R14, is defined in docs/protocol.md or docs/rules.md."""

import re
import tomllib
from pathlib import Path

import pytest

from tests.support.docs import ROOT

DEFINITIONS = (ROOT / "docs" / "protocol.md", ROOT / "docs" / "rules.md")
FOLDERS = ("benchmarks", "data", "deploy", "docs", "examples", "proto", "sdk", "services", "tests", "tools")
READ = frozenset({".py", ".sql", ".proto", ".md", ".yml", ".html", ".sh", ".mjs"})
GENERATED = ROOT / "sdk" / "taskflow" / "v1"
_RANGE = re.compile(r"\b([ABCR])(\d{1,2}) ?(?:-|–|to) ?\1?(\d{1,2})\b")
_CODE = re.compile(r"\b([ABCR])(\d{1,2})\b")
_FEATURE = re.compile(r"\b(?:S[0-4]|X|M)\.\d{1,2}\b")
_ANCHOR = re.compile(r'<a id="(\w+)"></a>')
_ENTRY = re.compile(r'^### <a id="(\w+)"></a>(\w+)\. (.*?)(?=^##)', re.MULTILINE | re.DOTALL)
_PAGE = re.compile(r"(?<![\w./-])[\w./-]*\w\.md\b")


def cited(text: str) -> set[str]:
    """The codes of rules in a text, with all of a range such as A5-A8."""
    found = {letter + number for letter, number in _CODE.findall(text)}
    for letter, first, last in _RANGE.findall(text):
        found |= {f"{letter}{number}" for number in range(int(first), int(last) + 1)}
    return found


def anchors(page: Path) -> list[str]:
    return _ANCHOR.findall(page.read_text())


def entries() -> dict[str, str]:
    """The text of each rule, by its code."""
    return {code: text for page in DEFINITIONS for _, code, text in _ENTRY.findall(page.read_text() + "\n##")}


def files() -> list[Path]:
    """The files in which people write sentences."""
    every = [*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.*"))]
    return sorted(path for path in every if path.suffix in READ and GENERATED not in path.parents)


def codes() -> list[str]:
    """All rules, in their order."""
    return sorted(entries(), key=lambda code: (code[0], int(code[1:])))


def found(pattern: re.Pattern[str]) -> list[tuple[str, str]]:
    """The matches in any file, each with the name of its file."""
    return [(p.relative_to(ROOT).as_posix(), m) for p in files() for m in pattern.findall(p.read_text())]


def test_codes_are_found_alone_and_in_ranges() -> None:
    assert cited("acknowledged after the commit (protocol A8), rules R1, R2") == {"A8", "R1", "R2"}
    assert cited("(protocol A5-A7), R17-R18; A2 to A4") == {"A2", "A3", "A4", "A5", "A6", "A7", "R17", "R18"}
    assert cited("a UUIDv7, SHA256, B2B, utf-8, R2D2") == set()


def test_every_rule_has_one_anchor_that_is_its_code_in_lower_case() -> None:
    pairs = [(a, code) for page in DEFINITIONS for a, code, _ in _ENTRY.findall(page.read_text() + "\n##")]
    every = [anchor for page in DEFINITIONS for anchor in anchors(page)]

    assert [code.lower() for _, code in pairs] == [anchor for anchor, _ in pairs]
    assert sorted(every) == sorted([anchor for anchor, _ in pairs] + ["d"])
    assert len(every) == len(set(every))


def test_every_code_that_is_cited_has_a_definition() -> None:
    defined = entries().keys()

    missing = {(page, code) for page in files() for code in cited(page.read_text()) - defined}

    assert {(page.relative_to(ROOT).as_posix(), code) for page, code in missing} == set()


def test_every_rule_of_the_catalogue_has_a_definition() -> None:
    catalogue = tomllib.loads((ROOT / "docs" / "reference" / "features.toml").read_text())

    assert {name for name in catalogue if _CODE.fullmatch(name)} - entries().keys() == set()


def test_every_feature_that_is_cited_is_in_the_catalogue() -> None:
    catalogue = tomllib.loads((ROOT / "docs" / "reference" / "features.toml").read_text())

    assert [(page, name) for page, name in found(_FEATURE) if name not in catalogue] == []


@pytest.mark.parametrize("code", codes())
def test_a_rule_says_what_it_prevents_and_where_it_is_built_and_tested(code: str) -> None:
    text = entries()[code]
    built = "**Not built yet" not in text

    assert [word for word in ("**Code:**", "**Tests:**") if built and word not in text] == []
    assert "**Prevents:**" in text


def test_every_page_that_is_named_exists() -> None:
    """As a path from the repository's root or from the file itself, or as the name of a page of docs."""
    names = {page.name for page in (ROOT / "docs").glob("**/*.md")}

    def exists(page: str, named: str) -> bool:
        return (ROOT / named).exists() or ((ROOT / page).parent / named).exists() or named in names

    assert [(page, named) for page, named in found(_PAGE) if not exists(page, named)] == []


def test_links_to_a_rule_lead_to_its_anchor() -> None:
    known = {page.name: set(anchors(page)) for page in DEFINITIONS}
    links = re.compile(r"\]\((?:[\w./-]*/)?(protocol\.md|rules\.md)?#([abcdr]\d{0,2})\)")

    for page in [p for p in files() if p.suffix == ".md"]:
        for target, anchor in links.findall(page.read_text()):
            assert anchor in known.get(target or page.name, set()), f"{page.name}: {target}#{anchor}"

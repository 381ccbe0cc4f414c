"""When a row of the feature table works: each clause of it is proven."""

import pytest

from tools.features import CATALOGUE, Row, catalogue, unknown_tests

PASSED = {
    "tests/a.py::test_one[x]": "passed",
    "tests/a.py::test_one[y]": "passed",
    "tests/a.py::TestB::test_two": "passed",
}


@pytest.mark.parametrize(
    ("clauses", "tests", "state"),
    [
        ({}, {}, "not yet"),
        ({}, PASSED, "works"),
        ({"a": ["test_one"], "b": ["test_two"]}, PASSED, "works"),
        ({"a": ["test_one"], "b": []}, PASSED, "partial"),
        ({"a": ["test_one"]}, PASSED | {"tests/a.py::test_one[y]": "failed"}, "partial"),
        ({"a": ["test_one"]}, PASSED | {"tests/a.py::test_one[y]": "skipped"}, "partial"),
        ({"a": ["test_three"]}, PASSED, "partial"),
        ({"a": ["test_one"]}, {"tests/a.py::test_one": "not run"}, "not yet"),
    ],
)
def test_a_row_works_when_each_clause_has_tests_that_passed(
    clauses: dict[str, list[str]], tests: dict[str, str], state: str
) -> None:
    assert Row("X.1", "a row", clauses=clauses, tests=tests).state == state


def test_a_row_that_lacks_something_is_partial_whatever_passed() -> None:
    assert Row("X.1", "a row", missing="half of it", tests=PASSED).state == "partial"


def test_a_clause_that_names_no_test_of_its_row_is_found() -> None:
    row = Row("X.1", "a row", clauses={"a": ["test_one", "test_gone"]}, tests=PASSED)
    assert unknown_tests([row]) == ["test_gone (X.1)"]


def test_each_clause_of_the_catalogue_is_text_with_a_list_of_names() -> None:
    for row in catalogue().values():
        for clause, names in row.clauses.items():
            assert clause and all(name.startswith("test_") for name in names), row.name


def test_each_row_has_its_clauses() -> None:
    assert [name for name, row in catalogue().items() if not row.clauses] == []


def test_the_lines_of_the_catalogue_are_short_enough_to_read() -> None:
    assert [line for line in CATALOGUE.read_text().splitlines() if len(line) > 120] == []

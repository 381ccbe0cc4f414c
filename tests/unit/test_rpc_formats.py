"""JSON and YAML of /rpc: values come through unchanged, and what neither can say, or says too much, is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskflow_server.gateway.errors import Failure
from taskflow_server.gateway.rpc.formats import JSON, MOST, YAML, from_json, of_answer, of_request, read, write

pytestmark = pytest.mark.feature("S2.1")

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
)


@given(VALUES, st.sampled_from([JSON, YAML]))
def test_what_is_written_is_read_as_it_was(value: Any, kind: str) -> None:
    found = read(write(value, kind), kind)
    assert found == value and json.dumps(found) == json.dumps(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"), ("on", "on"), ("true", True), ("~", None), ("null", None), ("010", 10), ("0o10", 8), ("0x1F", 31),
        ("12:30:45", "12:30:45"), ("2026-05-04", "2026-05-04"), ("2026-05-04T15:30:43Z", "2026-05-04T15:30:43Z"),
        ("1e3", 1000.0), (".5", 0.5), (".inf", ".inf"), (".nan", ".nan"), ("1_000", "1_000"), ("'10'", "10"),
        ("<<: 1", {"<<": 1}), ("a: &x [1]\nb: *x", {"a": [1], "b": [1]}), ("", None), ("=", "="),
        ("1" * 40, int("1" * 40)),
    ],
)  # fmt: skip
def test_yaml_is_read_by_its_core_schema(text: str, value: Any) -> None:
    found = read(text.encode(), YAML)
    assert (found, type(found)) == (value, type(value))


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        "a: [1", "{", "- a\nb: 1", "a: b: c", "1: a", "? [a]\n: b", "!!python/object/apply:os.system [id]",
        "!!timestamp 2026-05-04", "!!binary aGk=", "!!set {a}", "!custom x", "a\n---\nb", "1e999", "&a [*a]", BOMB,
        "[" * 100_000, "{a: " * 5000, "a: \x00", "9" * 5000, "\ud800".encode("utf-8", "surrogatepass"),
        f"a: &a {'x' * 100_000}\nb: [{', '.join(['*a'] * (MOST // 100_000 + 1))}]",
    ],
)  # fmt: skip
def test_yaml_that_is_none_or_grows_without_end_is_refused(text: str | bytes) -> None:
    with pytest.raises(Failure) as caught:
        read(text if isinstance(text, bytes) else text.encode(), YAML)
    assert (caught.value.status, caught.value.reason) == (400, "BAD_BODY")
    assert 20 < len(caught.value.message) < 300


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "NaN", "[1e]", "[1e400]", "-1e999", '{"a": Infinity}', "[" * 100_000, '"\\ud800"', "\xff", "9" * 5000,
        "{'a': 1}",
    ],
)  # fmt: skip
def test_json_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Failure) as caught:
        read(text.encode("latin-1"), JSON)
    assert (caught.value.status, caught.value.reason) == (400, "BAD_BODY")


@pytest.mark.feature("R14")
def test_what_an_older_version_kept_is_answered_as_json_that_all_readers_take() -> None:
    kept = from_json(b'{"a": [1e400, -1e999, 1.5, NaN], "b": "\\ud800x", "\\udfff": "\\ud83d\\ude00"}')
    assert kept == {"a": ["1e400", "-1e999", 1.5, "NaN"], "b": "\ufffdx", "\ufffd": "\U0001f600"}
    for kind in (JSON, YAML):
        assert read(write(kept, kind), kind) == kept
    with pytest.raises(ValueError, match="JSON compliant"):
        write({"a": float("inf")}, JSON)


@pytest.mark.parametrize("media", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_what_a_page_elsewhere_can_send_unasked_is_not_read(media: str) -> None:
    with pytest.raises(Failure) as caught:
        of_request(media)
    assert caught.value.status == 415


def test_an_answer_is_written_as_asked_for_else_as_the_request_was() -> None:
    assert of_request("application/json; charset=utf-8") == of_request("Application/JSON") == JSON
    assert of_request("application/yaml") == of_request("text/yaml") == YAML
    assert of_answer("", YAML) == of_answer("*/*", YAML) == of_answer("text/html", YAML) == YAML
    assert of_answer("application/json", YAML) == of_answer("text/html, application/json;q=0.9", YAML) == JSON
    assert of_answer("application/yaml", JSON) == YAML

"""Workflow documents: accepted ones; refusals with path and text; and the published schema."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import jsonschema
import pytest

from taskflow_server.core.errors import InvalidArgument
from taskflow_server.core.workflow import KINDS, BadDocument, Definition, json_schema, register
from taskflow_server.core.workflow.kinds import Jobs, JobSpec, Kind
from taskflow_server.core.workflow.models import MAX_STEPS, Strict
from tests.support.docs import ROOT
from tests.support.workflows import World, edges, task, wait, workflow

SCHEMA = ROOT / "docs" / "reference" / "workflow.schema.json"


def rest(**call: Any) -> dict[str, Any]:
    return workflow({"name": "a", "kind": "task_flow", "meta": {"calls": [{"url": "/x", **call}]}})


def shell(**meta: Any) -> dict[str, Any]:
    return workflow({"name": "a", "kind": "shell", "meta": meta})


def grouped(*steps: str, **more: Any) -> dict[str, Any]:
    return workflow("a", "b", "c", groups=[{"name": "g", "steps": list(steps), **more}])


# Wrong types and ranges of fields: the schema refuses these too.
SHAPES: list[tuple[Any, str]] = [
    ({}, "name: is missing"),
    ({"name": "x y", "steps": []}, "name: \"x y\" does not fit: use 1 to 128 letters, digits, '-' and '_'"),
    ({"name": "x", "steps": "a"}, 'steps: should be a list, not "a"'),
    (workflow(5), "steps[0]: should be an object, not 5"),  # type: ignore[arg-type]
    (workflow({"name": "a", "meta": {}}), "steps[0].kind: is missing; kinds are task, task_flow, wait, shell"),
    (
        workflow({"name": "a", "kind": "tsk", "meta": {}}),
        'steps[0].kind: there is no kind "tsk"; kinds are task, task_',
    ),
    (workflow({"name": "a", "kind": "task"}), "steps[0].meta: is missing"),
    (
        workflow(task("a", retrys=1)),
        "steps[0].retrys: is not a valid field; use name, title, depends_on, queue, priority,",
    ),
    (workflow(task("a", timeout="5")), 'steps[0].timeout: should be a number, not "5"'),
    (workflow(task("a", retries=-1)), "steps[0].retries: should be greater than or equal to 0, not -1"),
    (
        workflow(task("a", priority="urgent")),
        "steps[0].priority: should be a whole number or 'low', 'normal', 'high' or",
    ),
    (workflow(wait("w", duration=[3])), "steps[0].meta.duration: should be a number or text or an object, not [3]"),
    (workflow({**wait("w", duration=3), "retries": 4}), "steps[0].retries: is not a valid field; use name, title,"),
    (rest(url=5), "steps[0].meta.calls[0].url: should be text, not 5"),
    (
        rest(ulr="x"),
        "steps[0].meta.calls[0].ulr: is not a valid field; use name, method, url, query, headers, body, auth,",
    ),
    (rest(method="get"), "steps[0].meta.calls[0].method: should be 'GET', 'HEAD', 'POST', 'PUT', 'PATCH',"),
    (rest(headers={"a b": "x"}), 'steps[0].meta.calls[0].headers.a b: "a b" does not fit: use 1 to 200 letters'),
    (rest(query={"a": {}}), "steps[0].meta.calls[0].query.a: should be text or a whole number or a number or true or"),
    (
        rest(expected_status=["2x"]),
        "steps[0].meta.calls[0].expected_status[0]: should be a whole number or '1xx', '2xx'",
    ),
    (rest(expected_status=[700]), "steps[0].meta.calls[0].expected_status[0]: should be less than or equal to 599 or"),
    (workflow("a", edges=[{"to": "a"}]), "edges[0].from: is missing"),
    (workflow("a", edges=[{"form": "a", "to": "a"}]), "edges[0].form: is not a valid field; use from, to, on"),
    (workflow("a", edges=edges("a -ok-> a")), "edges[0].on: should be 'success', 'failure' or 'always', not \"ok\""),
    (grouped(), "groups[0].steps: should have at least 1 item, not []"),
    (grouped("a", **{"from": "middle"}), "groups[0].from: should be 'failed' or 'start', not \"middle\""),
    (workflow("a", app_url="shop.example"), 'app_url: "shop.example" does not fit: use http:// or https:// and a host'),
    (workflow(*[f"s{n}" for n in range(MAX_STEPS + 1)]), "steps: should have at most 1000 items"),
]

# Faults across several places, or inside a text: only the parser sees them.
MEANINGS: list[tuple[Any, str]] = [
    (workflow(), "steps: is empty: a workflow has steps, or a decider"),
    (workflow("a", decider={}), "steps: must be empty with a decider: its executor decides"),
    (workflow({"name": "a", "kind": "task", "meta": {}}), "steps[0]: names neither a task (meta.task) nor a queue"),
    (workflow("a", "b", "a"), "steps[2].name: 'a' is also the name of steps[0]"),
    (grouped("a", "x"), "groups[0].steps[1]: there is no step 'x'; there are a, b, c"),
    (grouped("a", "a"), "groups[0].steps[1]: 'a' is already in groups[0].steps[0]"),
    (workflow("a", groups=[{"name": "a", "steps": ["a"]}]), "groups[0].name: 'a' is also the name of steps[0]"),
    (workflow(task("a", depends_on=["x"])), "steps[0].depends_on[0]: there is no step 'x'; there are a"),
    (workflow("a", edges=edges("x -> a")), "edges[0].from: there is no step 'x'; there are a"),
    (workflow("a", edges=edges("a -> x")), "edges[0].to: there is no step 'x'; there are a"),
    (
        workflow("a", "b", edges=edges("a -> g"), groups=[{"name": "g", "steps": ["b"]}]),
        "edges[0].to: there is no step 'g'; there are a, b; an edge leads to a step: name the first of the group",
    ),
    (workflow("a", edges=edges("a -> a")), "steps[0]: is in a cycle: a → a"),
    (workflow("x", "a", "b", edges=edges("a -> b", "b -> a")), "steps[1]: is in a cycle: a → b → a"),
    (
        workflow("a", task("b", depends_on=["g"]), groups=[{"name": "g", "steps": ["a", "b"]}]),
        "steps[1]: is in a cycle: b → g → b",
    ),
    (
        workflow("a", "b", task("c", depends_on=["b"]), edges=edges("a -> b", "a -failure-> c")),
        "steps[2]: can never run: a step before it would have to succeed and to fail",
    ),
    (workflow("a", "b", "c", start=["a"], edges=edges("a -> b")), "steps[2]: nothing leads to 'c', and start does not"),
    (
        workflow("a", "b", start=["a", "b"], edges=edges("a -> b")),
        "start[1]: 'b' has a predecessor: a run cannot start",
    ),
    (workflow("a", start=["x"]), "start[0]: there is no step 'x'; there are a"),
    (
        workflow(
            "a", "b", edges=edges("a -> b"), groups=[{"name": "g", "steps": ["a"], "retries": 1, "from": "start"}]
        ),
        "edges[0].from: 'a' may run again, since group 'g' is retried from its start: name the group instead",
    ),
    (rest(url="ftp://x"), "steps[0].meta.calls[0].url: 'ftp://x' must begin with http:// or https://, or be relative"),
    (
        rest(url="localhost:8080/x"),
        "steps[0].meta.calls[0].url: 'localhost:8080/x' must begin with http:// or https://",
    ),
    (rest(url="http://"), "steps[0].meta.calls[0].url: 'http://' has no host"),
    (rest(url="/a b"), "steps[0].meta.calls[0].url: must not contain a space or a control character"),
    (rest(auth={"scheme": "basic", "secret": "x"}), "steps[0].meta.calls[0].auth: needs username with scheme basic"),
    (
        rest(auth={"scheme": "bearer", "secret": "x", "header": "X"}),
        "steps[0].meta.calls[0].auth: has no header with scheme bearer",
    ),
    (
        workflow({"name": "a", "kind": "task_flow", "meta": {"calls": [{"url": "/x", "name": "n"}] * 2}}),
        "steps[0].meta.calls[0].name: is also the name of another call",
    ),
    (workflow(wait("w")), "steps[0].meta: needs duration, until or signal"),
    (workflow(wait("w", duration=1, until=2)), "steps[0].meta: has both duration and until; give one of them"),
    (workflow(wait("w", duration="3 days")), "steps[0].meta.duration: '3 days' is not a duration; use seconds, as 90,"),
    (
        workflow(wait("w", until="tomorrow")),
        "steps[0].meta.until: 'tomorrow' is not a time; use text such as 2026-05-0",
    ),
    (workflow(wait("w", duration=1, offset=2)), "steps[0].meta: has offset without until"),
    (shell(), "steps[0].meta: needs either command or script"),
    (shell(script="echo {{ input.x }}"), "steps[0].meta.script: must not contain templates; use env"),
    (rest(body={"x": ["{{ input.a"]}), "steps[0].meta.calls[0].body.x[0]: '{{' at character 1 is never closed by '}}'"),
    (rest(body="{{ }}"), "steps[0].meta.calls[0].body: {{ }}: there is nothing between {{ and }}"),
    (
        rest(body="{{ user.name }}"),
        "steps[0].meta.calls[0].body: {{ user.name }}: there is no 'user'; a value begins with input, context or steps",
    ),
    (
        rest(body="{{ steps.a.result }}"),
        "steps[0].meta.calls[0].body: reads step 'a', which may not have ended by then",
    ),
    (rest(body="{{ steps.b.result }}"), "steps[0].meta.calls[0].body: there is no step 'b'; there are a"),
    (
        rest(body="{{ steps.send-mail.result }}"),
        "steps[0].meta.calls[0].body: {{ steps.send-mail.result }}: Bad jmespath expression: Unknown token '-':;"
        ' a name with - must be in quotes, as steps."send-mail".result',
    ),
    (workflow("a", output={"x": "{{ steps.x.result }}"}), "output.x: there is no step 'x'; there are a"),
    ("nope", "the document is not JSON: Expecting value: line 1 column 1 (char 0)"),
    ("[" * 100_000, "the document is not JSON: maximum recursion depth exceeded"),
    (b"\xff", "the document is not JSON: 'utf-8' codec can't decode byte 0xff"),
    ("[1]", "the document must be a JSON object with name and steps"),
    ('{"name": 1e999}', "the document holds a number that JSON cannot represent"),
    (workflow(task("a", meta={"input": ["{{ @ }}"] * 10_001})), "the number of templates exceeds the limit of 10000"),
    (
        workflow(*[f"s{n}" for n in range(20)], edges=edges(*[f"s{n} -> s{(n + 1) % 20}" for n in range(20)])),
        "steps[0]: is in a cycle: s0 → s1 → s2 → s3 → s4 → s5 → s6 → s7 → s8 → s9 → … → s0",
    ),
    ({"name": "x\x00"}, "the document holds \\u0000 or half a surrogate pair, which Postgres cannot store"),
    (json.dumps({"name": "x" * (1 << 20)}), "the document is larger than 1048576 bytes"),
]


def ids(cases: list[tuple[Any, str]]) -> list[str]:
    return [words[:50] for _, words in cases]


@pytest.mark.parametrize(("document", "words"), SHAPES + MEANINGS, ids=ids(SHAPES + MEANINGS))
@pytest.mark.feature("S0.6")
def test_what_is_wrong_is_named_with_its_path_and_what_would_be_right(document: Any, words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Definition.parse(document)

    assert isinstance(caught.value, BadDocument)
    problem = caught.value.problems[0]
    assert str(problem).startswith(words)
    assert caught.value.field == problem.path
    assert caught.value.reason == "BAD_WORKFLOW"


def test_all_problems_of_a_document_come_at_once_and_one_for_each_path() -> None:
    document = workflow(task("a", priority=11, timeout=0), wait("b", duration=5, x=1), edges=[{"to": "a"}])

    with pytest.raises(BadDocument) as caught:
        Definition.parse(document)

    paths = [problem.path for problem in caught.value.problems]
    assert paths == ["steps[0].priority", "steps[0].timeout", "steps[1].meta.x", "edges[0].from"]
    assert caught.value.message.endswith("(and 3 more)")


def test_a_step_behind_two_ways_that_exclude_each_other_can_be_reached_by_either() -> None:
    for outcome, on in (("fail", "failure"), ("succeed", "success")):
        document = workflow(
            "a", "b", "c", "d", task("e", depends_on=["d"]),
            edges=edges("a -> b", "a -failure-> c", "b -> d", "c -> d", f"a -{on}-> e"),
        )  # fmt: skip
        world = World(document).start()
        world.fail("a") if outcome == "fail" else world.succeed("a")
        world.succeed("c" if outcome == "fail" else "b", "d")

        assert world.open == ["e"]


def test_a_document_is_read_from_text_bytes_and_values_alike() -> None:
    document = workflow("a", "b", edges=edges("a -> b"))

    found = {Definition.parse(form).digest for form in (document, json.dumps(document), json.dumps(document).encode())}

    assert len(found) == 1
    assert Definition.parse(workflow("a")).digest not in found


def test_payloads_of_45_000_characters_fit() -> None:
    text = "x" * 45_000
    world = World(workflow(task("a", meta={"input": {"fixed": text, "given": "{{ input }}"}})), text).start()

    assert world.job("a").payload == {"fixed": text, "given": text}


# Step kinds


class MailMeta(Strict):
    to: str


class Mail(Kind):
    name = "mail"
    meta: ClassVar[type[Strict]] = MailMeta

    def plan(self, meta: Any, moment: Any) -> Jobs:
        return Jobs([JobSpec("send-mail", {"to": meta["to"]})])


def test_a_kind_that_is_registered_is_checked_runs_and_is_in_the_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(KINDS):
        monkeypatch.setitem(KINDS, name, KINDS[name])
    step = {"name": "a", "kind": "mail", "retries": 2, "meta": {"to": "{{ input.to }}"}}
    with pytest.raises(BadDocument, match="there is no kind"):
        Definition.parse(workflow(step))

    monkeypatch.setitem(KINDS, "mail", Mail())
    world = World(workflow(step), {"to": "ada"}).start()

    assert (world.job("a").task, world.job("a").payload, world.job("a").retries) == ("send-mail", {"to": "ada"}, 2)
    with pytest.raises(BadDocument, match=r"steps\[0\].meta.ot: is not a valid field; use to"):
        Definition.parse(workflow({**step, "meta": {"ot": 1}}))
    assert "MailMeta" in json_schema()["$defs"]
    with pytest.raises(ValueError, match="the kind 'mail' already exists"):
        register(Mail())


# The schema


@pytest.mark.feature("S0.6")
def test_the_published_schema_is_that_of_the_models() -> None:
    """`python -m tools.reference` writes it."""
    assert json.loads(SCHEMA.read_text()) == json_schema()


@pytest.mark.parametrize(("document", "words"), SHAPES, ids=ids(SHAPES))
@pytest.mark.feature("S0.6")
def test_the_schema_refuses_what_the_parser_refuses_in_a_single_place(document: Any, words: str) -> None:
    assert not jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).is_valid(document)


@pytest.mark.parametrize(
    "document",
    [
        workflow(
            "a", task("b", depends_on=["a"]), edges=edges("a -always-> b"), groups=[{"name": "g", "steps": ["a"]}]
        ),
        workflow(wait("w", until="{{ input.at }}", offset={"days": 1}), output=["{{ steps.w.outcome }}"]),
        rest(auth={"scheme": "bearer", "secret": "crm"}, expected_status=[200, "3xx"], query={"a": [1, True]}),
        shell(command=["ls", "{{ input.folder }}"], env={"A": "b"}, cwd="/tmp"),
        {"name": "acme.crm/x", "decider": {"timeout": 60}},
        *(workflow(task("a", meta={"task": name})) for name in ("http.call", "shell.run", "acme.crm/export")),
    ],
)
@pytest.mark.feature("S0.6")
def test_the_schema_takes_what_the_parser_takes(document: Any) -> None:
    jsonschema.validate(document, json.loads(SCHEMA.read_text()))
    Definition.parse(document)


def test_every_field_of_the_schema_is_closed_and_the_schema_is_one() -> None:
    schema = json.loads(SCHEMA.read_text())

    jsonschema.Draft202012Validator.check_schema(schema)
    for name, part in {"": schema, **schema["$defs"]}.items():
        assert part.get("additionalProperties") is False, name

"""Templates: values over input, context and results; strict about what is missing, and bounded whatever is asked."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskflow_server.core.workflow import values
from taskflow_server.core.workflow.expressions import AT_ONCE, MAX_VISITS, BadExpression, Budget, Expression
from taskflow_server.core.workflow.templates import BadTemplate, Template
from taskflow_server.core.workflow.values import BadValue
from tests.support.workflows import World, task, workflow

SCOPE: dict[str, Any] = {
    "input": {
        "user": {"name": "Ada", "mails": ["a@x.example", "b@x.example"], "age": 36, "note": None, "vip": True},
        "orders": [{"id": 1, "paid": True}, {"id": 2, "paid": False}, {"id": 3}],
        "send-to": "ada",
    },
    "context": {"campaign": "c9"},
    "steps": {
        "fetch": {"outcome": "succeeded", "result": [{"status": 200, "body": {"id": "u/1"}}]},
        "check": {"outcome": "failed", "error": {"message": "no"}},
    },
}


def rendered(value: Any) -> Any:
    return Template.parse(value, "body").render(SCOPE, Budget())


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("plain", "plain"),
        ("{{ input.user.age }}", 36),
        ("{{input.user.mails}}", ["a@x.example", "b@x.example"]),
        ("{{ input.user.note }}", None),
        ("{{ input.user.vip }}", True),
        (" {{ input.user.age }}", " 36"),
        ("Dear {{ input.user.name }}, aged {{ input.user.age }}", "Dear Ada, aged 36"),
        ("{{ input.user.mails }} {{ input.user.vip }}", '["a@x.example","b@x.example"] true'),
        ("{{ steps.fetch.result[0].body.id }}", "u/1"),
        ("{{ steps.fetch.result[-1].status }}", 200),
        ("{{ steps.check.outcome }}: {{ steps.check.error.message }}", "failed: no"),
        ("{{ steps.check.result || 'none' }}", "none"),
        ("{{ input.usr.name || context.campaign }}", "c9"),
        ("{{ not_null(input.nick, input.user.note, input.user.name) }}", "Ada"),
        ("{{ input.orders[?paid].id }}", [1]),
        ("{{ input.orders[?id > `1`].id | [0] }}", 2),
        ("{{ length(input.orders) }}", 3),
        ("{{ join(', ', input.user.mails) }}", "a@x.example, b@x.example"),
        ("{{ {id: context.campaign, all: {n: length(input.orders)}} }}", {"id": "c9", "all": {"n": 3}}),
        ("{{ input.user.age >= `18` }}", True),
        ("{{ input.nick == 'x' }}", False),
        ('{{ input."send-to" }}', "ada"),
        ("{{ '}}' }} and {{ '{{' }}", "}} and {{"),
        ({"a": ["{{ input.user.age }}", 1, None], "b": {}}, {"a": [36, 1, None], "b": {}}),
    ],
)
def test_a_template_gives_the_value(template: Any, value: Any) -> None:
    found = rendered(template)

    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ input.usr }}", "there is no 'usr'; it has orders, send-to, user"),
        ("{{ input.user.name.first }}", "there is no 'first': text stands in its place"),
        ("{{ input.user.note.text }}", "there is no 'text': null stands in its place"),
        ("{{ input.orders[3] }}", "there is no [3]; the list has 3"),
        ("{{ input.user[0] }}", "there is no [0]: an object stands in its place"),
        ("{{ input.user[*].id }}", "an object is not a list, which is needed here"),
        ("{{ length(input.order) }}", "there is no 'order'; it has orders, send-to, user"),
        ("{{ {a: input.x} }}", "there is no 'x'; it has orders, send-to, user"),
        ("{{ steps.check.result }}", "there is no 'result'; it has error, outcome"),
        (
            "Dear {{ input.user.note }}",
            "is null, which a text cannot contain; {{ input.user.note || '' }} leaves it out",
        ),
        ("{{ length(input.user.age) }}", "In function length(), invalid type for value: 36, expected one of"),
        ("{{ sum(input.orders) }}", "In function sum(), invalid type for value"),
        ("{{ shout(input) }}", "Unknown function: shout()"),
    ],
)
def test_what_is_missing_or_does_not_fit_is_a_clear_error(template: str, why: str) -> None:
    with pytest.raises(BadValue) as caught:
        rendered({"deep": [template]})

    assert caught.value.message.startswith(why)
    assert caught.value.path == "body.deep[0]"
    assert caught.value.expression in template


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("x {{ input.a", "body: '{{' at character 3 is never closed by '}}'"),
        ("{{ '}} ", "body: '{{' at character 1 is never closed by '}}'"),
        ("{{ }}", "body: {{ }}: there is nothing between {{ and }}"),
        ("{{ user }}", "body: {{ user }}: there is no 'user'; a value begins with input, context or steps"),
        ("{{ input..a }}", "body: {{ input..a }}: "),
        ("{{ " + "a" * 1001 + " }}", "body: "),
    ],
)
def test_a_template_that_cannot_be_read_is_refused_at_its_place(template: str, why: str) -> None:
    with pytest.raises(BadTemplate) as caught:
        Template.parse(template, "body")

    assert str(caught.value).startswith(why)


@pytest.mark.parametrize(
    ("source", "reads"),
    [
        ("steps.a.result", {"a"}),
        ('steps."send-mail".result[0].id || steps.b.error', {"send-mail", "b"}),
        ("length(steps.a.result[?x].y) > `1` && !(steps.b.result)", {"a", "b"}),
        ("[steps.a.result, {x: steps.b.result}]", {"a", "b"}),
        ("input.steps.a", set()),
        ("input.list[?steps.a].steps", set()),
        ("sort_by(steps.a.result, &steps.b)", {"a"}),
        ("steps.*.outcome", {"*"}),
        ("steps | a.result", {"*"}),
        ("keys(steps)", {"*"}),
        ("@.steps.a", {"*"}),
    ],
)
def test_the_steps_that_an_expression_reads_are_known_before_it_runs(source: str, reads: set[str]) -> None:
    assert Expression.parse(source).refers == reads


# Bounds


SEED = {"input": {"items": [{"a": n, "b": [n, n]} for n in range(20_000)], "text": "x" * 100_000}}


@pytest.mark.parametrize(
    "source",
    [
        "input.items[?a > `5` && a < `7`].b[]",
        "map(&[a, a, a], input.items)",
        "input.items | [@, @] | [@, @] | [@, @] | [@, @] | [@, @] | [@, @] | [@, @] | [@, @]",
        "input.items" + " | [@, @][]" * 80,
        "input.text" + " | join('', [@, @])" * 40,
        "to_string([input, input, input, input]) | to_string([@, @, @, @]) | to_string([@, @, @, @])",
        "input.items" + " | {a: @, b: @}" * 50,
        "input" + " | merge({a: @}, {b: @})" * 40,
    ],
)
def test_no_expression_takes_long_or_builds_much(source: str) -> None:
    expression = Expression.parse(source)
    budget = Budget()
    began = time.process_time()

    with pytest.raises(BadValue, match=r"takes too long|larger than") as caught:
        expression.value(SEED, budget)

    assert caught.value.type == "too_large"
    assert time.process_time() - began < 2, "0.2 s was the most that was seen"


@pytest.mark.parametrize(
    "source", ["(" * 490 + "input" + ")" * 490, "!" * 990 + "input", "[" * 490 + "input" + "]" * 490]
)
def test_an_expression_that_is_nested_deep_is_worked_out_or_refused(source: str) -> None:
    try:
        Expression.parse(source).value({"input": 1}, Budget())
    except (BadExpression, BadValue) as error:
        assert "deep" in str(error)


def test_many_steps_of_one_event_share_what_they_may_cost() -> None:
    """Of 30 steps that begin together, each within its own bounds, the first ten or so get their values."""
    costly = "{{ input.items[?a < `0`] }}"
    document = workflow(*[task(f"s{n}", meta={"input": costly}) for n in range(3 * AT_ONCE)])
    world = World(document, {"items": SEED["input"]["items"][: MAX_VISITS // 3 - 10]}).start()

    assert AT_ONCE - 1 <= len(world.made) <= AT_ONCE + 1
    assert world.error(f"s{3 * AT_ONCE - 1}")["type"] == "too_large"


def test_what_a_text_repeats_is_paid_for() -> None:
    template = Template.parse("{{ input.text }}" * 20, "body")

    with pytest.raises(BadValue, match=r"is too deep, or larger than"):
        template.render(SEED, Budget())


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=15,
)
FORMS = [
    "{x}.a", "{x}.b", "{x}[0]", "{x}[1:]", "{x}[]", "{x}[*].a", "{x}.*", "{x}[?a].b", "{x}[?a == `1`]", "!{x}", "&{x}",
    "({x}) == ({y})", "({x}) < ({y})", "{x} | {y}", "{x} || {y}", "{x} && {y}", "[{x}, {y}]", "{{a: {x}, b: {y}}}",
    "keys({x})", "values({x})", "length({x})", "join({x}, {y})", "sort_by({x}, &{y})", "map(&{x}, {y})",
    "not_null({x}, {y})", "to_string({x})", "to_number({x})", "to_array({x})", "merge({x}, {y})", "reverse({x})",
    "max_by({x}, &a)", "contains({x}, {y})",
    "sum({x})", "avg({x})", "sort({x})", "starts_with({x}, {y})", "type({x})", "{x} {y}", "{x}.",
]  # fmt: skip
STARTS = ["input", "input.a", "context", "steps.a", "steps", "@", "`1`", "`[1, [2]]`", "'x'", "a", "*", ""]
expressions = st.recursive(
    st.sampled_from(STARTS),
    lambda inner: st.builds(lambda form, x, y: form.format(x=x, y=y), st.sampled_from(FORMS), inner, inner),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(expressions, json_values)
def test_whatever_an_expression_asks_of_whatever_data_it_gives_json_or_one_of_two_errors(
    source: str, value: Any
) -> None:
    scope = {"input": value, "context": {}, "steps": {"a": {"outcome": "failed"}}}
    try:
        found = Template.parse("{{ " + source + " }}", "x").render(scope, Budget())
    except BadTemplate as error:
        assert error.path == "x"
    except BadValue as error:
        assert error.path == "x" and error.message
    else:
        json.dumps(found)


# URLs


def call(url: str, context: dict[str, Any] | None = None, **more: Any) -> World:
    step = {"name": "a", "kind": "task_flow", "meta": {"calls": [{"url": url, **more}]}}
    return World(workflow(step), {"id": "a/b?c=d&e", "base": "https://shop.example/api"}, context).start()


@pytest.mark.parametrize(
    ("url", "app_url", "whole"),
    [
        ("https://x.example/a", None, "https://x.example/a"),
        ("/users", "https://shop.example", "https://shop.example/users"),
        ("users?x=1", "https://shop.example/api/", "https://shop.example/api/users?x=1"),
        ("/users/{{ input.id }}", "https://shop.example", "https://shop.example/users/a%2Fb%3Fc%3Dd%26e"),
        ("{{ input.base }}/users", None, "https://shop.example/api/users"),
        ("{{ context.app_url }}/v2", "https://shop.example", "https://shop.example/v2"),
    ],
)
def test_relative_urls_are_appended_to_app_url_and_values_inside_are_encoded(
    url: str, app_url: str | None, whole: str
) -> None:
    world = call(url, {"app_url": app_url} if app_url else {})

    assert world.job("a").payload["url"] == whole


@pytest.mark.feature("S0.9")
def test_the_workflow_s_app_url_is_stronger_than_the_namespace_s() -> None:
    step = {"name": "a", "kind": "task_flow", "meta": {"calls": [{"url": "/x", "body": "{{ context.app_url }}"}]}}
    world = World(workflow(step, app_url="https://mine.example"), None, {"app_url": "https://all.example"}).start()

    assert world.job("a").payload["url"] == "https://mine.example/x"
    assert world.job("a").payload["body"] == "https://mine.example"


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (
            {"url": "/x"},
            "steps[0].meta.calls[0].url: '/x' is relative, and neither workflow nor namespace has an app_url",
        ),
        ({"url": "{{ input.id }}"}, "steps[0].meta.calls[0].url: 'a/b?c=d&e' is relative"),
        (
            {"url": "{{ 'file:///etc/passwd' }}"},
            "steps[0].meta.calls[0].url: 'file:///etc/passwd' must begin with http",
        ),
        (
            {"url": "https://x.example", "headers": {"X": '{{ `"a\\nb"` }}'}},
            "steps[0].meta.calls[0].headers.X: must not contain a line break",
        ),
        (
            {"url": "https://x.example", "headers": {"X": "{{ input }}"}},
            "steps[0].meta.calls[0].headers.X: {'id': 'a/b?c=d&e', 'base': 'https://shop.example/api'} is not text",
        ),
        (
            {"url": "https://x.example", "auth": {"scheme": "basic", "username": "{{ input }}", "secret": "s"}},
            "steps[0].meta.calls[0].auth.username: {'id': 'a/b?c=d&e', 'base': 'https://shop.example/api'} is not text",
        ),
        (
            {"url": "https://x.example", "query": {"q": ["{{ `null` }}"]}},
            "steps[0].meta.calls[0].query.q: None is not text",
        ),
    ],
)
def test_a_call_whose_values_do_not_fit_is_never_made(more: dict[str, Any], why: str) -> None:
    url = more.pop("url")
    world = call(url, **more)

    assert world.made == []
    assert world.error("a")["message"].startswith(why)


def test_a_call_carries_all_that_its_handler_needs_and_a_secret_by_name_only() -> None:
    auth = {"scheme": "basic", "username": "{{ input.base }}", "secret": "crm"}
    more = {
        "method": "PUT",
        "headers": {"X-N": "{{ `7` }}"},
        "query": {"n": [1, True]},
        "body": {"id": "{{ input.id }}"},
    }

    world = call("https://x.example", auth=auth, timeout=5, expected_status=[200, "4xx"], **more)

    assert world.job("a").task == "http.call"
    assert world.job("a").payload == {
        "method": "PUT",
        "url": "https://x.example",
        "query": {"n": ["1", "true"]},
        "headers": {"X-N": "7"},
        "timeout": 5,
        "expected_status": [200, "4xx"],
        "body": {"id": "a/b?c=d&e"},
        "auth": {"scheme": "basic", "username": "https://shop.example/api", "secret": "crm"},
    }


def test_a_shell_step_is_a_job_whose_arguments_and_variables_are_text() -> None:
    meta = {"command": ["tar", "-C", "{{ input.dir }}", "{{ input.n }}"], "env": {"N": "{{ input.n }}"}, "cwd": "/srv"}
    world = World(workflow({"name": "a", "kind": "shell", "meta": meta}), {"dir": "x y", "n": 3}).start()

    assert world.job("a").task == "shell.run"
    assert world.job("a").payload == {"command": ["tar", "-C", "x y", "3"], "env": {"N": "3"}, "cwd": "/srv"}


# Durations and instants


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (0, 0),
        (1.5, 1.5),
        ("90s", 90),
        ("1d 12h", 129_600),
        ("1w", 604_800),
        ("250ms", 0.25),
        ("-2h", -7_200),
        ("1.5h", 5_400),
    ],
)
def test_durations(given: Any, seconds: float) -> None:
    assert values.duration(given) == seconds


@pytest.mark.parametrize(
    "given", ["", "90", "1 day", "h", "--1h", True, None, [], {}, {"hour": 1}, {"hours": "1"}, 1e12]
)
def test_what_is_no_duration(given: Any) -> None:
    with pytest.raises(BadValue):
        values.duration(given)


@pytest.mark.parametrize("given", ["", "soon", "2026-13-01", True, None, [], 1e18, "2026-05-04T25:00:00Z"])
def test_what_is_no_time(given: Any) -> None:
    with pytest.raises(BadValue, match="is not a time"):
        values.instant(given)


@given(st.one_of(json_values, st.text()))
def test_errors_of_jobs_are_kept_bounded_and_in_a_form_that_can_be_stored(error: Any) -> None:
    kept = values.error_of(error, "failed")

    assert {"type", "message"} <= kept.keys()
    assert len(json.dumps(kept)) < 6 * (values.MAX_MESSAGE + values.MAX_ERROR_DATA)
    values.size_of(kept, 1 << 20)


def test_an_error_that_is_too_large_or_cannot_be_stored_loses_what_is_beside_type_and_message() -> None:
    assert values.error_of({"type": "A\x00", "message": "b\ud800", "status": 503}, "failed") == {
        "type": "A\ufffd",
        "message": "b\ufffd",
        "status": 503,
    }
    assert values.error_of({"message": "m", "body": "x" * 100_000}, "lost") == {"type": "lost", "message": "m"}

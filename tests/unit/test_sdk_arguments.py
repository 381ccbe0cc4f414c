"""A value that an argument does not take is refused before anything is sent, by the argument's name."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from taskflow import InvalidArgument, NewJob, TaskFlow
from taskflow._messages.filters import JobFilters
from taskflow._messages.schedules import ScheduleOptions
from taskflow._messages.tasks import TaskOptions
from taskflow._resources.namespaces import NamespaceOptions

NOUNS = ("jobs", "queues", "workers", "schedules", "tasks", "workflows", "namespaces")
KEYWORDS: dict[tuple[str, str], type] = {
    ("jobs", "list"): JobFilters, ("tasks", "create"): TaskOptions, ("tasks", "update"): TaskOptions,
    ("schedules", "create"): ScheduleOptions, ("schedules", "update"): ScheduleOptions,
    ("schedules", "preview"): ScheduleOptions, ("namespaces", "create"): NamespaceOptions,
    ("namespaces", "update"): NamespaceOptions,
}  # fmt: skip
ID = "0198c0de-0000-7000-8000-000000000000"
GOOD = {"id": ID, "start": datetime(2026, 5, 4, tzinfo=UTC), "app_url": "http://app", "document": "{}"}


class Odd:
    """No argument takes it; its own code raises."""

    def __repr__(self) -> str:
        raise RuntimeError


WRONG = {"object": Odd(), "number": 10**30, "half a character": "\ud800"}


def verbs() -> Iterator[Any]:
    with TaskFlow("127.0.0.1:1") as tf:
        for noun in NOUNS:
            for verb, _ in inspect.getmembers(getattr(tf, noun), inspect.ismethod):
                if not verb.startswith("_"):
                    yield pytest.param(noun, verb, id=f"{noun}.{verb}")


def arguments(noun: str, verb: str, method: Any) -> Iterator[tuple[str, Any]]:
    """Each argument of the verb with each wrong value."""
    for name in inspect.signature(method).parameters:
        known = KEYWORDS.get((noun, verb)) if name in ("options", "filters") else None
        for argument in known.__annotations__ if known else [name]:
            for kind, wrong in WRONG.items():
                if kind != "number" or argument not in ("payload", "input"):  # which take any number
                    yield argument, wrong


@pytest.fixture(scope="module")
def tf() -> Iterator[TaskFlow]:
    with TaskFlow("127.0.0.1:1", timeout=0.2) as app:
        yield app


@pytest.mark.parametrize(("noun", "verb"), list(verbs()))
def test_a_verb_names_the_argument_at_fault(tf: TaskFlow, noun: str, verb: str) -> None:
    method = getattr(getattr(tf, noun), verb)
    needed = [p for p in inspect.signature(method).parameters.values() if p.default is p.empty]
    given = {p.name: GOOD.get(p.name, "name") for p in needed if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    for argument, wrong in arguments(noun, verb, method):
        with pytest.raises(InvalidArgument) as refused:
            answer = method(**{**given, argument: wrong})
            list(answer) if inspect.isgenerator(answer) else answer
        assert refused.value.field.partition(".")[0] == argument, refused.value
        assert refused.value.message.startswith(argument)
        refused.value.message.encode()


@pytest.mark.feature("R13", "S1.1")
def test_the_names_of_priorities_are_accepted_wherever_one_is_given(tf: TaskFlow) -> None:
    from taskflow._messages.options import build_spec
    from taskflow._messages.tasks import _message

    for name, number in (("low", 2), ("normal", 5), ("high", 7), ("critical", 9), ("High", 7), (0, 0)):
        job = NewJob("q", priority=name)  # type: ignore[arg-type]
        assert build_spec(job.queue, None, job.options).priority == number
        assert _message({"priority": name})[0].priority == number  # type: ignore[typeddict-item]
    for wrong in ("urgent", 10, -1, True, 5.0):
        with pytest.raises(InvalidArgument, match="low, normal, high, critical") as refused:
            tf.tasks.create("x", priority=wrong)  # type: ignore[arg-type]
        assert refused.value.field == "priority"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda tf: tf.schedules.create("a", crom="* * * * *"), "a schedule has no option 'crom'; there are cron, "),
        (lambda tf: tf.tasks.create("a", shedule="* * * * *"), "a task has no option 'shedule'; there are target"),
        (lambda tf: list(tf.jobs.list(state="failed")), "has no option 'state'; there are queue, "),
    ],
)
def test_a_keyword_that_is_none_names_those_that_there_are(call: Callable[[Any], Any], said: str) -> None:
    with TaskFlow("127.0.0.1:1", timeout=1) as tf, pytest.raises(TypeError, match=re.escape(said)):
        call(tf)

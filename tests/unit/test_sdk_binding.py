"""How handlers are called, and how a task's arguments are checked against its signature."""

from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel

from taskflow import AlreadyExists, InvalidArgument, Job, JobOptions, TaskFlow
from taskflow._binding import Binding, build
from taskflow._values import encode


class Nowhere:
    cancelled = False

    def progress(self, current: float, total: float, unit: str, message: str) -> None: ...
    def heartbeat(self) -> None: ...
    def log(self, level: str, message: str) -> None: ...


def job(payload: Any) -> Job:
    return Job(Nowhere(), b"j" * 16, b"e" * 16, "emails", "", 2, 3, *encode(payload), None)


def call(function: Any, payload: Any) -> Any:
    return Binding(function).call(function, job(payload))


def test_a_handler_takes_the_job() -> None:
    assert call(lambda job: job.payload, [1]) == [1]

    def by_annotation(it: Job) -> Any:
        return it.payload, it.attempt, it.queue, it.id

    assert call(by_annotation, "x") == ("x", 2, "emails", "6a6a6a6a-6a6a-6a6a-6a6a-6a6a6a6a6a6a")


def test_a_handler_takes_the_payloads_fields() -> None:
    def send(to: str, subject: str = "hello", *, copies: int = 1) -> Any:
        return to, subject, copies

    assert call(send, {"to": "ada"}) == ("ada", "hello", 1)
    assert call(send, {"to": "ada", "copies": 2}) == ("ada", "hello", 2)


def test_a_handler_takes_both_and_the_rest() -> None:
    def both(job: Job, to: str, **rest: Any) -> Any:
        return job.attempt, to, rest

    assert call(both, {"to": "ada", "x": 1}) == (2, "ada", {"x": 1})


def test_a_handler_may_take_nothing() -> None:
    assert call(lambda: "ran", None) == "ran"
    assert call(lambda: "ran", {}) == "ran"


@pytest.mark.parametrize(
    ("payload", "field", "says"),
    [
        ({}, "to", "needs it"),
        ({"to": 1, "cc": 2}, "cc", "no such parameter (it has: to)"),
        ("text", "payload", "is text"),
        (["a"], "payload", "is a list"),
    ],
)
def test_a_payload_that_does_not_fit_is_named(payload: Any, field: str, says: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        call(lambda to: to, payload)

    assert refused.value.field == field
    assert says in str(refused.value)


@dataclass
class Address:
    street: str
    number: int = 1


@dataclass
class Person:
    name: str
    home: Address
    others: list[Address]
    work: Address | None = None


class Order(BaseModel):
    id: int
    lines: list[str]


PERSON = {"name": "ada", "home": {"street": "a"}, "others": [{"street": "b", "number": 2}], "work": None}
ADA = Person("ada", Address("a"), [Address("b", 2)], None)


def test_dataclasses_are_made_from_objects() -> None:
    def greet(person: Person, also: list[Person] | None = None) -> Any:
        return person, also

    assert call(greet, {"person": PERSON}) == (ADA, None)
    assert call(greet, {"person": PERSON, "also": [PERSON]}) == (ADA, [ADA])


def test_dataclasses_are_made_without_pydantic_too() -> None:
    assert build(Person, PERSON) == ADA
    assert build(list[Person], [PERSON]) == [ADA]
    assert build(dict[str, Address], {"x": {"street": "a"}}) == {"x": Address("a")}
    with pytest.raises(TypeError, match="Address has no field 'zip'"):
        build(Address, {"street": "a", "zip": 1})
    with pytest.raises(TypeError, match="made from a JSON object"):
        build(Address, "a")


def test_pydantic_models_are_validated() -> None:
    def ship(order: Order) -> Any:
        return order

    assert call(ship, {"order": {"id": "7", "lines": []}}) == Order(id=7, lines=[])
    with pytest.raises(InvalidArgument, match=r"payload\.order: ") as refused:
        call(ship, {"order": {"id": "seven"}})
    assert refused.value.field == "payload.order"


tf = TaskFlow("localhost:1")


@tf.task(queue="emails", retries=5, timeout=30)
async def send_email(to: str, subject: str = "hello", *, job: Job) -> dict[str, str]:
    return {"to": to, "subject": subject}


@tf.task
def double(number: int) -> int:
    return 2 * number


def test_a_task_stays_callable() -> None:
    assert double(4) == 8
    assert double.name == double.__name__ == "double"
    assert send_email.options == JobOptions(task="send_email", retries=5, timeout=30)


@pytest.mark.parametrize(
    ("args", "arguments", "field"),
    [
        ((), {}, "to"),
        ((), {"to": "a", "cc": 1}, "cc"),
        (("a",), {"to": "a"}, "to"),
        (("a", "b", "c"), {}, "args"),
        ((), {"to": "a", "job": 1}, "job"),
    ],
)
def test_a_tasks_arguments_are_checked_against_its_signature(args: Any, arguments: Any, field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        send_email.new_job(*args, **arguments)

    assert refused.value.field == field


def test_many_arguments_are_checked_by_place() -> None:
    with pytest.raises(InvalidArgument) as refused:
        send_email.new_jobs([{"to": "a"}, {"two": "b"}])

    assert refused.value.field == "jobs[1].two"


def test_two_tasks_cannot_share_a_name() -> None:
    with pytest.raises(AlreadyExists, match="give one of them a name"):
        tf.task(name="double")(lambda number: number)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"retries": -1}, "retries"),
        ({"queue": "no spaces"}, "queue"),
        ({"name": "no spaces"}, "name"),
        ({"timeout": 0}, "timeout"),
        ({"processes": -1}, "processes"),
        ({"processes": 1}, "handler"),
    ],
)
def test_a_wrong_decorator_is_refused_where_it_stands(options: Any, field: str) -> None:
    def local() -> None: ...

    with pytest.raises(InvalidArgument) as refused:
        TaskFlow("localhost:1").task(**options)(local)

    assert refused.value.field == field


def test_a_handler_that_cannot_be_called_by_names_is_refused() -> None:
    def positional(a: int, /) -> None: ...
    def variadic(*a: int) -> None: ...

    for function in (positional, variadic):
        with pytest.raises(InvalidArgument, match="cannot be given by name"):
            TaskFlow("localhost:1").task(function)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"queue": "q"}, "handler"),
        ({"handler": print}, "queue"),
        ({}, "handler"),
        ({"queue": "q", "handler": lambda job: 0, "concurrency": 0}, "concurrency"),
        ({"queue": "q", "handler": lambda job: 0, "grace": -1}, "grace"),
        ({"queue": "no spaces", "handler": lambda job: 0}, "queue"),
    ],
)
def test_run_refuses_what_it_cannot_do(arguments: Any, field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        TaskFlow("localhost:1").run(**arguments)

    assert refused.value.field == field

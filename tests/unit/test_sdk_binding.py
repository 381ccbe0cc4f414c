"""How handlers are called, and how a task's arguments are checked against its signature."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from taskflow import AlreadyExists, InvalidArgument, Job, JobOptions, TaskFlow, testing
from taskflow._handlers.binding import Binding, build
from taskflow._messages.payloads import encode


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
        (1, "payload", "is an int;"),
        (1.5, "payload", "is a float;"),
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


class Shop:
    def pay(self, order: int) -> None: ...

    @classmethod
    def open(cls) -> None: ...


def test_a_method_is_refused_when_it_is_registered_and_one_of_an_object_is_not() -> None:
    tf = TaskFlow()

    for function, name in ((Shop.pay, "self"), (Shop.open.__func__, "cls")):  # type: ignore[attr-defined]
        with pytest.raises(InvalidArgument, match=f"has the parameter {name}, so it is a method") as refused:
            tf.task(function)
        assert refused.value.field == "handler"

    assert tf.task(Shop().pay).name == "pay"
    assert tf.task(Shop.open).name == "open"


@pytest.mark.parametrize("handler", [lambda a, b: 1, lambda payload: payload, lambda job, to: to])
def test_a_queues_lambda_takes_the_job_alone(handler: Any) -> None:
    """Else each job would fail for want of a field of that name."""
    with pytest.raises(InvalidArgument, match="a lambda takes only the job, and this one takes ") as refused:
        TaskFlow().run("q", handler=handler)
    assert refused.value.field == "handler"
    with testing.cluster(TaskFlow()) as cluster, pytest.raises(InvalidArgument, match="a lambda takes only the job"):
        cluster.handle("q", handler)


def test_a_parameter_called_job_is_the_job_with_any_as_its_annotation() -> None:
    def handler(job: Any) -> Any:
        return job.payload

    assert call(handler, 7) == 7


def typed(
    to: str = "", copies: int = 1, share: float = 0.5, urgent: bool = False, names: list[str] | None = None,
    more: dict[str, Any] | None = None, data: bytes | str = b"", of: UUID | None = None, free: Any = None, bare=None,  # type: ignore[no-untyped-def]
) -> None: ...  # fmt: skip


@pytest.mark.parametrize(
    ("argument", "value", "says"),
    [
        ("to", 5, "to: typed takes str, and this is an int"),
        ("to", None, "to: typed takes str, and this is None"),
        ("copies", "2", "copies: typed takes int, and this is a str"),
        ("copies", 2.0, "copies: typed takes int, and this is a float"),
        ("share", "0.5", "share: typed takes float, and this is a str"),
        ("urgent", 1, "urgent: typed takes bool, and this is an int"),
        ("names", "ada", "names: typed takes list[str] | None, and this is a str"),
        ("more", ["a"], "more: typed takes dict[str, Any] | None, and this is a list"),
        ("data", 1, "data: typed takes bytes | str, and this is an int"),
    ],
)
def test_arguments_of_another_type_than_annotated_are_refused_when_a_job_is_made(
    argument: str, value: Any, says: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        Binding(typed).payload((), {argument: value})

    assert (refused.value.field, str(refused.value)) == (argument, says)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("to", "ada"), ("to", datetime(2027, 1, 1, tzinfo=UTC)), ("to", UUID(int=1)), ("copies", True), ("share", 1),
        ("names", None), ("names", ("a", "b")), ("names", ["a"]), ("more", {"a": 1}), ("data", "a"), ("data", b"a"),
        ("of", "a"), ("free", 1), ("bare", object),
    ],
)  # fmt: skip
def test_arguments_that_fit_or_may_fit_are_taken(argument: str, value: Any) -> None:
    assert Binding(typed).payload((), {argument: value}) == {argument: value}

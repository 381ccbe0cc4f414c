"""How a handler is called: with the job, with the payload's fields as its parameters, or both."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from taskflow._handlers.job import Job
from taskflow._messages.texts import a, counted
from taskflow.errors import InvalidArgument

_POSITIONAL = inspect.Parameter.POSITIONAL_OR_KEYWORD
_KEYWORD = inspect.Parameter.KEYWORD_ONLY


class Binding:
    """Read once from a handler's signature. InvalidArgument for one that cannot be called by names."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name = getattr(function, "__qualname__", repr(function))
        self.signature = inspect.signature(function)
        hints = _hints(function)
        self.job_parameter: str | None = None
        self.takes_rest = False
        self.fields: dict[str, inspect.Parameter] = {}
        self._converters: dict[str, Callable[[Any], Any]] = {}
        self._kinds: dict[str, frozenset[type]] = {}
        for name, parameter in self.signature.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                self.takes_rest = True
            elif name in ("self", "cls") and not self.fields and parameter.default is inspect.Parameter.empty:
                raise InvalidArgument(
                    f"handler: {self.name} has the parameter {name}, so it is a method; register a function, or the"
                    " method of an object, as in handler=shop.deliver",
                    field="handler",
                )
            elif parameter.kind not in (_POSITIONAL, _KEYWORD):
                raise InvalidArgument(
                    f"handler: {self.name} has the parameter {parameter}, which cannot be given by name",
                    field="handler",
                )
            elif _means_job(name, hints.get(name, parameter.annotation)) and self.job_parameter is None:
                self.job_parameter = name
            else:
                self.fields[name] = parameter
                if (converter := _converter(hints.get(name))) is not None:
                    self._converters[name] = converter
                elif (kinds := _kinds_of(hints.get(name, Any))) is not None:
                    self._kinds[name] = kinds
        self._required = {n for n, p in self.fields.items() if p.default is inspect.Parameter.empty}
        self.only_job = self.job_parameter is not None and not self.fields and not self.takes_rest

    def payload(self, args: tuple[Any, ...], arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The payload for a call with these arguments, checked. InvalidArgument names the one at fault."""
        given = dict(arguments)
        if args:
            names = [n for n, p in self.fields.items() if p.kind is _POSITIONAL]
            if len(args) > len(names):
                most = counted(len(names), "argument")
                raise InvalidArgument(
                    f"{self.name} takes at most {most} by position, and was given {len(args)}", field="args"
                )
            for name, value in zip(names, args, strict=False):
                if name in given:
                    raise InvalidArgument(f"{name}: given by position and by name", field=name)
                given[name] = value
        self._check(given)
        for name, kinds in self._kinds.items():
            if name in given and (kind := type(given[name])) in _PLAIN and kind not in kinds:
                wanted = inspect.formatannotation(self.signature.parameters[name].annotation)
                wanted = wanted.strip("'").replace("typing.", "")
                this = "None" if given[name] is None else a(kind.__name__)
                said = f"{name}: {self.name} takes {wanted}, and this is {this}"
                raise InvalidArgument(said, field=name)
        return given

    def check_queue_handler(self) -> None:
        """InvalidArgument for a lambda that takes anything but the job: its fields would be meant by chance."""
        if "<lambda>" in self.name and self.fields:
            said = f"handler: a lambda takes only the job, and this one takes {', '.join(self.fields)}"
            raise InvalidArgument(
                f"{said}; write lambda job: …, or a def whose parameters are fields of the payload", field="handler"
            )

    def _check(self, given: Mapping[str, Any]) -> None:
        for name in given:
            if name not in self.fields and not self.takes_rest:
                known = ", ".join(self.fields) or "none"
                raise InvalidArgument(f"{name}: {self.name} has no such parameter (it has: {known})", field=name)
        missing = self._required - given.keys()
        if missing:
            name = sorted(missing)[0]
            raise InvalidArgument(f"{name}: {self.name} needs it, and it was not given", field=name)

    def call(self, function: Callable[..., Any], job: Job) -> Any:
        """Calls the handler for `job`. InvalidArgument when the payload does not fit its parameters."""
        if self.only_job:
            return function(**{self.job_parameter: job}) if self.job_parameter else function()
        payload = job.payload
        if payload is None:
            payload = {}
        if not isinstance(payload, dict):
            raise InvalidArgument(
                f"payload: {self.name} takes fields ({', '.join(self.fields) or 'none'}), and the payload is"
                f" {_kind(payload)}; take it as job.payload from a parameter annotated Job",
                field="payload",
            )
        if self.job_parameter in payload:
            raise InvalidArgument(f"payload.{self.job_parameter}: the name of the Job parameter", field="payload")
        self._check(payload)
        arguments = dict(payload)
        for name, convert in self._converters.items():
            if name in arguments:
                arguments[name] = _converted(convert, arguments[name], name)
        if self.job_parameter is not None:
            arguments[self.job_parameter] = job
        return function(**arguments)


def _converted(convert: Callable[[Any], Any], value: Any, name: str) -> Any:
    try:
        return convert(value)
    except (TypeError, ValueError, KeyError) as error:
        raise InvalidArgument(f"payload.{name}: {error}", field=f"payload.{name}") from error


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(inspect.unwrap(function))
    except Exception:  # a name known to the type checker alone; its text is looked at instead
        return {}


def _means_job(name: str, annotation: Any) -> bool:
    if annotation is inspect.Parameter.empty or annotation is Any:
        return name == "job"
    if isinstance(annotation, str):
        return annotation.strip("'\"") in ("Job", "taskflow.Job")
    return annotation is Job or (isinstance(annotation, type) and issubclass(annotation, Job))


_PLAIN: dict[type, frozenset[type]] = {
    str: frozenset({str}),
    bytes: frozenset({bytes}),
    bool: frozenset({bool}),
    int: frozenset({int, bool}),
    float: frozenset({float, int, bool}),
    list: frozenset({list, tuple}),  # a tuple arrives as a list
    tuple: frozenset({list, tuple}),
    dict: frozenset({dict}),
    type(None): frozenset({type(None)}),
}
"""The values that a parameter takes, for types that arrive as they are. Others, as a UUID for a str, may fit or not."""


def _kinds_of(annotation: Any) -> frozenset[type] | None:
    """The plain types that a parameter takes. None where that is not certain."""
    if annotation is None:
        return _PLAIN[type(None)]
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        parts = [_kinds_of(part) for part in typing.get_args(annotation)]
        return None if None in parts else frozenset().union(*(part for part in parts if part is not None))
    return _PLAIN.get(origin or annotation) if isinstance(origin or annotation, type) else None


def _kind(value: object) -> str:
    names: dict[type, str] = {str: "text", bytes: "bytes", list: "a list"}
    return names.get(type(value)) or a(type(value).__name__)


def _is_model(annotation: Any) -> bool:
    """A dataclass or a pydantic model. Looking does not import pydantic: a module with a model has imported it."""
    if not isinstance(annotation, type) or typing.get_origin(annotation) is not None:
        return False
    pydantic = sys.modules.get("pydantic")
    return dataclasses.is_dataclass(annotation) or (pydantic is not None and issubclass(annotation, pydantic.BaseModel))


def _mentions_model(annotation: Any) -> bool:
    return _is_model(annotation) or any(_mentions_model(a) for a in typing.get_args(annotation))


def _converter(annotation: Any) -> Callable[[Any], Any] | None:
    """For a dataclass or a pydantic model, also inside list, dict and Optional: pydantic where it is installed."""
    if not _mentions_model(annotation):
        return None
    try:
        from pydantic import TypeAdapter
    except ImportError:
        return lambda value: build(annotation, value)
    adapter: Any = TypeAdapter(annotation)
    validate: Callable[[Any], Any] = adapter.validate_python
    return validate


def build(annotation: Any, value: Any) -> Any:
    """A value of dataclasses out of plain JSON, without pydantic. Other types are taken as they are."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        models = [a for a in args if _mentions_model(a)]
        return build(models[0], value) if models else value
    if origin is list and isinstance(value, list) and args:
        return [build(args[0], item) for item in value]
    if origin is dict and isinstance(value, dict) and len(args) == 2:
        return {key: build(args[1], item) for key, item in value.items()}
    if not _is_model(annotation) or isinstance(value, annotation):
        return value
    if not isinstance(value, dict):
        raise TypeError(f"{annotation.__name__} is made from a JSON object, this is {_kind(value)}")
    hints = typing.get_type_hints(annotation)
    unknown = value.keys() - {f.name for f in dataclasses.fields(annotation) if f.init}
    if unknown:
        raise TypeError(f"{annotation.__name__} has no field {sorted(unknown)[0]!r}")
    return annotation(**{name: build(hints[name], item) for name, item in value.items()})

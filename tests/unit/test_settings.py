"""Each setting of each service: a wrong value is one line that names its variable, exit status 2, and no secret."""

import os

import pytest

from taskflow import InvalidArgument, TaskFlow
from taskflow._cli._input import BadInput
from taskflow_server.cli._prune import retention
from taskflow_server.coordinator.settings import CoordinatorSettings
from taskflow_server.gateway.settings import GatewaySettings
from taskflow_server.queue.__main__ import QueueSettings
from taskflow_server.runtime.settings import ServiceSettings, load
from taskflow_server.scheduler.settings import SchedulerSettings
from taskflow_server.worker.settings import WorkerSettings

SERVICES = (CoordinatorSettings, GatewaySettings, QueueSettings, SchedulerSettings, WorkerSettings)
FIELDS = [(cls, field) for cls in SERVICES for field in cls.model_fields]
GOOD_URL = "postgresql://me:pw@127.0.0.1:1/x"

HOSTILE = [
    "",
    " ",
    "nonsense",
    "-1",
    "nan",
    "inf",
    "1e400",
    "1e18",
    "9" * 400,
    "9" * 5000,
    "a\nb\x1b[31m",
    os.fsdecode(b"\xff\xfe"),
    "[" * 100_000,
    '{"a":' * 1000,
    "x" * 10_000,
    "https://me:xyzzyplugh@db/shop",
    "postgresql+psycopg://me:xyzzyplugh@db/shop",
]


@pytest.mark.parametrize(("cls", "field"), FIELDS, ids=[f"{cls.__name__}-{field}" for cls, field in FIELDS])
def test_a_wrong_value_is_one_line_that_names_its_variable(
    cls: type[ServiceSettings], field: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    variable = f"TASKFLOW_{field.upper()}"
    for value in HOSTILE:
        monkeypatch.setenv("TASKFLOW_DATABASE_URL", GOOD_URL)
        monkeypatch.setenv(variable, value)
        try:
            load(cls)
        except SystemExit as ended:
            said = capsys.readouterr().err
            assert ended.code == 2
            assert said.startswith(f"{variable}: "), (value[:50], said[:300])
            assert len(said.splitlines()) == 1
            assert len(said) < 1000
            assert said.isprintable() or said[:-1].isprintable()
            assert not value or "xyzzyplugh" not in said or "URL" not in variable


@pytest.mark.parametrize(
    ("cls", "variable", "value"),
    [
        (CoordinatorSettings, "TASKFLOW_LEASE", "inf"),
        (CoordinatorSettings, "TASKFLOW_LEASE", "nan"),
        (CoordinatorSettings, "TASKFLOW_SWEEP_INTERVAL", "1e300"),
        (CoordinatorSettings, "TASKFLOW_QUEUE_NAME", ""),
        (SchedulerSettings, "TASKFLOW_DATABASE_TIMEOUT", "1e8"),
        (SchedulerSettings, "TASKFLOW_MAX_RETRIES", "99999999999"),
        (SchedulerSettings, "TASKFLOW_DEFAULT_TIME_ZONE", "Nowhere"),
        (SchedulerSettings, "TASKFLOW_NAME", ""),
        (QueueSettings, "TASKFLOW_NAME", "a\nb"),
        (QueueSettings, "TASKFLOW_MEMORY_BYTES", "9" * 30),
        (QueueSettings, "TASKFLOW_MAX_MESSAGE_BYTES", "99999999999"),
        (WorkerSettings, "TASKFLOW_PUSH_DESTINATIONS", '["xyzzyplugh"]'),
        (WorkerSettings, "TASKFLOW_PUSH_DESTINATIONS", '{"secret": "xyzzyplugh"}'),
        (WorkerSettings, "TASKFLOW_PUSH_DESTINATIONS", '{"a": {"kind": "aws-batch", "secret": "xyzzyplugh"}}'),
        (WorkerSettings, "TASKFLOW_HTTP_APP_URL", "ftp://me:xyzzyplugh@db/"),
        (WorkerSettings, "TASKFLOW_HTTP_SECRET_HOSTS", "xyzzy"),
    ],
)
def test_a_value_that_would_fail_later_is_refused_at_the_start(
    cls: type[ServiceSettings],
    variable: str,
    value: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TASKFLOW_DATABASE_URL", GOOD_URL)
    monkeypatch.setenv(variable, value)

    with pytest.raises(SystemExit) as ended:
        load(cls)

    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith(f"{variable}: ")
    assert "xyzzyplugh" not in said
    assert "value error" not in said


@pytest.mark.parametrize("variable", ["TASKFLOW_TIMEOUT", "TASKFLOW_KEEPALIVE_INTERVAL"])
@pytest.mark.parametrize("value", ["soon", "nan", "inf", "-1", "0", "1e300", "9" * 400])
def test_a_wrong_number_of_a_client_is_named(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)

    with pytest.raises(InvalidArgument) as refused:
        TaskFlow()

    assert refused.value.field == variable
    assert str(refused.value).startswith(f"{variable}: ")


@pytest.mark.parametrize("value", ["x", "-1", "1e4", "99999", "", "\N{ARABIC-INDIC DIGIT NINE}"])
def test_a_wrong_retention_is_named_by_the_command_too(value: str) -> None:
    with pytest.raises(BadInput, match=r"^TASKFLOW_RETENTION: .* is not a whole number of days from 0 to 36500"):
        retention("", {"TASKFLOW_RETENTION": value})

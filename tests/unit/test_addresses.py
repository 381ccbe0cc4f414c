"""Addresses are host:port in one form; whatever is none says what would be right."""

import pytest

from taskflow import InvalidArgument, TaskFlow
from taskflow._policy import addresses
from taskflow_server.coordinator.settings import CoordinatorSettings
from taskflow_server.gateway.settings import GatewaySettings
from taskflow_server.runtime.settings import ServiceSettings, load
from taskflow_server.worker.settings import WorkerSettings

GOOD = {
    "localhost:9003": ("localhost", 9003),
    "10.0.0.1:1": ("10.0.0.1", 1),
    "a_b.shop-x.example:65535": ("a_b.shop-x.example", 65535),
    "[::1]:9003": ("::1", 9003),
    "[::]:9003": ("::", 9003),
    "[0:0:0:0:0:0:0:1]:9003": ("0:0:0:0:0:0:0:1", 9003),
    "[::ffff:127.0.0.1]:9003": ("::ffff:127.0.0.1", 9003),
    "[fe80::1%eth0]:9003": ("fe80::1%eth0", 9003),
}
BAD = {
    "": "is not host:port",
    "localhost": "the port is missing, as in 'localhost:9003'",
    ":9003": "is not host:port",
    "localhost:": "the port must be a number",
    "localhost:http": "the port must be a number",
    "localhost:0": "the port must be a number",
    "localhost:65536": "the port must be a number",
    "localhost:\N{ARABIC-INDIC DIGIT NINE}": "the port must be a number",
    "::1": "an IPv6 address stands in brackets, as in '[::1]:9003'",
    "::1:9003": "an IPv6 address stands in brackets, as in '[::1]:9003'",
    "[::1]": "the port is missing",
    "[::1:9003": "is not host:port",
    "[localhost]:9003": "is not host:port",
    "http://localhost:9003": "give it without 'http://', as in 'localhost:9003'",
    "https://shop.example:9003/": "give it without 'https://', as in 'shop.example:9003'",
    "grpc://[::1]:9003": "give it without 'grpc://', as in '[::1]:9003'",
    "dns:///shop.example:9003": "give it without 'dns:///', as in 'shop.example:9003'",
    "http://localhost": "give it without 'http://', as in 'localhost:9003'",
    "unix:/run/taskflow": "give it without 'unix:/'",
    "a:9003,b:9003": "give one address",
    "http://me:xyzzyplugh@localhost:9003": "is not host:port: an address has no user, no password",
    "me:xyzzyplugh@localhost:9003": "is not host:port: an address has no user, no password",
    "local host:9003": "is not host:port",
    "localhost:9003/": "the port must be a number",
    "localhost:9003\n": "the port must be a number",
}


@pytest.mark.parametrize("text", GOOD)
def test_an_address_is_read_and_written(text: str) -> None:
    assert addresses.parse(text) == GOOD[text]
    assert addresses.join(*GOOD[text]) == text


@pytest.mark.parametrize("text", BAD)
def test_any_other_text_says_what_would_be_right(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(1 if text else 0):
        with pytest.raises(InvalidArgument) as refused:
            TaskFlow(text)
        assert refused.value.field == "scheduler"
        assert BAD[text] in str(refused.value)
        assert "xyzzyplugh" not in str(refused.value)
        monkeypatch.setenv("TASKFLOW_ADDRESS", text)
        with pytest.raises(InvalidArgument, match=r"^TASKFLOW_ADDRESS: "):
            TaskFlow()
    with pytest.raises(ValueError, match="is not host:port"):
        addresses.parse(text)


@pytest.mark.parametrize("text", [text for text in BAD if "," not in text and text])
@pytest.mark.parametrize(
    ("settings", "variable"),
    [
        (GatewaySettings, "TASKFLOW_SCHEDULER_ADDRESS"),
        (WorkerSettings, "TASKFLOW_SCHEDULER_ADDRESS"),
        (WorkerSettings, "TASKFLOW_ADVERTISE"),
        (CoordinatorSettings, "TASKFLOW_QUEUE_ADDRESS"),
        (CoordinatorSettings, "TASKFLOW_QUEUE_ADVERTISE"),
    ],
)
def test_every_setting_that_is_an_address_is_checked(
    settings: type[ServiceSettings],
    variable: str,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if text.strip() != text and variable.endswith("ADVERTISE"):
        return  # a list may have spaces around its words
    monkeypatch.setenv("TASKFLOW_DATABASE_URL", "postgresql://db/x")
    monkeypatch.setenv(variable, text)

    with pytest.raises(SystemExit) as ended:
        load(settings)

    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith(f"{variable}: ")
    assert BAD[text] in said
    assert "xyzzyplugh" not in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("settings", [GatewaySettings, WorkerSettings])
def test_one_variable_tells_clients_and_services_where_the_scheduler_is(
    settings: type[GatewaySettings] | type[WorkerSettings],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TASKFLOW_ADDRESS", "[::1]:7")
    assert load(settings).scheduler_address == "[::1]:7"
    monkeypatch.setenv("TASKFLOW_SCHEDULER_ADDRESS", "own:8")
    assert load(settings).scheduler_address == "own:8"

    monkeypatch.delenv("TASKFLOW_SCHEDULER_ADDRESS")
    monkeypatch.setenv("TASKFLOW_ADDRESS", "http://localhost:9003")
    with pytest.raises(SystemExit) as ended:
        load(settings)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("TASKFLOW_ADDRESS: 'http://localhost:9003' is not host:port: give it wi")


def test_several_addresses_are_advertised_in_one_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKFLOW_ADVERTISE", " coordinator:9001 , [::1]:9001")

    assert load(WorkerSettings).addresses == ["coordinator:9001", "[::1]:9001"]


@pytest.mark.parametrize(
    ("host", "listens"),
    [
        ("::1", "[::1]:7"),
        ("[::1]", "[::1]:7"),
        ("::", "[::]:7"),
        ("0.0.0.0", "0.0.0.0:7"),
        ("localhost", "localhost:7"),
    ],
)
def test_a_host_to_listen_on_may_be_any_address(host: str, listens: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKFLOW_HOST", host)

    assert load(WorkerSettings, port=7).addresses == [listens]


@pytest.mark.parametrize("host", ["", "http://localhost", "localhost:9003", "[localhost]", "a b", "[::1]:9003", "a,b"])
def test_a_host_that_is_none_is_refused(
    host: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TASKFLOW_HOST", host)

    with pytest.raises(SystemExit):
        load(WorkerSettings)

    assert f"TASKFLOW_HOST: {host!r} is not the name or the address of a host" in capsys.readouterr().err

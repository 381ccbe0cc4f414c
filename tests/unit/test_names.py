"""Names (R10), in the services and in the SDK alike."""

from __future__ import annotations

import pytest

from taskflow import InvalidArgument, TaskFlow, testing
from taskflow_server.core.errors import InvalidArgument as Refused
from taskflow_server.core.names import qualify

BAD = ["http.cal", "HTTP.call", "http.call.x", "acme/http.call", "http.call/x.y", "shell.run ", "a.b", "", "a b"]


@pytest.mark.feature("R10")
@pytest.mark.parametrize("name", ["http.call", "shell.run"])
@pytest.mark.parametrize("namespace", ["default", "acme", "aidbox.bulk"])
def test_a_built_in_task_has_one_name_in_every_namespace(name: str, namespace: str) -> None:
    assert qualify(name, field="task", namespace=namespace) == name


@pytest.mark.feature("R10")
@pytest.mark.parametrize("name", BAD)
def test_no_other_name_holds_a_dot(name: str) -> None:
    app = TaskFlow()

    with pytest.raises(Refused, match="task"):
        qualify(name, field="task")
    with testing.cluster(app), pytest.raises(InvalidArgument, match="task"):
        app.new_job("default", task=name or "a.b")

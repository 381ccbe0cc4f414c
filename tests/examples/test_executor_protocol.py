"""docs/reference/executor-protocol.md: each request of the page gets the answer that stands below it, in both formats.

Ids and times of the page are those of the day on which it was written. An id of an answer is taken to be the one that
this cluster gave in its place, from then on and in requests too; one that a request is the first to name is that of a
task, or of a workflow's run, which is made ready for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from tests.support.cluster import SPINE, ServiceCluster
from tests.support.docs import ROOT, blocks
from tests.support.rpc import JSON, YAML, Refused, Rpc
from tests.support.waiting import eventually

PAGE = ROOT / "docs" / "reference" / "executor-protocol.md"
READ: dict[str, Callable[[str], Any]] = {"yaml": yaml.safe_load, "json": json.loads}
BOUND = {"id", "execId", "task-id", "workflow-id"}
TIMES = {"createdAt", "lastUpdated", "executeAt", "re-time"}
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
METHODS = {
    *(f"task/{m}" for m in ("poll", "long-poll", "start", "notify", "success", "fail")),
    *(f"{what}/{m}" for what in ("task", "workflow") for m in ("create-and-execute", "status", "cancel", "list")),
}


class Reader:
    """Runs the page on a cluster, keeping what its ids stand for here."""

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc
        self._known: dict[str, str] = {}

    def check(self, request: dict[str, Any], answer: dict[str, Any]) -> None:
        method, params = request["method"], request["params"]
        self._prepare(method.partition(".")[2], params)
        try:
            found: dict[str, Any] = {"result": self._asked(method, self._here(params), answer)}
        except Refused as refused:
            found = {"error": refused.error}
        self._same(answer, found, method)

    def _asked(self, method: str, params: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        """A poll, a log and activities may come a moment later than on the page."""
        few = [key for key in ("resources", "log", "activities") if key in answer.get("result", {})]
        found: list[dict[str, Any]] = [{}]

        def all_there() -> bool:
            found[0] = self._rpc(method, params)
            return all(len(found[0][key]) >= len(answer["result"][key]) for key in few)

        eventually(all_there)
        return found[0]

    def _prepare(self, method: str, params: dict[str, Any]) -> None:
        """Makes the activity that the request names, unless an earlier request named it."""
        id, exec_id = params.get("id"), params.get("execId")
        if id is None or id in self._known or "create" in method:
            return
        if method.startswith("workflow"):
            made = self._rpc("awf.workflow/create-and-execute", definition="notifications/remind")
            self._known[id] = made["resource"]["id"]
            return
        self._known[id] = self._rpc("awf.task/create-and-execute", definition="mail/send")["resource"]["id"]
        if exec_id:
            task = self._rpc.take("mail/send")
            self._known[exec_id] = task["execId"]
            if method != "task/start":
                self._rpc.of("start", task)

    def _here(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._here(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._here(inner) for inner in value]
        return self._known.get(value, value) if isinstance(value, str) else value

    def _same(self, shown: Any, found: Any, where: str, key: str = "") -> None:
        if key in BOUND and isinstance(shown, str):
            assert self._known.setdefault(shown, found) == found, where
        elif key in TIMES:
            assert isinstance(found, str) and INSTANT.fullmatch(found) and INSTANT.fullmatch(shown), where
        elif key in ("versionId", "inProgressTimeoutAt"):
            assert re.fullmatch(r"\d+", str(found)) and type(found) is type(shown), where
        elif isinstance(shown, dict):
            assert isinstance(found, dict) and found.keys() == shown.keys(), f"{where}: {found} instead of {shown}"
            for name, value in shown.items():
                self._same(value, found[name], f"{where}.{name}", name)
        elif isinstance(shown, list):
            assert isinstance(found, list) and len(found) == len(shown), f"{where}: {found} instead of {shown}"
            for number, value in enumerate(shown):
                self._same(value, found[number], f"{where}[{number}]", key)
        elif key == "message":
            assert self._here_within(shown) == found, where
        else:
            assert shown == found, where

    def _here_within(self, text: str) -> str:
        for shown, found in self._known.items():
            text = text.replace(shown, found)
        return text


@pytest.mark.feature("S2.1", "S2.2", "S2.3", "S2.4", "S2.5", "S2.7", "S2.9")
@pytest.mark.parametrize(("language", "kind"), [("yaml", YAML), ("json", JSON)])
def test_each_request_of_the_page_is_answered_as_shown(
    make_cluster: Callable[..., ServiceCluster], language: str, kind: str
) -> None:
    cluster = make_cluster(services=(*SPINE, "gateway"))
    cluster.start_all()
    values = [READ[language](text) for text in blocks(PAGE, language)]
    reader = Reader(Rpc(cluster.address("gateway"), kind))

    calls = list(zip(values[::2], values[1::2], strict=True))
    for request, answer in calls:
        reader.check(request, answer)

    assert {request["method"].partition(".")[2] for request, _ in calls} >= METHODS

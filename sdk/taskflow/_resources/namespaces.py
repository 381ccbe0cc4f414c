"""`tf.namespaces`: settings of namespaces."""

from __future__ import annotations

import builtins
from datetime import UTC
from typing import TypedDict

from taskflow._jobs.core import Core
from taskflow._messages import checks
from taskflow._values.namespaces import NamespaceInfo, Quotas
from taskflow.errors import InvalidArgument
from taskflow.v1 import cluster_pb2 as pb


class NamespaceOptions(TypedDict, total=False):
    """The options of `create` and `update`."""

    app_url: str
    """The base of relative URLs in its workflows' calls; empty for none."""
    quota_tasks: int | None
    """A limit of Quotas; None: unlimited. So for what follows."""
    quota_waiting_jobs: int | None
    quota_payload_bytes: int | None
    quota_preset: str
    """All quotas at once: `app-tasks` allows 5 tasks. Those that are given besides it count instead of its own."""


_QUOTAS = {"tasks": 2**31 - 1, "waiting_jobs": 2**63 - 1, "payload_bytes": 2**31 - 1}  # and the largest that fit


def _info(message: pb.Namespace) -> NamespaceInfo:
    quotas = {name: getattr(message.quotas, name) for name in _QUOTAS if message.quotas.HasField(name)}  # type: ignore[arg-type]
    return NamespaceInfo(message.name, message.app_url, message.create_time.ToDatetime(tzinfo=UTC), Quotas(**quotas))


def _message(name: str, given: NamespaceOptions) -> tuple[pb.Namespace, builtins.list[str]]:
    """The namespace and the paths that were given."""
    checks.options(given, NamespaceOptions.__annotations__, "a namespace")
    message, paths = pb.Namespace(name=checks.text(name, "name")), []
    if "app_url" in given:
        message.app_url = checks.text(given["app_url"], "app_url")
        paths.append("app_url")
    for quota, most in _QUOTAS.items():
        field = f"quota_{quota}"
        if field not in given:
            continue
        if (value := given[field]) is not None:  # type: ignore[literal-required]
            setattr(message.quotas, quota, checks.whole(value, field, 0, most))
        paths.append(f"quotas.{quota}")
    if "quota_preset" in given:
        message.quotas.preset = checks.text(given["quota_preset"], "quota_preset")
        paths = [path for path in paths if not path.startswith("quotas.")] + ["quotas"]
    return message, paths


class Calls:
    """Each call once, for both faces."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def create(self, name: str, given: NamespaceOptions) -> NamespaceInfo:
        t = self._core.transport
        request = pb.CreateNamespaceRequest(namespace=_message(name, given)[0])
        return _info(await t.call(t.namespaces.CreateNamespace, request))

    async def update(self, name: str, given: NamespaceOptions) -> NamespaceInfo:
        t = self._core.transport
        message, paths = _message(name, given)
        if not paths:
            raise InvalidArgument("update: nothing to change is given; app_url or a quota can be", field="update")
        request = pb.UpdateNamespaceRequest(namespace=message)
        request.update_mask.paths.extend(paths)
        return _info(await t.call(t.namespaces.UpdateNamespace, request))

    async def list(self) -> builtins.list[NamespaceInfo]:
        t = self._core.transport
        answer = await t.call(t.namespaces.ListNamespaces, pb.ListNamespacesRequest())
        return [_info(message) for message in answer.namespaces]

"""`tf.namespaces`: settings of namespaces."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from datetime import UTC, datetime

from taskflow import _checks
from taskflow._core import Core
from taskflow.v1 import cluster_pb2 as pb


@dataclass(frozen=True, slots=True)
class NamespaceInfo:
    """A namespace."""

    name: str
    app_url: str
    """What relative URLs of its workflows' calls are appended to; empty: nothing."""
    create_time: datetime


def _info(message: pb.Namespace) -> NamespaceInfo:
    return NamespaceInfo(message.name, message.app_url, message.create_time.ToDatetime(tzinfo=UTC))


def _message(name: str, app_url: str) -> pb.Namespace:
    return pb.Namespace(name=_checks.text(name, "name"), app_url=_checks.text(app_url, "app_url"))


class _Calls:
    """Each call once, for both faces."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def create(self, name: str, app_url: str) -> NamespaceInfo:
        t = self._core.transport
        request = pb.CreateNamespaceRequest(namespace=_message(name, app_url))
        return _info(await t.call(t.namespaces.CreateNamespace, request))

    async def update(self, name: str, app_url: str) -> NamespaceInfo:
        t = self._core.transport
        request = pb.UpdateNamespaceRequest(namespace=_message(name, app_url))
        return _info(await t.call(t.namespaces.UpdateNamespace, request))

    async def list(self) -> builtins.list[NamespaceInfo]:
        t = self._core.transport
        answer = await t.call(t.namespaces.ListNamespaces, pb.ListNamespacesRequest())
        return [_info(message) for message in answer.namespaces]


class Namespaces:
    """`tf.namespaces`"""

    def __init__(self, core: Core) -> None:
        self._calls = _Calls(core)
        self._call = core.io.call

    def create(self, name: str, *, app_url: str = "") -> NamespaceInfo:
        """AlreadyExists when there is one of that name. `default` is always there."""
        return self._call(lambda: self._calls.create(name, app_url))

    def update(self, name: str, *, app_url: str) -> NamespaceInfo:
        """NotFound when there is none of that name."""
        return self._call(lambda: self._calls.update(name, app_url))

    def list(self) -> builtins.list[NamespaceInfo]:
        """All, by name."""
        return self._call(self._calls.list)


class AsyncNamespaces:
    """`tf.namespaces` of AsyncTaskFlow: the verbs of Namespaces as coroutines."""

    def __init__(self, core: Core) -> None:
        self._calls = _Calls(core)
        self._call = core.io.acall

    async def create(self, name: str, *, app_url: str = "") -> NamespaceInfo:
        """As Namespaces.create."""
        return await self._call(lambda: self._calls.create(name, app_url))

    async def update(self, name: str, *, app_url: str) -> NamespaceInfo:
        """As Namespaces.update."""
        return await self._call(lambda: self._calls.update(name, app_url))

    async def list(self) -> builtins.list[NamespaceInfo]:
        """As Namespaces.list."""
        return await self._call(self._calls.list)

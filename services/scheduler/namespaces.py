"""NamespaceService: the settings of namespaces."""

from __future__ import annotations

import re
from typing import Any

from taskflow.v1 import cluster_pb2 as pb
from taskflow.v1 import cluster_pb2_grpc
from taskflow_server.core.errors import AlreadyExists, InvalidArgument, NotFound
from taskflow_server.core.names import qualify
from taskflow_server.rpc.values import stamp
from taskflow_server.store.database import Database

MAX_URL = 2_000  # characters


class NamespaceServicer(cluster_pb2_grpc.NamespaceServiceServicer):
    def __init__(self, db: Database) -> None:
        self._db = db

    async def CreateNamespace(self, request: pb.CreateNamespaceRequest, context: Any) -> pb.Namespace:
        rows = await self._db.rows("create_namespace", **_checked(request.namespace))
        if not rows:
            raise AlreadyExists(f"namespace.name: there is a namespace {request.namespace.name!r}", "NAMESPACE_EXISTS")
        return _namespace(rows[0])

    async def ListNamespaces(self, request: pb.ListNamespacesRequest, context: Any) -> pb.ListNamespacesResponse:
        return pb.ListNamespacesResponse(namespaces=map(_namespace, await self._db.rows("list_namespaces")))

    async def UpdateNamespace(self, request: pb.UpdateNamespaceRequest, context: Any) -> pb.Namespace:
        rows = await self._db.rows("update_namespace", **_checked(request.namespace))
        if not rows:
            raise NotFound(f"there is no namespace {request.namespace.name!r}; create it first", "NAMESPACE_NOT_FOUND")
        return _namespace(rows[0])


def _checked(namespace: pb.Namespace) -> dict[str, str | None]:
    from taskflow_server.core.workflow.models import (  # of documents: see taskflow_server.core.workflow
        BASE_URL,
        PATTERNS,
    )

    name, url = namespace.name, namespace.app_url
    qualify(f"{name}/x", field="namespace.name")
    if url and (not re.match(BASE_URL, url) or len(url) > MAX_URL):
        raise InvalidArgument(f"namespace.app_url: {url[:100]!r} is not {PATTERNS[BASE_URL]}", "namespace.app_url")
    return {"name": name, "app_url": url or None}


def _namespace(row: dict[str, Any]) -> pb.Namespace:
    return pb.Namespace(name=row["name"], app_url=row["app_url"] or "", create_time=stamp(row["created_at"]))

"""NamespaceService: the settings of namespaces."""

from __future__ import annotations

import re
from typing import Any, Final

from taskflow.v1 import cluster_pb2 as pb
from taskflow.v1 import cluster_pb2_grpc
from taskflow_server.core.errors import AlreadyExists, InvalidArgument, NotFound
from taskflow_server.core.names import qualify
from taskflow_server.rpc.values import stamp
from taskflow_server.scheduler.quotas import JobQuotas
from taskflow_server.store.database import Database

MAX_URL = 2_000  # characters
PRESETS: Final = {"app-tasks": pb.Quotas(tasks=5)}
QUOTAS: Final = ("tasks", "waiting_jobs", "payload_bytes")
PATHS: Final = {  # of an update mask -> columns
    "app_url": ("app_url",),
    "quotas": tuple(f"quota_{name}" for name in QUOTAS),
    **{f"quotas.{name}": (f"quota_{name}",) for name in QUOTAS},
}


class NamespaceServicer(cluster_pb2_grpc.NamespaceServiceServicer):
    def __init__(self, db: Database, quotas: JobQuotas) -> None:
        self._db = db
        self._quotas = quotas

    async def CreateNamespace(self, request: pb.CreateNamespaceRequest, context: Any) -> pb.Namespace:
        rows = await self._db.rows("create_namespace", **_checked(request.namespace))
        if not rows:
            raise AlreadyExists(f"namespace.name: {request.namespace.name!r} already exists", "NAMESPACE_EXISTS")
        await self._quotas.refresh()  # other schedulers read the quotas with the topology
        return _namespace(rows[0])

    async def ListNamespaces(self, request: pb.ListNamespacesRequest, context: Any) -> pb.ListNamespacesResponse:
        return pb.ListNamespacesResponse(namespaces=map(_namespace, await self._db.rows("list_namespaces")))

    async def UpdateNamespace(self, request: pb.UpdateNamespaceRequest, context: Any) -> pb.Namespace:
        columns = _columns(request)
        rows = await self._db.rows("update_namespace", **_checked(request.namespace), columns=columns)
        if not rows:
            raise NotFound(f"there is no namespace {request.namespace.name!r}; create it first", "NAMESPACE_NOT_FOUND")
        await self._quotas.refresh()
        return _namespace(rows[0])


def _columns(request: pb.UpdateNamespaceRequest) -> list[str]:
    """The columns that the mask names. A preset sets all quotas, so the mask must name `quotas` as a whole."""
    paths = list(request.update_mask.paths) or ["app_url"] + ["quotas"] * request.namespace.HasField("quotas")
    for path in paths:
        if path not in PATHS:
            can = ", ".join(PATHS)
            raise InvalidArgument(f"update_mask: {path!r} cannot be changed; {can} can", "update_mask")
    if request.namespace.quotas.preset and "quotas" not in paths:
        raise InvalidArgument(
            "update_mask: a preset is set with the path 'quotas', which this mask does not have", "update_mask"
        )
    return [column for path in paths for column in PATHS[path]]


def _checked(namespace: pb.Namespace) -> dict[str, str | int | None]:
    from taskflow_server.core.workflow.models import (  # imported late: see taskflow_server.core.workflow
        BASE_URL,
        PATTERNS,
    )

    name, url = namespace.name, namespace.app_url
    qualify(f"{name}/x", field="namespace.name")
    if url and (not re.match(BASE_URL, url) or len(url) > MAX_URL):
        raise InvalidArgument(f"namespace.app_url: {url[:100]!r} is not {PATTERNS[BASE_URL]}", "namespace.app_url")
    return {"name": name, "app_url": url or None, **_quotas(namespace.quotas)}


def _quotas(given: pb.Quotas) -> dict[str, int | None]:
    """The columns: the given value, else the preset's, else unlimited."""
    if given.preset and given.preset not in PRESETS:
        known = ", ".join(PRESETS)
        raise InvalidArgument(
            f"namespace.quotas.preset: {given.preset[:100]!r} is not a valid preset; use {known}",
            "namespace.quotas.preset",
        )
    found = pb.Quotas()
    found.MergeFrom(PRESETS.get(given.preset, found))
    found.MergeFrom(given)
    for name in QUOTAS:
        if getattr(found, name) < 0:
            said = f"namespace.quotas.{name}: {getattr(found, name)} is negative; leave it out for no limit"
            raise InvalidArgument(said, f"namespace.quotas.{name}")
    return {f"quota_{name}": getattr(found, name) if found.HasField(name) else None for name in QUOTAS}


def _namespace(row: dict[str, Any]) -> pb.Namespace:
    quotas = pb.Quotas(**{name: row[f"quota_{name}"] for name in QUOTAS})
    return pb.Namespace(
        name=row["name"], app_url=row["app_url"] or "", create_time=stamp(row["created_at"]), quotas=quotas
    )

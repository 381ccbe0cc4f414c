"""Namespaces: their settings and quotas, shown and changed."""

from __future__ import annotations

from typing import Any

from taskflow.v1 import cluster_pb2
from taskflow_server.gateway.console.page import Action, Ask, Page, bad, link
from taskflow_server.gateway.errors import Failure

QUOTAS = {"tasks": 2**31 - 1, "waiting_jobs": 2**63 - 1, "payload_bytes": 2**31 - 1}  # and the largest that fit


async def _list(ask: Ask) -> dict[str, Any]:
    return {"title": "Namespaces", "rows": [_row(namespace) for namespace in await _all(ask)]}


async def _show(ask: Ask) -> dict[str, Any]:
    name = ask.params["name"]
    for namespace in await _all(ask):
        if namespace.name == name:
            return {"title": f"Namespace {name}", "row": _row(namespace), "live": False}
    raise Failure(404, "NOT_FOUND", f"there is no namespace {name!r}")


async def _all(ask: Ask) -> list[cluster_pb2.Namespace]:
    found = await ask.up.call(ask.up.namespaces.ListNamespaces, cluster_pb2.ListNamespacesRequest())
    return list(found.namespaces)


def _row(namespace: cluster_pb2.Namespace) -> dict[str, Any]:
    """A namespace with its quotas by name; None: unlimited."""
    given = namespace.quotas
    quotas = {name: getattr(given, name) if given.HasField(name) else None for name in QUOTAS}  # type: ignore[arg-type]
    return {"namespace": namespace, "name": namespace.name, **quotas}


async def _update(ask: Ask) -> str:
    """Sets what the form has; a field that is empty takes its limit away."""
    changed = cluster_pb2.Namespace(name=ask.params["name"], app_url=ask.form.get("app_url", "").strip())
    for name, most in QUOTAS.items():
        text = ask.form.get(name, "").strip()
        if not text:
            continue
        if not (text.isascii() and text.isdecimal() and int(text[:20]) <= most):
            raise bad(name, f"{text[:40]!r} is not a whole number from 0 to {most:,}; leave it empty for no limit")
        setattr(changed.quotas, name, int(text))
    request = cluster_pb2.UpdateNamespaceRequest(namespace=changed)
    request.update_mask.paths.extend(["app_url", "quotas"])
    await ask.up.call(ask.up.namespaces.UpdateNamespace, request)
    return link("namespaces", changed.name)


PAGES = (
    Page("/namespaces", "namespaces.html", "namespaces", _list),
    Page("/namespaces/{name}", "namespace.html", "namespaces", _show),
)
ACTIONS = (Action("/namespaces/{name}/update", "saved", _update),)

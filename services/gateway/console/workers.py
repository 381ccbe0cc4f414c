"""The workers that live."""

from __future__ import annotations

from typing import Any

from taskflow.v1 import cluster_pb2
from taskflow_server.gateway.console.page import PAGE_SIZE, Action, Ask, Page, pager


async def _list(ask: Ask) -> dict[str, Any]:
    request = cluster_pb2.ListWorkersRequest(page_size=PAGE_SIZE, page_token=ask.said("token"))
    found = await ask.up.call(ask.up.cluster.ListWorkers, request)
    topology = await ask.up.topology()
    return {
        "title": "Workers",
        "workers": found.workers,
        "services": [
            *(("scheduler", each) for each in topology.schedulers),
            *(("coordinator", each) for each in topology.coordinators),
            *(("queue service", each) for each in topology.queues),
        ],
        "pages": pager(ask, found.next_page_token),
    }


PAGES = (Page("/workers", "workers.html", "workers", _list),)
ACTIONS: tuple[Action, ...] = ()

"""`awf.task/wait` by itself: a deferred job, which the gateway ends when it is due, as its executor.

A wait inside a decision is a timer of its run, and no job. Any gateway ends any wait; one that stops in between leaves
it to the next, after the requested timeout.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from taskflow.v1 import jobs_pb2, queue_pb2, worker_pb2
from taskflow_server.core.workflow.builtin import WAIT, wait_of
from taskflow_server.core.workflow.values import BadValue
from taskflow_server.gateway.errors import Failure
from taskflow_server.gateway.gateway import Gateway
from taskflow_server.gateway.rpc.cluster import POLL, ClusterCalls
from taskflow_server.gateway.rpc.params import Params
from taskflow_server.rpc.first_seen import RETRIES
from taskflow_server.runtime import logs

log = logs.get("waits")

AT_ONCE = 100  # waits of one poll
PAUSE = 1.0  # seconds before the next poll, when no service could be reached
EXECUTOR = worker_pb2.Executor(name="wait")


def spec_of(params: Params) -> jobs_pb2.JobSpec:
    """The job of a wait: due at its end."""
    spec = jobs_pb2.JobSpec(task=WAIT, queue="default", retries=RETRIES)
    at = params.instant("executeAt")
    try:
        wait = wait_of(params.object("params"))
        if not isinstance(wait, float):
            spec.run_at.FromDatetime(wait)
        elif at is not None:
            spec.run_at.FromDatetime(at + timedelta(seconds=wait))
        else:
            spec.delay.FromTimedelta(timedelta(seconds=max(wait, 0.0)))
    except BadValue as error:
        raise params.bad("params", f"{error.message}; a wait has `until` or `duration`") from None
    except (OverflowError, ValueError):
        raise params.bad("params", "the wait ends after the year 9999", "BAD_INSTANT") from None
    return spec


class Waits:
    """The executor of the waits that are due."""

    def __init__(self, gateway: Gateway) -> None:
        self._cluster = ClusterCalls(gateway)
        self._closing = gateway.closing
        self._sleep = gateway.clock.real.sleep

    async def run(self) -> None:
        request = queue_pb2.PollRequest(tasks=[WAIT], max=AT_ONCE, executor=EXECUTOR)
        while not self._closing.is_set():
            try:
                lanes = await self._cluster.poll(request, POLL)
            except Failure:  # a service is unreachable; clients learn that from their own calls
                await self._sleep(PAUSE)
                continue
            await asyncio.gather(*(self._end(task) for lane in lanes for task in lane.tasks))

    async def _end(self, task: Any) -> None:
        names = {"exec_id": task.exec_id, "job_id": task.job_id}
        told = worker_pb2.AttemptOutcome(outcome=jobs_pb2.OUTCOME_SUCCEEDED, **names)
        try:
            await self._cluster.start(worker_pb2.StartRequest(executor=EXECUTOR, **names))
            await self._cluster.report(worker_pb2.ReportRequest(outcomes=[told], executor=EXECUTOR))
        except Failure as failure:  # it was cancelled; or it comes again after its requested timeout
            log.info("a wait was not ended", reason=failure.reason or failure.message)

"""An executor of bare stubs: without a session, each step of the protocol is the test's own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import grpc

from taskflow.v1 import queue_pb2, queue_pb2_grpc, worker_pb2, worker_pb2_grpc
from tests.support.api import TIMEOUT, Api
from tests.support.waiting import eventually


class RawExecutor:
    """Takes `tasks`; what it says of itself are the fields of the proto's Executor."""

    def __init__(self, api: Api, tasks: Iterable[str], **says: Any) -> None:
        self._api = api
        self.tasks = list(tasks)
        self.says = worker_pb2.Executor(**{"name": "raw", **says})

    def __enter__(self) -> Self:
        eventually(lambda: (seen := self._api.topology()).coordinators and seen.queues)
        topology = self._api.topology()
        self._channels = [
            grpc.insecure_channel(instance.addresses[0], options=[("grpc.enable_http_proxy", 0)])
            for instance in (topology.coordinators[0], topology.queues[0])
        ]
        self.coordinator = worker_pb2_grpc.WorkerServiceStub(self._channels[0])
        self.queue_service = queue_pb2_grpc.QueueServiceStub(self._channels[1])
        return self

    def __exit__(self, *_: object) -> None:
        for channel in self._channels:
            channel.close()

    def poll(self, most: int = 1, seconds: float = 10.0) -> list[queue_pb2.Assignment]:
        """The dispatched tasks; none when that takes longer than so many seconds."""
        request = queue_pb2.PollRequest(tasks=self.tasks, max=most, timeout_ms=int(seconds * 1000), executor=self.says)
        answer = self.queue_service.Poll(request, timeout=seconds + TIMEOUT)
        return [task for lane in answer.lanes for task in lane.tasks]

    def take(self, seconds: float = 10.0) -> queue_pb2.Assignment:
        """One task."""
        handed = self.poll(seconds=seconds)
        assert len(handed) == 1, "nothing was handed out"
        return handed[0]

    def start(self, task: queue_pb2.Assignment) -> int:
        """When it must have notified, in microseconds since 1970."""
        request = worker_pb2.StartRequest(exec_id=task.exec_id, job_id=task.job_id, executor=self.says)
        return self.coordinator.Start(request, timeout=TIMEOUT).timeout_at_us

    def notify(self, task: queue_pb2.Assignment, **fields: Any) -> worker_pb2.Prolonged:
        """Progress or log lines."""
        note = worker_pb2.Notification(exec_id=task.exec_id, job_id=task.job_id, **fields)
        request = worker_pb2.NotifyRequest(notifications=[note], executor=self.says)
        (answer,) = self.coordinator.Notify(request, timeout=TIMEOUT).prolonged
        return answer

    def report(self, task: queue_pb2.Assignment, outcome: int, **fields: Any) -> str:
        """Why it was refused; empty when it was not."""
        told = worker_pb2.AttemptOutcome(
            exec_id=task.exec_id,
            job_id=task.job_id,
            outcome=outcome,  # type: ignore[arg-type]
            **fields,
        )
        request = worker_pb2.ReportRequest(outcomes=[told], executor=self.says)
        answer = self.coordinator.Report(request, timeout=TIMEOUT)
        return answer.refused[0].reason if answer.refused else ""

"""A worker of bare stubs that does nothing by itself but beat: each step of the protocol is the test's own."""

from __future__ import annotations

import queue
import secrets
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self

import grpc

from taskflow.v1 import cluster_pb2, jobs_pb2, queue_pb2, queue_pb2_grpc, worker_pb2, worker_pb2_grpc
from tests.support.api import TIMEOUT, Api
from tests.support.waiting import eventually

BEAT = 0.5


@dataclass
class Handed:
    """A task as a poll handed it out."""

    task: queue_pb2.Assignment
    lane: queue_pb2.LaneTasks

    def outcome(self, outcome: int = jobs_pb2.OUTCOME_SUCCEEDED, **fields: Any) -> worker_pb2.AttemptOutcome:
        """To be reported."""
        fields.setdefault("started", True)
        return worker_pb2.AttemptOutcome(
            exec_id=self.task.exec_id, job_id=self.task.job_id, attempt=self.task.attempt, shard=self.lane.shard,
            outcome=outcome, **fields,
        )  # fmt: skip

    def held(self, *, started: bool = False, finished: bool = False) -> worker_pb2.Held:
        """To be named in a heartbeat."""
        return worker_pb2.Held(
            exec_id=self.task.exec_id, job_id=self.task.job_id, attempt=self.task.attempt, shard=self.lane.shard,
            started=started, finished=finished,
        )  # fmt: skip


@dataclass
class RawWorker:
    """Registered from `with` on, and beating with what `have` holds. `queues` are those that it handles whole."""

    api: Api
    queues: Iterable[str] = ()
    tasks: Iterable[str] = ()
    worker_id: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    name: str = "raw"
    have: list[worker_pb2.Held] = field(default_factory=list)  # what heartbeats name
    void: list[bytes] = field(default_factory=list)  # what the coordinator has asked back
    give_back: bool = False  # whether heartbeats consent to that
    cancels: list[worker_pb2.Cancel] = field(default_factory=list)
    recalled: list[str] = field(default_factory=list)  # queues whose attempts it is to return unless they have started
    revoked: list[bytes] = field(default_factory=list)
    acknowledged: int = 0  # heartbeats
    beating: bool = True
    draining: bool = False

    def __enter__(self) -> Self:
        self._channels = [
            grpc.insecure_channel(instance.addresses[-1], options=[("grpc.enable_http_proxy", 0)])
            for instance in eventually(self._cluster)
        ]
        self.coordinator = worker_pb2_grpc.WorkerServiceStub(self._channels[0])
        self.queue_service = queue_pb2_grpc.QueueServiceStub(self._channels[1])
        self._up: queue.Queue[worker_pb2.SessionRequest | None] = queue.Queue()
        self._welcomed, self._over = threading.Event(), threading.Event()
        self._epochs: dict[int, int] = {}
        self._up.put(worker_pb2.SessionRequest(register=self._register()))
        self._call = self.coordinator.Session(iter(self._up.get, None))
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._hear, self._beat)]
        for thread in self._threads:
            thread.start()
        assert self._welcomed.wait(TIMEOUT), "no welcome"
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._up.put(worker_pb2.SessionRequest(goodbye=worker_pb2.Goodbye()))
        self._up.put(None)
        for thread in self._threads:
            thread.join(TIMEOUT)
        for channel in self._channels:
            channel.close()

    def _cluster(self) -> list[cluster_pb2.Instance]:
        """A coordinator and a queue service, once the scheduler has seen them."""
        topology = self.api.topology()
        both = topology.coordinators and topology.queues
        return [topology.coordinators[0], topology.queues[0]] if both else []

    def vanish(self) -> None:
        """Breaks the stream, without a goodbye."""
        self.beating = False
        self._call.cancel()

    def _register(self) -> worker_pb2.Register:
        return worker_pb2.Register(
            worker_id=self.worker_id, name=self.name, host="here", pid=1, queues=list(self.queues),
            tasks=list(self.tasks), concurrency=3, sdk="raw/1",
        )  # fmt: skip

    def _hear(self) -> None:
        try:
            for answer in self._call:
                kind = answer.WhichOneof("message")
                if kind in ("welcome", "ack", "epochs"):
                    self._epochs.update({e.shard: e.epoch for e in getattr(answer, kind).epochs})
                if kind == "welcome":
                    self._welcomed.set()
                elif kind == "ack":
                    self.void.extend(answer.ack.void)
                    self.acknowledged += 1
                elif kind == "cancel":
                    self.cancels.append(answer.cancel)
                elif kind == "recall":
                    self.recalled.extend(answer.recall.queues)
                elif kind == "revoke":
                    self.revoked.extend(answer.revoke.exec_ids)
        except grpc.RpcError:
            pass

    def _beat(self) -> None:
        self._welcomed.wait(TIMEOUT)
        sequence = 0
        while not self._over.is_set():
            if self.beating:
                sequence += 1
                confirmed = [worker_pb2.ShardEpoch(shard=s, epoch=e) for s, e in self._epochs.items()]
                beat = worker_pb2.Heartbeat(
                    sequence=sequence, confirmed=confirmed, held=list(self.have), draining=self.draining,
                    voided=list(self.void) if self.give_back else [],
                )  # fmt: skip
                self._up.put(worker_pb2.SessionRequest(heartbeat=beat))
            self._over.wait(BEAT)

    # -- what the test asks for ------------------------------------------------------------------------------------

    def poll(self, most: int = 1, seconds: float = 10.0, only: Iterable[str] = (), prefetch: int = 0) -> list[Handed]:
        """The dispatched tasks; none when that takes longer than so many seconds."""
        request = queue_pb2.PollRequest(
            worker_id=self.worker_id, tasks=list(self.tasks), queue_handlers=list(self.queues), queues=list(only),
            max=most, timeout_ms=int(seconds * 1000), prefetch=prefetch,
        )  # fmt: skip
        answer = self.queue_service.Poll(request, timeout=seconds + TIMEOUT)
        return [Handed(task, lane) for lane in answer.lanes for task in lane.tasks]

    def take(self) -> Handed:
        """One task, which heartbeats then name."""
        handed = self.poll()
        assert len(handed) == 1, "nothing was handed out"
        self.have.append(handed[0].held())
        return handed[0]

    def report(self, *outcomes: worker_pb2.AttemptOutcome) -> dict[bytes, str]:
        """`{exec_id: reason}` of those that were refused."""
        request = worker_pb2.ReportRequest(worker_id=self.worker_id, outcomes=outcomes)
        answer = self.coordinator.Report(request, timeout=TIMEOUT)
        return {refused.exec_id: refused.reason for refused in answer.refused}

    def start(self, handed: Handed) -> None:
        """Says that it starts, and waits for the answer."""
        request = worker_pb2.StartRequest(worker_id=self.worker_id, exec_id=handed.task.exec_id)
        self.coordinator.Start(request, timeout=TIMEOUT)

    def notify(self, handed: Handed, **fields: Any) -> list[bytes]:
        """Progress or log lines; the exec_ids that are not current."""
        note = worker_pb2.Notification(exec_id=handed.task.exec_id, job_id=handed.task.job_id, **fields)
        request = worker_pb2.NotifyRequest(worker_id=self.worker_id, notifications=[note])
        return list(self.coordinator.Notify(request, timeout=TIMEOUT).stale)

"""Where coordinators and queue services answer, as the scheduler has said: for workers, pushers and the gateway."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final

import grpc
import grpc.aio

from taskflow._transport.channels import ask
from taskflow.v1 import cluster_pb2

_HEALTH_CHECK, _SERVING, _HEALTH_TIMEOUT = "/grpc.health.v1.Health/Check", b"\x08\x01", 1.0
_COORDINATOR: Final = "coordinator"
_QUEUE: Final = "queue service"


@dataclass(slots=True)
class _Instance:
    """One process. `answers` is the address that it was found at."""

    addresses: tuple[str, ...]
    incarnation: str
    answers: str = ""


class Topology:
    """The instances that the scheduler named last, and for each the address at which it answers from here.

    An instance stays known when the scheduler no longer names it: a worker may still have an outcome for it.
    """

    def __init__(
        self,
        get: Callable[[], Awaitable[cluster_pb2.Topology]],
        channel: Callable[[str], grpc.aio.Channel],
        *,
        ask_always: bool = False,
    ) -> None:
        """`get` calls GetTopology; `channel` opens one to an address, or has it open.

        `ask_always`: an instance with one address is asked there as well whether it is the one.
        """
        self._get = get
        self._ask_always = ask_always
        self._channel = channel
        self._known: dict[tuple[str, str], _Instance] = {}
        self.coordinators: tuple[str, ...] = ()
        """Names of those that serve, in the scheduler's order."""
        self.queues: tuple[str, ...] = ()

    async def refresh(self) -> cluster_pb2.Topology:
        """The scheduler's answer, which counts from now on. When the call fails, the former answer still counts."""
        answer = await self._get()
        self.coordinators = self._take(_COORDINATOR, answer.coordinators)
        self.queues = self._take(_QUEUE, answer.queues)
        return answer

    def look_again(self) -> None:
        """After a failed call: each instance is asked anew at which of its addresses it answers."""
        for instance in self._known.values():
            instance.answers = ""

    async def coordinator(self, name: str) -> str:
        """Its address. AioRpcError, UNAVAILABLE, when it answers at none of those that it is said to have."""
        return await self._address(self._known[_COORDINATOR, name])

    async def queue(self, name: str) -> str:
        """The same of a queue service."""
        return await self._address(self._known[_QUEUE, name])

    def addresses(self) -> set[str]:
        """Every address of those that serve."""
        kinds = ((_COORDINATOR, self.coordinators), (_QUEUE, self.queues))
        return {each for kind, names in kinds for name in names for each in self._known[kind, name].addresses}

    def _take(self, kind: str, instances: Iterable[cluster_pb2.Instance]) -> tuple[str, ...]:
        names = []
        for instance in instances:
            if not instance.addresses:
                continue
            addresses, known = tuple(instance.addresses), self._known.get((kind, instance.name))
            if known is None or (known.addresses, known.incarnation) != (addresses, instance.incarnation):
                self._known[kind, instance.name] = _Instance(addresses, instance.incarnation)
            names.append(instance.name)
        return tuple(names)

    async def _address(self, instance: _Instance) -> str:
        """The first whose health answer bears the instance's id; with one address, that one, unasked.

        Another process that answers at one of them may be of another cluster, and is left alone.
        """
        if len(instance.addresses) == 1 and not self._ask_always:
            return instance.addresses[0]
        if not instance.answers:
            instance.answers = await self._first(instance)
        return instance.answers

    async def _first(self, instance: _Instance) -> str:
        for address in instance.addresses:
            if await self._is_instance(address, instance.incarnation):
                return address
        raise grpc.aio.AioRpcError(
            grpc.StatusCode.UNAVAILABLE,
            grpc.aio.Metadata(),
            grpc.aio.Metadata(),
            details=f"none of {', '.join(instance.addresses)} is instance {instance.incarnation}",
        )

    async def _is_instance(self, address: str, incarnation: str) -> bool:
        """Whether health at `address` answers SERVING for `instance/<incarnation>`, within a second."""
        service = f"instance/{incarnation}".encode()
        # HealthCheckRequest{service = 1}, HealthCheckResponse{status = 1}: two fields are not worth a dependency.
        check: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel(address).unary_unary(_HEALTH_CHECK)
        try:
            answer = await ask(check, b"\n" + bytes([len(service)]) + service, _HEALTH_TIMEOUT)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer == _SERVING)

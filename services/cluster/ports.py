"""TCP ports on loopback: free ones, and who is in the way of a fixed one."""

import random
import socket
import sys
from collections import deque

GIVEN = (12_000, 32_000)  # from which free ports are taken
MOST_RESERVED = 300  # ports that one process reserves; the oldest reservation goes first


class PortInUseError(Exception):
    """A port is taken. `port`: its number, `user`: the service that needs it, `cure`: the remedy."""

    def __init__(self, port: int, user: str, cure: str = "choose another port") -> None:
        super().__init__(f"port {port} is in use, and {user} needs it: stop what listens there, or {cure}")
        self.port = port
        self.user = user


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could bind `port` now. Connections still closing down do not count."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)  # Linux lets two sockets with SO_REUSEADDR bind; only one may listen
        except OSError:
            return False
    return True


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """So many different free ports, which no other process of ours is given meanwhile.

    They lie below those that Linux gives to connections by itself, which would take one of them at any moment. A
    program that does not ask here may take one before we do; that shows when it is bound.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(*GIVEN)
        reservation = _reserve(port)
        if reservation is None:
            continue
        if is_free(port, host):
            ports.append(port)
            _reservations.append(reservation)
        else:
            reservation.close()
    return ports


def _reserve(port: int) -> socket.socket | None:
    """Reserves this port for the caller; None if another process, or an earlier caller, has it.

    A name in Linux's abstract namespace belongs to one socket, and goes with its process. A port is chosen, closed, and
    bound a moment later by a process that is yet to start, or to start again: many clusters at once, as tests start
    them, would meet. Elsewhere nothing is kept.
    """
    sock = socket.socket(socket.AF_UNIX if sys.platform == "linux" else socket.AF_INET, socket.SOCK_DGRAM)
    if sys.platform == "linux":
        try:
            sock.bind(f"\0taskflow-port-{port}")
        except OSError:
            sock.close()
            return None
    return sock


_reservations: deque[socket.socket] = deque(maxlen=MOST_RESERVED)


def require_free(ports: dict[str, int], host: str = "127.0.0.1", cure: str = "choose another port") -> None:
    """Raise PortInUseError for the first of `ports` (by who needs it) that is taken. 0 means: none needed."""
    for user, port in ports.items():
        if port and not is_free(port, host):
            raise PortInUseError(port, user, cure)

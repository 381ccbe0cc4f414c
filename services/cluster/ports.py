"""TCP ports on loopback: free ones, and who is in the way of a fixed one."""

import socket
from contextlib import ExitStack


class PortInUseError(Exception):
    """A port that we need is taken. `port` says which, `user` who of us needs it."""

    def __init__(self, port: int, user: str) -> None:
        super().__init__(f"port {port} is in use, and {user} needs it: stop what listens there, or choose another port")
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
    """So many different free ports. Another program may take one before we do; that shows when it is bound."""
    with ExitStack() as stack:
        ports = []
        for _ in range(count):
            probe = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            probe.bind((host, 0))
            ports.append(int(probe.getsockname()[1]))
        return ports


def require_free(ports: dict[str, int], host: str = "127.0.0.1") -> None:
    """Raise PortInUseError for the first of `ports` (by who needs it) that is taken. 0 means: none needed."""
    for user, port in ports.items():
        if port and not is_free(port, host):
            raise PortInUseError(port, user)

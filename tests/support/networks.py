"""A network of a test's own, where the default ports are free whatever runs on this machine. Linux, as root."""

import functools
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

_LOOPBACK_UP = """
import fcntl, socket, struct, sys
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
    asked = struct.pack("16sh", b"lo", 0) + bytes(14)
    flags = struct.unpack_from("h", fcntl.ioctl(control, SIOCGIFFLAGS, asked), 16)[0]
    fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags | IFF_UP) + bytes(14))
print("up", flush=True)
sys.stdin.read()
"""


@contextmanager
def own_network() -> Iterator[Sequence[str]]:
    """The beginning of a command that then runs in a network with nothing but loopback. Skips where it may not be."""
    if not _allowed():
        pytest.skip("this machine lets nobody make a network namespace")
    holder = subprocess.Popen(
        ["unshare", "--net", sys.executable, "-c", _LOOPBACK_UP], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdin and holder.stdout
    with holder:
        assert holder.stdout.readline() == b"up\n"
        yield (shutil.which("nsenter") or "nsenter", f"--net=/proc/{holder.pid}/ns/net", "--")
        holder.stdin.close()


@functools.cache
def _allowed() -> bool:
    try:
        return subprocess.run(["unshare", "--net", "nsenter", "--version"], capture_output=True).returncode == 0
    except OSError:
        return False

"""Addresses of services: host:port, with an IPv6 address in brackets, as in [::1]:9003."""

from __future__ import annotations

import ipaddress
import re

EXAMPLE = "localhost:9003"
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/{1,3}")


def join(host: str, port: int) -> str:
    """host:port; an IPv6 address gets its brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse(address: object) -> tuple[str, int]:
    """Host, without brackets, and port. ValueError says what is wrong, and what would be right."""
    if not isinstance(address, str) or not address:
        raise ValueError(f"{address!r} is not host:port, as in {EXAMPLE!r}")
    if "@" in address:  # what stands before it may be a password
        raise ValueError("it is not host:port: an address has no user, no password and no '@'")
    if found := _SCHEME.match(address):
        rest = address[found.end() :].rstrip("/")
        raise ValueError(f"{address!r} is not host:port: give it without {found[0]!r}, as in {_example(rest)!r}")
    if "," in address:
        raise ValueError(f"{address!r} is not host:port: give one address; the name of its host may have several")
    host, colon, port = address.rpartition(":")
    if _is_ip(address, 6):
        raise ValueError(f"{address!r} is not host:port: an IPv6 address stands in brackets, as in '[::1]:9003'")
    if not colon or address.endswith("]"):
        raise ValueError(f"{address!r} is not host:port: the port is missing, as in {_example(address)!r}")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536):
        raise ValueError(f"{address!r} is not host:port: the port must be a number from 1 to 65535")
    try:
        return host_of(host), int(port)
    except ValueError:
        raise ValueError(f"{address!r} is not host:port, as in {EXAMPLE!r} or '[::1]:9003'") from None


def host_of(text: str) -> str:
    """A host name, an IPv4 address, or an IPv6 address, with or without brackets; returned without. ValueError."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if _is_ip(bare, 6) or (bare == text and _HOST.fullmatch(text)):
        return bare
    raise ValueError(f"{text!r} is not the name or the address of a host, as in 'localhost', '10.0.0.1' or '::1'")


def _example(rest: str) -> str:
    if re.search(r":\d+$", rest):
        return rest
    return f"{rest}:9003" if rest and "/" not in rest else EXAMPLE


def _is_ip(text: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(text).version == version
    except ValueError:
        return False

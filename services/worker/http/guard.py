"""Where `http.call` may go: to public addresses, and to what the worker's operator has named.

The address is looked at when a socket is about to be connected to it. However a URL writes it, whatever a name resolves
to by then, and for each redirect anew: nothing else is ever connected to.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from urllib.parse import SplitResult, urlsplit

MAX_URL = 8_000  # characters
_HOST = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?\Z")
_NUMBER = re.compile(r"(\d+|0[xX][0-9A-Fa-f]*)\Z")  # a last label that makes the whole an IPv4 address
_OUTSIDE = re.compile(r"[\x00-\x20\x7f\\]")

# Not globally reachable by IANA's registry of special-purpose addresses, with what belongs to clouds and to multicast.
# Listed here, since what Python's ipaddress calls private changes with its version.
_PRIVATE_4 = [
    IPv4Network("0.0.0.0/8"),
    IPv4Network("10.0.0.0/8"),
    IPv4Network("100.64.0.0/10"),  # shared by carriers; Alibaba's metadata, too
    IPv4Network("127.0.0.0/8"),
    IPv4Network("168.63.129.16/32"),  # Azure's platform, at a public address
    IPv4Network("169.254.0.0/16"),  # link-local, with most clouds' metadata
    IPv4Network("172.16.0.0/12"),
    IPv4Network("192.0.0.0/24"),
    IPv4Network("192.0.2.0/24"),
    IPv4Network("192.88.99.0/24"),
    IPv4Network("192.168.0.0/16"),
    IPv4Network("198.18.0.0/15"),
    IPv4Network("198.51.100.0/24"),
    IPv4Network("203.0.113.0/24"),
    IPv4Network("224.0.0.0/4"),
    IPv4Network("240.0.0.0/4"),
]
_PUBLIC_6 = IPv6Network("2000::/3")
_PRIVATE_6 = [
    IPv6Network("2001::/23"),  # Teredo, which holds an IPv4 address
    IPv6Network("2001:db8::/32"),
    IPv6Network("2002::/16"),  # 6to4, which holds one too
    IPv6Network("3fff::/20"),
]
_NAT64 = IPv6Network("64:ff9b::/96")  # an IPv4 address in its last 32 bits


class Forbidden(ValueError):
    """A URL or address that may not be called. The text says why, and what would allow it."""


@dataclass(frozen=True, slots=True)
class _Rule:
    host: str  # '' for one of a network
    network: IPv4Network | IPv6Network | None
    port: int | None


class Guard:
    """`allow`: addresses, networks and names, each with or without a port, separated by commas; else ValueError."""

    def __init__(self, allow: str = "") -> None:
        self._rules = [_rule(word.strip()) for word in allow.split(",") if word.strip()]

    def check(self, host: str, address: str, port: int) -> None:
        """Before a socket is connected to `address`, which `host` of a URL has led to. Forbidden if it may not be."""
        try:
            found = _unwrapped(ipaddress.ip_address(address))
        except ValueError:
            raise Forbidden(f"{host}: {address!r} is not a valid address") from None
        if _is_public(found) or any(self._allowed(host, found, port)):
            return
        what = address if address == host.strip("[]") else f"{host} ({address})"
        raise Forbidden(f"{what} is not public; the worker's operator can allow it by TASKFLOW_HTTP_ALLOW")

    def _allowed(self, host: str, address: IPv4Address | IPv6Address, port: int) -> Iterator[bool]:
        plain = host.lower().rstrip(".")
        for rule in self._rules:
            here = rule.host == plain if rule.network is None else address in rule.network
            yield here and rule.port in (None, port)


def check_url(url: str) -> SplitResult:
    """The parts of a URL that may be called, as far as can be seen before its address is known; else Forbidden."""
    if len(url) > MAX_URL:
        raise Forbidden(f"its {len(url):,} characters exceed the limit of {MAX_URL:,}")
    if _OUTSIDE.search(url):
        raise Forbidden("it holds a space, a backslash or a control character; percent-encode it")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise Forbidden(f"it is not a valid URL: {error}") from None
    if parts.scheme not in ("http", "https"):
        raise Forbidden(f"its scheme is {parts.scheme[:20] or 'missing'}; http and https can be called")
    if "@" in parts.netloc:
        raise Forbidden("it holds a user name; give it by auth, with a secret")
    if not host or port == 0:
        raise Forbidden("it names no host" if not host else "port 0 is none")
    if ":" in host:
        _address(host)
    elif not _HOST.match(host):
        raise Forbidden(f"{host[:100]!r} is not a host's name")
    elif _NUMBER.match(host.rstrip(".").rpartition(".")[2]):
        _address(host)
    return parts


def _address(host: str) -> None:
    """Accepts only the plain form of an address: programs disagree on the meaning of 0177.1 or 2130706433."""
    try:
        if "%" in host:
            raise ValueError
        ipaddress.ip_address(host)
    except ValueError:
        plain = "192.0.2.1 or [2001:db8::1]"
        raise Forbidden(f"{host[:100]!r} is not an address in its plain form, like {plain}") from None


def _unwrapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that an IPv6 one stands for, where one is reached through the other."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _PRIVATE_4)
    if address.scope_id is not None or address not in _PUBLIC_6:
        return False
    return not any(address in network for network in _PRIVATE_6)


def _rule(word: str) -> _Rule:
    """Of 10.0.0.0/8, 10.0.0.1:80, [::1]:80, ::1, name, name:80."""
    try:
        return _Rule("", ipaddress.ip_network(word.strip("[]")), None)
    except ValueError as error:
        if "host bits" in str(error):
            raise ValueError(f"{word!r} {str(error).partition(' ')[2]}") from None
    host, colon, digits = word.rpartition(":")
    port = int(digits) if colon and digits.isascii() and digits.isdigit() else 0
    if not colon:
        host = word
    elif not 0 < port < 65536:
        raise ValueError(f"{word!r} has no port after its colon")
    try:
        return _Rule("", ipaddress.ip_network(host.strip("[]")), port or None)
    except ValueError:
        if not _HOST.match(host) or _NUMBER.match(host.rstrip(".").rpartition(".")[2]):
            raise ValueError(f"{word!r} is not a valid address, network or host name") from None
        return _Rule(host.lower().rstrip("."), None, port or None)

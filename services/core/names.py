"""Names of namespaces, queues and tasks (R10).

A name of the namespace `default` is stored bare, any other as `namespace/name`, so that SQL on a simple installation
shows names as users wrote them. The built-in tasks `http.call` and `shell.run` are in no namespace (ADR 0013).
"""

from __future__ import annotations

import re
import zlib

from taskflow._policy import BUILTIN_TASKS
from taskflow_server.core.errors import InvalidArgument

DEFAULT_NAMESPACE = "default"
SHARDS = 16
_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")
_NAMESPACE = re.compile(r"[A-Za-z0-9_.-]{1,128}\Z")
_known: set[str] = set()  # valid names, bounded: a lookup is faster than the check


def qualify(name: str, *, field: str, namespace: str = DEFAULT_NAMESPACE) -> str:
    """The stored form of a name that a caller in `namespace` wrote. InvalidArgument names `field`."""
    if (namespace == DEFAULT_NAMESPACE and name in _known) or name in BUILTIN_TASKS:
        return name
    space, slash, bare = name.rpartition("/")
    space = space if slash else namespace
    if not _NAME.match(bare):
        raise InvalidArgument(
            f"{field}: {name[:140]!r} is not a valid name; use 1 to 128 letters, digits, '-' and '_'", field, "BAD_NAME"
        )
    if not _NAMESPACE.match(space):
        raise InvalidArgument(f"{field}: {space[:140]!r} is not a valid name of a namespace", field, "BAD_NAME")
    stored = bare if space == DEFAULT_NAMESPACE else f"{space}/{bare}"
    if stored == name:
        if len(_known) > 100_000:
            _known.clear()
        _known.add(name)
    return stored


def is_known(name: str) -> bool:
    """Whether this is the stored form of a name that was valid before."""
    return name in _known


def namespace_of(stored: str) -> str:
    """The namespace of a stored name."""
    space, slash, _ = stored.rpartition("/")
    return space if slash else DEFAULT_NAMESPACE


def bare(stored: str) -> str:
    """A stored name without its namespace."""
    return stored.rpartition("/")[2]


def shard_of(queue: str) -> int:
    """The shard that a new queue gets. Kept in `queues.shard` from then on."""
    return zlib.crc32(queue.encode()) % SHARDS

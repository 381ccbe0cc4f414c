"""`tf.namespaces`: settings of namespaces."""

from __future__ import annotations

import builtins
from typing import Unpack

from taskflow._jobs.core import Core
from taskflow._resources.namespaces import Calls, NamespaceOptions
from taskflow._values.namespaces import NamespaceInfo


class AsyncNamespaces:
    """`tf.namespaces`"""

    def __init__(self, core: Core) -> None:
        self._calls = Calls(core)
        self._call = core.io.acall

    async def create(self, name: str, **options: Unpack[NamespaceOptions]) -> NamespaceInfo:
        """AlreadyExists when there is one of that name. `default` is always there. Without quotas it has no limits."""
        return await self._call(lambda: self._calls.create(name, options))

    async def update(self, name: str, **options: Unpack[NamespaceOptions]) -> NamespaceInfo:
        """Changes what is given. NotFound when there is none of that name. A quota below what is used removes nothing:
        it refuses what would be more."""
        return await self._call(lambda: self._calls.update(name, options))

    async def list(self) -> builtins.list[NamespaceInfo]:
        """All, by name."""
        return await self._call(self._calls.list)

"""`tf.alerts`: rules that select what a person should hear of, and where it is sent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Unpack

from taskflow._jobs.core import Core
from taskflow._messages.alerts import AlertOptions
from taskflow._messages.filters import PAGE_SIZE
from taskflow._resources.alerts import Calls
from taskflow._resources.pages import aeach
from taskflow._values.alerts import AlertRuleInfo


class AsyncAlerts:
    """`tf.alerts`"""

    def __init__(self, core: Core) -> None:
        self._calls = Calls(core)
        self._call = core.io.acall

    async def create(self, name: str, **options: Unpack[AlertOptions]) -> AlertRuleInfo:
        """A rule with its `events`, and a `url` and a `secret`, or a `url_secret`.

        InvalidArgument names the field at fault; AlreadyExists when there is one of that name; ResourceExhausted
        when there are as many rules as the cluster may have.
        """
        return await self._call(lambda: self._calls.create(name, options))

    async def get(self, name: str) -> AlertRuleInfo:
        """NotFound when there is none of that name."""
        return await self._call(lambda: self._calls.get(name))

    def list(self, *, page_size: int = PAGE_SIZE) -> AsyncIterator[AlertRuleInfo]:
        """All, by name."""
        return aeach(self._call, lambda token: self._calls.page(page_size, token))

    async def update(self, name: str, **options: Unpack[AlertOptions]) -> AlertRuleInfo:
        """Changes the given options. Gathered facts stay, unless the rule is paused with `active=False`."""
        return await self._call(lambda: self._calls.update(name, options))

    async def delete(self, name: str) -> None:
        """Gathered facts go with the rule. NotFound when there is none of that name."""
        return await self._call(lambda: self._calls.delete(name))

    async def test(self, name: str) -> str:
        """Sends a message of one made-up fact at once, whatever the rule's limits say; the id of its job, which is
        the message's. `tf.jobs.get` tells whether it was delivered."""
        return await self._call(lambda: self._calls.test(name))

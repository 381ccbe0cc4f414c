"""`tf.alerts`: rules that select what a person should hear of, and where it is sent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Unpack

from taskflow._jobs.core import Core
from taskflow._messages import checks
from taskflow._messages.alerts import AlertOptions, alert_info, alert_message
from taskflow._messages.filters import PAGE_SIZE
from taskflow._resources.jobs_queues_workers import _aeach, _each
from taskflow._values.alerts import AlertKind, AlertRuleInfo
from taskflow.v1 import alerts_pb2 as pb


class _Calls:
    """Each call once, for both faces."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def create(self, name: str, given: AlertOptions) -> AlertRuleInfo:
        t = self._core.transport
        rule = alert_message(name, {"kind": AlertKind.WEBHOOK, **given})
        return alert_info(await t.call(t.alerts.CreateAlertRule, pb.CreateAlertRuleRequest(rule=rule)))

    async def get(self, name: str) -> AlertRuleInfo:
        t = self._core.transport
        request = pb.GetAlertRuleRequest(name=checks.text(name, "name"))
        return alert_info(await t.call(t.alerts.GetAlertRule, request))

    async def page(self, page_size: int, token: str) -> tuple[list[AlertRuleInfo], str]:
        t = self._core.transport
        request = pb.ListAlertRulesRequest(page_size=checks.page_size(page_size), page_token=token)
        page = await t.call(t.alerts.ListAlertRules, request)
        return [alert_info(rule) for rule in page.rules], page.next_page_token

    async def update(self, name: str, given: AlertOptions) -> AlertRuleInfo:
        t = self._core.transport
        request = pb.UpdateAlertRuleRequest(rule=alert_message(name, given))
        request.update_mask.paths.extend(given)
        if not given:
            return await self.get(name)
        return alert_info(await t.call(t.alerts.UpdateAlertRule, request))

    async def delete(self, name: str) -> None:
        t = self._core.transport
        await t.call(t.alerts.DeleteAlertRule, pb.DeleteAlertRuleRequest(name=checks.text(name, "name")))

    async def test(self, name: str) -> str:
        t = self._core.transport
        request = pb.TestAlertRuleRequest(name=checks.text(name, "name"))
        return (await t.call(t.alerts.TestAlertRule, request)).job_id


class Alerts:
    """`tf.alerts`"""

    def __init__(self, core: Core) -> None:
        self._calls = _Calls(core)
        self._call = core.io.call

    def create(self, name: str, **options: Unpack[AlertOptions]) -> AlertRuleInfo:
        """A rule with its `events`, and a `url` and a `secret`, or a `url_secret`.

        InvalidArgument names the field at fault; AlreadyExists when there is one of that name; ResourceExhausted
        when there are as many rules as the cluster may have.
        """
        return self._call(lambda: self._calls.create(name, options))

    def get(self, name: str) -> AlertRuleInfo:
        """NotFound when there is none of that name."""
        return self._call(lambda: self._calls.get(name))

    def list(self, *, page_size: int = PAGE_SIZE) -> Iterator[AlertRuleInfo]:
        """All, by name."""
        return _each(self._call, lambda token: self._calls.page(page_size, token))

    def update(self, name: str, **options: Unpack[AlertOptions]) -> AlertRuleInfo:
        """Changes the given options. Gathered facts stay, unless the rule is paused with `active=False`."""
        return self._call(lambda: self._calls.update(name, options))

    def delete(self, name: str) -> None:
        """Gathered facts go with the rule. NotFound when there is none of that name."""
        return self._call(lambda: self._calls.delete(name))

    def test(self, name: str) -> str:
        """Sends a message of one made-up fact at once, whatever the rule's limits say; the id of its job, which is
        the message's. `tf.jobs.get` tells whether it was delivered."""
        return self._call(lambda: self._calls.test(name))


class AsyncAlerts:
    """`tf.alerts` of AsyncTaskFlow: the verbs of Alerts as coroutines, lists as async iterators."""

    def __init__(self, core: Core) -> None:
        self._calls = _Calls(core)
        self._call = core.io.acall

    async def create(self, name: str, **options: Unpack[AlertOptions]) -> AlertRuleInfo:
        """As Alerts.create."""
        return await self._call(lambda: self._calls.create(name, options))

    async def get(self, name: str) -> AlertRuleInfo:
        """As Alerts.get."""
        return await self._call(lambda: self._calls.get(name))

    def list(self, *, page_size: int = PAGE_SIZE) -> AsyncIterator[AlertRuleInfo]:
        """As Alerts.list."""
        return _aeach(self._call, lambda token: self._calls.page(page_size, token))

    async def update(self, name: str, **options: Unpack[AlertOptions]) -> AlertRuleInfo:
        """As Alerts.update."""
        return await self._call(lambda: self._calls.update(name, options))

    async def delete(self, name: str) -> None:
        """As Alerts.delete."""
        return await self._call(lambda: self._calls.delete(name))

    async def test(self, name: str) -> str:
        """As Alerts.test."""
        return await self._call(lambda: self._calls.test(name))

"""`tf.alerts`: rules that select facts for people, and where to send them."""

from __future__ import annotations

from taskflow._jobs.core import Core
from taskflow._messages import checks
from taskflow._messages.alerts import AlertOptions, alert_info, alert_message
from taskflow._values.alerts import AlertKind, AlertRuleInfo
from taskflow.v1 import alerts_pb2 as pb


class Calls:
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

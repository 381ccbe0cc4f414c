"""AlertService through bare stubs: what is wrong with a rule is named, and a repeated or a surplus one is refused."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from taskflow.v1 import alerts_pb2 as pb
from taskflow.v1 import alerts_pb2_grpc
from tests.support import rows
from tests.support.api import TIMEOUT, Api, refusal
from tests.support.cluster import ServiceCluster

pytestmark = pytest.mark.feature("S1.10")

_numbers = itertools.count(1)
WELL: dict[str, Any] = {
    "events": [pb.ALERT_EVENT_JOB_FAILED], "kind": pb.ALERT_KIND_WEBHOOK, "url": "https://hooks.example.org/a",
    "secret": "on-call",
}  # fmt: skip
WRONG: list[tuple[str, dict[str, Any], str, str]] = [  # what, fields, the field at fault, words of the message
    ("no name", {"name": ""}, "name", "1 to 128 letters"),
    ("a name with a slash", {"name": "a/b"}, "name", "1 to 128 letters"),
    ("no event", {"events": []}, "events", "ALERT_EVENT_JOB_FAILED"),
    ("an unknown event", {"events": [99]}, "events", "99 is not one of"),
    ("no kind", {"kind": 0}, "kind", "ALERT_KIND_WEBHOOK or ALERT_KIND_SLACK"),
    ("no destination", {"url": ""}, "url", "either url or url_secret"),
    ("two destinations", {"url_secret": "x"}, "url", "either url or url_secret"),
    ("a file", {"url": "file:///etc/passwd"}, "url", "http:// or https://"),
    ("a user in the URL", {"url": "https://me:pw@example.org/"}, "url", "without a user"),
    ("a line end in the URL", {"url": "https://example.org/\n"}, "url", "not a valid URL"),
    ("a URL of 3,000 characters", {"url": f"https://a/{'x' * 3000}"}, "url", "exceed the limit of 2,000"),
    ("a webhook without a secret", {"secret": ""}, "secret", "signs the messages"),
    ("a secret in place of its name", {"secret": "p@ssw0rd!"}, "secret", "not the secret"),
    ("a signed text for Slack", {"kind": pb.ALERT_KIND_SLACK}, "secret", "not signed"),
    ("a bad queue", {"queue": "a b"}, "queue", "is not a valid name"),
    ("a bad task", {"task": "a.b"}, "task", "is not a valid name"),
    ("a bad namespace", {"namespace": "a/b"}, "namespace", "is not a valid name of a namespace"),
    ("a queue for runs", {"events": [2], "queue": "q"}, "queue", "the rule selects run_failed"),
    ("a workflow for jobs", {"workflow": "w"}, "workflow", "the rule selects job_failed"),
    ("both", {"events": [3], "workflow": "w", "queue": "q"}, "workflow", "not both"),
    ("a negative window", {"window": Duration(seconds=-1)}, "window", "-1 s is not between"),
    ("a window of a week", {"window": Duration(seconds=7 * 86_400)}, "window", "exceeds the limit of 86400 s"),
    ("a period of nothing", {"period": Duration()}, "period", "0 s is not between 1 s"),
    ("no message", {"max_messages": 0}, "max_messages", "between 1 and 100"),
    ("too many messages", {"max_messages": 101}, "max_messages", "between 1 and 100"),
    ("an endless bound", {"backlog_age": Duration(seconds=1 << 40)}, "backlog_age", "s is not between"),
]


@pytest.fixture
def stub(api: Api, cluster: ServiceCluster) -> Iterator[alerts_pb2_grpc.AlertServiceStub]:
    yield alerts_pb2_grpc.AlertServiceStub(api.channel)
    rows.run(cluster.dsn, "delete from taskflow.alert_rules")


def rule(**fields: Any) -> pb.AlertRule:
    return pb.AlertRule(**{"name": f"rule-{next(_numbers)}", **WELL, **fields})


def create(stub: alerts_pb2_grpc.AlertServiceStub, **fields: Any) -> pb.AlertRule:
    request = pb.CreateAlertRuleRequest(rule=rule(**fields))
    answer: pb.AlertRule = stub.CreateAlertRule(request, timeout=TIMEOUT)
    return answer


@pytest.mark.parametrize(("fields", "field", "words"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_a_wrong_alert_rule_is_refused_with_its_field(
    stub: alerts_pb2_grpc.AlertServiceStub, cluster: ServiceCluster, fields: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        create(stub, **fields)

    found = refusal(caught.value)
    assert (found.code, found.field) == (grpc.StatusCode.INVALID_ARGUMENT, f"rule.{field}")
    assert words in found.message and "p@ssw0rd" not in found.message and "pw@" not in found.message
    assert rows.found(cluster.dsn, "select name from taskflow.alert_rules") == []


def test_an_alert_rule_has_defaults_and_the_changed_fields_alone_change(
    stub: alerts_pb2_grpc.AlertServiceStub,
) -> None:
    made = create(stub)

    assert (made.active, made.window.seconds, made.max_messages, made.period.seconds) == (True, 30, 10, 3600)
    assert (made.no_worker_for.seconds, made.backlog_age.seconds, made.gathered) == (60, 300, 0)
    assert [warning.reason for warning in made.warnings] == ["HANDLER_NOT_SEEN"], "no worker here delivers"
    changes = pb.AlertRule(name=made.name, window=Duration(), url="", url_secret="chat", queue="mails")
    request = pb.UpdateAlertRuleRequest(rule=changes)
    request.update_mask.paths.extend(["window", "url", "url_secret", "queue"])
    changed = stub.UpdateAlertRule(request, timeout=TIMEOUT)
    assert (changed.window.seconds, changed.url, changed.url_secret, changed.queue) == (0, "", "chat", "mails")
    assert (changed.secret, list(changed.events), changed.max_messages) == ("on-call", [1], 10)
    request = pb.UpdateAlertRuleRequest(rule=pb.AlertRule(name=made.name, kind=pb.ALERT_KIND_SLACK))
    request.update_mask.paths.append("kind")
    with pytest.raises(grpc.RpcError) as caught:
        stub.UpdateAlertRule(request, timeout=TIMEOUT)
    assert refusal(caught.value).field == "rule.secret", "the rule as a whole is checked"
    request.update_mask.paths.append("gathered")
    with pytest.raises(grpc.RpcError) as caught:
        stub.UpdateAlertRule(request, timeout=TIMEOUT)
    assert "'gathered' cannot be changed" in refusal(caught.value).message


def test_alert_rules_are_listed_in_pages_and_a_second_of_a_name_is_refused(
    stub: alerts_pb2_grpc.AlertServiceStub,
) -> None:
    names = sorted(create(stub).name for _ in range(3))

    first = stub.ListAlertRules(pb.ListAlertRulesRequest(page_size=2), timeout=TIMEOUT)
    rest = stub.ListAlertRules(pb.ListAlertRulesRequest(page_token=first.next_page_token), timeout=TIMEOUT)

    assert [found.name for found in (*first.rules, *rest.rules)] == names and not rest.next_page_token
    with pytest.raises(grpc.RpcError) as caught:
        create(stub, name=names[0])
    assert refusal(caught.value).reason == "ALERT_RULE_EXISTS"
    for call in (
        lambda: stub.GetAlertRule(pb.GetAlertRuleRequest(name="absent"), timeout=TIMEOUT),
        lambda: stub.DeleteAlertRule(pb.DeleteAlertRuleRequest(name="absent"), timeout=TIMEOUT),
        lambda: stub.TestAlertRule(pb.TestAlertRuleRequest(name="absent"), timeout=TIMEOUT),
        lambda: stub.UpdateAlertRule(pb.UpdateAlertRuleRequest(rule=rule(name="absent")), timeout=TIMEOUT),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert refusal(caught.value).reason == "ALERT_RULE_NOT_FOUND"


def test_no_more_alert_rules_are_made_than_the_cluster_may_have(
    stub: alerts_pb2_grpc.AlertServiceStub, cluster: ServiceCluster
) -> None:
    for _ in range(2):
        create(stub)
    rows.run(
        cluster.dsn,
        "insert into taskflow.alert_rules"
        " (name, events, kind, gather, max_messages, period, no_worker_for, backlog_age)"
        " select 'many-' || n, '{job_failed}', 'slack', 1, 1, 1, 1, 1 from generate_series(1, 98) n",
    )

    with pytest.raises(grpc.RpcError) as caught:
        create(stub)

    found = refusal(caught.value)
    assert (found.code, found.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_ALERT_RULES")
    assert "TASKFLOW_ALERT_RULES" in found.message

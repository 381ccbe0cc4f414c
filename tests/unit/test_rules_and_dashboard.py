"""Alert rules, dashboard and the page for operators name what the reference names; promtool tries the rules."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.docs import ROOT, blocks, metrics_of_the_reference
from tests.support.plainyaml import read
from tests.support.prometheus import CONFIGURATION, RULES, program

HISTORIES = RULES.with_name("rules_test.yml")
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "taskflow.json"
PAGE = ROOT / "docs" / "operations" / "metrics.md"
_FUNCTIONS = {
    "and", "by", "deriv", "histogram_quantile", "increase", "max", "min", "on", "or", "rate", "sum", "unless", "up",
    "without",
}  # fmt: skip


def expressions() -> list[str]:
    rules = [rule["expr"] for group in read(RULES)["groups"] for rule in group["rules"]]
    panels = json.loads(DASHBOARD.read_text())["panels"]
    told = [line for block in blocks(PAGE, "promql") for line in block.splitlines()]
    return rules + [target["expr"] for panel in panels for target in panel["targets"]] + told


@pytest.mark.parametrize("expression", expressions())
def test_rules_dashboard_and_page_ask_for_metrics_that_there_are(expression: str) -> None:
    """Not PromQL's grammar: words, labels and brackets. Where Prometheus is installed, it is asked as well."""
    known = metrics_of_the_reference()
    bare = re.sub(r'"[^"]*"', '""', expression)
    labels = {
        label
        for inside in re.findall(r"(?:by|on|without) \(([^)]*)\)", bare) + re.findall(r"\{([^}]*)\}", bare)
        for label in re.findall(r"[a-z]\w*", inside)
    }
    words = re.findall(r"[a-z_]\w*", re.sub(r"\{[^}]*\}|\[\d+[smhd]\]|\((?:[a-z]+(?:, )?)+\)", " ", bare))

    metrics = {word for word in words if word not in _FUNCTIONS}
    families = {re.sub(r"_(bucket|sum|count)$", "", word) for word in metrics}
    assert families <= known.keys()
    assert labels <= {"le", "instance", "job"}.union(*(known[name] for name in families))
    for left, right in ("()", "[]", "{}"):
        assert bare.count(left) == bare.count(right)


@pytest.mark.feature("S3.6")
def test_every_metric_stands_in_a_panel_or_a_rule() -> None:
    asked = " ".join(expressions())

    assert {name for name in metrics_of_the_reference() if not re.search(rf"\b{name}(_\w+)?\b", asked)} == set()


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    panels = json.loads(DASHBOARD.read_text())["panels"]

    for panel in panels:
        x, y, w, h = (panel["gridPos"][name] for name in "xywh")
        cells = {(column, row) for column in range(x, x + w) for row in range(y, y + h)}
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_every_alert_says_what_it_is_about() -> None:
    for group in read(RULES)["groups"]:
        names = [rule["alert"] for rule in group["rules"]]
        assert len(names) == len(set(names))
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("critical", "warning")
            assert rule["annotations"]["summary"]
            assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))


@pytest.mark.feature("S1.10")
def test_every_alert_has_a_history_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    alerts = {rule["alert"] for group in read(RULES)["groups"] for rule in group["rules"]}
    cases = [case for history in read(HISTORIES)["tests"] for case in history["alert_rule_test"]]

    tried = {(case["alertname"], bool(case["exp_alerts"])) for case in cases}
    assert tried == {(alert, fires) for alert in alerts for fires in (True, False)}


@pytest.mark.feature("S1.10")
def test_the_alerts_fire_as_the_histories_say() -> None:
    done = subprocess.run([program("promtool"), "test", "rules", HISTORIES], capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_takes_rules_and_configuration(tmp_path: Path) -> None:
    there = tmp_path / "prometheus.yml"
    there.write_text(CONFIGURATION.read_text().replace("/etc/prometheus/rules.yml", str(RULES)))

    done = subprocess.run([program("promtool"), "check", "config", there], capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(read(RULES)['groups'][0]['rules'])} rules found" in done.stdout

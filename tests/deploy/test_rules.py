"""Prometheus' rules, by themselves."""

import re
import subprocess

import yaml

from service.settings import Settings
from tests.deploy.observation import (
    PROMETHEUS,
    ROOT,
    RULE_FILES,
    alerts,
    needs_prometheus,
    read_rules,
    recordings,
    unknown_names,
)


def promtool(*arguments):
    command = ["promtool", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_prometheus
def test_promtool_accepts_configuration_and_rules():
    promtool("check", "config", "--syntax-only", PROMETHEUS / "prometheus.yml")
    promtool("check", "rules", "--lint=all", "--lint-fatal", *RULE_FILES)


@needs_prometheus
def test_alerts_fire_on_what_is_sick_and_on_nothing_else(tmp_path):
    tests = (ROOT / "tests" / "deploy" / "rules_test.yml").read_text()
    files = ", ".join(map(str, RULE_FILES))
    copy = tmp_path / "rules_test.yml"
    copy.write_text(tests.replace("[RULES]", f"[{files}]"))
    promtool("test", "rules", copy)


def test_every_alert_is_tried_on_something_sick():
    tried = (ROOT / "tests" / "deploy" / "rules_test.yml").read_text()
    assert set(re.findall(r'alertname="(\w+)"', tried)) == {alert["alert"] for alert in alerts()}


def test_rules_use_metrics_that_there_are():
    assert not set().union(*(unknown_names(rule["expr"]) for rule in read_rules()))


def test_configuration_reads_all_rule_files():
    configuration = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    assert configuration["rule_files"] == [path.name for path in RULE_FILES]


def test_every_alert_says_what_it_is_and_has_a_runbook():
    headings = re.findall(r"^### (\w+)$", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)
    for alert in alerts():
        annotations = alert["annotations"]
        assert alert["labels"]["severity"] in {"page", "ticket"}
        assert annotations["summary"]
        assert annotations["description"]
        assert annotations["runbook_url"] == f"docs/operations.md#{alert['alert'].lower()}"
        assert alert["alert"] in headings
    assert {name for name in headings if name.startswith("Smolserve")} == {
        alert["alert"] for alert in alerts()
    }


def test_limits_repeat_the_settings_and_the_containers():
    limits = {rule["record"]: rule["expr"] for rule in recordings()}
    queue = Settings.model_validate({}).scheduler.max_queued
    assert limits["smolserve:queue_limit:requests"] == f"vector({queue})"
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert limits["smolserve:memory_limit:bytes"] == "vector(16 * 1024 ^ 3)"
    assert compose["x-service"]["mem_limit"] == "16g"

"""What deploy/ tells Prometheus and Grafana, read for the tests."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.telemetry.test_metrics_document import documented

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "deploy" / "grafana"
RULE_FILES = (PROMETHEUS / "recording.yml", PROMETHEUS / "alerts.yml")

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="Prometheus is not installed: sudo apt install prometheus",
)

_ONLY_ON_A_GPU = {"smolserve_vram_bytes"}


def read_rules():
    files = (yaml.safe_load(path.read_text()) for path in RULE_FILES)
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def recordings():
    return [rule for rule in read_rules() if "record" in rule]


def alerts():
    return [rule for rule in read_rules() if "alert" in rule]


def dashboard():
    return json.loads((GRAFANA / "dashboards" / "smolserve.json").read_text())


def charts():
    """Panels that ask something; the others are headings."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def panel_queries():
    """(panel, query) of every chart."""
    return [(chart["title"], target["expr"]) for chart in charts() for target in chart["targets"]]


def is_for_gpus(query):
    return bool(_ONLY_ON_A_GPU & _names(query))


def unknown_names(query):
    """Metrics that neither the service has nor a rule records."""
    return _names(query) - _scraped() - {rule["record"] for rule in recordings()} - {"up"}


def _names(query):
    bare = re.sub(r'"[^"]*"', "", query)
    return set(re.findall(r"[\w:]*smolserve[\w:]*|\bup\b", bare))


def _scraped():
    """Names as Prometheus stores them."""
    parts = {"histogram": ("_bucket", "_sum", "_count")}
    return {
        name + part for name, (kind, _) in documented().items() for part in parts.get(kind, ("",))
    }

"""docs/metrics.md says of the metrics what the registry says."""

import os
from pathlib import Path

from service.core.messages import ClassStats, DeviceMemory
from service.telemetry.callers import CallerUse
from tests.telemetry.test_metrics import build_metrics, ready, report

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"


def documented():
    """(type, labels) by name, from the rows of all tables."""
    rows = (line.split("|") for line in DOCUMENT.read_text().splitlines() if line.startswith("| `"))
    return {
        name.strip(" `"): (kind.strip(), {label.strip("`") for label in labels.split()})
        for _, name, kind, labels, *_ in rows
    }


def exercised():
    """A registry on which everything with a label has happened."""
    metrics, registry = build_metrics()
    metrics.worker_started(0, os.getpid())
    gpu = DeviceMemory(name="CUDA0", free_bytes=1, total_bytes=2)
    metrics.observe_ready(0, ready(gpus=(gpu,)), [(8, 2048)])
    metrics.observe_step(0, report(classes=[ClassStats(0, 0, 0, 0)]))
    metrics.request_rejected("queue_full")
    metrics.worker_restarted(0)
    metrics.worker_hung(0)
    metrics.batches_counted({"completed": 1})
    metrics.batch_lines_ended("completed")
    use = CallerUse(num_requests=1, num_refused=1, num_tokens=1)
    metrics.count_callers(lambda: {"alice": use})
    return registry


def registered():
    return {
        family.name + ("_total" if family.type == "counter" else ""): (
            family.type,
            {label for sample in family.samples for label in sample.labels if label != "le"},
        )
        for family in exercised().collect()
    }


def test_every_metric_is_documented_with_its_type_and_labels_and_no_other():
    assert documented() == registered()

"""What a service's metrics said at a moment, and what happened between two such moments."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from service.errors import MetricsUnavailable

PREFIX = "smolserve_"
Labels = frozenset[tuple[str, str]]
Series = Mapping[str, Mapping[Labels, float]]
"""Values by name and labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """`time` is of the monotonic clock of whoever looked."""

    time: float
    series: Series

    def total(self, name: str, **labels: str) -> float:
        return sum(value for _, value in select(self.series, name, labels))

    def by(self, label: str, name: str, **labels: str) -> dict[str, float]:
        """Sums for each value of a label, in the order that the service tells them."""
        return _group(select(self.series, name, labels), label)


class Change:
    """From one snapshot to a later one. A counter that fell has begun anew, at 0."""

    def __init__(self, before: Snapshot, after: Snapshot) -> None:
        self.seconds = max(after.time - before.time, 1e-9)
        self._series = {
            name: {
                labels: _increase(before.series.get(name, {}).get(labels, 0.0), value)
                for labels, value in values.items()
            }
            for name, values in after.series.items()
        }

    def increase(self, name: str, **labels: str) -> float:
        return sum(value for _, value in select(self._series, name, labels))

    def rate(self, name: str, **labels: str) -> float:
        """A second."""
        return self.increase(name, **labels) / self.seconds

    def increase_by(self, label: str, name: str) -> dict[str, float]:
        return _group(select(self._series, name, {}), label)

    def buckets(self, name: str) -> dict[float, float]:
        """Cumulative counts of a histogram's observations by their upper bounds."""
        grouped = self.increase_by("le", f"{name}_bucket")
        return {math.inf if le == "+Inf" else float(le): n for le, n in grouped.items()}


def read_snapshot(text: str, time: float) -> Snapshot:
    """Raises MetricsUnavailable for what is no smolserve's."""
    series: defaultdict[str, dict[Labels, float]] = defaultdict(dict)
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                series[sample.name][frozenset(sample.labels.items())] = sample.value
    except ValueError:
        series.clear()
    if not any(name.startswith(PREFIX) for name in series):
        raise MetricsUnavailable("it answers, and not with the metrics of a smolserve")
    return Snapshot(time=time, series=series)


def select(series: Series, name: str, labels: Mapping[str, str]) -> Iterator[tuple[Labels, float]]:
    for has, value in series.get(PREFIX + name, {}).items():
        if labels.items() <= has:
            yield has, value


def _group(found: Iterator[tuple[Labels, float]], label: str) -> dict[str, float]:
    sums: defaultdict[str, float] = defaultdict(float)
    for has, value in found:
        sums[dict(has).get(label, "")] += value
    return dict(sums)


def _increase(before: float, after: float) -> float:
    return after - before if after >= before else after

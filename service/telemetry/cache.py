"""What the workers' caches did and hold, as one: counters go on where a dead worker's ended."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from service.core.messages import CacheStats

SOURCES = ("slot", "session", "shared", "host", "disk")
TIERS = ("slot", "host", "disk")

_LABELLED = (
    ("hits", "source", SOURCES, "Requests that began with cached tokens, by where most were"),
    ("hit_tokens", "source", SOURCES, "Prompt tokens that were not computed"),
    ("evictions", "tier", TIERS, "Segments that gave way to others or to time"),
)
_PLAIN = (
    ("saves", "Slots copied to host memory"),
    ("restores", "Copies put back into slots"),
    ("save_seconds", "Time of saves"),
    ("restore_seconds", "Time of restores"),
    ("disk_reads", "Segments read from disk"),
    ("disk_writes", "Segments written to disk"),
    ("disk_read_seconds", "Time of reads"),
    ("disk_write_seconds", "Time of writes"),
    ("disk_errors", "Files that could not be written, or not be used"),
)
_Key = tuple[str, str]
"""A counter's name and label."""


@dataclass(slots=True)
class WorkerCache:
    """One worker's cache over all its lives."""

    now: CacheStats | None = None
    """The last word of its present life."""
    ended: defaultdict[_Key, float] = field(default_factory=lambda: defaultdict(float))
    """What its earlier lives counted."""

    def end_life(self) -> None:
        if self.now is not None:
            for key, count in _counts(self.now):
                self.ended[key] += count
        self.now = None

    def counts(self) -> Iterator[tuple[_Key, float]]:
        yield from self.ended.items()
        if self.now is not None:
            yield from _counts(self.now)


def collect_caches(caches: Iterable[WorkerCache]) -> Iterator[Metric]:
    totals: defaultdict[_Key, float] = defaultdict(float)
    num_bytes: Counter[str] = Counter()
    num_segments: Counter[str] = Counter()
    for cache in caches:
        for key, count in cache.counts():
            totals[key] += count
        if cache.now is not None:
            num_bytes.update(cache.now.bytes)
            num_segments.update(cache.now.segments)
    for name, label, values, documentation in _LABELLED:
        family = CounterMetricFamily(f"smolserve_cache_{name}", documentation, labels=[label])
        for value in values:
            family.add_metric([value], totals[name, value])
        yield family
    for name, documentation in _PLAIN:
        yield CounterMetricFamily(f"smolserve_cache_{name}", documentation, totals[name, ""])
    yield _by_tier("bytes", "Size of the computed tokens that are kept", num_bytes)
    yield _by_tier("segments", "Runs of computed tokens that are kept", num_segments)


def _counts(stats: CacheStats) -> Iterator[tuple[_Key, float]]:
    for name, *_ in _LABELLED:
        by_label: dict[str, int] = getattr(stats, name)
        for label, count in by_label.items():
            yield (name, label), count
    for name, _ in _PLAIN:
        yield (name, ""), getattr(stats, name)


def _by_tier(name: str, documentation: str, counts: Counter[str]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"smolserve_cache_{name}", documentation, labels=["tier"])
    for tier in TIERS:
        family.add_metric([tier], counts[tier])
    return family

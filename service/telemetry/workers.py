"""What the workers last said of themselves, turned into samples when Prometheus asks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import psutil
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from service.core.messages import ClassStats, Ready, StepStats
from service.telemetry.cache import WorkerCache, collect_caches

SizeClass = tuple[int, int]
"""(slots, tokens each slot holds)"""


@dataclass(slots=True)
class WorkerState:
    """The last report of each kind; None after a worker was lost."""

    process: psutil.Process | None = None
    classes: Sequence[SizeClass] = field(default_factory=tuple)
    ready: Ready | None = None
    stats: StepStats | None = None
    cache: WorkerCache = field(default_factory=WorkerCache)
    num_ended_preemptions: int = 0
    """Of earlier lives; a counter must not fall when its worker dies."""

    @property
    def num_preemptions(self) -> int:
        now = 0 if self.stats is None else self.stats.num_preemptions
        return self.num_ended_preemptions + now

    def end_life(self) -> None:
        """The worker is gone, and what it held with it."""
        self.num_ended_preemptions = self.num_preemptions
        self.cache.end_life()
        self.process = self.ready = self.stats = None


class WorkersCollector(Collector):
    """Keeps a reference per report, so that a step costs nothing here until someone looks."""

    def __init__(self, api_process: psutil.Process) -> None:
        self._api_process = api_process
        self._workers: dict[int, WorkerState] = {}

    def state(self, worker: int) -> WorkerState:
        state = self._workers.get(worker)
        if state is None:
            state = self._workers[worker] = WorkerState()
        return state

    def collect(self) -> Iterator[Metric]:
        yield from self._collect_requests()
        yield from self._collect_slots()
        yield from self._collect_memory()
        yield from collect_caches(state.cache for state in self._workers.values())

    def _collect_requests(self) -> Iterator[Metric]:
        up = _gauge("worker_up", "1 for a worker that is loaded and alive", "worker")
        running = _gauge("requests_running", "Sequences that hold a slot", "worker")
        waiting = _gauge("requests_waiting", "Sequences that wait for a slot", "worker")
        preemptions = CounterMetricFamily(
            "smolserve_preemptions", "Sequences that had to give way", labels=["worker"]
        )
        for name, state in self._named_states():
            stats = state.stats
            up.add_metric([name], state.ready is not None)
            running.add_metric([name], stats.num_running if stats else 0)
            waiting.add_metric([name], stats.num_waiting if stats else 0)
            preemptions.add_metric([name], state.num_preemptions)
        yield from (up, running, waiting, preemptions)

    def _collect_slots(self) -> Iterator[Metric]:
        slots = _gauge("slots", "Slots by size class and state", "worker", "class", "state")
        used = _gauge("kv_tokens_used", "KV cells that hold tokens", "worker", "class", "state")
        total = _gauge("kv_tokens_total", "KV cells there are", "worker", "class")
        occupancy = _gauge("batch_occupancy_ratio", "Running sequences per slot", "worker")
        for name, state in self._named_states():
            for size, (num_slots, context_len), stats in _classes(state):
                free = num_slots - stats.num_running - stats.num_cached
                slots.add_metric([name, size, "running"], stats.num_running)
                slots.add_metric([name, size, "cached"], stats.num_cached)
                slots.add_metric([name, size, "free"], free)
                used.add_metric([name, size, "running"], stats.num_running_tokens)
                used.add_metric([name, size, "cached"], stats.num_cached_tokens)
                total.add_metric([name, size], num_slots * context_len)
            num_slots = sum(slots_of_class for slots_of_class, _ in state.classes)
            if num_slots:
                num_running = state.stats.num_running if state.stats else 0
                occupancy.add_metric([name], num_running / num_slots)
        yield from (slots, used, total, occupancy)

    def _collect_memory(self) -> Iterator[Metric]:
        memory = _gauge("memory_bytes", "Memory by what it is for", "worker", "kind")
        resident = _gauge("process_resident_bytes", "Resident set of a process", "process")
        vram = _gauge(
            "vram_bytes", "Memory of a GPU when its worker was ready", "worker", "device", "state"
        )
        resident.add_metric(["api"], _resident_bytes(self._api_process))
        for name, state in self._named_states():
            if state.ready is not None:
                memory.add_metric([name, "weights"], state.ready.model_bytes)
                memory.add_metric([name, "kv"], state.ready.kv_bytes)
                memory.add_metric([name, "compute"], state.ready.compute_bytes)
                for gpu in state.ready.gpus:
                    vram.add_metric([name, gpu.name, "used"], gpu.total_bytes - gpu.free_bytes)
                    vram.add_metric([name, gpu.name, "free"], gpu.free_bytes)
            if state.process is not None:
                resident.add_metric([f"worker-{name}"], _resident_bytes(state.process))
        yield from (memory, resident)
        if vram.samples:
            yield vram

    def _named_states(self) -> list[tuple[str, WorkerState]]:
        return [(str(worker), state) for worker, state in sorted(self._workers.items())]


def _gauge(name: str, documentation: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"smolserve_{name}", documentation, labels=labels)


_IDLE = ClassStats(num_running=0, num_cached=0, num_running_tokens=0, num_cached_tokens=0)


def _classes(state: WorkerState) -> Iterator[tuple[str, SizeClass, ClassStats]]:
    stats = state.stats.classes if state.stats else [_IDLE] * len(state.classes)
    for size_class, class_stats in zip(state.classes, stats, strict=False):
        yield str(size_class[1]), size_class, class_stats


def _resident_bytes(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0

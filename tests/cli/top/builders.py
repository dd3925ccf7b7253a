"""Metrics as a service tells them, with what a test wants to have happened."""

import os

from prometheus_client import generate_latest

from service.cli.top.snapshot import read_snapshot
from service.core.messages import CacheStats, ClassStats
from tests.telemetry.test_metrics import build_metrics, ready, report

CLASSES = [(8, 2048), (1, 8192)]
IDLE = [ClassStats(0, 0, 0, 0), ClassStats(0, 0, 0, 0)]
BUSY = [ClassStats(6, 1, 900, 200), ClassStats(1, 0, 4000, 0)]


class Service:
    """What stands behind /metrics."""

    def __init__(self, *, num_workers=1):
        self.metrics, self.registry = build_metrics()
        for worker in range(num_workers):
            self.metrics.worker_started(worker, os.getpid())
            self.metrics.observe_ready(worker, ready(), CLASSES)
            self.step(worker)

    def step(self, worker=0, *, classes=IDLE, num_running=0, num_waiting=0, num_bytes=0):
        cache = CacheStats(
            hits={}, hit_tokens={"host": num_bytes}, evictions={}, segments={},
            bytes={"host": num_bytes},
        )  # fmt: skip
        self.metrics.observe_step(
            worker,
            report(classes=classes, num_running=num_running, num_waiting=num_waiting, cache=cache),
        )

    def answer(self, *, ttft=0.05, gap=0.02, num_prompt=100, num_cached=25):
        """A request from its admission to its end."""
        self.metrics.request_admitted()
        self.metrics.request_began(0.004)
        self.metrics.first_token(ttft, num_prompt_tokens=num_prompt, num_cached_tokens=num_cached)
        self.metrics.next_token(gap)
        self.metrics.request_finished("stop", e2e_seconds=1, ttft_seconds=ttft, num_tokens=2)

    def text(self):
        return generate_latest(self.registry).decode()

    def snapshot(self, time):
        return read_snapshot(self.text(), time)

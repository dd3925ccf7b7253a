from typing import Any

import pytest

from service.cli.top.reading import build_view
from service.cli.top.troubles import list_troubles
from tests.cli.top.builders import BUSY, Service


def troubles(service, change=lambda: None):
    """What is told after a change."""
    before = service.snapshot(0)
    change()
    view: Any = build_view(service.snapshot(2), before)
    return [(trouble.level, trouble.text) for trouble in list_troubles(view)]


def test_the_first_look_has_states_and_no_rates():
    view: Any = build_view(Service().snapshot(0), None)
    assert view.rates is view.interval_seconds is view.fresh is None
    assert [latency.p50 for latency in view.latencies] == [None] * 3
    assert view.num_slots == 9


def test_rates_and_latencies_are_of_what_happened_since_the_last_look():
    service = Service()
    service.answer(ttft=30)  # long before
    before = service.snapshot(0)
    for _ in range(4):
        service.answer(ttft=0.15)
    view: Any = build_view(service.snapshot(2), before)
    assert view.interval_seconds == 2
    assert view.rates.requests == view.rates.finished == 2
    assert view.rates.prompt_tokens == 200
    assert view.rates.cached_ratio == 0.25
    ttft, itl, queue = view.latencies
    assert ttft.p50 == pytest.approx(0.15)  # the middle of the bucket from 0.1 to 0.2
    assert ttft.p99 < 0.2
    assert 0.015 < itl.p50 <= 0.02
    assert queue.p95 < 0.01


def test_slots_and_cells_are_summed_over_workers_and_sorted_by_length():
    service = Service(num_workers=2)
    service.step(0, classes=BUSY, num_running=7)
    service.step(1, classes=BUSY, num_running=7)
    view: Any = build_view(service.snapshot(0), None)
    short, long = view.size_classes
    assert (short.slot_len, long.slot_len) == (2048, 8192)
    assert (short.num_running, short.num_cached, short.num_free) == (12, 2, 2)
    assert (short.running_cells, short.cached_cells, short.num_cells) == (1800, 400, 2 * 8 * 2048)
    assert view.num_running == 14


def test_each_worker_has_a_line():
    service = Service(num_workers=2)
    service.step(1, classes=BUSY, num_running=7, num_waiting=3)
    service.metrics.worker_restarted(1)
    service.metrics.worker_lost(0)
    down, up = build_view(service.snapshot(0), None).workers
    assert (down.number, down.is_up, down.resident_bytes) == ("0", False, 0)
    assert (up.number, up.is_up, up.num_running, up.num_waiting) == ("1", True, 7, 3)
    assert up.occupancy == pytest.approx(7 / 9)
    assert up.num_restarts == 1
    assert up.resident_bytes > 0


def test_memory_and_cache_are_told():
    service = Service()
    service.step(num_bytes=4096)
    view: Any = build_view(service.snapshot(0), None)
    assert set(view.memory_bytes) == {"weights", "kv", "compute"}
    assert set(view.process_bytes) == {"api", "worker-0"}
    assert {tier.name: tier.num_bytes for tier in view.tiers} == {
        "slot": 0,
        "host": 4096,
        "disk": 0,
    }


def test_incidents_are_counted_since_the_start_and_since_the_last_look():
    service = Service()
    service.metrics.request_rejected("queue_full")
    before = service.snapshot(0)
    service.metrics.request_rejected("queue_full")
    service.metrics.request_failed()
    view: Any = build_view(service.snapshot(1), before)
    assert (view.total.rejections, view.fresh.rejections) == ({"queue_full": 2}, {"queue_full": 1})
    assert view.fresh.errors == 1


def test_a_service_that_is_well_has_no_troubles():
    service = Service()
    service.metrics.request_rejected("queue_full")  # long ago
    assert troubles(service, service.answer) == []


def test_the_worst_comes_first():
    service = Service(num_workers=2)

    def suffer():
        service.metrics.request_rejected("invalid_value")
        service.metrics.worker_lost(1)
        service.answer(gap=0.12)

    levels = [level for level, _ in troubles(service, suffer)]
    assert levels == ["bad", "odd", "odd"]


@pytest.mark.parametrize(
    ("incident", "trouble"),
    [
        (lambda s: s.metrics.worker_lost(0), ("bad", "worker 0 is down")),
        (lambda s: s.metrics.worker_restarted(0), ("bad", "workers restarted: 1")),
        (lambda s: s.metrics.worker_hung(0), ("bad", "workers hung: 1")),
        (lambda s: s.metrics.request_failed(), ("bad", "requests failed: 1")),
        (lambda s: s.metrics.request_quarantined(), ("bad", "requests quarantined: 1")),
        (lambda s: s.metrics.request_resubmitted(), ("odd", "requests resubmitted: 1")),
        (lambda s: s.metrics.request_rejected("queue_full"), ("bad", "refused (queue_full): 1")),
        (lambda s: s.metrics.request_rejected("not_found"), ("odd", "refused (not_found): 1")),
        (lambda s: s.step(num_waiting=1), ("odd", "1 request waits")),
        (lambda s: s.step(num_waiting=10), ("bad", "10 requests wait")),
        (lambda s: s.answer(ttft=15), ("bad", "first token p95 20 s")),
        (lambda s: s.answer(ttft=2.5), ("odd", "first token p95 3 s")),
        (lambda s: s.answer(gap=0.3), ("bad", "between tokens p95 0.39 s")),
    ],
)
def test_what_goes_wrong_is_told(incident, trouble):
    service = Service()
    assert troubles(service, lambda: incident(service)) == [trouble]

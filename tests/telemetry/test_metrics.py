import os
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from service.core.messages import (
    CacheStats,
    ClassStats,
    DeviceMemory,
    Ready,
    SequenceOutput,
    StepReport,
    StepStats,
)
from service.telemetry.metrics import RATE_WINDOW_SECONDS, Metrics


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def build_metrics(clock=None):
    registry = CollectorRegistry()
    return Metrics(registry, clock=clock or Clock()), registry


def ready(**changes):
    values = {
        "model_bytes": 100,
        "kv_bytes": 200,
        "compute_bytes": 300,
        "extra_buffers": True,
        "load_seconds": 1.0,
    }
    return Ready(**values | changes)


def report(num_tokens=0, **changes):
    values = {
        "num_decode_tokens": 0,
        "num_prefill_tokens": 0,
        "num_passes": 1,
        "decode_seconds": 0.01,
        "step_seconds": 0.0125,
        "num_waiting": 0,
        "num_running": 0,
        "num_preemptions": 0,
        "classes": [],
    }
    outputs = [SequenceOutput(index, [7], None, 0) for index in range(num_tokens)]
    return StepReport(outputs=outputs, stats=StepStats(**values | changes))


def test_a_step_is_told_from_its_kind_and_its_parts():
    metrics, registry = build_metrics()
    metrics.observe_step(0, report(num_tokens=3, num_decode_tokens=3, num_running=3))
    metrics.observe_step(0, report(num_prefill_tokens=64, num_decode_tokens=2, num_running=3))
    metrics.observe_step(0, report())

    def value(name, **labels):
        return registry.get_sample_value(f"smolserve_{name}", labels)

    assert value("step_duration_seconds_count", kind="decode") == 1
    assert value("step_duration_seconds_count", kind="mixed") == 1
    assert value("step_duration_seconds_count", kind="prefill") == 0
    assert value("step_seconds_total", where="llama") == pytest.approx(0.02)
    assert value("step_seconds_total", where="python") == pytest.approx(0.005)
    assert value("batch_sequences_count") == 2
    assert value("generated_tokens_total") == 3


def test_gauges_of_a_worker_follow_its_last_report():
    metrics, registry = build_metrics()
    metrics.observe_ready(1, ready(), [(8, 2048), (1, 8192)])
    classes = [ClassStats(3, 2, 500, 90), ClassStats(1, 0, 4000, 0)]
    metrics.observe_step(
        1, report(num_running=4, num_waiting=9, num_preemptions=5, classes=classes)
    )

    def value(name, **labels):
        return registry.get_sample_value(f"smolserve_{name}", {"worker": "1", **labels})

    assert value("worker_up") == 1
    assert value("requests_running") == 4
    assert value("requests_waiting") == 9
    assert value("preemptions_total") == 5
    assert value("slots", **{"class": "2048"}, state="running") == 3
    assert value("slots", **{"class": "2048"}, state="cached") == 2
    assert value("slots", **{"class": "2048"}, state="free") == 3
    assert value("kv_tokens_used", **{"class": "8192"}, state="running") == 4000
    assert value("kv_tokens_total", **{"class": "2048"}) == 8 * 2048
    assert value("batch_occupancy_ratio") == pytest.approx(4 / 9)
    assert value("memory_bytes", kind="kv") == 200


def test_a_lost_worker_holds_nothing():
    metrics, registry = build_metrics()
    metrics.worker_started(0, os.getpid())
    metrics.observe_ready(0, ready(), [(8, 2048)])
    metrics.observe_step(0, report(num_running=4, classes=[ClassStats(4, 0, 100, 0)]))
    metrics.worker_lost(0)
    metrics.worker_restarted(0)

    def value(name, **labels):
        return registry.get_sample_value(f"smolserve_{name}", {"worker": "0", **labels})

    assert value("worker_up") == 0
    assert value("requests_running") == 0
    assert value("slots", **{"class": "2048"}, state="free") == 8
    assert value("memory_bytes", kind="weights") is None
    assert value("worker_restarts_total") == 1


def cache_stats(**changes):
    by_source, by_tier = {"host": 1}, {"host": 10}
    values: dict[str, Any] = {
        "hits": by_source,
        "hit_tokens": by_source,
        "evictions": by_tier,
        "bytes": by_tier,
        "segments": by_tier,
    }
    return CacheStats(**values | changes)


def test_a_cache_is_told_by_source_and_tier_and_as_zero_where_nothing_happened():
    metrics, registry = build_metrics()
    stats = cache_stats(hit_tokens={"session": 70, "disk": 30}, saves=2, save_seconds=0.5)
    metrics.observe_step(0, report(cache=stats))
    metrics.observe_step(1, report(cache=cache_stats(hit_tokens={"session": 5})))
    metrics.observe_step(1, report())  # nothing of it changed

    def value(name, **labels):
        return registry.get_sample_value(f"smolserve_cache_{name}", labels)

    assert value("hit_tokens_total", source="session") == 75
    assert value("hit_tokens_total", source="disk") == 30
    assert value("hit_tokens_total", source="slot") == 0
    assert value("bytes", tier="host") == 20
    assert value("segments", tier="disk") == 0
    assert value("saves_total") == 2
    assert value("save_seconds_total") == 0.5
    assert value("disk_errors_total") == 0


def test_counters_go_on_over_the_death_of_a_worker_and_gauges_do_not():
    metrics, registry = build_metrics()

    def live(num_hits):
        metrics.observe_ready(0, ready(), [(8, 2048)])
        stats = cache_stats(hits={"slot": num_hits}, restores=num_hits)
        metrics.observe_step(0, report(cache=stats, num_preemptions=num_hits))

    def counted():
        return [
            registry.get_sample_value("smolserve_cache_hits_total", {"source": "slot"}),
            registry.get_sample_value("smolserve_cache_restores_total"),
            registry.get_sample_value("smolserve_preemptions_total", {"worker": "0"}),
        ]

    live(3)
    metrics.worker_lost(0)
    assert counted() == [3, 3, 3]
    assert registry.get_sample_value("smolserve_cache_bytes", {"tier": "host"}) == 0
    metrics.worker_lost(0)  # it died again before it said anything
    assert counted() == [3, 3, 3]
    live(2)
    assert counted() == [5, 5, 5]


def test_what_the_death_of_workers_costs_is_counted():
    metrics, registry = build_metrics()
    metrics.worker_hung(0)
    for _ in range(3):
        metrics.request_resubmitted()
    metrics.request_quarantined()

    assert registry.get_sample_value("smolserve_watchdog_kills_total", {"worker": "0"}) == 1
    assert registry.get_sample_value("smolserve_resubmissions_total") == 3
    assert registry.get_sample_value("smolserve_quarantines_total") == 1


def test_tokens_per_second_is_a_mean_over_the_last_whole_seconds():
    clock = Clock()
    metrics, registry = build_metrics(clock)
    for _ in range(2 * RATE_WINDOW_SECONDS):
        metrics.observe_step(0, report(num_tokens=10, num_decode_tokens=10))
        metrics.observe_step(0, report(num_tokens=10, num_prefill_tokens=100))
        clock.now += 1

    def rate(kind):
        return registry.get_sample_value(f"smolserve_{kind}_tokens_per_second")

    assert rate("generated") == pytest.approx(20)
    assert rate("prompt") == pytest.approx(100)
    clock.now += RATE_WINDOW_SECONDS
    assert rate("generated") == 0


def test_a_request_is_measured_from_admission_to_its_last_token():
    metrics, registry = build_metrics()
    metrics.request_admitted()
    metrics.request_began(0.5)
    metrics.first_token(1.0, num_prompt_tokens=100, num_cached_tokens=64)
    metrics.next_token(0.25)
    metrics.request_finished("stop", e2e_seconds=3.0, ttft_seconds=1.0, num_tokens=5)

    def value(name, **labels):
        return registry.get_sample_value(f"smolserve_{name}", labels)

    assert value("requests_total") == 1
    assert value("queue_time_seconds_sum") == 0.5
    assert value("time_to_first_token_seconds_sum") == 1.0
    assert value("inter_token_latency_seconds_sum") == 0.25
    assert value("time_per_output_token_seconds_sum") == pytest.approx(0.5)
    assert value("request_duration_seconds_sum") == 3.0
    assert value("prompt_tokens_total") == 100
    assert value("cached_tokens_total") == 64
    assert value("requests_finished_total", reason="stop") == 1


def test_a_request_of_one_token_has_no_time_per_output_token():
    metrics, registry = build_metrics()
    metrics.request_finished("length", e2e_seconds=1.0, ttft_seconds=1.0, num_tokens=1)
    assert registry.get_sample_value("smolserve_time_per_output_token_seconds_count") == 0


def test_aborts_by_stage_are_there_before_the_first():
    metrics, registry = build_metrics()
    metrics.request_aborted("prefill")
    aborts = {
        stage: registry.get_sample_value("smolserve_aborts_total", {"stage": stage})
        for stage in ("queued", "prefill", "decode")
    }
    assert aborts == {"queued": 0, "prefill": 1, "decode": 0}


def test_memory_of_processes_is_read_when_asked():
    metrics, registry = build_metrics()
    metrics.worker_started(0, os.getpid())
    for name in ("api", "worker-0"):
        labels = {"process": name}
        resident = registry.get_sample_value("smolserve_process_resident_bytes", labels)
        assert resident is not None
        assert resident > 1_000_000


def test_a_gpu_shows_its_memory_and_a_machine_without_one_nothing():
    metrics, registry = build_metrics()
    metrics.observe_ready(0, ready(), [(8, 2048)])
    assert b"vram" not in generate_latest(registry)
    gpu = DeviceMemory(name="CUDA0", free_bytes=300, total_bytes=1000)
    metrics.observe_ready(0, ready(gpus=(gpu,)), [(8, 2048)])

    def vram(state):
        labels = {"worker": "0", "device": "CUDA0", "state": state}
        return registry.get_sample_value("smolserve_vram_bytes", labels)

    assert (vram("used"), vram("free")) == (700, 300)


def test_all_names_carry_the_services_prefix():
    metrics, registry = build_metrics()
    metrics.observe_ready(0, ready(), [(8, 2048)])
    for line in generate_latest(registry).decode().splitlines():
        assert line.startswith(("# HELP smolserve_", "# TYPE smolserve_", "smolserve_")), line

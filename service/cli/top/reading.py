"""From snapshots of metrics to what is shown of them."""

from collections.abc import Iterator

from service.cli.top.quantile import estimate_quantile
from service.cli.top.snapshot import Change, Snapshot
from service.cli.top.view import Incidents, Latency, Rates, SizeClass, Tier, View, Worker

_LATENCIES = {
    "first token": "time_to_first_token_seconds",
    "between tokens": "inter_token_latency_seconds",
    "in queue": "queue_time_seconds",
}
"""The histogram of each."""


def build_view(now: Snapshot, before: Snapshot | None) -> View:
    change = None if before is None else Change(before, now)
    start = Change(Snapshot(time=now.time - 1, series={}), now)
    classes = sorted(_read_classes(now), key=lambda size: size.slot_len)
    return View(
        interval_seconds=None if change is None else change.seconds,
        num_slots=sum(size.num_slots for size in classes),
        num_running=int(now.total("requests_running")),
        num_waiting=int(now.total("requests_waiting")),
        num_sessions=int(now.total("sessions")),
        rates=None if change is None else _read_rates(change),
        latencies=[_read_latency(name, change) for name in _LATENCIES],
        size_classes=classes,
        workers=sorted(_read_workers(now), key=lambda worker: int(worker.number)),
        tiers=list(_read_tiers(now)),
        memory_bytes=_integers(now.by("kind", "memory_bytes")),
        process_bytes=_integers(now.by("process", "process_resident_bytes")),
        vram_bytes=_integers(now.by("state", "vram_bytes")),
        total=_count_incidents(start),
        fresh=None if change is None else _count_incidents(change),
    )


def _read_rates(change: Change) -> Rates:
    num_prompt = change.increase("prompt_tokens_total")
    return Rates(
        generated_tokens=change.rate("generated_tokens_total"),
        prompt_tokens=num_prompt / change.seconds,
        requests=change.rate("requests_total"),
        finished=change.rate("requests_finished_total"),
        aborted=change.rate("aborts_total"),
        embedding_tokens=change.rate("embedding_tokens_total"),
        cached_ratio=change.increase("cached_tokens_total") / num_prompt if num_prompt else None,
        cached_sources={
            source: tokens / change.seconds
            for source, tokens in change.increase_by("source", "cache_hit_tokens_total").items()
        },
    )


def _read_latency(name: str, change: Change | None) -> Latency:
    if change is None:
        return Latency(name=name)
    buckets = change.buckets(_LATENCIES[name])
    p50, p95, p99 = (estimate_quantile(quantile, buckets) for quantile in (0.5, 0.95, 0.99))
    return Latency(name=name, p50=p50, p95=p95, p99=p99)


def _read_classes(now: Snapshot) -> Iterator[SizeClass]:
    for size, num_cells in now.by("class", "kv_tokens_total").items():
        slots = now.by("state", "slots", **{"class": size})
        cells = now.by("state", "kv_tokens_used", **{"class": size})
        yield SizeClass(
            slot_len=int(size),
            num_running=int(slots.get("running", 0)),
            num_cached=int(slots.get("cached", 0)),
            num_free=int(slots.get("free", 0)),
            running_cells=int(cells.get("running", 0)),
            cached_cells=int(cells.get("cached", 0)),
            num_cells=int(num_cells),
        )


def _read_workers(now: Snapshot) -> Iterator[Worker]:
    for number, is_up in now.by("worker", "worker_up").items():
        yield Worker(
            number=number,
            is_up=bool(is_up),
            num_running=int(now.total("requests_running", worker=number)),
            num_waiting=int(now.total("requests_waiting", worker=number)),
            occupancy=now.total("batch_occupancy_ratio", worker=number),
            resident_bytes=int(now.total("process_resident_bytes", process=f"worker-{number}")),
            num_preemptions=int(now.total("preemptions_total", worker=number)),
            num_restarts=int(now.total("worker_restarts_total", worker=number)),
            num_hangs=int(now.total("watchdog_kills_total", worker=number)),
        )


def _read_tiers(now: Snapshot) -> Iterator[Tier]:
    for name, num_bytes in now.by("tier", "cache_bytes").items():
        yield Tier(
            name=name,
            num_bytes=int(num_bytes),
            num_segments=int(now.total("cache_segments", tier=name)),
            num_evictions=int(now.total("cache_evictions_total", tier=name)),
        )


def _count_incidents(change: Change) -> Incidents:
    rejections = _integers(change.increase_by("code", "rejections_total"))
    return Incidents(
        restarts=int(change.increase("worker_restarts_total")),
        hangs=int(change.increase("watchdog_kills_total")),
        resubmissions=int(change.increase("resubmissions_total")),
        quarantines=int(change.increase("quarantines_total")),
        errors=int(change.increase("requests_finished_total", reason="error")),
        disk_errors=int(change.increase("cache_disk_errors_total")),
        rejections={code: count for code, count in rejections.items() if count},
    )


def _integers(values: dict[str, float]) -> dict[str, int]:
    return {name: int(value) for name, value in values.items()}

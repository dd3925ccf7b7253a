"""What of a view needs a look, and how urgently."""

import math
from collections.abc import Iterator
from typing import Literal

import msgspec

from service.cli.top.view import Incidents, View

Level = Literal["good", "odd", "bad"]

LIMITS = {
    "first token": (2.0, 5.0),
    "between tokens": (0.1, 0.2),
    "in queue": (1.0, 5.0),
}
"""Seconds from which a p95 is odd and bad: the target that is set by default, and what the alerts
take as an objective."""
FULL = (0.9, math.inf)
"""Share of slots from which it is odd that so many run; that is never bad by itself."""


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    level: Level
    text: str


def grade(value: float | None, limits: tuple[float, float]) -> Level:
    odd, bad = limits
    if value is None or value < odd:
        return "good"
    return "odd" if value < bad else "bad"


def list_troubles(view: View) -> list[Trouble]:
    """The worst first."""
    found = [*_of_workers(view), *_of_load(view), *_of_latencies(view)]
    if view.fresh is not None:
        found += _of_incidents(view.fresh)
    return sorted(found, key=lambda trouble: trouble.level != "bad")


def _of_workers(view: View) -> Iterator[Trouble]:
    down = [worker.number for worker in view.workers if not worker.is_up]
    if not view.workers:
        yield Trouble(level="bad", text="no worker is ready yet")
    elif down:
        yield Trouble(level="bad", text=f"worker {', '.join(down)} is down")


def _of_load(view: View) -> Iterator[Trouble]:
    if view.num_waiting:
        level: Level = "bad" if view.num_waiting > view.num_slots else "odd"
        noun = "request waits" if view.num_waiting == 1 else "requests wait"
        yield Trouble(level=level, text=f"{view.num_waiting} {noun}")


def _of_latencies(view: View) -> Iterator[Trouble]:
    for latency in view.latencies:
        level = grade(latency.p95, LIMITS[latency.name])
        if level != "good" and latency.p95 is not None:
            text = f"{latency.name} p95 {latency.p95:.2g} s"
            yield Trouble(level=level, text=text)


def _of_incidents(fresh: Incidents) -> Iterator[Trouble]:
    counts: dict[str, tuple[int, Level]] = {
        "workers restarted": (fresh.restarts, "bad"),
        "workers hung": (fresh.hangs, "bad"),
        "requests quarantined": (fresh.quarantines, "bad"),
        "requests failed": (fresh.errors, "bad"),
        "requests resubmitted": (fresh.resubmissions, "odd"),
        "errors of the disk tier": (fresh.disk_errors, "odd"),
    }
    for name, (count, level) in counts.items():
        if count:
            yield Trouble(level=level, text=f"{name}: {count}")
    for code, count in fresh.rejections.items():
        level = "bad" if code in {"queue_full", "engine_unavailable"} else "odd"
        yield Trouble(level=level, text=f"refused ({code}): {count}")

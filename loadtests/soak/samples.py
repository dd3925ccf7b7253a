"""What the service holds at a moment: processes, slots, store; and its counters."""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from loadtests.server import parse_metrics
from loadtests.soak.site import Site

_LABELS = re.compile(r"\{.*\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSample:
    pid: int
    resident_bytes: int
    num_descriptors: int
    num_threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    at: float
    """Seconds since the load began."""
    api: ProcessSample
    workers: tuple[ProcessSample, ...]
    num_up: float
    """Workers that have loaded the model."""
    num_other_children: int
    num_running: float
    num_waiting: float
    num_sessions: float
    host_bytes: float
    disk_bytes: float
    num_segments: Mapping[str, float]
    """By tier."""
    num_files: int
    file_bytes: int
    state_bytes: int


class Sampler:
    def __init__(self, http: httpx.AsyncClient, site: Site, *, key: str) -> None:
        self._http = http
        self._site = site
        self._headers = {"Authorization": f"Bearer {key}"}
        self._turn = asyncio.Lock()
        self.metrics: Mapping[str, float] = {}
        """As they were last read."""
        self.fallen: list[str] = []
        """Counters that went back from one reading to the next."""

    async def read_metrics(self) -> Mapping[str, float]:
        async with self._turn:  # or an older answer might be taken for the later one
            answer = await self._http.get("/metrics", headers=self._headers)
            before, self.metrics = self.metrics, parse_metrics(answer.text)
            self.fallen += find_fallen(before, self.metrics)
            return self.metrics

    async def sample(self, at: float) -> Sample:
        metrics = await self.read_metrics()
        children = self._site.children()
        workers = self._site.find_workers()
        files = _sizes(self._site.kv_folder, "*.kv")
        api = _measure(self._site.service)
        assert api is not None
        return Sample(
            at=at,
            api=api,
            workers=tuple(each for each in map(_measure, workers) if each is not None),
            num_up=add_up(metrics, "smolserve_worker_up"),
            num_other_children=len(children) - len(workers),
            num_running=add_up(metrics, "smolserve_requests_running"),
            num_waiting=add_up(metrics, "smolserve_requests_waiting"),
            num_sessions=metrics["smolserve_sessions"],
            host_bytes=metrics['smolserve_cache_bytes{tier="host"}'],
            disk_bytes=metrics['smolserve_cache_bytes{tier="disk"}'],
            num_segments={
                tier: metrics[f'smolserve_cache_segments{{tier="{tier}"}}']
                for tier in ("host", "disk")
            },
            num_files=len(files),
            file_bytes=sum(files),
            state_bytes=sum(_sizes(self._site.state_folder, "*")),
        )


def add_up(metrics: Mapping[str, float], name: str) -> float:
    """A metric over all its labels."""
    return sum(value for each, value in metrics.items() if _LABELS.sub("", each) == name)


def find_fallen(before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
    """Counters that went back, which none may."""
    endings = ("_total", "_count", "_sum", "_bucket")
    return [
        name
        for name, value in before.items()
        if name.split("{", 1)[0].endswith(endings) and after.get(name, 0) < value
    ]


def _measure(process: psutil.Process) -> ProcessSample | None:
    """None if it ended meanwhile."""
    try:
        with process.oneshot():
            return ProcessSample(
                pid=process.pid,
                resident_bytes=process.memory_info().rss,
                num_descriptors=process.num_fds(),
                num_threads=process.num_threads(),
            )
    except psutil.Error:
        return None


def _sizes(folder: Path, pattern: str) -> list[int]:
    sizes: list[int] = []
    for path in folder.rglob(pattern):
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:  # deleted while we looked
            continue
    return sizes

"""A pool of real worker processes that run the simulated engine."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client import CollectorRegistry

from service.core.request import GenerationRequest
from service.core.sampling import SamplingParams
from service.engine.config import EngineConfig, SimulatedModel
from service.runtime.config import PoolConfig
from service.runtime.pool import EnginePool
from service.runtime.stream import OutputStream
from service.telemetry.metrics import Metrics


def token_bytes(token: int) -> bytes:
    """Every token of the simulated model is a word."""
    return f" {token}".encode()


def engine_config(contexts: str = "2x64,1x256", **model: Any) -> EngineConfig:
    return EngineConfig(
        model_path="", contexts=contexts, threads=1, simulate=SimulatedModel(**model)
    )


def request(
    prompt: list[int], *, max_tokens: int | None = 8, stop: tuple[str, ...] = (), tenant: str = ""
) -> GenerationRequest:
    return GenerationRequest(
        request_id="r",
        prompt=prompt,
        sampling=SamplingParams(ignore_eos=True),
        max_tokens=max_tokens,
        stop=stop,
        tenant=tenant,
    )


class PoolBench:
    """A started pool and the registry that its metrics are on."""

    def __init__(self, config: PoolConfig) -> None:
        self.registry = CollectorRegistry()
        self.pool = EnginePool(config, token_bytes, Metrics(self.registry))

    def sample(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"smolserve_{name}", labels)


@asynccontextmanager
async def running_pool(
    engine: EngineConfig | None = None, *, workers: int = 1, max_queued: int = 100
) -> AsyncIterator[PoolBench]:
    config = PoolConfig(
        engine=engine or engine_config(), num_workers=workers, max_queued=max_queued
    )
    bench = PoolBench(config)
    await bench.pool.start()
    try:
        yield bench
    finally:
        await bench.pool.stop()


async def read(stream: OutputStream) -> str:
    return "".join([delta.text async for delta in stream])

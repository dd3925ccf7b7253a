"""A pool of real worker processes that run the simulated engine."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psutil
from prometheus_client import CollectorRegistry

from service.core.plan import make_tokens
from service.core.request import GenerationRequest
from service.core.sampling import SamplingParams
from service.engine.config import EngineConfig, SimulatedModel
from service.engine.simulated_engine import next_token
from service.runtime.config import PoolConfig
from service.runtime.pool import EnginePool, Witness
from service.runtime.stream import OutputStream
from service.telemetry.metrics import Metrics


def token_bytes(token: int) -> bytes:
    """Every token of the simulated model is a word."""
    return f" {token}".encode()


def engine_config(
    contexts: str = "2x64,1x256", *, embedding_len: Any = 0, **model: Any
) -> EngineConfig:
    return EngineConfig(
        model_path="",
        contexts=contexts,
        threads=1,
        embedding_len=embedding_len,
        simulate=SimulatedModel(**model),
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


def undisturbed(prompt: list[int], num_tokens: int) -> list[int]:
    """What a request for as many tokens generates when nothing happens to it."""
    tokens = make_tokens(prompt)
    for _ in range(num_tokens):
        token = next_token(tokens, SimulatedModel().num_vocab)
        tokens.append(token + (token in SimulatedModel().eog_tokens))
    return list(tokens[len(prompt) :])


def worker_processes() -> list[psutil.Process]:
    """The living workers of this process's pools, the oldest first."""
    workers: list[psutil.Process] = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if "service.engine.worker" in child.cmdline():
                workers.append(child)
    return sorted(workers, key=lambda worker: worker.create_time())


def kill_a_worker(number: int = signal.SIGKILL) -> None:
    worker_processes()[0].send_signal(number)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until a condition holds; the test's own time limit ends a wait in vain."""
    async with asyncio.timeout(40):
        while not condition():  # noqa: ASYNC110 - conditions lie in other processes
            await asyncio.sleep(0.005)


class PoolBench:
    """A started pool and the registry that its metrics are on."""

    def __init__(
        self,
        config: PoolConfig,
        token_bytes: Callable[[int], bytes],
        witnesses: Sequence[Witness] = (),
    ) -> None:
        self.registry = CollectorRegistry()
        metrics = Metrics(self.registry)
        self.pool = EnginePool(config, token_bytes, metrics, witnesses=witnesses)

    def sample(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"smolserve_{name}", labels)


@asynccontextmanager
async def running_pool(
    engine: EngineConfig | None = None,
    *,
    workers: int = 1,
    max_queued: int = 100,
    watchdog_seconds: float = 30.0,
    token_bytes: Callable[[int], bytes] = token_bytes,
    witnesses: Sequence[Witness] = (),
) -> AsyncIterator[PoolBench]:
    config = PoolConfig(
        engine=engine or engine_config(),
        num_workers=workers,
        max_queued=max_queued,
        watchdog_seconds=watchdog_seconds,
    )
    bench = PoolBench(config, token_bytes, witnesses)
    await bench.pool.start()
    try:
        yield bench
    finally:
        await bench.pool.stop()


async def read(stream: OutputStream) -> str:
    return "".join([delta.text async for delta in stream])


async def read_tokens(stream: OutputStream) -> list[int]:
    return [token async for delta in stream for token in delta.token_ids]

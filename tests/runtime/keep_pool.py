"""Runs a busy pool until killed; prints the worker's process id when it is ready."""

import asyncio
import sys

import psutil

from service.telemetry.logs import configure_logging
from tests.runtime.builders import engine_config, read, request, running_pool


async def main() -> None:
    async with running_pool(engine_config(step_seconds=0.02)) as bench:
        stream = bench.pool.submit(request([5], max_tokens=None))
        await anext(stream)
        (worker,) = psutil.Process().children()
        sys.stdout.write(f"{worker.pid}\n")
        sys.stdout.flush()
        while True:
            await read(bench.pool.submit(request([5], max_tokens=None)))


if __name__ == "__main__":
    configure_logging("info", "json")  # off standard output
    asyncio.run(main())

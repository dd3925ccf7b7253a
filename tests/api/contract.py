"""A service that is asked everything that its own description allows, and some that it does not.

`python -m tests.api.contract` asks some thousand requests; any option of `st run` goes behind it.
"""

import asyncio
import os
import sys
import tempfile
import threading
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import schemathesis

from service.api.internal_call import InternalCaller
from service.api.rate_limits import RateLimits
from service.batches.config import BatchesConfig
from tests.api.builders import serving
from tests.runtime.builders import engine_config, running_pool

LIMITS = RateLimits(requests_per_minute=10**6, tokens_per_minute=10**9)
"""Told by headers, and never reached."""
CHECK_NAMES = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
)
"""All but those that know nothing of fields that contradict each other."""


@schemathesis.hook
def before_call(_context, case, _options):
    """Leaves time: a 504 at a deadline that was asked for is a failure to these checks."""
    if _is_time(case.headers.get("X-Request-Timeout")):
        case.headers["X-Request-Timeout"] = "60"


def _is_time(value):
    try:
        return 0 < float(value) < float("inf")
    except (TypeError, ValueError):
        return False


@asynccontextmanager
async def complete_service():
    """Everything there is, over workers whose engine is simulated."""
    with tempfile.TemporaryDirectory() as folder:
        batching = BatchesConfig(directory=Path(folder))
        async with (
            running_pool(engine_config("8x256", embedding_len=64)) as bench,
            serving(bench.pool, batching=batching, rate_limits=LIMITS) as service,
        ):
            await service.batches.start(InternalCaller(service.app))
            try:
                yield service
            finally:
                await service.batches.stop()


@contextmanager
def service_in_a_thread():
    """For what does not know of event loops."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    running = complete_service()
    try:
        yield asyncio.run_coroutine_threadsafe(running.__aenter__(), loop).result(30)
    finally:
        asyncio.run_coroutine_threadsafe(running.__aexit__(None, None, None), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def main(options):
    async with complete_service() as service:
        command = ("-m", "schemathesis.cli", "run", f"{service.url}/openapi.json")
        chosen = ("--checks", ",".join(CHECK_NAMES), "--phases", "coverage,fuzzing", *options)
        environment = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.api.contract"}  # noqa: TID251 - a script hands its environment on
        asking = await asyncio.create_subprocess_exec(
            sys.executable, *command, *chosen, env=environment
        )
        status = await asking.wait()
        print(*{line["exc_info"] for line in service.log if "exc_info" in line}, sep="\n")  # noqa: T201
        return status


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))

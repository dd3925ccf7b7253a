"""The server that the suite talks to."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from loadtests.server import running_service

MODEL = "smollm2-135m-instruct"
API_KEY = "sk-compat"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    base_url: str  # with /v1
    api_key: str
    model: str

    def as_environment(self) -> dict[str, str]:
        return {
            "COMPAT_BASE_URL": self.base_url,
            "COMPAT_API_KEY": self.api_key,
            "COMPAT_MODEL": self.model,
        }


@contextmanager
def serving_target() -> Iterator[Target]:
    """Our service on the embedded model."""
    settings = {
        "engine__contexts": "4x2048",
        "engine__threads": "2",
        "api_keys": API_KEY,
    }
    with running_service(**settings) as (host, port):
        yield Target(base_url=f"http://{host}:{port}/v1", api_key=API_KEY, model=MODEL)


def read_variable(name: str) -> str | None:
    return os.environ.get(f"COMPAT_{name}")  # noqa: TID251 - a test run is told where to go

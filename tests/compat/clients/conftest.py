"""In .venv-compat; test_clients.py says where the server is and turns reporting home off."""

import os
import sys
from collections.abc import Iterator
from typing import Literal
from urllib.parse import urlsplit

import pytest
from pydantic import BaseModel

BASE_URL = os.environ["COMPAT_BASE_URL"]  # noqa: TID251 - said by test_clients.py


class Review(BaseModel):
    """A review of a product."""

    sentiment: Literal["good", "bad"]
    stars: Literal[1, 2, 3, 4, 5]


@pytest.fixture(scope="session")
def base_url() -> str:
    return BASE_URL


@pytest.fixture(scope="session")
def api_key() -> str:
    return os.environ["COMPAT_API_KEY"]  # noqa: TID251 - said by test_clients.py


@pytest.fixture(scope="session")
def model() -> str:
    return os.environ["COMPAT_MODEL"]  # noqa: TID251 - said by test_clients.py


@pytest.fixture(scope="session")
def review() -> type[Review]:
    return Review


@pytest.fixture(scope="session", autouse=True)
def no_other_host() -> Iterator[None]:
    """Looking up another host fails, and fails the run even where a client swallows that."""
    allowed = {urlsplit(BASE_URL).hostname, None, "localhost", "127.0.0.1", "::1"}
    others: list[str] = []

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event == "socket.getaddrinfo" and arguments[0] not in allowed:
            others.append(str(arguments[0]))
            raise PermissionError(f"{arguments[0]} is not the server under test")

    sys.addaudithook(watch)
    yield
    assert others == []

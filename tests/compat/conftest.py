from collections.abc import AsyncIterator, Iterator

import pytest
from openai import AsyncOpenAI, OpenAI

from tests.compat.target import MODEL, Target, read_variable, serving_target

collect_ignore = ["clients"]  # test_clients.py runs them, each in .venv-compat


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("compat", "the server that tests/compat talks to")
    group.addoption("--base-url", help="its OpenAI API, as in http://127.0.0.1:8000/v1")
    group.addoption("--api-key", help="a key it takes; any, where it asks for none")
    group.addoption("--compat-model", help="the model to ask for")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if chosen(config, "base_url") is None:
        for item in items:
            if item.path.is_relative_to(config.rootpath / "tests" / "compat"):
                item.add_marker(pytest.mark.model)


def chosen(config: pytest.Config, option: str) -> str | None:
    """An option is unknown to a run of the whole suite, which sees this file too late for it."""
    variable = {"compat_model": "MODEL"}.get(option, option.upper())
    return config.getoption(option, None) or read_variable(variable)


@pytest.fixture(scope="session")
def target(pytestconfig: pytest.Config) -> Iterator[Target]:
    if (url := chosen(pytestconfig, "base_url")) is None:
        with serving_target() as target:
            yield target
    else:
        url = url.rstrip("/")
        yield Target(
            base_url=url if url.endswith("/v1") else f"{url}/v1",
            api_key=chosen(pytestconfig, "api_key") or "none",
            model=chosen(pytestconfig, "compat_model") or MODEL,
        )


@pytest.fixture(scope="session")
def client(target: Target) -> Iterator[OpenAI]:
    with OpenAI(base_url=target.base_url, api_key=target.api_key, max_retries=0) as client:
        yield client


@pytest.fixture
async def async_client(target: Target) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        base_url=target.base_url, api_key=target.api_key, max_retries=0
    ) as client:
        yield client


@pytest.fixture(scope="session")
def model(target: Target) -> str:
    return target.model

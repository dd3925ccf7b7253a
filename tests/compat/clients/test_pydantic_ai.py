"""Pydantic AI's agents."""

import asyncio

import pytest
from openai import AsyncOpenAI
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.usage import UsageLimits

BOUNDS = {"temperature": 0, "max_tokens": 60}
ASKED = "Judge this review: I love this lamp, it is perfect."
OVER_BOTH = pytest.mark.parametrize("kind", [OpenAIChatModel, OpenAIResponsesModel])


@pytest.fixture
def run(base_url, api_key, model):
    def run(kind, then, **agent_fields):
        async def converse():
            async with AsyncOpenAI(base_url=base_url, api_key=api_key, max_retries=0) as client:
                provider = OpenAIProvider(openai_client=client)
                return await then(Agent(kind(model, provider=provider), **agent_fields))

        return asyncio.run(converse())

    return run


@OVER_BOTH
@pytest.mark.parametrize("wrap", [ToolOutput, NativeOutput])
def test_the_output_has_the_type_asked_for(run, kind, wrap, review):
    async def converse(agent):
        return await agent.run(ASKED, model_settings=BOUNDS)

    result = run(kind, converse, output_type=wrap(review))
    assert isinstance(result.output, review)


@OVER_BOTH
def test_text_is_streamed(run, kind):
    async def converse(agent):
        async with agent.run_stream("Name a colour.", model_settings=BOUNDS) as result:
            return [text async for text in result.stream_text(delta=True)]

    assert "".join(run(kind, converse))


@OVER_BOTH
def test_a_tool_is_run_and_the_agent_goes_on(run, kind):
    cities = []

    def get_weather(city: str) -> str:
        """Get the current weather of a city."""
        cities.append(city)
        return f"18 degrees in {city}"

    def settings(context):
        return {**BOUNDS, "tool_choice": ["get_weather"] if context.run_step <= 1 else "none"}

    async def converse(agent):
        return await agent.run(
            "What is the weather in Paris?", usage_limits=UsageLimits(request_limit=2)
        )

    result = run(kind, converse, tools=[get_weather], model_settings=settings)
    assert len(cities) == 1
    assert result.output

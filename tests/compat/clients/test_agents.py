"""OpenAI's Agents SDK, over chat completions and over responses."""

import asyncio

import pytest
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
)
from openai import AsyncOpenAI

OVER_BOTH = pytest.mark.parametrize("kind", [OpenAIChatCompletionsModel, OpenAIResponsesModel])


@function_tool
def get_weather(city: str) -> str:
    """Get the current weather of a city."""
    return f"18 degrees in {city}"


@pytest.fixture
def run(base_url, api_key, model):
    """Has an agent answer; `then`, where given, does with its runs what it likes."""

    def run(kind, then, **agent_fields):
        async def converse():
            async with AsyncOpenAI(base_url=base_url, api_key=api_key, max_retries=0) as client:
                agent = Agent(
                    name="Weather",
                    instructions="Be brief.",
                    model=kind(model=model, openai_client=client),
                    **agent_fields,
                )
                return await then(agent)

        return asyncio.run(converse())

    return run


def bounds(**settings):
    return ModelSettings(temperature=0, max_tokens=60, **settings)


@OVER_BOTH
def test_a_function_tool_is_run_and_its_result_is_told(run, kind):
    async def converse(agent):
        called = await Runner.run(agent, "What is the weather in Paris?", max_turns=2)
        told = await Runner.run(
            agent.clone(model_settings=bounds(tool_choice="none")), called.to_input_list()
        )
        return called, told

    called, told = run(
        kind,
        converse,
        tools=[get_weather],
        model_settings=bounds(tool_choice="required"),
        tool_use_behavior="stop_on_first_tool",
    )
    assert called.final_output.startswith("18 degrees in ")
    assert [item.type for item in called.new_items] == ["tool_call_item", "tool_call_output_item"]
    assert told.final_output


@OVER_BOTH
def test_a_run_is_streamed(run, kind):
    async def converse(agent):
        result = Runner.run_streamed(agent, "Name a colour.")
        return [event async for event in result.stream_events()], result.final_output

    events, output = run(kind, converse, model_settings=bounds())
    raw = [event.data for event in events if event.type == "raw_response_event"]
    deltas = [event.delta for event in raw if event.type == "response.output_text.delta"]
    assert "".join(deltas) == output


@OVER_BOTH
def test_the_output_has_the_type_asked_for(run, kind, review):
    async def converse(agent):
        return await Runner.run(agent, "Judge this review: I love this lamp.")

    result = run(kind, converse, model_settings=bounds(), output_type=review)
    assert isinstance(result.final_output, review)

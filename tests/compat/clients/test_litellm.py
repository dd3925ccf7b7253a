"""LiteLLM, the server being an OpenAI-compatible one."""

import asyncio
import json

import litellm
import pytest

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Rome"]}},
            "required": ["city"],
        },
    },
}


@pytest.fixture
def fields(base_url, api_key, model):
    return {
        "model": f"openai/{model}",
        "api_base": base_url,
        "api_key": api_key,
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        "temperature": 0,
        "max_tokens": 40,
        "num_retries": 0,
    }


def test_an_answer_has_text_and_usage(fields):
    answer = litellm.completion(**fields)
    assert answer.choices[0].message.content
    assert answer.usage.total_tokens > 0


def test_chunks_are_streamed_to_an_asynchronous_caller(fields):
    async def stream():
        chunks = await litellm.acompletion(**fields, stream=True)
        return [chunk.choices[0].delta.content or "" async for chunk in chunks]

    pieces = asyncio.run(stream())
    assert "".join(pieces) == litellm.completion(**fields).choices[0].message.content


def test_a_call_is_made(fields):
    answer = litellm.completion(**fields, tools=[WEATHER], tool_choice="required")
    [call] = answer.choices[0].message.tool_calls
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")


def test_an_answer_has_the_shape_of_a_model(fields, review):
    answer = litellm.completion(**fields, response_format=review)
    assert review.model_validate_json(answer.choices[0].message.content)


def test_errors_are_its_own(fields):
    if fields["api_key"] != "none":
        with pytest.raises(litellm.AuthenticationError):
            litellm.completion(**fields | {"api_key": "sk-wrong"})
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(**fields | {"model": "openai/no-such-model"})
    with pytest.raises(litellm.BadRequestError):
        litellm.completion(**fields | {"temperature": 9})

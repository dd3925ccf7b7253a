"""Function calling on the embedded model, which knows no tools, through the OpenAI client."""

import json
from collections.abc import Iterator
from typing import Literal

import pytest
from jsonschema import validate
from openai import BadRequestError, OpenAI, pydantic_function_tool
from pydantic import BaseModel, Field

from loadtests.server import running_service

pytestmark = pytest.mark.model

MODEL = "smollm2-135m-instruct"


def function(name, description, properties, **schema):
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    described = {"name": name, "description": description, "parameters": parameters | schema}
    return {"type": "function", "function": described}


WEATHER = function(
    "get_weather",
    "Get the current weather of a city",
    {"city": {"type": "string", "maxLength": 40}, "unit": {"enum": ["celsius", "fahrenheit"]}},
)
ADD = function("add", "Add two numbers", {"a": {"type": "number"}, "b": {"type": "number"}})
TOOLS = [WEATHER, ADD]
PARAMETERS = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}
NAMED = {"type": "function", "function": {"name": "add"}}


@pytest.fixture(scope="module")
def client() -> Iterator[OpenAI]:
    with running_service(engine__contexts="4x2048", engine__threads="2") as (host, port):
        client = OpenAI(base_url=f"http://{host}:{port}/v1", api_key="none", max_retries=0)
        with client:
            yield client


def fields(text, **changes):
    messages = [{"role": "user", "content": text}]
    base = {"model": MODEL, "messages": messages, "tools": TOOLS, "temperature": 0}
    return base | {"max_tokens": 200} | changes


def ask(client, text, **changes):
    """The one choice of an answer that is sent at once, or streamed and put together by the SDK."""
    request = fields(text, **changes)
    if not request.pop("stream", False):
        return client.chat.completions.create(**request).choices[0]
    with client.chat.completions.stream(**request) as stream:
        return stream.get_final_completion().choices[0]


def check(calls):
    for call in calls:
        validate(json.loads(call.function.arguments), PARAMETERS[call.function.name])


STREAMED = pytest.mark.parametrize("stream", [False, True])


@STREAMED
@pytest.mark.parametrize("choice", ["required", NAMED])
def test_a_call_is_made_and_its_result_is_told(client, choice, stream):
    question = "What is 17 plus 25?"
    called = ask(client, question, tool_choice=choice, stream=stream)
    assert called.finish_reason == "tool_calls"
    assert called.message.content is None
    [call] = called.message.tool_calls
    assert call.function.name == "add"
    arguments = json.loads(call.function.arguments)
    assert (arguments["a"], arguments["b"]) == (17, 25)
    history = [
        {"role": "user", "content": question},
        called.message,
        {"role": "tool", "tool_call_id": call.id, "content": "42"},
    ]
    told = ask(client, "", messages=history, stream=stream)
    assert told.finish_reason == "stop"
    assert "42" in told.message.content


@STREAMED
def test_several_calls_are_made_where_they_are_asked_for(client, stream):
    choice = ask(
        client,
        "What is the weather in Paris and in Rome?",
        tool_choice="required",
        parallel_tool_calls=True,
        stream=stream,
        max_tokens=1000,
    )
    assert choice.finish_reason == "tool_calls"
    calls = choice.message.tool_calls
    assert len(calls) > 1
    assert len({call.id for call in calls}) == len(calls)
    check(calls)


class Place(BaseModel):
    city: str = Field(max_length=20)
    country: Literal["ch", "fr", "it"]


class LookUpWeather(BaseModel):
    """Look up the weather of a place."""

    place: Place
    days: list[Literal["today", "tomorrow"]] = Field(max_length=2)
    unit: Literal["celsius", "fahrenheit"] | None


@STREAMED
def test_the_sdk_reads_arguments_as_the_model_that_it_made_the_tool_of(client, stream):
    fields_of_call = {"tools": [pydantic_function_tool(LookUpWeather)], "tool_choice": "required"}
    request = fields("How warm is it in Rome?", **fields_of_call)
    if stream:
        with client.chat.completions.stream(**request) as chunks:
            answer = chunks.get_final_completion()
    else:
        answer = client.chat.completions.parse(**request)
    [call] = answer.choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, LookUpWeather)


@STREAMED
def test_calls_are_valid_whatever_the_draws(client, stream):
    for seed in range(5):
        choice = ask(
            client,
            "How warm is it in Bern?",
            tool_choice="required",
            temperature=1.5,
            seed=seed,
            stream=stream,
        )
        assert choice.finish_reason == "tool_calls"
        [call] = choice.message.tool_calls
        check([call])


def test_chunks_join_to_the_whole_call(client):
    request = fields("How warm is it in Bern?", tool_choice="required", seed=1)
    [whole] = client.chat.completions.create(**request).choices[0].message.tool_calls
    chunks = list(client.chat.completions.create(**request, stream=True))
    deltas = [delta for chunk in chunks for delta in chunk.choices[0].delta.tool_calls or ()]
    first, *others = deltas
    assert (first.type, first.function.name) == ("function", whole.function.name)
    assert first.id
    assert first.function.arguments == ""
    assert {(delta.index, delta.id, delta.function.name) for delta in others} == {(0, None, None)}
    arguments = "".join(delta.function.arguments for delta in others)
    assert arguments == whole.function.arguments
    assert len(others) > 3, "arguments come while they are written"
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


@STREAMED
def test_a_call_that_the_limit_cuts_off_is_a_matter_of_length(client, stream):
    request = fields("How warm is it in Bern?", tool_choice="required", max_tokens=14)
    if stream:
        *_, last = client.chat.completions.create(**request, stream=True)
    else:
        last = client.chat.completions.create(**request)
    assert last.choices[0].finish_reason == "length"


def test_a_model_that_may_call_answers_or_makes_a_valid_call(client):
    for seed in range(3):
        choice = ask(client, "How warm is it in Bern?", temperature=1, seed=seed)
        if choice.message.tool_calls:
            check(choice.message.tool_calls)
        else:
            assert choice.message.content


def test_no_call_is_made_where_none_is_wanted(client):
    choice = ask(client, "How warm is it in Bern?", tool_choice="none")
    assert choice.message.tool_calls is None
    assert choice.message.content


@pytest.mark.parametrize("strict", [True, False])
def test_a_schema_that_cannot_be_compiled_is_named(client, strict):
    bad = function("bad", "", {"a": {"type": "string", "pattern": "("}})
    bad["function"]["strict"] = strict
    with pytest.raises(BadRequestError) as refusal:
        ask(client, "Hi", tools=[WEATHER, bad])
    assert (refusal.value.param or "").startswith("tools[1].function.parameters")


def test_what_cannot_be_honoured_in_a_schema_is_refused_for_strict_tools_alone(client):
    odd = function("odd", "", {"a": {"type": "array", "uniqueItems": True, "maxItems": 2}})
    odd["function"]["strict"] = True
    with pytest.raises(BadRequestError) as refusal:
        ask(client, "Hi", tools=[WEATHER, odd])
    assert (refusal.value.param or "").startswith("tools[1].function.parameters")
    odd["function"]["strict"] = False
    assert ask(client, "Hi", tools=[WEATHER, odd], tool_choice="required").message.tool_calls

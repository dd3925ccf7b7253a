"""Structured output through the whole service and the OpenAI client, streamed and not."""

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import validate
from openai import AsyncOpenAI, BadRequestError, OpenAI
from pydantic import BaseModel, Field

from loadtests.server import running_service

pytestmark = pytest.mark.model

MODEL = "smollm2-135m-instruct"
CITY = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "founded": {"type": "integer", "minimum": 0, "maximum": 2000},
    },
    "required": ["name", "founded"],
}
HOSTILE = {
    "allOf": [
        {"type": "integer", "multipleOf": 9973},
        {"type": "integer", "multipleOf": 9967},
    ]
}


class Person(BaseModel):
    name: str = Field(max_length=12)
    age: int = Field(ge=0, le=120)
    nick: str | None = Field(max_length=6)


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    with running_service(engine__contexts="8x512", engine__threads="2") as address:
        yield address


@pytest.fixture(scope="module")
def client(address) -> Iterator[OpenAI]:
    url = f"http://{address[0]}:{address[1]}/v1"
    with OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def schema_format(schema) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def ask(client, *, stream=False, **fields):
    """The answer's text and why it ended."""
    messages = [{"role": "user", "content": "Tell me about a city."}]
    body: dict[str, Any] = {
        "model": MODEL,
        "messages": messages,
        "max_tokens": 100,
        "seed": 1,
    } | fields
    if not stream:
        choice = client.chat.completions.create(**body).choices[0]
        return choice.message.content, choice.finish_reason
    chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**body, stream=True)]
    text = "".join(chunk.delta.content or "" for chunk in chunks)
    return text, chunks[-1].finish_reason


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_is_valid_against_its_schema(client, stream):
    text, reason = ask(client, stream=stream, response_format=schema_format(CITY))
    validate(json.loads(text), CITY)
    assert reason == "stop"


def test_the_sdk_parses_a_model_of_its_own(client):
    messages: Any = [{"role": "user", "content": "Make up a person."}]
    completion = client.chat.completions.parse(
        model=MODEL, messages=messages, response_format=Person, max_tokens=100
    )
    assert isinstance(completion.choices[0].message.parsed, Person)


def test_any_object_that_is_cut_is_a_beginning_and_says_so(client):
    text, reason = ask(client, response_format={"type": "json_object"}, max_tokens=4)
    assert text.startswith("{")
    assert reason == "length"


@pytest.mark.parametrize(
    ("wanted", "pattern"),
    [
        ({"choice": ["Paris", "New York"]}, "Paris|New York"),
        ({"regex": r"\d{4}-\d{2}"}, r"[0-9]{4}-[0-9]{2}"),
        ({"grammar": 'start: "a" B\nB: /b{2,4}/'}, "ab{2,4}"),
        ({"grammar": 'root ::= "a" b\nb ::= [b-d]'}, "a[b-d]"),
        ({"json": {"enum": [1, 2]}}, "1|2"),
    ],
)
def test_extensions_hold_an_answer_to_their_form(client, wanted, pattern):
    text, reason = ask(client, extra_body={"structured_outputs": wanted})
    assert re.fullmatch(pattern, text)
    assert reason == "stop"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (
            {"response_format": schema_format({"properties": {"a": {"not": {}}}})},
            "response_format.json_schema.schema.properties.a.not",
        ),
        ({"extra_body": {"structured_outputs": {"regex": "(a"}}}, "structured_outputs.regex"),
        (
            {"extra_body": {"structured_outputs": {"grammar": "a ::="}}},
            "structured_outputs.grammar",
        ),
        ({"extra_body": {"structured_outputs": {"regex": "a", "json": {}}}}, "structured_outputs"),
        ({"extra_body": {"guided_json": {}}}, "guided_json"),
        (
            {"response_format": schema_format({"x-guidance": {"lenient": True}})},
            "response_format.json_schema.schema",
        ),
        (
            {
                "response_format": {"type": "json_object"},
                "extra_body": {"structured_outputs": {"regex": "a"}},
            },
            "structured_outputs",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_held_to_is_refused_by_name(client, fields, param, stream):
    with pytest.raises(BadRequestError) as refusal:
        ask(client, stream=stream, **fields)
    assert refusal.value.param == param


async def test_a_hostile_schema_is_refused_while_streams_go_on(address):
    url = f"http://{address[0]}:{address[1]}/v1"
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        messages: Any = [{"role": "user", "content": "Count to a hundred."}]
        stream = await client.chat.completions.create(
            model=MODEL,
            messages=messages,
            stream=True,
            max_tokens=400,
            extra_body={"ignore_eos": True},
        )
        await anext(stream)
        with pytest.raises(BadRequestError, match=r"takes more than"):
            async with asyncio.timeout(2):
                await client.chat.completions.create(
                    model=MODEL, messages=messages, response_format=schema_format(HOSTILE)
                )
        await stream.close()

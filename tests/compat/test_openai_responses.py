"""Responses through the official SDK."""

import json

import pytest
from openai import NotFoundError

from tests.compat.shapes import ASKED_REVIEW, ASKED_WEATHER, WEATHER, Review

TOOL = {"type": "function", **WEATHER["function"]}
BOUNDS = {"temperature": 0, "max_output_tokens": 24}


def test_a_response_has_text_and_usage(client, model):
    response = client.responses.create(
        model=model, input="Name a colour.", instructions="Be brief.", **BOUNDS
    )
    assert response.object == "response"
    assert response.status in ("completed", "incomplete")
    assert response.output_text
    assert response.usage.total_tokens > 0


def test_a_chain_goes_on_from_what_was_kept(client, model):
    first = client.responses.create(model=model, input="My name is Ada.", **BOUNDS)
    second = client.responses.create(
        model=model, input="What is my name?", previous_response_id=first.id, **BOUNDS
    )
    assert second.previous_response_id == first.id
    assert second.usage.input_tokens > first.usage.input_tokens
    assert client.responses.retrieve(first.id).output_text == first.output_text
    assert client.responses.input_items.list(first.id).data
    client.responses.delete(first.id)
    with pytest.raises(NotFoundError):
        client.responses.retrieve(first.id)


def test_events_are_numbered_and_join_to_the_last_one(client, model):
    with client.responses.stream(model=model, input="Name a colour.", **BOUNDS) as stream:
        events = list(stream)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created"
    assert events[-1].type in ("response.completed", "response.incomplete")
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == events[-1].response.output_text


def test_a_response_is_parsed_as_a_pydantic_model(client, model):
    fields = {"model": model, "input": ASKED_REVIEW, "text_format": Review}
    bounds = {"temperature": 0, "max_output_tokens": 60}
    assert isinstance(client.responses.parse(**fields, **bounds).output_parsed, Review)
    with client.responses.stream(**fields, **bounds) as stream:
        assert isinstance(stream.get_final_response().output_parsed, Review)


def test_a_function_is_called_and_its_result_is_told(client, model):
    fields = {"model": model, "tools": [TOOL], "temperature": 0, "max_output_tokens": 60}
    called = client.responses.create(**fields, input=ASKED_WEATHER, tool_choice="required")
    [call] = [item for item in called.output if item.type == "function_call"]
    assert call.name == "get_weather"
    assert json.loads(call.arguments)["city"] in ("Paris", "Rome")
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "18 degrees"}
    told = client.responses.create(
        **fields, input=[result], previous_response_id=called.id, tool_choice="none"
    )
    assert told.output_text

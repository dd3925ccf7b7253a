"""Chat completions through the official SDK."""

import json
import math

from openai import pydantic_function_tool

from tests.compat.shapes import ASKED_REVIEW, ASKED_WEATHER, WEATHER, Review, asking

QUESTION = asking("What is the capital of France? Answer in one sentence.")


def test_an_answer_has_text_an_end_and_usage(client, model):
    answer = client.chat.completions.create(
        model=model, messages=QUESTION, temperature=0, max_tokens=16
    )
    [choice] = answer.choices
    assert answer.id
    assert answer.object == "chat.completion"
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.completion_tokens <= 16


def test_chunks_join_to_what_is_answered_at_once(client, model):
    fields = {"model": model, "messages": QUESTION, "temperature": 0, "max_tokens": 16, "seed": 1}
    whole = client.chat.completions.create(**fields)
    with client.chat.completions.create(
        **fields, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    *spoken, last = chunks
    assert len({chunk.id for chunk in chunks}) == 1
    assert spoken[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in spoken)
    assert text == whole.choices[0].message.content
    assert spoken[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert last.choices == []
    assert last.usage.completion_tokens == whole.usage.completion_tokens


def test_the_stream_helper_tells_events_and_the_final_completion(client, model):
    with client.chat.completions.stream(
        model=model, messages=QUESTION, temperature=0, max_tokens=16
    ) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    deltas = [event.delta for event in events if event.type == "content.delta"]
    assert "".join(deltas) == final.choices[0].message.content
    assert [event for event in events if event.type == "content.done"]


def test_an_answer_is_parsed_as_a_pydantic_model(client, model):
    fields = {"model": model, "messages": asking(ASKED_REVIEW), "response_format": Review}
    bounds = {"temperature": 0, "max_tokens": 60}
    parsed = client.chat.completions.parse(**fields, **bounds).choices[0].message.parsed
    assert isinstance(parsed, Review)
    with client.chat.completions.stream(**fields, **bounds) as stream:
        streamed = stream.get_final_completion().choices[0].message.parsed
    assert streamed == parsed


def test_a_json_object_is_json(client, model):
    answer = client.chat.completions.create(
        model=model,
        messages=asking("Answer with a JSON object that has the key city."),
        response_format={"type": "json_object"},
        temperature=0,
        max_tokens=200,
    )
    [choice] = answer.choices
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content), dict)


def test_a_call_is_made_and_its_result_is_told(client, model):
    fields = {"model": model, "tools": [WEATHER], "temperature": 0, "max_tokens": 60}
    question = asking(ASKED_WEATHER)
    [called] = client.chat.completions.create(
        **fields, messages=question, tool_choice="required"
    ).choices
    assert called.finish_reason == "tool_calls"
    [call] = called.message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
    told = client.chat.completions.create(
        **fields,
        messages=[
            *question,
            called.message,
            {"role": "tool", "tool_call_id": call.id, "content": "18 degrees, sunny"},
        ],
        tool_choice="none",
    ).choices[0]
    assert told.message.content
    assert not told.message.tool_calls


def test_a_streamed_call_is_put_together(client, model):
    named = {"type": "function", "function": {"name": "Review"}}
    with client.chat.completions.stream(
        model=model,
        messages=asking(ASKED_REVIEW),
        tools=[pydantic_function_tool(Review)],
        tool_choice=named,
        temperature=0,
        max_tokens=60,
    ) as stream:
        events = list(stream)
        [call] = stream.get_final_completion().choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, Review)
    deltas = [e for e in events if e.type == "tool_calls.function.arguments.delta"]
    assert "".join(event.arguments_delta for event in deltas) == call.function.arguments


def test_logprobs_join_to_the_text(client, model):
    answer = client.chat.completions.create(
        model=model,
        messages=QUESTION,
        temperature=0,
        max_tokens=8,
        logprobs=True,
        top_logprobs=3,
    )
    [choice] = answer.choices
    entries = choice.logprobs.content
    spoken = b"".join(bytes(entry.bytes) for entry in entries)
    assert spoken.decode(errors="ignore").startswith(choice.message.content)
    for entry in entries:
        assert len(entry.top_logprobs) == 3
        assert entry.logprob <= 0
        assert math.isclose(entry.top_logprobs[0].logprob, entry.logprob, abs_tol=1e-6)


def test_n_gives_that_many_choices(client, model):
    fields = {"model": model, "messages": QUESTION, "n": 2, "seed": 3, "max_tokens": 8}
    answer = client.chat.completions.create(**fields)
    assert [choice.index for choice in answer.choices] == [0, 1]
    with client.chat.completions.create(**fields, stream=True) as stream:
        seen = {choice.index for chunk in stream for choice in chunk.choices}
    assert seen == {0, 1}

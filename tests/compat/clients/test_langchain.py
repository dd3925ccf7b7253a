"""LangChain's ChatOpenAI."""

import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI


@tool
def get_weather(city: str) -> str:
    """Get the current weather of a city."""
    return f"18 degrees in {city}"


@pytest.fixture
def chat(base_url, api_key, model):
    return ChatOpenAI(
        base_url=base_url,
        api_key=api_key,
        model=model,
        temperature=0,
        max_tokens=60,
        max_retries=0,
        stream_usage=True,  # else it asks OpenAI's own address only
    )


def test_an_answer_has_text_and_usage(chat):
    answer = chat.invoke("Name a colour.")
    assert answer.content
    assert answer.usage_metadata["output_tokens"] > 0


def test_chunks_are_streamed_and_add_up(chat):
    chunks = list(chat.stream("Name a colour."))
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    assert len(chunks) > 1
    assert total.content == chat.invoke("Name a colour.").content
    assert total.usage_metadata["output_tokens"] > 0


@pytest.mark.parametrize("choice", ["required", "get_weather"])
def test_a_bound_tool_is_called_and_its_result_is_told(chat, choice):
    question = HumanMessage("What is the weather in Paris?")
    called = chat.bind_tools([get_weather], tool_choice=choice).invoke([question])
    [call] = called.tool_calls
    result = get_weather.invoke(call)
    assert isinstance(result, ToolMessage)
    told = chat.bind_tools([get_weather], tool_choice="none").invoke([question, called, result])
    assert told.content


def test_a_call_is_streamed(chat):
    bound = chat.bind_tools([get_weather], tool_choice="required")
    chunks = list(bound.stream("What is the weather in Paris?"))
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    [call] = total.tool_calls
    assert call["name"] == "get_weather"
    assert list(call["args"]) == ["city"]


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output_is_the_model_asked_for(chat, review, method):
    structured = chat.with_structured_output(review, method=method)
    assert isinstance(structured.invoke("Judge: I love this lamp."), review)


def test_structured_output_is_streamed(chat, review):
    *_, last = chat.with_structured_output(review).stream("Judge: I love this lamp.")
    assert isinstance(last, review)


def test_the_responses_api_is_spoken(base_url, api_key, model):
    chat = ChatOpenAI(
        base_url=base_url,
        api_key=api_key,
        model=model,
        temperature=0,
        max_tokens=40,
        max_retries=0,
        use_responses_api=True,
    )
    assert chat.invoke("Name a colour.").text
    assert "".join(chunk.text for chunk in chat.stream("Name a colour."))

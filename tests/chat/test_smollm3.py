from datetime import date

import pytest

from service.chat.messages import Tool
from service.chat.parser import ContentText, ReasoningText, ToolCallArguments, ToolCallStart
from service.chat.smollm3 import SmolLM3Format
from service.errors import InvalidRequest
from tests.chat.builders import (
    assistant,
    call,
    chat,
    counting_ids,
    join,
    render,
    result,
    system,
    user,
)

FORMAT = SmolLM3Format(counting_ids())
WEATHER = Tool(
    name="weather",
    description="Says the weather.",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}},
)
ORDERS = system("Answer in rhymes.")


def turns(text):
    """All behind the system block."""
    return text.split("<|im_end|>\n", 1)[1]


def read(text, *messages, **fields):
    parser = FORMAT.parser(chat(*messages, **fields))
    return join(parser.feed(text, 1) + parser.finish())


def test_system_block_has_metadata_then_instructions():
    assert render(FORMAT, ORDERS, user("Hi"), today=date(2026, 11, 21)) == (
        "<|im_start|>system\n"
        "## Metadata\n\n"
        "Knowledge Cutoff Date: June 2025\n"
        "Today Date: 21 November 2026\n"
        "Reasoning Mode: /think\n\n"
        "## Custom Instructions\n\n"
        "Answer in rhymes.\n\n"
        "<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_without_a_date_the_head_never_changes():
    assert "Today" not in render(FORMAT, user())


def test_a_persona_stands_in_for_missing_instructions():
    thinking, answering = render(FORMAT, user()), render(FORMAT, user(), enable_thinking=False)
    assert "named SmolLM, trained by Hugging Face. Your role" in thinking
    assert "named SmolLM, trained by Hugging Face.\n\n<|im_end|>" in answering


def test_without_thinking_the_prompt_ends_with_an_empty_thought():
    text = render(FORMAT, user("Hi"), enable_thinking=False)
    assert "Reasoning Mode: /no_think\n" in text
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n")


@pytest.mark.parametrize(
    ("text", "enable_thinking", "thinks"),
    [
        ("Be brief.", None, True),
        ("Be brief.", False, False),
        ("/no_think", None, False),
        ("/no_think", True, False),
        ("/think", False, True),
        ("Be brief. /think", False, True),
        ("Be brief (/think).", False, True),
        ("/think or /no_think", None, False),
        ("See /thinking/docs", False, False),
        ("See docs/think", False, False),
        ("See https://example.org/think", False, False),
        ("See /think/more and /think.html", False, False),
        ("See /no_thinking", True, True),
    ],
)
def test_flags_in_the_system_message_win_as_whole_words(text, enable_thinking, thinks):
    conversation = chat(system(text), user(), enable_thinking=enable_thinking)
    assert FORMAT.thinks(conversation) is thinks


def test_flag_of_a_later_system_message_wins():
    assert FORMAT.thinks(chat(system("/no_think"), user(), system("/think"), user()))


def test_flag_in_a_user_message_is_text():
    conversation = chat(user("/no_think"))
    assert FORMAT.thinks(conversation)
    assert "user\n/no_think<|im_end|>" in render(FORMAT, *conversation.messages)


@pytest.mark.parametrize(
    ("text", "instructions"),
    [
        ("/no_think", ""),
        ("/no_think\nBe brief.", "Be brief."),
        ("Be brief. /think Rhyme.", "Be brief. Rhyme."),
        ("See /thinking/docs /think", "See /thinking/docs"),
    ],
)
def test_flags_are_taken_out_of_the_instructions(text, instructions):
    block = render(FORMAT, system(text), user()).split("## Custom Instructions\n\n")[1]
    assert block.startswith(f"{instructions}\n\n<|im_end|>" if instructions else "You are a")


def test_long_runs_of_spaces_cost_nothing():
    assert "x" in render(FORMAT, system(" " * 100_000 + "x"), user())


def test_system_override_replaces_the_block():
    text = render(FORMAT, system("/system_override /no_think You are a cat."), user("Hi"))
    assert text.startswith("<|im_start|>system\nYou are a cat.<|im_end|>\n<|im_start|>user\nHi")
    assert text.endswith("<think>\n\n</think>\n")


def test_tools_survive_a_system_override():
    text = render(FORMAT, system("You are a cat. /system_override"), user(), tools=[WEATHER])
    assert text.startswith("<|im_start|>system\nYou are a cat.\n\n### Tools\n\n")


def test_system_messages_at_the_head_are_joined_and_later_ones_stay_where_they_are():
    text = render(FORMAT, ORDERS, system("Be brief."), user("Hi"), system("Louder."), user("Hi"))
    assert "## Custom Instructions\n\nAnswer in rhymes.\n\nBe brief.\n\n<|im_end|>" in text
    assert "Hi<|im_end|>\n<|im_start|>system\nLouder.<|im_end|>\n<|im_start|>user" in text


def test_tools_are_listed_as_json_between_tags():
    text = render(FORMAT, ORDERS, user(), tools=[WEATHER])
    assert (
        "Answer in rhymes.\n\n### Tools\n\n"
        "You may call one or more functions to assist with the user query.\n"
        "You are provided with function signatures within <tools></tools> XML tags:\n\n"
        '<tools>\n{"type": "function", "function": {"name": "weather", "description": '
        '"Says the weather.", "parameters": {"type": "object", "properties": {"city": '
        '{"type": "string"}}}}}\n</tools>\n\n'
    ) in text
    assert "</tool_call>\n\n<|im_end|>\n" in text


def test_tools_of_the_official_template_are_listed_too():
    kwargs = {"xml_tools": ["{'name': 'a'}", {"name": "b"}], "python_tools": "def c(): ..."}
    text = render(FORMAT, user(), tools=[WEATHER], template_kwargs=kwargs)
    assert "}\n{'name': 'a'}\n{\"name\": \"b\"}\n</tools>" in text
    assert "regular functions:\n<tools>\ndef c(): ...\n</tools>\n\nThe state persists" in text
    assert text.count("### Tools") == 1


@pytest.mark.parametrize(
    ("kwargs", "param"),
    [
        ({"xml_tools": 3}, "chat_template_kwargs.xml_tools"),
        ({"python_tools": [3]}, "chat_template_kwargs.python_tools"),
        ({"colour": "red"}, "chat_template_kwargs.colour"),
    ],
)
def test_template_arguments_it_cannot_use_are_refused_by_name(kwargs, param):
    with pytest.raises(InvalidRequest) as refusal:
        FORMAT.render(chat(user(), template_kwargs=kwargs))
    assert refusal.value.param == param


def test_calls_and_results_in_the_history_are_what_the_model_writes_and_reads():
    history = [user("Weather?"), assistant("Wait.", tool_calls=(call(),)), result("sunny")]
    assert turns(render(FORMAT, *history, tools=[WEATHER])) == (
        "<|im_start|>user\nWeather?<|im_end|>\n"
        "<|im_start|>assistant\nWait.\n"
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\nsunny\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_parallel_results_share_a_turn_and_say_whose_they_are():
    calls = (call("a", call_id="1"), call("b", call_id="2"))
    text = turns(render(FORMAT, assistant(tool_calls=calls), result("B", "2"), result("A", "1")))
    assert "</tool_call>\n<tool_call>\n" in text
    assert (
        "<|im_start|>user\n"
        '<tool_response>\n{"name": "a", "content": "A"}\n</tool_response>\n'
        '<tool_response>\n{"name": "b", "content": "B"}\n</tool_response><|im_end|>\n'
    ) in text


def test_code_calls_in_the_history_are_code_blocks_again():
    code = call("python", '{"code": "\\nprint(1)\\n"}')
    kwargs = {"python_tools": ["def f(): ..."]}
    text = turns(render(FORMAT, assistant(tool_calls=(code,)), template_kwargs=kwargs))
    assert "assistant\n<code>\nprint(1)\n</code><|im_end|>" in text


def test_thoughts_that_the_client_kept_are_rendered():
    text = turns(render(FORMAT, user(), assistant("Four.", reasoning="2 + 2"), user()))
    assert "<|im_start|>assistant\n<think>\n2 + 2\n</think>\nFour.<|im_end|>\n" in text


def test_history_without_thinking_has_empty_thoughts():
    text = turns(render(FORMAT, user(), assistant("Four."), user(), enable_thinking=False))
    assert "<|im_start|>assistant\n<think>\n\n</think>\nFour.<|im_end|>\n" in text


def test_what_the_model_wrote_is_rendered_back_as_it_was():
    written = (
        "<think>\nLook it up.\n</think>\nWait.\n"
        '<tool_call>\n{"name": "weather", "arguments": {"city":"Bern"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "weather", "arguments": {}}\n</tool_call>'
    )
    question = [user("Weather?")]
    thought, content, first, arguments, second, no_arguments = read(
        written, *question, tools=[WEATHER]
    )
    assert isinstance(thought, ReasoningText)
    assert isinstance(content, ContentText)
    assert isinstance(first, ToolCallStart)
    assert isinstance(arguments, ToolCallArguments)
    assert isinstance(second, ToolCallStart)
    assert isinstance(no_arguments, ToolCallArguments)
    answer = assistant(
        content.text,
        reasoning=thought.text,
        tool_calls=(
            call(first.name, arguments.text, first.id),
            call(second.name, no_arguments.text, second.id),
        ),
    )
    before = render(FORMAT, *question, tools=[WEATHER])
    after = render(FORMAT, *question, answer, user("And?"), tools=[WEATHER])
    assert after.startswith(before + written + "<|im_end|>\n")


def test_continued_answer_ends_the_prompt_without_an_end_of_turn():
    text = render(FORMAT, user(), assistant("Four, be"), continue_final_message=True)
    assert text.endswith("<|im_start|>assistant\nFour, be")
    assert read("\ncause", user(), assistant("Four, be"), continue_final_message=True) == [
        ContentText("\ncause")
    ]


def test_continued_thought_is_left_open():
    messages = [user(), assistant(reasoning="Two and")]
    text = render(FORMAT, *messages, continue_final_message=True)
    assert text.endswith("<|im_start|>assistant\n<think>\nTwo and")
    assert read(" two.\n</think>\nFour.", *messages, continue_final_message=True) == [
        ReasoningText(" two."),
        ContentText("Four."),
    ]


def test_thought_can_be_opened_for_a_budget():
    assert render(FORMAT, user(), open_thought=True).endswith("assistant\n<think>\n")
    assert read("Well.</think>Four.", user(), open_thought=True) == [
        ReasoningText("Well."),
        ContentText("Four."),
    ]


def test_thought_is_not_opened_for_a_model_that_will_not_think():
    text = render(FORMAT, system("/no_think"), user(), open_thought=True)
    assert text.endswith("<think>\n\n</think>\n")
    assert read("Four.", system("/no_think"), user(), open_thought=True) == [ContentText("Four.")]


def test_calls_are_read_only_where_tools_were_offered():
    text = '<tool_call>{"name": "f"}</tool_call>'
    assert read(text, user()) == [ContentText(text)]
    assert read("<code>1</code>", user(), tools=[WEATHER]) == [ContentText("<code>1</code>")]

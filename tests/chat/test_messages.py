import pytest

from service.chat.messages import (
    Message,
    Tool,
    check_conversation,
    fold_tools,
    function_schema,
    join_parts,
    normalize,
)
from service.errors import InvalidRequest
from tests.chat.builders import assistant, call, chat, result, system, user


def test_content_parts_become_paragraphs():
    assert join_parts(["Read this:", "a text"]) == "Read this:\na text"


def test_developer_is_the_newer_name_of_system():
    assert normalize([Message(role="developer", content="Be brief.")]) == [system("Be brief.")]


def test_name_of_a_speaker_is_said():
    assert normalize([user("Hi", name="Ada")]) == [user("Ada: Hi")]


def test_tool_result_gets_the_name_of_its_call():
    *_, linked = normalize([assistant(tool_calls=(call("weather"),)), result("sunny")])
    assert linked == result("sunny", name="weather")


def test_tool_results_stand_in_the_order_of_their_calls():
    calls = (call("a", call_id="1"), call("b", call_id="2"))
    messages = [assistant(tool_calls=calls), result("B", "2"), result("A", "1"), result("?", "9")]
    assert [m.content for m in normalize(messages)] == ["", "A", "B", "?"]


def test_results_of_another_turn_stay_in_theirs():
    first, second = call("a", call_id="1"), call("b", call_id="2")
    messages = [
        assistant(tool_calls=(first,)),
        result("A", "1"),
        assistant(tool_calls=(second,)),
        result("B", "2"),
    ]
    assert [m.content for m in normalize(messages)] == ["", "A", "", "B"]


def test_folded_calls_and_results_are_text():
    folded = fold_tools([assistant("Wait.", tool_calls=(call(),)), result("sunny")])
    assert folded == [
        assistant(
            'Wait.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>'
        ),
        user("<tool_response>\nsunny\n</tool_response>"),
    ]


def test_folded_results_of_several_calls_say_whose_they_are():
    calls = (call("a", call_id="1"), call("b", call_id="2"))
    _, first, second = fold_tools(
        normalize([assistant(tool_calls=calls), result('{"x": 1}', "1"), result("B", "2")])
    )
    assert '{"name": "a", "content": {"x": 1}}' in first.content
    assert '{"name": "b", "content": "B"}' in second.content


@pytest.mark.parametrize(
    ("arguments", "spelled"),
    [('{"a":1}', '{"a":1}'), ("", "{}"), (" ", "{}"), ("oops", '"oops"'), ('{"a', '"{\\"a"')],
)
def test_arguments_keep_their_spelling_and_broken_ones_become_a_string(arguments, spelled):
    [message] = fold_tools([assistant(tool_calls=(call("f", arguments),))])
    assert f'"arguments": {spelled}}}' in message.content


def test_schema_leaves_out_what_the_client_left_out():
    assert function_schema(Tool(name="f")) == {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("conversation", "param"),
    [
        (chat(), "messages"),
        (chat(user(), continue_final_message=True), "continue_final_message"),
        (
            chat(assistant(tool_calls=(call(),)), continue_final_message=True),
            "continue_final_message",
        ),
    ],
)
def test_what_no_format_can_render_is_refused(conversation, param):
    with pytest.raises(InvalidRequest) as refusal:
        check_conversation(conversation)
    assert refusal.value.param == param

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.chat.parser import (
    ContentText,
    Parsed,
    PlainParser,
    ReasoningText,
    TaggedParser,
    Tags,
    ToolCallArguments,
    ToolCallStart,
)
from tests.chat.builders import counting_ids, join, parse

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>'
PARSED_CALL = [
    ToolCallStart(0, "id0", "weather"),
    ToolCallArguments(0, '{"city": "Bern"}'),
]


def test_text_without_tags_is_content():
    assert parse(["Hello, ", "world"]) == [ContentText("Hello, world")]


def test_thought_and_answer_are_split_without_their_newlines():
    text = "<think>\nWell…\n\nFirst.\n</think>\n\nFour."
    assert parse([text]) == [ReasoningText("Well…\n\nFirst."), ContentText("Four.")]


def test_thought_that_the_prompt_opened_needs_no_tag():
    parsed = parse(["Well.\n</think>\nFour."], in_thought=True)
    assert parsed == [ReasoningText("Well."), ContentText("Four.")]


@pytest.mark.parametrize("thought", ["<think></think>", "<think>\n\n</think>\n"])
def test_empty_thought_leaves_nothing(thought):
    assert parse([thought + "Four."]) == [ContentText("Four.")]


def test_thought_without_an_end_is_a_thought():
    assert parse(["<think>Well, <b>so</b> </thi"]) == [ReasoningText("Well, <b>so</b> </thi")]


def test_thinking_opens_only_a_response():
    text = "Write <think> to think."
    assert parse([text]) == [ContentText(text)]


def test_stray_end_of_thought_is_content():
    assert parse(["Four. </think> Five."]) == [ContentText("Four. </think> Five.")]


def test_continued_answer_keeps_its_newlines():
    assert parse(["\n\nand"], in_content=True) == [ContentText("\n\nand")]


def test_call_becomes_a_start_and_its_arguments_as_written():
    assert parse([CALL]) == PARSED_CALL


def test_start_of_a_call_is_known_with_its_name():
    parser = TaggedParser(Tags(tool_calls=True), counting_ids())
    assert parser.feed('<tool_call>{"name": "weather"', 5) == [ToolCallStart(0, "id0", "weather")]
    assert parser.feed(', "arguments": {"ci', 5) == [ToolCallArguments(0, '{"ci')]
    assert not parser.calls_complete
    assert parser.feed('ty": 1}', 5) == [ToolCallArguments(0, 'ty": 1}')]
    assert not parser.calls_complete
    parser.feed("}", 1)
    assert parser.calls_complete


def test_arguments_before_the_name_wait_for_it():
    text = '<tool_call>{"arguments": {"city": "Bern"}, "name": "weather"}</tool_call>'
    assert parse([text]) == PARSED_CALL


def test_call_without_arguments_has_an_empty_object():
    assert parse(['<tool_call>{"name": "now"}</tool_call>']) == [
        ToolCallStart(0, "id0", "now"),
        ToolCallArguments(0, "{}"),
    ]


def test_thought_text_and_calls_come_in_order():
    text = f"<think>\nLook it up.\n</think>\nOne moment.\n{CALL}\n{CALL}"
    assert parse([text]) == [
        ReasoningText("Look it up."),
        ContentText("One moment.\n"),
        *PARSED_CALL,
        ToolCallStart(1, "id1", "weather"),
        ToolCallArguments(1, '{"city": "Bern"}'),
    ]


def test_text_after_a_call_is_content():
    assert parse([CALL + "\n\nDone."]) == [*PARSED_CALL, ContentText("Done.")]


def test_call_inside_a_thought_is_thought():
    parsed = parse([f"<think>I could {CALL}, but no.</think>No."])
    assert parsed == [ReasoningText(f"I could {CALL}, but no."), ContentText("No.")]


@pytest.mark.parametrize(
    "body",
    [
        "",
        "weather(Bern)",
        "{'name': 'weather'}",
        '{"arguments": "Bern", "name": "weather"}',
        '{"name": 3, "arguments": {}}',
        '{"name": "", "arguments": {}}',
        '{"arguments": {"city": "Bern",}, "name": "weather"}',
        '[{"name": "weather", "arguments": {}}]',
        '{"arguments": {}}',
        "{}",
    ],
)
def test_malformed_call_is_content(body):
    text = f"Look: <tool_call>{body}</tool_call> there."
    assert parse([text]) == [ContentText(text)]


def test_call_after_a_malformed_one_is_a_call():
    parsed = parse([f"<tool_call>oops {CALL}"])
    assert parsed == [ContentText("<tool_call>oops "), *PARSED_CALL]


def test_what_follows_an_error_in_the_arguments_is_content_and_the_call_is_incomplete():
    parser = TaggedParser(Tags(tool_calls=True), counting_ids())
    parsed = parser.feed('<tool_call>{"name": "f", "arguments": {"a": x}} and so', 9)
    assert parsed == [
        ToolCallStart(0, "id0", "f"),
        ToolCallArguments(0, '{"a": '),
        ContentText("x}} and so"),
    ]
    parser.feed(CALL, 9)
    assert not parser.calls_complete


@pytest.mark.parametrize("end", ["", "\n", "\n</tool", "</tool_call>", "\n</tool_call>\n"])
def test_call_is_complete_with_its_json_whatever_becomes_of_its_tag(end):
    parser = TaggedParser(Tags(tool_calls=True), counting_ids())
    parser.feed(CALL.removesuffix("\n</tool_call>") + end, 9)
    assert parser.finish() == []
    assert parser.calls_complete


@pytest.mark.parametrize("length", range(len("<tool_call>"), len(CALL) - len("}\n</tool_call>")))
def test_truncated_call_is_incomplete_and_loses_nothing_before_its_name(length):
    parser = TaggedParser(Tags(tool_calls=True), counting_ids())
    parsed = parser.feed(CALL[:length], 9) + parser.finish()
    assert not parser.calls_complete
    if not any(isinstance(item, ToolCallStart) for item in parsed):
        assert parsed == [ContentText(CALL[:length])]


def test_call_tag_means_nothing_without_tools():
    assert parse([CALL], tool_calls=False) == [ContentText(CALL)]


def test_code_block_is_a_call_of_python():
    start, arguments = parse(['<code>\nprint("ä")\n</code>'], code=True)
    assert start == ToolCallStart(0, "id0", "python")
    assert isinstance(arguments, ToolCallArguments)
    assert json.loads(arguments.text) == {"code": '\nprint("ä")\n'}


def test_code_block_without_an_end_is_an_incomplete_call():
    parser = TaggedParser(Tags(code=True), counting_ids())
    parsed = parser.feed("<code>1 < 2", 3) + parser.finish()
    assert parsed == [
        ToolCallStart(0, "id0", "python"),
        ToolCallArguments(0, '{"code": "1 < 2'),
    ]
    assert not parser.calls_complete


def test_code_tag_means_nothing_without_python_tools():
    assert parse(["Use <code>ls</code>."]) == [ContentText("Use <code>ls</code>.")]


def test_reasoning_tokens_are_counted_to_the_end_of_the_thought():
    parser = TaggedParser(Tags(thinking=True), counting_ids())
    for token in ["<think>", "\n", "Well", ".", "\n", "</think>", "\n", "Four", "."]:
        parser.feed(token, 1)
    parser.finish()
    assert parser.num_reasoning_tokens == 6


def test_reasoning_tokens_of_a_tag_in_pieces_are_counted():
    parser = TaggedParser(Tags(thinking=True), counting_ids())
    for token in ["<", "thi", "nk>", "Well", "</", "think", ">", "Four"]:
        parser.feed(token, 1)
    assert parser.num_reasoning_tokens == 7


def test_reasoning_tokens_of_a_thought_that_was_cut_off_are_all_counted():
    parser = TaggedParser(Tags(thinking=True), counting_ids())
    parser.feed("<think>Well", 3)
    parser.feed("</", 1)
    parser.finish()
    assert parser.num_reasoning_tokens == 4


def test_parser_knows_whether_a_thought_is_open():
    parser = TaggedParser(Tags(thinking=True, in_thought=True), counting_ids())
    assert parser.in_thought
    parser.feed("Well.</think>", 4)
    assert not parser.in_thought


def test_plain_parser_passes_everything_on():
    parser = PlainParser()
    assert parser.feed(f"<think>{CALL}", 3) == [ContentText(f"<think>{CALL}")]
    assert parser.feed("", 1) == []
    assert parser.finish() == []


FRAGMENTS = st.sampled_from(
    [
        *("<think>", "</think>", "<tool_call>", "</tool_call>", "<code>", "</code>"),
        *("\n", "\n\n", " ", "<", "</", "text", "a < b", "é🦙", "<tool", "think>"),
        *(CALL, '{"name": "f", "arguments": {"a": [1, -2.5e3, true, null, "x\\u00e9\\n"]}}'),
        *('{"name": "f"', ', "arguments": ', '{"a": ', '"', "}", "{", "]", "print(1)\n"),
    ]
)


@st.composite
def cut_texts(draw):
    text = "".join(draw(st.lists(FRAGMENTS, max_size=12)))
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    bounds = [0, *cuts, len(text)]
    return text, [text[start:end] for start, end in pairwise(bounds)]


@given(cut_texts(), st.booleans(), st.booleans(), st.booleans())
def test_result_does_not_depend_on_how_the_text_is_cut(cut_text, tool_calls, code, in_thought):
    text, chunks = cut_text
    tags = {"tool_calls": tool_calls, "code": code, "in_thought": in_thought}
    whole = parse([text], **tags)
    assert parse(chunks, **tags) == whole
    assert parse(text, **tags) == whole


@given(cut_texts())
def test_no_delta_is_empty(cut_text):
    parser = TaggedParser(Tags(thinking=True, tool_calls=True, code=True), counting_ids())
    deltas = [item for chunk in cut_text[1] for item in parser.feed(chunk, 1)] + parser.finish()
    assert all(item.text for item in deltas if not isinstance(item, ToolCallStart))


@given(cut_texts())
def test_nothing_is_lost_of_text_without_calls(cut_text):
    text, chunks = cut_text
    parsed = parse(chunks, thinking=False, tool_calls=False)
    assert parsed == [ContentText(text)] * bool(text)


@given(cut_texts(), st.booleans())
def test_content_says_where_in_the_text_it_stands(cut_text, in_thought):
    text, chunks = cut_text
    tags = Tags(thinking=True, tool_calls=True, code=True, in_thought=in_thought)
    parser = TaggedParser(tags, counting_ids())
    end = 0
    for item in [item for chunk in chunks for item in parser.feed(chunk, 1)] + parser.finish():
        if isinstance(item, ContentText):
            assert item.start >= end
            end = item.start + len(item.text)
            assert text[item.start : end] == item.text


TEXTS = st.text(st.characters(exclude_characters="<", exclude_categories=["Cs"]), max_size=20)
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@given(
    thought=TEXTS.map(lambda text: text.strip("\n")),
    content=TEXTS.map(lambda text: text.lstrip("\n") if text.strip() else ""),
    calls=st.lists(
        st.tuples(TEXTS.filter(bool), st.dictionaries(TEXTS, JSON_VALUES, max_size=3)), max_size=3
    ),
    indent=st.sampled_from([None, 2]),
)
def test_well_formed_response_is_read_back_exactly(thought, content, calls, indent):
    spelled = [(name, json.dumps(arguments, indent=indent)) for name, arguments in calls]
    tagged = [
        f'<tool_call>\n{{"name": {json.dumps(name)}, "arguments": {arguments}}}\n</tool_call>'
        for name, arguments in spelled
    ]
    expected: list[Parsed] = [ReasoningText(thought)] * bool(thought)
    expected += [ContentText(content)] * bool(content)
    for index, (name, arguments) in enumerate(spelled):
        expected.append(ToolCallStart(index, f"id{index}", name))
        expected.append(ToolCallArguments(index, arguments))
    assert parse([f"<think>\n{thought}\n</think>\n{content}" + "\n".join(tagged)]) == expected


TAGGED_TEXTS = st.lists(
    st.sampled_from(["<tool_call>", "</tool_call>", "</think>", "{", "}", '"', "\\", "x", "é🦙"])
).map("".join)


@given(
    arguments=st.lists(st.dictionaries(TAGGED_TEXTS, TAGGED_TEXTS | JSON_VALUES), max_size=3),
    is_name_first=st.booleans(),
    length=st.integers(1, 7),
)
def test_calls_are_read_whatever_their_strings_contain_and_however_they_are_cut(
    arguments, is_name_first, length
):
    spelled = [json.dumps(values, ensure_ascii=False) for values in arguments]
    members = [('"name": "f"', f'"arguments": {text}') for text in spelled]
    ordered = [pair if is_name_first else pair[::-1] for pair in members]
    text = "\n".join(
        f"<tool_call>\n{{{first}, {second}}}\n</tool_call>" for first, second in ordered
    )
    parser = TaggedParser(Tags(tool_calls=True), counting_ids())
    chunks = [text[start : start + length] for start in range(0, len(text), length)]
    parsed = join([item for chunk in chunks for item in parser.feed(chunk, 1)] + parser.finish())
    expected: list[Parsed] = []
    for index, argument in enumerate(spelled):
        expected += [ToolCallStart(index, f"id{index}", "f"), ToolCallArguments(index, argument)]
    assert parsed == expected
    assert parser.calls_complete == bool(arguments)

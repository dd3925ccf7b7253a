"""What answers are held to, judged with a vocabulary of bytes and a few tags."""

import json
from types import SimpleNamespace
from typing import cast

import pytest
from llguidance import LLMatcher

from service.api.constraint import constrain
from service.api.conversation import read_conversation
from service.api.schemas import ChatCompletionRequest
from service.api.served_model import ServedModel
from service.chat.chatml import ChatMLFormat
from service.chat.smollm3 import SmolLM3Format
from service.errors import InvalidRequest
from service.grammar.tokenizer import TokenList, build_tokenizer
from tests.api.builders import AnyGrammar
from tests.api.test_tools import TWO, allow, choose, function
from tests.chat.builders import counting_ids

TAGS = ["</think>", "<tool_call>", "</tool_call>", "<|im_end|>"]
TOKENIZER = build_tokenizer(
    TokenList(
        texts=[*(bytes([value]) for value in range(256)), *(tag.encode() for tag in TAGS)],
        markup=[256, 257, 258, 259],
        eog=[259],
    )
)
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>'


class Vocabulary:
    def __init__(self, *tags):
        self._ids = {tag: 256 + TAGS.index(tag) for tag in tags}

    def special_id(self, text):
        return self._ids.get(text)

    def spell(self, text):
        for tag, token in self._ids.items():
            text = text.replace(tag, chr(0xE000 + token))
        return [
            ord(c) - 0xE000 if ord(c) >= 0xE000 else byte for c in text for byte in c.encode()[:1]
        ]


UNTOLD = (ChatMLFormat(counting_ids()), Vocabulary())
SMOLLM3 = (SmolLM3Format(counting_ids()), Vocabulary(*TAGS))


async def bind_or_not(model, grammars=None, **fields):
    chat_format, vocab = model
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "tools": TWO}
    request = ChatCompletionRequest.model_validate(body | fields)
    parser = chat_format.parser(read_conversation(request, chat_format))
    served = SimpleNamespace(format=chat_format, vocab=vocab)
    return await constrain(request, cast("ServedModel", served), parser, grammars or AnyGrammar())


async def bind(*arguments, **fields):
    bound = await bind_or_not(*arguments, **fields)
    assert bound is not None
    return bound


def fits(constraint, text, model=UNTOLD):
    """Whether the text may be an answer, to its end."""
    matcher = LLMatcher(TOKENIZER, constraint.grammar)
    assert not matcher.is_error(), matcher.get_error()
    tokens = model[1].spell(text)
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


WEATHER = [function(parameters=CITY)]


async def test_required_calls_come_at_once_and_fit_their_schemas():
    bound = await bind(UNTOLD, tools=[*WEATHER, function("now")], tool_choice="required")
    assert bound.begin_token is None
    assert fits(bound, CALL)
    assert fits(bound, '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>')
    assert not fits(bound, "Sunny.")
    assert not fits(bound, f"Wait. {CALL}")
    assert not fits(bound, CALL.replace('"Bern"', "3"))
    assert not fits(bound, CALL.replace("weather", "time"))
    assert not fits(bound, CALL.replace("weather", "now"))


async def test_a_model_that_may_call_is_free_until_it_opens_one():
    bound = await bind(UNTOLD, tools=WEATHER)
    assert fits(bound, "Sunny, <b>I</b> think.")
    assert fits(bound, f"Wait.\n{CALL}")
    assert not fits(bound, "<tool_call>oops")
    assert not fits(bound, f"{CALL} Done.")


@pytest.mark.parametrize(
    ("model", "parallel", "is_several"),
    [
        (UNTOLD, None, False),
        (UNTOLD, True, True),
        (SMOLLM3, None, True),
        (SMOLLM3, False, False),
    ],
)
async def test_several_calls_are_the_models_unless_the_request_says(model, parallel, is_several):
    bound = await bind(
        model,
        tools=WEATHER,
        tool_choice="required",
        parallel_tool_calls=parallel,
        reasoning_effort="none",
    )
    assert fits(bound, CALL, model)
    assert fits(bound, f"{CALL}\n{CALL}", model) == is_several
    assert not fits(bound, "\n".join([CALL] * 17), model)


@pytest.mark.parametrize(
    ("choice", "called"),
    [
        (choose("now"), ["now"]),
        (allow("now"), ["now", None]),
        (allow("now", mode="required"), ["now"]),
        ("required", ["weather", "now"]),
        ("auto", ["weather", "now", None]),
    ],
)
async def test_only_what_the_choice_allows_is_called(choice, called):
    bound = await bind(UNTOLD, tool_choice=choice)
    for name in ("weather", "now"):
        text = f'<tool_call>\n{{"name": "{name}", "arguments": {{}}}}\n</tool_call>'
        assert fits(bound, text) == (name in called)
    assert fits(bound, "Sunny.") == (None in called)


@pytest.mark.parametrize("fields", [{"tools": []}, {"tool_choice": "none"}])
async def test_nothing_is_held_to_anything_where_nothing_can_be_called(fields):
    assert await bind_or_not(UNTOLD, **fields) is None


async def test_calls_are_bound_once_a_thought_has_ended():
    bound = await bind(SMOLLM3, tools=WEATHER, tool_choice="required")
    assert bound.begin_token == SMOLLM3[1].special_id("</think>")
    assert fits(bound, f"\n{CALL}", SMOLLM3)
    without = await bind(SMOLLM3, tools=WEATHER, tool_choice="required", reasoning_effort="none")
    assert without.begin_token is None


async def test_a_thought_that_no_token_ends_cannot_be_followed_by_bound_calls():
    model = (SMOLLM3[0], Vocabulary("<tool_call>", "</tool_call>"))
    with pytest.raises(InvalidRequest) as refusal:
        await bind(model, tool_choice="required")
    assert refusal.value.param == "reasoning_effort"


async def test_functions_that_only_the_template_knows_stay_free_unless_a_call_is_required():
    kwargs = {"xml_tools": ["def f(): ..."]}
    assert await bind_or_not(SMOLLM3, chat_template_kwargs=kwargs) is None
    await bind(SMOLLM3, chat_template_kwargs=kwargs, tool_choice="required")


async def call_fits(schema, arguments):
    bound = await bind(UNTOLD, tools=[function(parameters=schema)], tool_choice="required")
    return fits(bound, CALL.replace('{"city": "Bern"}', json.dumps(arguments)))


@pytest.mark.parametrize(
    ("schema", "arguments", "is_valid"),
    [
        (None, {}, True),
        (None, {"a": 1}, False),
        ({}, {"a": [1]}, True),
        ({"type": "object"}, {"a": 1}, True),
        (CITY, {"city": "Bern"}, True),
        (CITY, {}, False),
        (CITY, {"city": "Bern", "a": 1}, False),
        (CITY | {"additionalProperties": True}, {"city": "Bern", "a": 1}, True),
        ({"properties": {"at": CITY}}, {"at": {"city": "Bern", "a": 1}}, False),
        ({"properties": {"at": {"items": CITY}}}, {"at": [{"city": "Bern", "a": 1}]}, False),
        ({"allOf": [CITY, {"properties": {"a": {}}}]}, {"city": "Bern", "a": 1}, True),
        ({"type": ["object", "null"]}, {"a": 1}, True),
    ],
)
async def test_arguments_are_an_object_of_the_listed_properties(schema, arguments, is_valid):
    assert await call_fits(schema, arguments) == is_valid


async def test_a_schema_that_does_not_compile_is_named_among_the_others():
    tools = [function("a"), function("b", parameters={"pattern": "REFUSED"})]
    with pytest.raises(InvalidRequest) as refusal:
        await bind(UNTOLD, AnyGrammar("REFUSED"), tools=tools)
    assert refusal.value.param == "tools[1].function.parameters"

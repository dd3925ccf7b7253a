"""What each form of an answer allows."""

import json
from typing import Literal

import jsonschema
import pytest

from service.grammar import forms
from service.grammar.closing import close
from service.grammar.tools import CallSyntax, Function, constrain_calls
from tests.grammar.builders import spells
from tests.grammar.schemas import SCHEMAS

VALUE = {"a": [1, {"b": None}], "c": "d"}
WEATHER = Function(
    name="weather",
    parameters={
        "type": "object",
        "properties": {"city": {"$ref": "#/$defs/city"}},
        "required": ["city"],
        "additionalProperties": False,
        "$defs": {"city": {"enum": ["Bern", "Rome"]}},
    },
)
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
PING = '<tool_call>\n{"name": "ping", "arguments": {}}\n</tool_call>'


def calls(mode: Literal["auto", "required"] = "auto", *, parallel=True, answer=None) -> str:
    functions = [WEATHER, Function(name="ping")]
    return constrain_calls(
        functions, CallSyntax(), mode=mode, parallel=parallel, answer=answer
    ).grammar


def test_json_may_be_compact_spaced_or_indented():
    for text in (
        json.dumps(VALUE),
        json.dumps(VALUE, separators=(",", ":")),
        json.dumps(VALUE, indent=2),
    ):
        assert spells(forms.json_object(), text)


def test_json_is_never_blank_for_long():
    assert not spells(forms.json_object(), '{"a":  1}')
    assert not spells(forms.json_object(), '{\n\n"a": 1}')
    assert not spells(forms.json_object(), ' {"a": 1}')
    assert not spells(forms.json_object(), '{"a": 1} ')


def test_json_object_is_an_object():
    assert not spells(forms.json_object(), "[1]")


def test_choice_is_one_of_the_texts_to_the_letter():
    texts = ['say "hi"', "back\\slash", "two\nlines", "a/b"]
    for text in texts:
        assert spells(forms.choice(texts), text)
    assert not spells(forms.choice(texts), "say hi")


def test_regex_holds_the_whole_answer():
    assert spells(forms.regex(r"a/b\d{2}"), "a/b12")
    assert not spells(forms.regex(r"a/b\d{2}"), "a/b123")
    assert not spells(forms.regex("b"), "abc")


def test_a_grammar_of_llama_cpp_is_told_from_lark():
    assert forms.is_gbnf('# a comment\nroot ::= "a"')
    assert not forms.is_gbnf('start: "::="')


def test_line_ends_may_come_between_a_thought_and_its_answer():
    grammar = forms.after_thought(forms.choice(["yes"]))
    for text in ("yes", "\nyes", "\n\nyes"):
        assert spells(grammar, text)
    assert not spells(grammar, "\n\n\nyes")


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_a_closed_schema_is_a_schema(schema):
    jsonschema.Draft202012Validator.check_schema(close(schema))


def test_an_object_that_lists_its_properties_has_no_others():
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    assert spells(forms.json_schema(schema), '{"a": 1, "b": 2}')
    assert not spells(forms.json_schema(close(schema)), '{"a": 1, "b": 2}')


@pytest.mark.parametrize(
    "more",
    [
        {"additionalProperties": True},
        {"required": ["a", "b"]},
        {"minProperties": 2},
        {"allOf": [{"required": ["b"]}]},
    ],
)
def test_an_object_that_asks_for_more_stays_open(more):
    schema = {"type": "object", "properties": {"a": True}, **more}
    assert close(schema) == schema


def test_calls_are_free_text_then_calls():
    grammar = calls()
    for text in ("Hello.", CALL, f"Let me see. {CALL}", f"{CALL}\n{PING}", "a <tool_cal b"):
        assert spells(grammar, text)


def test_calls_are_of_known_functions_with_valid_arguments():
    for wrong in (CALL.replace("weather", "wetter"), CALL.replace("Rome", "Oslo"), f"{CALL} Done."):
        assert not spells(calls(), wrong)


def test_one_call_is_one():
    assert spells(calls(parallel=False), CALL)
    assert not spells(calls(parallel=False), f"{CALL}\n{PING}")


def test_required_calls_leave_no_text():
    assert spells(calls("required"), f"{PING}\n{CALL}")
    assert not spells(calls("required"), "Hello.")


def test_an_answer_beside_tools_has_a_form_of_its_own():
    grammar = calls(answer=forms.json_object())
    assert spells(grammar, CALL)
    assert spells(grammar, '{"a": 1}')
    assert not spells(grammar, "Hello.")

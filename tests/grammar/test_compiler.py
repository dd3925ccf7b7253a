"""Whatever a client sends, it compiles within its bounds or is refused by name."""

import asyncio
import json
import os
import signal
import socket

import pytest

from service.errors import EngineUnavailable, InvalidRequest
from service.grammar import forms
from service.grammar.compiler import GrammarCompiler
from service.grammar.complaint import Origin
from service.grammar.config import GrammarConfig
from service.grammar.tokenizer import list_tokens
from service.llama.vocab import Vocab
from tests.grammar.builders import LETTERS
from tests.grammar.schemas import SCHEMAS
from tests.llama.builders import MODEL_PATH

BOUNDS = GrammarConfig(compile_seconds=0.5, max_bytes=4 << 20)


@pytest.fixture
async def compiler():
    compiler = GrammarCompiler(BOUNDS, lambda: list_tokens(LETTERS))
    yield compiler
    await compiler.close()


@pytest.fixture
async def model_compiler():
    vocab = Vocab.load(MODEL_PATH)
    compiler = GrammarCompiler(BOUNDS, lambda: list_tokens(vocab))
    yield compiler
    await compiler.close()
    vocab.close()


async def refuse(compiler, grammar, schema=None) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refusal:
        await compiler.check(grammar, [Origin(param="schema", schema=schema)])
    return refusal.value


def nested(depth):
    schema = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def hostile_schemas():
    hashed = [f"{number * 2654435761 % 2**32:x}" for number in range(100_000)]
    yield "deep", nested(400)
    yield "huge enum", {"enum": hashed}
    yield "many properties", {"type": "object", "properties": dict.fromkeys(hashed[:10_000], True)}
    yield "long tuple", {"type": "array", "prefixItems": [{"type": "integer"}] * 20_000}
    yield "long text", {"const": "a" * 1_000_000}
    yield (
        "large common multiple",
        {
            "allOf": [
                {"type": "integer", "multipleOf": 9973},
                {"type": "integer", "multipleOf": 9967},
            ]
        },
    )
    yield (
        "product of alternatives",
        {
            "allOf": [
                {"anyOf": [{"properties": {f"a{number}": {"const": value}}} for value in range(4)]}
                for number in range(6)
            ]
        },
    )
    yield "endless reference", {"$ref": "#"}


@pytest.mark.model
async def test_hostile_schemas_are_refused_in_bounded_time(model_compiler):
    await model_compiler.check(forms.json_object(), [Origin(param="schema")])
    for name, schema in hostile_schemas():
        async with asyncio.timeout(2):
            refusal = await refuse(model_compiler, forms.json_schema(schema), schema)
        assert refusal.param == "schema", name


async def test_nothing_else_waits_for_a_slow_grammar(compiler):
    grammar = forms.json_schema(dict(hostile_schemas())["many properties"])
    slow = asyncio.create_task(refuse(compiler, grammar))
    await asyncio.sleep(0)
    for schema in list(SCHEMAS.values())[:20]:
        await compiler.check(forms.json_schema(schema), [Origin(param="schema", schema=schema)])
    assert not slow.done()
    await slow


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"not": {"type": "string"}}, "not"),
        ({"properties": {"a": {"items": {"uniqueItems": True}}}}, "properties.a.items.uniqueItems"),
        ({"anyOf": [{"type": "null"}, {"if": {}, "then": {}}]}, "anyOf[1].if"),
        ({"type": "string", "format": "zzz"}, "format"),
        ({"type": ["string", "text"]}, "type"),
        ({"properties": {"a": {"type": "string", "pattern": "(?=x)y"}}}, "properties.a.pattern"),
        ({"type": "string", "pattern": "(a"}, "pattern"),
        ({"$ref": "https://example.org/a"}, "$ref"),
        ({"items": {"$ref": "#/$defs/a"}}, "items.$ref"),
        ({"oneOf": [{"type": "object"}, {"type": "object"}]}, "oneOf"),
        ({"type": "string", "minLength": 5, "maxLength": 3}, "minLength"),
        ({"properties": {"a": {}}, "minProperties": 1, "type": "object"}, "minProperties"),
        ({"$defs": {"a": {"not": {}}}, "$ref": "#/$defs/a"}, "$defs.a.not"),
    ],
)
async def test_what_is_not_supported_is_named_with_its_place(compiler, schema, path):
    refusal = await refuse(compiler, forms.json_schema(schema), schema)
    assert refusal.param == f"schema.{path}"
    assert refusal.message.startswith(f"schema.{path}: ")


async def test_a_grammar_that_is_none_is_refused_with_the_reason(compiler):
    assert "unclosed group" in (await refuse(compiler, forms.regex("(a"))).message
    assert "unknown name" in (await refuse(compiler, forms.context_free("start: A"))).message


async def test_gbnf_becomes_lark(compiler):
    lark = await compiler.convert('root ::= "yes" | no\nno ::= "no"', "grammar")
    await compiler.check(forms.context_free(lark), [Origin(param="grammar")])


async def test_gbnf_that_is_none_is_refused(compiler):
    for gbnf in ('root ::= "a', "root ::= missing", 'other ::= "a"', f"root ::= {'(' * 9000}"):
        with pytest.raises(InvalidRequest, match="grammar"):
            await compiler.convert(gbnf, "grammar")


async def test_what_is_too_long_is_refused_untried(compiler):
    schema = {"const": "x" * BOUNDS.max_bytes}
    assert str(BOUNDS.max_bytes) in (await refuse(compiler, forms.json_schema(schema))).message


async def test_the_same_grammar_is_tried_once(compiler):
    grammar = forms.json_schema(SCHEMAS["invoice"])
    origin = [Origin(param="schema")]
    await asyncio.gather(*(compiler.check(grammar, origin) for _ in range(10)))
    assert compiler._bench._num_jobs == 1


async def test_a_client_that_leaves_takes_nobody_with_it(compiler):
    grammar, origin = forms.json_schema(SCHEMAS["invoice"]), [Origin(param="schema")]
    first = asyncio.create_task(compiler.check(grammar, origin))
    second = asyncio.create_task(compiler.check(grammar, origin))
    await asyncio.sleep(0)
    first.cancel()
    await second


async def test_a_compiling_process_that_dies_is_replaced(compiler):
    origin = [Origin(param="schema")]
    await compiler.check(forms.json_object(), origin)
    os.kill(compiler._bench._process.pid, signal.SIGKILL)
    grammar = forms.json_schema(SCHEMAS["record"])
    try:
        await compiler.check(grammar, origin)
    except EngineUnavailable:
        await compiler.check(grammar, origin)


async def test_a_reference_to_elsewhere_is_refused_and_nobody_is_asked(compiler):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)  # noqa: FBT003 - its signature
        port = listener.getsockname()[1]
        for reference in (
            f"http://127.0.0.1:{port}/schema",
            "file:///etc/hostname",
            "/etc/hostname",
        ):
            grammar = json.dumps({"grammars": [{"json_schema": {"$ref": reference}}]})
            await refuse(compiler, grammar)
        with pytest.raises(BlockingIOError):
            listener.accept()

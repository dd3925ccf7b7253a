"""Logprobs of an answer's tokens: which are listed, and what of them."""

import asyncio
import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.api.generator import Choice
from service.api.logprobs import ShownTokens
from service.chat.parser import ContentText, TaggedParser, Tags
from service.core.request import GenerationRequest
from service.core.sampling import SamplingParams, TokenLogprobs
from service.runtime.stream import OutputStream
from tests.api.builders import ScriptedEngine, hello, read_events, serving, start_stream, tokens_of
from tests.runtime.builders import engine_config, kill_a_worker, running_pool

EMOJI = "😀".encode()


async def read(pieces, *cuts, stop=()):
    """The content of an answer, and (share, number) of the tokens that are listed for it.

    Token i is `pieces[i]`; `cuts` say with which token a new step begins.
    """
    request = GenerationRequest(
        request_id="", prompt=[0], sampling=SamplingParams(), stop=stop, num_logprobs=0
    )
    stream = OutputStream(request, token_bytes=pieces.__getitem__, on_abort=lambda _: None)
    parser = TaggedParser(Tags(thinking=True, tool_calls=True), lambda: "id")
    choice = Choice(index=0, stream=stream, parser=parser, shown=ShownTokens(pieces.__getitem__))
    reading = asyncio.create_task(collect(choice))
    for start, end in pairwise([0, *cuts, len(pieces)]):
        await asyncio.sleep(0)  # the reader takes what there is
        if stream.stage != "done":
            tokens = list(range(start, end))
            stream.push(tokens, None, [TokenLogprobs(float(token), []) for token in tokens])
    if stream.stage != "done":
        stream.push([], "stop")
    return await reading


async def collect(choice):
    content, listed = "", []
    async for parts in choice.parts():
        for part in parts:
            content += part.parsed.text if isinstance(part.parsed, ContentText) else ""
            listed += part.tokens or ()
    listed += choice.finish_tokens()
    return content, [(token.share, token.logprob) for token in listed]


async def test_a_token_is_listed_with_its_bytes():
    content, listed = await read([b"Hel", b"lo"])
    assert content == "Hello"
    assert listed == [(b"Hel", 0), (b"lo", 1)]


async def test_tokens_that_are_parts_of_a_character_keep_their_bytes():
    _, listed = await read([b"a" + EMOJI[:1], EMOJI[1:3], EMOJI[3:]], 1, 2)
    assert listed == [(b"a\xf0", 0), (b"\x9f\x98", 1), (b"\x80", 2)]


async def test_a_character_that_never_ends_is_its_last_tokens():
    content, listed = await read([b"a", EMOJI[:2]])
    assert content == "a\ufffd"
    assert listed == [(b"a", 0), ("\ufffd".encode(), 1)]


async def test_a_token_that_a_stop_string_cuts_is_listed_with_what_is_left_of_it():
    content, listed = await read([b"One", b" two", b" three"], 1, 2, stop=("wo t",))
    assert content == "One t"
    assert listed == [(b"One", 0), (b" t", 1)]


async def test_a_token_that_begins_with_the_stop_string_is_left_out():
    content, listed = await read([b"One", b"\n\nTwo"], 1, stop=("\n",))
    assert content == "One"
    assert listed == [(b"One", 0)]


async def test_thoughts_and_calls_are_not_listed():
    call = b'<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    content, listed = await read([b"<think>hm", b"</think>\n\n", b"Yes", b". ", call], 2)
    assert content == "Yes. "
    assert listed == [(b"Yes", 2), (b". ", 3)]


async def test_of_a_token_with_a_tag_in_it_the_rest_is_listed():
    content, listed = await read([b"<think>hm</th", b"ink>\nYes", b"!"], 1)
    assert content == "Yes!"
    assert listed == [(b"Yes", 1), (b"!", 2)]


def cut(text, bounds):
    ends = sorted({bound % (len(text) + 1) for bound in bounds} | {0, len(text)})
    return [text[start:end] for start, end in pairwise(ends)]


TEXT = st.lists(
    st.sampled_from(
        [
            *["a", "é", "😀", "\n", " ", "<", "{", "}", "stop", "st", "op"],
            *["<think>", "</think>", "<tool_call>", "</tool_call>"],
            '{"name": "f", "arguments": {"a": 1}}',
        ]
    ),
    min_size=1,
    max_size=12,
).map("".join)
BOUNDS = st.lists(st.integers(0, 1000), max_size=12)


@settings(deadline=None)  # the machine may be busy
@given(TEXT, BOUNDS, BOUNDS, st.sampled_from([(), ("stop",), ("p", "😀a")]))
async def test_tokens_join_to_the_content_however_it_came(text, bounds, steps, stop):
    pieces = cut(text.encode(), bounds)
    content, listed = await read(pieces, stop=stop)
    assert b"".join(share for share, _ in listed) == content.encode()
    assert all(share in pieces[int(token)] for share, token in listed)
    assert len({token for _, token in listed}) == len(listed)
    cuts = sorted({step % len(pieces) for step in steps} - {0})
    assert await read(pieces, *cuts, stop=stop) == (content, listed)


async def ask(service, **changes):
    async with service.http() as http:
        response = await http.post("/v1/chat/completions", json=hello(**changes))
        return response.json()["choices"][0]


async def test_the_answer_lists_the_tokens_of_its_content():
    async with serving(ScriptedEngine("Hé")) as service:
        choice = await ask(service, logprobs=True)
    assert choice["logprobs"] == {
        "content": [
            {"token": "H", "logprob": 0.0, "bytes": [72], "top_logprobs": []},
            {"token": "é", "logprob": 0.0, "bytes": [195, 169], "top_logprobs": []},
        ],
        "refusal": None,
    }


async def test_without_asking_there_are_none():
    async with serving() as service:
        assert (await ask(service))["logprobs"] is None
        assert service.engine.requests[0].num_logprobs is None


async def test_alternatives_are_given_best_first_with_their_bytes():
    async with serving(ScriptedEngine(None)) as service:
        asking = asyncio.create_task(ask(service, logprobs=True, top_logprobs=2))
        stream = await service.engine.next_stream()
        top = [(ord("b"), -0.1), (ord("a"), -2.5)]
        stream.push(tokens_of("a"), "stop", [TokenLogprobs(-2.5, top)])
        choice = await asking
        assert service.engine.requests[0].num_logprobs == 2
    [token] = choice["logprobs"]["content"]
    assert (token["token"], token["logprob"]) == ("a", -2.5)
    assert token["top_logprobs"] == [
        {"token": "b", "logprob": -0.1, "bytes": [98]},
        {"token": "a", "logprob": -2.5, "bytes": [97]},
    ]


@pytest.mark.parametrize("stop", [None, "wor"])
async def test_a_stream_lists_what_the_answer_lists(stop):
    text = "<think>hm</think>\nHello world < and more"
    fields = {"logprobs": True, "stop": stop}
    async with serving(ScriptedEngine(text)) as service, service.http() as http:
        whole = await ask(service, **fields)
        body = hello(stream=True, **fields)
        async with http.stream("POST", "/v1/chat/completions", json=body) as response:
            events = await read_events(response)
    listed, content = [], ""
    for chunk in map(json.loads, events[:-1]):
        [choice] = chunk["choices"]
        content += choice["delta"].get("content", "")
        listed += choice["logprobs"]["content"] if choice["logprobs"] else []
    assert listed == whole["logprobs"]["content"]
    assert "".join(token["token"] for token in listed) == content == whole["message"]["content"]


async def test_a_chunk_lists_the_tokens_whose_text_it_completes():
    async with serving(ScriptedEngine(None)) as service, service.client() as client:
        stream, chunks = await start_stream(service, client, logprobs=True)
        assert texts_of(await anext(chunks)) == ("a", ["a"])
        stream.push(tokens_of("b<"), None)  # the last may be a tag's
        assert texts_of(await anext(chunks)) == ("b", ["b"])
        stream.push(tokens_of("c"), "stop")
        assert texts_of(await anext(chunks)) == ("<c", ["<", "c"])


def texts_of(chunk):
    """A chunk's text and its tokens'."""
    [choice] = chunk.choices
    return choice.delta.content, [token.token for token in choice.logprobs.content]


async def test_workers_measure_for_who_asks():
    async with (
        running_pool() as bench,
        serving(bench.pool) as service,
        service.client() as client,
    ):
        body = hello(logprobs=True, top_logprobs=1, max_tokens=5)
        answer = await client.chat.completions.create(**body, extra_body={"ignore_eos": True})
    [choice] = answer.choices
    tokens = choice.logprobs.content
    assert len(tokens) == 5
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == choice.message.content
    assert [[other.logprob for other in token.top_logprobs] for token in tokens] == [[0.0]] * 5


async def test_a_worker_that_dies_takes_no_logprobs_with_it():
    async with (
        running_pool(engine_config(step_seconds=0.005)) as bench,
        serving(bench.pool) as service,
        service.client() as client,
    ):
        body = hello(logprobs=True, max_tokens=40, stream=True)
        chunks = await client.chat.completions.create(**body, extra_body={"ignore_eos": True})
        content, tokens, is_killed = "", [], False
        async for chunk in chunks:
            [choice] = chunk.choices
            content += choice.delta.content or ""
            tokens += choice.logprobs.content if choice.logprobs else []
            if len(tokens) >= 5 and not is_killed:
                is_killed = True
                kill_a_worker()
    assert is_killed
    assert len(tokens) == 40
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == content

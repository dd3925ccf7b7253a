"""Tokens to text for one reader, however many come in a step."""

import pytest

from service.core.request import GenerationRequest
from service.core.sampling import SamplingParams
from service.runtime.stream import OutputStream


def open_stream(*, stop=()):
    request = GenerationRequest(request_id="r", prompt=[1], sampling=SamplingParams(), stop=stop)
    return OutputStream(request, token_bytes=lambda token: bytes([token]), on_abort=lambda _: None)


async def read(stream):
    deltas = [delta async for delta in stream]
    return "".join(delta.text for delta in deltas), sum(len(d.token_ids) for d in deltas)


@pytest.mark.parametrize("steps", [[b"a", b"b", b"S", b"T", b"c"], [b"abSTc"], [b"abS", b"Tcd"]])
async def test_stop_string_ends_text_and_count_alike_however_tokens_come(steps):
    stream = open_stream(stop=("ST",))
    for step in steps:
        if stream.stage != "done":
            stream.push(list(step), None)
    assert stream.finish_reason == "stop"
    assert stream.num_output_tokens == 4
    assert await read(stream) == ("ab", 4)


async def test_tokens_of_a_step_come_as_one_delta():
    stream = open_stream()
    stream.push(list(b"abc"), None)
    delta = await anext(stream)
    assert (delta.text, delta.token_ids) == ("abc", list(b"abc"))
    stream.push(list(b"d"), "length")
    assert await read(stream) == ("d", 1)
    assert stream.finish_reason == "length"

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from service.core.request import GenerationRequest
from service.core.sampling import SamplingParams, TokenLogprobs
from service.runtime.stream import OutputStream

EMOJI = "😀".encode()


def stream_of(pieces, *, stop=(), num_logprobs: int | None = 0):
    """A stream whose token i is `pieces[i]`."""
    request = GenerationRequest(
        request_id="", prompt=[0], sampling=SamplingParams(), stop=stop, num_logprobs=num_logprobs
    )
    return OutputStream(
        request, token_bytes=lambda token: pieces[token], on_abort=lambda _stream: None
    )


async def read(stream):
    deltas = [delta async for delta in stream]
    text = "".join(delta.text for delta in deltas)
    return text, [token for delta in deltas for token in delta.scored]


def shares(text, tokens):
    """What each token has of the text."""
    ends = [0, *(token.end for token in tokens)]
    return [text.encode()[start:end] for start, end in pairwise(ends)]


async def test_a_token_comes_with_its_logprobs_and_its_share_of_the_text():
    stream = stream_of([b"Hel", b"lo"])
    drawn = TokenLogprobs(-0.5, [(0, -0.5)])
    stream.push([0], None, [drawn])
    stream.push([1], "stop", [None])
    text, tokens = await read(stream)
    assert shares(text, tokens) == [b"Hel", b"lo"]
    assert [token.logprobs for token in tokens] == [drawn, None]


async def test_without_being_asked_no_token_is_scored():
    stream = stream_of([b"Hello"], num_logprobs=None)
    stream.push([0], "stop")
    assert await read(stream) == ("Hello", [])


async def test_tokens_that_are_parts_of_a_character_have_their_own_bytes():
    stream = stream_of([b"a" + EMOJI[:1], EMOJI[1:3], EMOJI[3:] + b"b"])
    stream.push([0, 1, 2], "stop")
    text, tokens = await read(stream)
    assert text == "a😀b"
    assert shares(text, tokens) == [b"a\xf0", b"\x9f\x98", b"\x80b"]


async def test_tokens_behind_a_stop_string_have_nothing_of_the_text():
    stream = stream_of([b"one", b" tw", b"o, th"], stop=("wo",))
    stream.push([0, 1, 2], None)
    text, tokens = await read(stream)
    assert text == "one t"
    assert shares(text, tokens) == [b"one", b" t", b""]


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.binary(max_size=5), min_size=1))
async def test_shares_follow_each_other_whatever_the_bytes(pieces):
    stream = stream_of(pieces)
    stream.push(list(range(len(pieces))), "stop")
    text, tokens = await read(stream)
    ends = [token.end for token in tokens]
    assert ends == sorted(ends)
    # At the end a character may be unfinished: what it reads as is longer than its bytes.
    assert len(text.encode()) - ends[-1] in {0, 1, 2}

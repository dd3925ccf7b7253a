"""The whole service, as a user starts it, on the embedded model, through the OpenAI client."""

import asyncio
import re
from collections.abc import Iterator

import psutil
import pytest
from openai import APIStatusError, AsyncOpenAI, OpenAI

from loadtests.server import read_metrics, running_service

pytestmark = pytest.mark.model

MODEL = "smollm2-135m-instruct"


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    """Without guesses, whose number follows the time that steps take: what is asked twice is
    computed in the same shapes, and rounds alike."""
    settings = {"engine__contexts": "4x512,1x4096", "engine__threads": "2"}
    with running_service(**settings, scheduler__max_drafts="0") as address:
        yield address


@pytest.fixture
def client(address) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"http://{address[0]}:{address[1]}/v1", api_key="none") as client:
        yield client


@pytest.fixture
async def async_client(address):
    url = f"http://{address[0]}:{address[1]}/v1"
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def ask(client, text: str, **changes):
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(
        **{"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 40} | changes
    )


async def until(condition) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - conditions lie in another process
            await asyncio.sleep(0.02)


def running(address) -> float:
    return read_metrics(address)['smolserve_requests_running{worker="0"}']


def waiting(address) -> float:
    return read_metrics(address)['smolserve_requests_waiting{worker="0"}']


def test_model_answers_in_sensible_english(client):
    answer = ask(client, "Why is the sky blue?", max_tokens=80)
    words = re.findall(r"[a-z]+", (answer.choices[0].message.content or "").lower())
    assert "sky" in words or "light" in words
    assert {"the", "of"} <= set(words)


def test_stream_joins_to_the_whole_answer(client):
    whole = ask(client, "Name a river.").choices[0].message.content
    chunks = ask(client, "Name a river.", stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole


def test_characters_of_several_tokens_arrive_whole(client):
    text = "Repeat exactly: 日本語 😀 naïve"
    pieces = [
        chunk.choices[0].delta.content or ""
        for chunk in ask(client, text, stream=True, max_tokens=60)
    ]
    answer = ask(client, text, max_tokens=60).choices[0].message.content
    assert "".join(pieces) == answer
    # Whatever the model makes of it, no piece is half a character.
    assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in (answer or "")


def test_stop_string_across_token_borders_ends_the_answer_before_it(client):
    question = "Tell me a long story about a dragon."
    ask(client, question, max_tokens=1)  # a prompt from the cache rounds differently
    story = ask(client, question, max_tokens=60).choices[0].message.content or ""
    stop = story[37:52]  # cuts through words, and so through tokens
    answer = ask(client, question, max_tokens=60, stop=[stop])
    assert answer.choices[0].message.content == story[: story.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


def test_second_turn_is_cached_but_for_what_is_new(client):
    question = {"role": "user", "content": "List the planets and say a word on each of them."}
    first = client.chat.completions.create(
        model=MODEL, messages=[question], max_tokens=60, temperature=0
    )
    answer = first.choices[0].message.content
    second = client.chat.completions.create(
        model=MODEL,
        messages=[
            question,
            {"role": "assistant", "content": answer},
            {"role": "user", "content": "Thanks."},
        ],
        max_tokens=5,
    )
    cached = second.usage.prompt_tokens_details.cached_tokens
    assert cached >= first.usage.total_tokens - 8
    assert cached < second.usage.prompt_tokens


def test_prompt_longer_than_the_largest_slot_is_refused_with_both_numbers(client):
    with pytest.raises(APIStatusError) as refusal:
        ask(client, "word " * 5000, stream=True)
    assert refusal.value.status_code == 400
    assert refusal.value.code == "context_length_exceeded"
    assert "4096" in str(refusal.value)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("stage", ["queued", "prefill", "decode"])
async def test_client_that_leaves_frees_its_slot_at_every_stage(
    address, async_client, stage, stream
):
    keep = {"max_tokens": 4000, "extra_body": {"ignore_eos": True}, "stream": stream}
    others = []
    if stage == "queued":
        others = [asyncio.create_task(ask(async_client, "Count.", **keep)) for _ in range(5)]
        await until(lambda: running(address) == 5)
    text = "Count. " * 1500 if stage == "prefill" else "Count."
    leaver = asyncio.create_task(ask(async_client, text, **keep))
    if stage == "queued":
        await until(lambda: waiting(address) == 1)
    else:
        await until(lambda: running(address) == 1)
    if stage == "decode":
        generated = read_metrics(address)["smolserve_generated_tokens_total"]
        await until(
            lambda: read_metrics(address)["smolserve_generated_tokens_total"] > generated + 3
        )
    for task in (leaver, *others):
        if task.done():
            await task.result().response.aclose()
        task.cancel()
    await asyncio.gather(leaver, *others, return_exceptions=True)
    for task in (leaver, *others):
        if not task.cancelled():
            await task.result().response.aclose()
    await until(lambda: running(address) == waiting(address) == 0)


async def test_killed_worker_costs_a_pause_and_nothing_else(address, async_client):
    expected = (await ask(async_client, "Tell me about bees.")).choices[0].message.content
    service = next(
        process
        for process in psutil.Process().children()
        if any(
            c.laddr.port == address[1] for c in process.net_connections() if c.status == "LISTEN"
        )
    )
    (worker,) = service.children()
    worker.kill()
    restarts = 'smolserve_worker_restarts_total{worker="0"}'
    await until(lambda: read_metrics(address).get(restarts, 0) >= 1)
    await until(lambda: read_metrics(address)['smolserve_worker_up{worker="0"}'] == 1)
    again = await ask(async_client, "Tell me about bees.")
    assert again.choices[0].message.content == expected


def join(tokens) -> str:
    return b"".join(bytes(token.bytes) for token in tokens).decode()


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 60},
        {"max_tokens": 17, "stop": ["e", "日"]},
        {"max_tokens": 40, "temperature": 1.5, "seed": 4},
    ],
)
def test_logprobs_of_a_stream_join_to_the_text_and_are_the_answers(client, fields):
    text = "Repeat exactly: 日本語 😀 naïve"
    asked = fields | {"logprobs": True, "top_logprobs": 3}
    ask(client, text, max_tokens=1)  # a prompt from the cache rounds differently
    [choice] = ask(client, text, **asked).choices
    listed, content = [], ""
    for chunk in ask(client, text, stream=True, **asked):
        [part] = chunk.choices
        content += part.delta.content or ""
        listed += part.logprobs.content if part.logprobs else []
    assert join(listed) == content == choice.message.content
    assert [token.model_dump() for token in listed] == [
        token.model_dump() for token in choice.logprobs.content
    ]
    for token in listed:
        assert len(token.top_logprobs) == 3
        values = [other.logprob for other in token.top_logprobs]
        assert token.logprob <= values[0] <= 0
        assert values == sorted(values, reverse=True)


def test_choices_start_from_one_prompt_and_the_first_is_a_request_for_ones(client):
    question = "Say something about " + ", ".join(f"thing {number}" for number in range(40))
    drawn = {"temperature": 1.2, "seed": 3, "max_tokens": 12}
    ask(client, question, max_tokens=1)  # a prompt from the cache rounds differently
    alone = ask(client, question, **drawn)
    answer = ask(client, question, n=4, **drawn)
    texts = [choice.message.content for choice in answer.choices]
    assert texts[0] == alone.choices[0].message.content
    assert len(set(texts)) == 4
    assert answer.usage.prompt_tokens == alone.usage.prompt_tokens
    assert answer.usage.prompt_tokens_details.cached_tokens >= alone.usage.prompt_tokens - 1
    assert answer.usage.completion_tokens > alone.usage.completion_tokens


def test_a_stream_of_choices_gives_each_its_text(client):
    fields = {"n": 3, "temperature": 1.2, "seed": 9, "max_tokens": 10}
    ask(client, "Tell a joke.", max_tokens=1)  # a prompt from the cache rounds differently
    whole = [choice.message.content for choice in ask(client, "Tell a joke.", **fields).choices]
    texts = ["", "", ""]
    finished = []
    usage = None
    options = {"stream": True, "stream_options": {"include_usage": True}}
    for chunk in ask(client, "Tell a joke.", **fields, **options):
        for part in chunk.choices:
            texts[part.index] += part.delta.content or ""
            finished += [part.index] if part.finish_reason else []
        usage = chunk.usage or usage
    assert texts == whole
    assert sorted(finished) == [0, 1, 2]
    assert usage is not None
    assert usage.completion_tokens <= 30

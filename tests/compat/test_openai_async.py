"""The official SDK's asynchronous client."""

import asyncio

from tests.compat.shapes import ASKED_REVIEW, Review, asking

QUESTION = asking("Name a colour.")


async def test_requests_at_once_are_all_answered(async_client, model):
    answers = await asyncio.gather(
        *(
            async_client.chat.completions.create(
                model=model, messages=QUESTION, seed=seed, max_tokens=8
            )
            for seed in range(4)
        )
    )
    assert all(answer.choices[0].message.content for answer in answers)
    assert len({answer.id for answer in answers}) == 4


async def test_a_chat_is_streamed(async_client, model):
    async with await async_client.chat.completions.create(
        model=model, messages=QUESTION, temperature=0, max_tokens=8, stream=True
    ) as stream:
        chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason


async def test_the_stream_helper_parses(async_client, model):
    async with async_client.chat.completions.stream(
        model=model,
        messages=asking(ASKED_REVIEW),
        response_format=Review,
        temperature=0,
        max_tokens=60,
    ) as stream:
        final = await stream.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, Review)


async def test_a_response_is_streamed(async_client, model):
    async with async_client.responses.stream(
        model=model, input="Name a colour.", temperature=0, max_output_tokens=16
    ) as stream:
        events = [event async for event in stream]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == events[-1].response.output_text


async def test_models_are_listed(async_client, model):
    assert model in [listed.id async for listed in async_client.models.list()]

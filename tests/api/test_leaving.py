import asyncio
import contextlib

import pytest

from tests.api.builders import ScriptedEngine, hello, serving, start_stream, tokens_of, until


async def leave(asking):
    """Closes the connection of a request that is being answered."""
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asking


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("stage", ["queued", "prefill", "decode"])
async def test_a_client_that_leaves_frees_its_slot(stage, stream):
    async with serving(ScriptedEngine(None)) as service, service.client() as client:
        asking = asyncio.create_task(client.chat.completions.create(**hello(stream=stream)))
        output = await service.engine.next_stream()
        if stage != "queued":
            output.begin(0)
        if stage == "decode":
            output.push(tokens_of("a"), None)
            if stream:
                chunks = await asking
                await anext(chunks)
                await chunks.response.aclose()
        if not asking.done():
            await leave(asking)
        assert await service.engine.next_aborted() == stage


async def test_a_client_that_stops_reading_and_leaves_frees_its_slot():
    async with serving(ScriptedEngine(None)) as service, service.client() as client:
        output, chunks = await start_stream(service, client)
        for _ in range(80):
            output.push(tokens_of("x" * 100_000), None)
            await asyncio.sleep(0)
        await chunks.response.aclose()
        assert await service.engine.next_aborted() == "decode"


async def test_leaving_is_logged_as_such_and_counts_as_no_error():
    async with serving(ScriptedEngine(None)) as service, service.client() as client:
        asking = asyncio.create_task(client.chat.completions.create(**hello()))
        await service.engine.next_stream()
        await leave(asking)
        await service.engine.next_aborted()
        await until(lambda: service.log)
    [line] = service.log
    assert (line["status"], line["client_left"]) == (499, True)
    assert "error" not in line


async def test_a_finished_answer_aborts_nothing():
    async with serving() as service, service.client() as client:
        await client.chat.completions.create(**hello())
        assert service.engine._aborted.empty()

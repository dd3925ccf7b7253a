import asyncio
import os
import signal

import pytest
from openai import APIError, InternalServerError

from service.api.server import bind, obey_signals
from service.errors import SettingsError
from tests.api.builders import ScriptedEngine, hello, serving, start_stream, tokens_of, until


async def test_who_streams_may_finish_and_who_comes_is_turned_away():
    async with serving(ScriptedEngine(None)) as service, service.client() as client:
        output, chunks = await start_stream(service, client)
        service.drain.begin()
        with pytest.raises(InternalServerError) as caught:
            await client.chat.completions.create(**hello())
        output.push(tokens_of("b"), "stop")
        texts = [chunk.choices[0].delta.content async for chunk in chunks]
    assert caught.value.status_code == 503
    assert int(caught.value.response.headers["retry-after"]) > 0
    assert texts == ["a", "b", None]


async def test_stopping_waits_for_streams():
    async with serving(ScriptedEngine(None)) as service, service.client() as client:
        output, chunks = await start_stream(service, client)
        service.server.stop()
        output.push(tokens_of("b"), None)
        assert [(await anext(chunks)).choices[0].delta.content for _ in "ab"] == ["a", "b"]
        output.push([], "stop")
        assert [chunk.choices[0].finish_reason async for chunk in chunks] == ["stop"]


@pytest.mark.parametrize("is_hurried", [False, True])
async def test_a_stream_that_takes_too_long_is_told_why_it_ends(is_hurried):
    timeout = 60 if is_hurried else 0.01
    async with (
        serving(ScriptedEngine(None), drain_timeout_seconds=timeout) as service,
        service.client() as client,
    ):
        _, chunks = await start_stream(service, client)
        service.server.stop()
        if is_hurried:
            service.server.stop()
        with pytest.raises(APIError, match="shutting down") as caught:
            async for _ in chunks:
                pass
        assert await service.engine.next_aborted() == "decode"
    assert caught.value.code == "engine_unavailable"


async def test_an_answer_that_takes_too_long_is_a_503():
    async with (
        serving(ScriptedEngine(None), drain_timeout_seconds=0.01) as service,
        service.client() as client,
    ):
        asking = asyncio.create_task(client.chat.completions.create(**hello()))
        await service.engine.next_stream()
        service.server.stop()
        with pytest.raises(InternalServerError) as caught:
            await asking
    assert caught.value.status_code == 503


async def test_readiness_follows_loading_and_draining():
    async with serving() as service, service.http() as http:
        service.engine.is_ready = False
        loading = await http.get("/health/ready")
        service.engine.is_ready = True
        ready = await http.get("/health/ready")
        service.drain.begin()
        draining = await http.get("/health/ready")
        live = await http.get("/health/live")
    assert (loading.status_code, ready.status_code, draining.status_code) == (503, 200, 404)
    assert live.status_code == 200


async def test_usr1_drains_and_term_ends():
    async with serving(ScriptedEngine(None)) as service, service.client() as client:
        with obey_signals(service.server, service.drain):
            output, chunks = await start_stream(service, client)
            os.kill(os.getpid(), signal.SIGUSR1)
            await until(lambda: service.drain.has_begun)
            output.push(tokens_of("b"), "stop")
            assert [chunk.choices[0].delta.content async for chunk in chunks] == ["a", "b", None]
            async with service.http() as http:
                assert (await http.get("/health/live")).status_code == 200
            os.kill(os.getpid(), signal.SIGTERM)
            await service.server._stopping.wait()


async def test_hup_reloads_where_there_is_something_to_reload():
    loop = asyncio.get_running_loop()
    reloaded = asyncio.Event()
    async with serving() as service:
        with obey_signals(service.server, service.drain):
            assert not loop.remove_signal_handler(signal.SIGHUP)  # ends the process as it would
        with obey_signals(service.server, service.drain, reloaded.set):
            os.kill(os.getpid(), signal.SIGHUP)
            await reloaded.wait()


def test_a_taken_port_is_told_with_what_to_do():
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(SettingsError, match=f"port {port}.*SMOLSERVE_PORT"):
            bind("127.0.0.1", port)


def test_an_address_of_another_machine_is_told():
    with pytest.raises(SettingsError, match=r"192\.0\.2\.1"):
        bind("192.0.2.1", 0)

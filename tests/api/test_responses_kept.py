"""What becomes of responses after the answer: in the background, in the file, over restarts."""

import asyncio

import pytest
from openai import APIStatusError, BadRequestError, InternalServerError, NotFoundError

from service.api.responses.conversation import fail_unfinished
from service.errors import EngineError
from service.records.database import MEMORY
from service.records.responses import ResponseRecords
from tests.api.builders import ScriptedEngine, tokens_of, until
from tests.api.responses import ask, asking, check, prompt_of


def records_at(path=MEMORY, **limits):
    return ResponseRecords(
        path, **{"ttl_seconds": 1000, "max_bytes": 10**8} | limits, now=lambda: 10.0
    )


async def start_in_background(service, responses, **changes):
    created = await responses.create(**ask(background=True, **changes))
    return created, await service.engine.next_stream()


async def finished(responses, response_id):
    async with asyncio.timeout(5):
        while True:
            response = await responses.retrieve(response_id)
            if response.status not in {"queued", "in_progress"}:
                return check(response)


async def test_a_background_response_goes_on_when_its_client_has_left():
    async with asking(ScriptedEngine(None)) as (service, responses):
        created, stream = await start_in_background(service, responses)
        assert check(created).status == "queued"
        assert (await responses.retrieve(created.id)).status == "queued"
        stream.begin(0)
        assert (await responses.retrieve(created.id)).status == "in_progress"
        stream.push(tokens_of("Hello"), "stop")
        response = await finished(responses, created.id)
        assert (response.status, response.output_text) == ("completed", "Hello")
        assert response.background is True
        await until(lambda: not service.drain._running)
        assert await responses.cancel(created.id) == response


async def test_a_background_response_is_cancelled_with_what_it_had():
    async with asking(ScriptedEngine(None)) as (service, responses):
        created, stream = await start_in_background(service, responses)
        stream.begin(0)
        stream.push(tokens_of("Hel"), None)
        cancelled = check(await responses.cancel(created.id))
        assert await service.engine.next_aborted() == "decode"
        assert cancelled.status == "cancelled"
        assert cancelled.output_text == "Hel"
        assert await responses.retrieve(created.id) == cancelled
        assert await responses.cancel(created.id) == cancelled


async def test_a_background_response_that_fails_says_why():
    async with asking(ScriptedEngine(None)) as (service, responses):
        created, stream = await start_in_background(service, responses)
        stream.fail(EngineError("The worker died."))
        response = await finished(responses, created.id)
    assert response.status == "failed"
    assert response.error.message == "The worker died."


async def test_what_is_refused_is_refused_before_it_goes_into_the_background():
    async with asking() as (_, responses):
        with pytest.raises(BadRequestError):
            await responses.create(**ask(background=True, input="word " * 1000))


async def test_only_background_responses_are_cancelled():
    async with asking() as (_, responses):
        created = await responses.create(**ask())
        with pytest.raises(BadRequestError, match="background=true"):
            await responses.cancel(created.id)


async def test_deleting_a_background_response_ends_it():
    async with asking(ScriptedEngine(None)) as (service, responses):
        created, _ = await start_in_background(service, responses)
        await responses.delete(created.id)
        assert await service.engine.next_aborted() == "queued"
        with pytest.raises(NotFoundError):
            await responses.retrieve(created.id)


async def test_an_unfinished_response_is_not_continued():
    async with asking(ScriptedEngine(None)) as (service, responses):
        created, _ = await start_in_background(service, responses)
        with pytest.raises(BadRequestError, match="not finished"):
            await responses.create(**ask(previous_response_id=created.id))


async def test_a_stream_in_the_background_is_taken_up_again_where_it_broke():
    async with asking(ScriptedEngine(None)) as (service, responses):
        creating = asyncio.create_task(responses.create(**ask(background=True, stream=True)))
        stream = await service.engine.next_stream()
        events = await creating
        created = await anext(events)
        assert (created.type, created.response.status) == ("response.created", "queued")
        await events.close()
        stream.begin(0)
        stream.push(tokens_of("Hello"), "stop")
        rest = [
            event
            async for event in await responses.retrieve(
                created.response.id, stream=True, starting_after=created.sequence_number
            )
        ]
        assert [event.sequence_number for event in rest] == list(range(1, len(rest) + 1))
        assert [rest[0].type, rest[-1].type] == ["response.queued", "response.completed"]
        assert "response.in_progress" in {event.type for event in rest}
        async with responses.stream(response_id=created.response.id) as again:
            assert (await again.get_final_response()).output_text == "Hello"


async def test_a_response_without_events_is_not_followed():
    async with asking() as (_, responses):
        created = await responses.create(**ask())
        with pytest.raises(BadRequestError) as refusal:
            await responses.retrieve(created.id, stream=True)
    assert (refusal.value.param, refusal.value.code) == ("stream", "unsupported_parameter")


async def test_a_drain_waits_for_background_responses_and_then_fails_them():
    records = records_at()
    async with asking(ScriptedEngine(None), records=records, drain_timeout_seconds=0.1) as (
        service,
        responses,
    ):
        created, _ = await start_in_background(service, responses)
        service.server.stop()
        assert await service.engine.next_aborted() == "queued"
        await until(lambda: not service.drain._running)
        record = await records.get(created.id, "")
    assert record is not None
    assert record.is_finished
    assert b"shutting down" in record.body


async def test_responses_and_chains_survive_a_restart(tmp_path):
    path = tmp_path / "responses.sqlite"
    async with asking(ScriptedEngine("One"), records=records_at(path)) as (_, responses):
        first = await responses.create(**ask())
    async with asking(ScriptedEngine("Two"), records=records_at(path)) as (service, responses):
        assert await responses.retrieve(first.id) == first
        await responses.create(**ask(input="Go on", previous_response_id=first.id))
        assert prompt_of(service) == "user: Hi\nassistant: One\nuser: Go on\n"
        assert service.engine.requests[0].session == first.id


async def test_what_was_in_the_background_when_the_service_died_has_failed(tmp_path):
    path = tmp_path / "responses.sqlite"
    records = records_at(path)
    async with asking(ScriptedEngine(None), records=records) as (service, responses):
        created, _ = await start_in_background(service, responses)
        await records.close()  # what dies writes nothing any more
        service.drain.interrupt_all()
        await until(lambda: not service.drain._running)
    again = records_at(path)
    await again.open()
    await fail_unfinished(again)
    await again.close()
    async with asking(records=records_at(path)) as (_, responses):
        response = check(await responses.retrieve(created.id))
    assert response.status == "failed"
    assert "send the request again" in response.error.message


async def test_what_expired_is_not_found():
    time = 10.0
    records = ResponseRecords(MEMORY, ttl_seconds=100, max_bytes=10**8, now=lambda: time)
    async with asking(records=records) as (_, responses):
        created = await responses.create(**ask())
        time = 110.0
        with pytest.raises(NotFoundError):
            await responses.retrieve(created.id)


async def test_without_room_an_answer_comes_unless_storing_was_asked_for():
    async with asking(ScriptedEngine("Hi"), records=records_at(max_bytes=1)) as (
        service,
        responses,
    ):
        response = await responses.create(**ask())
        assert response.output_text == "Hi"
        assert response.model_extra == {"store": False}
        assert "response not stored" in {line["event"] for line in service.log}
        with pytest.raises(InternalServerError, match="RECORDS__MAX_BYTES") as refusal:
            await responses.create(**ask(store=True))
        assert refusal.value.code == "storage_failed"
        with pytest.raises(InternalServerError):
            await responses.create(**ask(background=True))
        events = [event async for event in await responses.create(**ask(store=True, stream=True))]
        assert [event.type for event in events[-2:]] == ["error", "response.failed"]


async def test_a_background_response_frees_its_slot_when_it_cannot_be_stored():
    engine = ScriptedEngine(None)
    async with asking(engine, records=records_at(max_bytes=1)) as (_, responses):
        with pytest.raises(APIStatusError):
            await responses.create(**ask(background=True))
        assert await engine.next_aborted() == "queued"

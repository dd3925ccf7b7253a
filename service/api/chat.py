"""`POST /v1/chat/completions`."""

import time

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api.answers import ChatCompletion, ChatCompletionChunk
from service.api.attendance import attend
from service.api.body import read_body
from service.api.config import ApiConfig
from service.api.drain import Drain
from service.api.event_stream import EventStream
from service.api.exchange import Exchange, mint
from service.api.generation import name_tier
from service.api.generator import Choice, Generator, ending, run_all
from service.api.operation import EVENT_STREAM, GENERATING, Answer, Operation
from service.api.presentation import (
    DONE,
    ChunkEncoder,
    Stamp,
    choose_finish_reason,
    count_usage,
    encode_completion,
    read_choice,
)
from service.api.schemas import ChatCompletionRequest
from service.api.served_model import ServedModel
from service.api.streaming import stream_answer
from service.api.validation import parse_body

OPERATIONS = (
    Operation(
        method="post",
        path="/v1/chat/completions",
        summary="An answer to a conversation, at once or as events",
        body=ChatCompletionRequest,
        answers=(
            Answer(schema=ChatCompletion),
            Answer(schema=ChatCompletionChunk, media_type=EVENT_STREAM),
        ),
        errors=GENERATING,
    ),
)


class ChatCompletions:
    """An ASGI application of its own: between the engine and the socket there is nothing else."""

    def __init__(
        self,
        config: ApiConfig,
        *,
        model: ServedModel,
        generator: Generator,
        drain: Drain,
    ) -> None:
        self._config = config
        self._model = model
        self._generator = generator
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._drain.check()
        exchange = Exchange.of(scope)
        exchange.enter("receive")
        body = await read_body(receive)
        exchange.enter("prepare")
        ignore = self._config.ignore_unknown_fields
        request = parse_body(ChatCompletionRequest, body, ignore_unknown=ignore)
        exchange.facts.update(stream=bool(request.stream), session_id=exchange.session_id)
        if request.stream:
            events = EventStream(send)
            await stream_answer(
                self._stream(request, exchange, events),
                events,
                exchange=exchange,
                receive=receive,
                drain=self._drain,
            )
            return
        async with attend(receive, self._drain):
            answer = await self._complete(request, exchange)
        await Response(answer, media_type="application/json")(scope, receive, send)

    def _stamp(self, request: ChatCompletionRequest, exchange: Exchange) -> Stamp:
        return Stamp(
            id=f"chatcmpl-{mint()}",
            created=int(time.time()),  # noqa: TID251 - a response is stamped
            model=self._model.id,
            fingerprint=self._model.fingerprint,
            service_tier=name_tier(request, exchange),
        )

    async def _complete(self, request: ChatCompletionRequest, exchange: Exchange) -> bytes:
        choices = await self._generator.start(request, exchange)
        async with ending(choices, exchange):
            answers = await run_all([read_choice(choice) for choice in choices])
        stamp = self._stamp(request, exchange)
        return encode_completion(stamp, answers, count_usage(choices))

    async def _stream(
        self, request: ChatCompletionRequest, exchange: Exchange, events: EventStream
    ) -> None:
        choices = await self._generator.start(request, exchange)
        include_usage = bool(request.stream_options and request.stream_options.include_usage)
        stamp = self._stamp(request, exchange)
        encoders = [
            ChunkEncoder(stamp, choice.index, include_usage=include_usage) for choice in choices
        ]
        async with ending(choices, exchange):
            async with events.kept_alive(self._config.keepalive_seconds):
                await run_all(
                    [
                        _write_choice(choice, encoder, events)
                        for choice, encoder in zip(choices, encoders, strict=True)
                    ]
                )
            usage = encoders[0].usage(count_usage(choices)) if include_usage else b""
            await events.finish(usage + DONE)


async def _write_choice(choice: Choice, encoder: ChunkEncoder, events: EventStream) -> None:
    """A write per delta; the role goes out with the first text, in one write."""
    start = encoder.role()
    async for parts in choice.parts():
        await events.write(start + encoder.encode(parts))
        start = b""
    finish = encoder.finish(choose_finish_reason(choice), choice.finish_tokens())
    await events.write(start + finish)

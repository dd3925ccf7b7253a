"""`POST /v1/chat/completions`."""

import asyncio
import secrets
import time
from collections.abc import Callable

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api.attendance import attend, read_body
from service.api.config import ApiConfig
from service.api.conversation import read_conversation
from service.api.drain import Drain
from service.api.engine import Engine
from service.api.errors import internal_error, render_error
from service.api.event_stream import EventStream
from service.api.exchange import Exchange, mint, read_header
from service.api.generation import build_generation, check_length
from service.api.presentation import (
    DONE,
    ChunkEncoder,
    MessageBuilder,
    Stamp,
    choose_finish_reason,
    count_usage,
    encode_completion,
)
from service.api.schemas import ChatCompletionRequest
from service.api.served_model import ServedModel
from service.api.validation import parse_body
from service.chat.messages import Conversation
from service.chat.parser import OutputParser
from service.errors import BodyTooLarge, InvalidRequest, ModelNotFound, SmolserveError
from service.runtime.stream import OutputStream


def _random_seed() -> int:
    return secrets.randbits(63)


class ChatCompletions:
    """An ASGI application of its own: between the engine and the socket there is nothing else."""

    def __init__(
        self,
        config: ApiConfig,
        *,
        model: ServedModel,
        engine: Engine,
        drain: Drain,
        new_seed: Callable[[], int] = _random_seed,
    ) -> None:
        self._config = config
        self._model = model
        self._engine = engine
        self._drain = drain
        self._new_seed = new_seed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._drain.check()
        request = parse_body(ChatCompletionRequest, await self._read_body(scope, receive))
        exchange = Exchange.of(scope)
        exchange.facts.update(stream=bool(request.stream), session_id=exchange.session_id)
        if request.model != self._model.id:
            raise ModelNotFound(
                f"The model {request.model[:100]!r} is not served here; {self._model.id!r} is.",
                param="model",
            )
        if request.stream:
            await self._stream(request, exchange, receive, EventStream(send))
            return
        async with attend(receive, self._drain):
            body = await self._complete(request, exchange)
        await Response(body, media_type="application/json")(scope, receive, send)

    async def _read_body(self, scope: Scope, receive: Receive) -> bytes:
        """A body that says it is too large is not asked for."""
        body = bytearray()
        _check_encoding(read_header(scope, b"content-encoding"))
        self._check_size(int(read_header(scope, b"content-length") or 0))
        async for piece in read_body(receive):
            body += piece
            self._check_size(len(body))
        return bytes(body)

    def _check_size(self, num_bytes: int) -> None:
        limit = self._config.max_body_bytes
        if num_bytes > limit:
            raise BodyTooLarge(f"The body is larger than the {limit} bytes allowed here.")

    async def _submit(
        self, request: ChatCompletionRequest, exchange: Exchange
    ) -> tuple[OutputStream, OutputParser]:
        conversation = read_conversation(request, self._model.format)
        # Off the loop even for short prompts: a switch costs 0.1 ms, a template 0.4 ms at least.
        prompt, parser = await asyncio.to_thread(self._prepare, conversation)
        exchange.facts["prompt_tokens"] = len(prompt)
        check_length(prompt, self._engine.max_context_len)
        generation = build_generation(
            request,
            conversation,
            prompt,
            model=self._model,
            exchange=exchange,
            new_seed=self._new_seed(),
        )
        return self._engine.submit(generation), parser

    def _prepare(self, conversation: Conversation) -> tuple[list[int], OutputParser]:
        return self._model.encode(conversation), self._model.format.parser(conversation)

    def _stamp(self, request: ChatCompletionRequest) -> Stamp:
        return Stamp(
            id=f"chatcmpl-{mint()}",
            created=int(time.time()),  # noqa: TID251 - a response is stamped
            model=self._model.id,
            service_tier="default" if request.service_tier else None,
        )

    async def _complete(self, request: ChatCompletionRequest, exchange: Exchange) -> bytes:
        stream, parser = await self._submit(request, exchange)
        builder = MessageBuilder()
        try:
            async for delta in stream:
                builder.add(parser.feed(delta.text, len(delta.token_ids)))
            builder.add(parser.finish())
            finish_reason = choose_finish_reason(stream, parser)
        finally:
            stream.abort()
            _note(exchange, stream)
        usage = count_usage(stream, parser)
        return encode_completion(self._stamp(request), builder.message(), finish_reason, usage)

    async def _stream(
        self,
        request: ChatCompletionRequest,
        exchange: Exchange,
        receive: Receive,
        events: EventStream,
    ) -> None:
        """After the first byte an error is an event, and the stream ends without `[DONE]`."""
        try:
            async with attend(receive, self._drain):
                await self._stream_answer(request, exchange, events)
        except SmolserveError as error:
            if not events.has_started:
                raise
            exchange.facts["error"] = error.code
            await events.finish(_error_event(error))
        except ClientDisconnect:
            raise
        except Exception:
            if events.has_started:
                await events.finish(_error_event(internal_error(exchange.request_id)))
            raise

    async def _stream_answer(
        self, request: ChatCompletionRequest, exchange: Exchange, events: EventStream
    ) -> None:
        stream, parser = await self._submit(request, exchange)
        include_usage = bool(request.stream_options and request.stream_options.include_usage)
        encoder = ChunkEncoder(self._stamp(request), include_usage=include_usage)
        try:
            async with events.kept_alive(self._config.keepalive_seconds):
                await self._write_deltas(stream, parser, encoder, events)
                end = encoder.finish(choose_finish_reason(stream, parser))
                if include_usage:
                    end += encoder.usage(count_usage(stream, parser))
            await events.finish(end + DONE)
        finally:
            stream.abort()
            _note(exchange, stream)

    async def _write_deltas(
        self,
        stream: OutputStream,
        parser: OutputParser,
        encoder: ChunkEncoder,
        events: EventStream,
    ) -> None:
        """The role goes out with the first text, in one write; after that, a write per delta."""
        start = encoder.role()
        async for delta in stream:
            chunks = encoder.encode(parser.feed(delta.text, len(delta.token_ids)))
            if chunks:
                await events.write(start + chunks)
                start = b""
        await events.write(start + encoder.encode(parser.finish()))


def _check_encoding(encoding: bytes | None) -> None:
    if encoding not in {None, b"", b"identity"}:
        raise InvalidRequest(
            "A compressed body is not read here; send it without Content-Encoding.",
            code="unsupported_encoding",
        )


def _error_event(error: SmolserveError) -> bytes:
    return b"data: " + render_error(error) + b"\n\n"


def _note(exchange: Exchange, stream: OutputStream) -> None:
    exchange.facts.update(
        cached_tokens=stream.num_cached_tokens,
        completion_tokens=stream.num_output_tokens,
        finish_reason=stream.finish_reason,
    )

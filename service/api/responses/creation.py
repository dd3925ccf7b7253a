"""`POST /v1/responses`."""

from dataclasses import dataclass

import orjson
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api.attendance import attend
from service.api.body import read_body
from service.api.config import ApiConfig
from service.api.drain import Drain
from service.api.errors import internal_error
from service.api.event_stream import EventStream
from service.api.exchange import Exchange
from service.api.generation import name_tier
from service.api.generator import Choice, Generator, ending
from service.api.responses.background import Background, BackgroundRun
from service.api.responses.conversation import Conversation, Conversations
from service.api.responses.events import Event, GrowingResponse, encode
from service.api.responses.following import follow
from service.api.responses.generation import begin_response, generate, mint_id
from service.api.responses.schemas import ResponseRequest
from service.api.responses.translation import renaming, translate
from service.api.schemas import ChatCompletionRequest
from service.api.served_model import ServedModel
from service.api.validation import parse_body
from service.errors import SmolserveError, StorageError


@dataclass(frozen=True, slots=True, kw_only=True)
class _Making:
    """What belongs to one response that is being made."""

    request: ResponseRequest
    chat: ChatCompletionRequest
    exchange: Exchange
    response: GrowingResponse
    conversation: Conversation


class CreateResponse:
    """An ASGI application, as chat completions are."""

    def __init__(
        self,
        config: ApiConfig,
        *,
        model: ServedModel,
        generator: Generator,
        conversations: Conversations,
        background: Background,
        drain: Drain,
    ) -> None:
        self._config = config
        self._model = model
        self._generator = generator
        self._conversations = conversations
        self._background = background
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._drain.check()
        exchange = Exchange.of(scope)
        exchange.enter("receive")
        body = await read_body(receive)
        exchange.enter("prepare")
        ignore = self._config.ignore_unknown_fields
        request = parse_body(ResponseRequest, body, ignore_unknown=ignore)
        self._model.check_name(request.model)
        response_id = mint_id()
        conversation = await self._conversations.read(request, response_id, exchange.tenant)
        # The chain is the session, so what was computed for it is found again.
        exchange.adopt_session_key(request.prompt_cache_key or conversation.chain)
        exchange.facts.update(stream=bool(request.stream), response_id=response_id)
        chat = translate(request, conversation.items)
        tier = name_tier(chat, exchange)
        making = _Making(
            request=request,
            chat=chat,
            exchange=exchange,
            response=begin_response(request, response_id, model=self._model, tier=tier),
            conversation=conversation,
        )
        if request.background:
            await self._start_in_background(making, receive, send, scope)
        elif request.stream:
            await self._stream(making, receive, EventStream(send))
        else:
            async with attend(receive, self._drain):
                await self._complete(making)
            await _send_body(making.response.body(), scope, receive, send)

    async def _start(self, making: _Making) -> list[Choice]:
        with renaming():
            return await self._generator.start(making.chat, making.exchange)

    async def _complete(self, making: _Making) -> None:
        choices = await self._start(making)
        async with ending(choices, making.exchange):
            await generate(choices[0], making.response, _emit_nothing)
        await self._keep(making)

    async def _stream(self, making: _Making, receive: Receive, events: EventStream) -> None:
        """After the first byte an error is two events: `error`, and the response that failed."""
        try:
            async with attend(receive, self._drain):
                await self._stream_answer(making, events)
        except SmolserveError as error:
            if not events.has_started:
                raise
            making.exchange.facts["error"] = error.code
            await self._stream_failure(making, events, error)
        except ClientDisconnect:
            raise
        except Exception:
            if events.has_started:
                await self._stream_failure(
                    making, events, internal_error(making.exchange.request_id)
                )
            raise

    async def _stream_answer(self, making: _Making, events: EventStream) -> None:
        choices = await self._start(making)
        response = making.response
        start = encode(response.create())

        async def write(fresh: list[Event]) -> None:
            nonlocal start
            await events.write(start + encode(fresh))
            start = b""

        async with ending(choices, making.exchange):
            async with events.kept_alive(self._config.keepalive_seconds):
                last = await generate(choices[0], response, write)
            # Before the last event: a client that has it may continue the response at once.
            await self._keep(making)
            await events.finish(start + encode([*last, *response.conclude()]))

    async def _stream_failure(
        self, making: _Making, events: EventStream, error: SmolserveError
    ) -> None:
        failure = making.response.fail(str(error), error.code)
        if making.request.is_stored and not isinstance(error, StorageError):
            await self._conversations.keep_if_possible(making.response, making.conversation)
        await events.finish(encode([*failure, *making.response.conclude()]))

    async def _keep(self, making: _Making) -> None:
        """Raises StorageError where the request says `store: true`; else the answer says false."""
        kept = (making.response, making.conversation)
        making.exchange.enter("store" if making.request.is_stored else None)
        if making.request.store:
            await self._conversations.keep(*kept)
        elif making.request.is_stored:
            await self._conversations.keep_if_possible(*kept)

    async def _start_in_background(
        self, making: _Making, receive: Receive, send: Send, scope: Scope
    ) -> None:
        """The response is stored before anybody hears of it. Raises StorageError."""
        choices = await self._start(making)
        try:
            await self._conversations.keep(making.response, making.conversation)
            run = BackgroundRun(
                making.response,
                making.conversation,
                choices[0],
                is_streamed=bool(making.request.stream),
            )
            self._background.start(run)
        except BaseException:
            choices[0].stream.abort()
            raise
        if making.request.stream:
            seconds = self._config.keepalive_seconds
            await follow(run, EventStream(send), receive, keepalive_seconds=seconds)
        else:
            await _send_body(making.response.body(), scope, receive, send)


async def _emit_nothing(events: list[Event]) -> None:
    """Nobody follows; what the events tell is in the response."""


async def _send_body(body: dict[str, object], scope: Scope, receive: Receive, send: Send) -> None:
    await Response(orjson.dumps(body), media_type="application/json")(scope, receive, send)

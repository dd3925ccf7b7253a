"""`POST /v1/completions`: prompts as they are, without a conversation around them."""

import asyncio
import codecs
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import msgspec
import orjson
from pydantic import Field, model_validator
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api.answers import AnswerModel, Usage
from service.api.attendance import attend
from service.api.body import read_body
from service.api.config import ApiConfig
from service.api.drain import Drain
from service.api.engine import Engine
from service.api.event_stream import EventStream
from service.api.exchange import Exchange, mint
from service.api.fields import MAX_CHOICES, GenerationFields, Positive, only
from service.api.generation import build_generation, check_length, reseed
from service.api.generator import Choice, Generator, Part, ending, run_all
from service.api.limits import check_limits
from service.api.logprobs import ShownToken
from service.api.operation import EVENT_STREAM, GENERATING, JSON, Answer, Operation
from service.api.presentation import DONE, Stamp, choose_finish_reason, count_usage
from service.api.prompts import (
    Prompt,
    check_token_ids,
    decode_tokens,
    encode_text,
    list_prompts,
)
from service.api.served_model import ServedModel
from service.api.streaming import stream_answer
from service.api.validation import UNSUPPORTED_PARAMETER, parse_body
from service.chat.parser import ContentText, PlainParser
from service.errors import InvalidRequest

MAX_LOGPROBS = 5
_DEFAULT_MAX_TOKENS = 16


class CompletionRequest(GenerationFields):
    model: str
    prompt: Prompt
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    echo: bool | None = None
    best_of: Positive | None = None
    suffix: Annotated[None, only("")] = None

    @property
    def token_limit(self) -> int:
        return self.max_tokens or _DEFAULT_MAX_TOKENS

    @model_validator(mode="after")
    def _refuse_what_nobody_ranks_or_measures(self) -> Self:
        if self.best_of not in {None, self.n or 1}:
            raise InvalidRequest(
                "best_of: answers are not ranked here; leave it out, or make it equal to n.",
                param="best_of",
                code=UNSUPPORTED_PARAMETER,
            )
        if self.echo and self.logprobs is not None:
            raise InvalidRequest(
                "logprobs: those of a prompt are not measured here; leave out echo or logprobs.",
                param="logprobs",
                code=UNSUPPORTED_PARAMETER,
            )
        return self


class LegacyLogprobs(AnswerModel):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(AnswerModel):
    index: int
    text: str
    logprobs: LegacyLogprobs | None
    finish_reason: Literal["stop", "length"] | None
    """None in all chunks of a stream but a choice's last."""


class Completion(AnswerModel):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


OPERATIONS = (
    Operation(
        method="post",
        path="/v1/completions",
        summary="The continuation of prompts, at once or as events",
        body=CompletionRequest,
        answers=(
            Answer(schema=Completion),
            Answer(schema=Completion, media_type=EVENT_STREAM),
        ),
        errors=GENERATING,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Encoded:
    """A prompt, and what of it the answer repeats."""

    tokens: list[int]
    echo: str


class Completions:
    """An ASGI application of its own, as the chat's is."""

    def __init__(
        self,
        config: ApiConfig,
        *,
        model: ServedModel,
        engine: Engine,
        generator: Generator,
        drain: Drain,
    ) -> None:
        self._config = config
        self._model = model
        self._engine = engine
        self._generator = generator
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._drain.check()
        exchange = Exchange.of(scope)
        exchange.enter("receive")
        body = await read_body(receive)
        exchange.enter("prepare")
        ignore = self._config.ignore_unknown_fields
        request = parse_body(CompletionRequest, body, ignore_unknown=ignore)
        self._model.check_name(request.model)
        check_limits(request, self._config.limits)
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
        await Response(answer, media_type=JSON)(scope, receive, send)

    async def _complete(self, request: CompletionRequest, exchange: Exchange) -> bytes:
        prompts, choices = await self._start(request, exchange)
        async with ending(choices, exchange):
            answers = await run_all(
                [
                    _read_choice(choice, prompts[choice.index // (request.n or 1)].echo)
                    for choice in choices
                ]
            )
        usage = _count_usage(choices, request.n or 1)
        fields = self._stamp().fields("text_completion")
        return orjson.dumps(fields | {"choices": answers, "usage": usage})

    async def _stream(
        self, request: CompletionRequest, exchange: Exchange, events: EventStream
    ) -> None:
        prompts, choices = await self._start(request, exchange)
        encoder = _ChunkEncoder(
            self._stamp(),
            include_usage=bool(request.stream_options and request.stream_options.include_usage),
        )
        async with ending(choices, exchange):
            async with events.kept_alive(self._config.keepalive_seconds):
                await run_all(
                    [
                        _write_choice(
                            choice, prompts[choice.index // (request.n or 1)].echo, encoder, events
                        )
                        for choice in choices
                    ]
                )
            await events.finish(encoder.usage(_count_usage(choices, request.n or 1)) + DONE)

    async def _start(
        self, request: CompletionRequest, exchange: Exchange
    ) -> tuple[list[_Encoded], list[Choice]]:
        """All choices or none: those of the first prompt, then those of the next."""
        self._engine.check_room(1)  # before the work; how many it is to be is known after
        prompts = await asyncio.to_thread(self._encode, request)
        exchange.facts["prompt_tokens"] = sum(len(prompt.tokens) for prompt in prompts)
        seed = self._generator.new_seed()
        firsts = [
            msgspec.structs.replace(
                build_generation(
                    request, prompt.tokens, model=self._model, exchange=exchange, new_seed=seed
                ),
                num_logprobs=request.logprobs,
            )
            for prompt in prompts
        ]
        repeated = [first for first in firsts for _ in range(request.n or 1)]
        generations = [reseed(generation, index) for index, generation in enumerate(repeated)]
        exchange.enter(None)
        return prompts, self._generator.submit(generations, [PlainParser() for _ in generations])

    def _encode(self, request: CompletionRequest) -> list[_Encoded]:
        """Raises InvalidRequest for a prompt that cannot be continued."""
        given = list_prompts(request.prompt)
        if len(given) * (request.n or 1) > MAX_CHOICES:
            raise InvalidRequest(
                f"n: {len(given)} prompts with {request.n} choices each are more than the "
                f"{MAX_CHOICES} choices that one request may have.",
                param="n",
            )
        is_list = request.prompt is given
        prompts: list[_Encoded] = []
        for index, prompt in enumerate(given):
            param = f"prompt[{index}]" if is_list else "prompt"
            tokens = self._read_tokens(prompt, param)
            check_length(tokens, self._engine.max_context_len, param=param)
            echo = prompt if isinstance(prompt, str) else decode_tokens(self._model.vocab, prompt)
            prompts.append(_Encoded(tokens=tokens, echo=echo if request.echo else ""))
        return prompts

    def _read_tokens(self, prompt: str | list[int], param: str) -> list[int]:
        if isinstance(prompt, str):
            return encode_text(self._model.vocab, prompt)
        check_token_ids(self._model.vocab, prompt, param)
        return prompt

    def _stamp(self) -> Stamp:
        return Stamp(
            id=f"cmpl-{mint()}",
            created=int(time.time()),  # noqa: TID251 - a response is stamped
            model=self._model.id,
            fingerprint=self._model.fingerprint,
        )


class _ChunkEncoder:
    """`include_usage` puts `usage: null` into all chunks but the last."""

    def __init__(self, stamp: Stamp, *, include_usage: bool) -> None:
        self._open = b"data: " + orjson.dumps(stamp.fields("text_completion"))[:-1]
        self._tail = (b',"usage":null' if include_usage else b"") + b"}\n\n"
        self._include_usage = include_usage

    def encode(self, choice: dict[str, object]) -> bytes:
        return self._open + b',"choices":[' + orjson.dumps(choice) + b"]" + self._tail

    def usage(self, usage: dict[str, object]) -> bytes:
        if not self._include_usage:
            return b""
        return self._open + b',"choices":[],"usage":' + orjson.dumps(usage) + b"}\n\n"


async def _write_choice(
    choice: Choice, echo: str, encoder: _ChunkEncoder, events: EventStream
) -> None:
    if echo:
        await events.write(encoder.encode(_describe(choice, echo)))
    legacy = _LogprobsWriter()
    async for parts in choice.parts():
        chunks = [_describe(choice, _text(part), legacy.describe(part.tokens)) for part in parts]
        await events.write(b"".join(map(encoder.encode, chunks)))
    cut = legacy.describe(choice.finish_tokens() or None)
    await events.write(encoder.encode(_describe(choice, "", cut, choose_finish_reason(choice))))


async def _read_choice(choice: Choice, echo: str) -> dict[str, object]:
    texts = [echo]
    tokens: list[ShownToken] = []
    async for parts in choice.parts():
        for part in parts:
            texts.append(_text(part))
            tokens += part.tokens or ()
    cut = choice.finish_tokens()
    logprobs = None if cut is None else _LogprobsWriter().describe([*tokens, *cut])
    return _describe(choice, "".join(texts), logprobs, choose_finish_reason(choice))


def _text(part: Part) -> str:
    assert isinstance(part.parsed, ContentText)
    return part.parsed.text


def _describe(
    choice: Choice,
    text: str,
    logprobs: dict[str, object] | None = None,
    finish_reason: str | None = None,
) -> dict[str, object]:
    return {
        "index": choice.index,
        "text": text,
        "logprobs": logprobs,
        "finish_reason": finish_reason,
    }


class _LogprobsWriter:
    """The lists that were before chat; counts the characters of one choice's text."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._num_chars = 0

    def describe(self, tokens: Sequence[ShownToken] | None) -> dict[str, object] | None:
        if tokens is None:
            return None
        return {
            "tokens": [_name(token.share) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [
                {_name(other): logprob for other, logprob in token.top}
                | {_name(token.share): token.logprob}
                for token in tokens
            ],
            "text_offset": list(map(self._place, tokens)),
        }

    def _place(self, token: ShownToken) -> int:
        """Where it begins; in the middle of a character, where that begins."""
        start = self._num_chars
        self._num_chars += len(self._decoder.decode(token.share))
        return start


def _name(token: bytes) -> str:
    """As text, which is a key here; the bytes of what is none, as OpenAI writes them."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


def _count_usage(choices: Sequence[Choice], num_each: int) -> dict[str, object]:
    """Of all prompts together."""
    starts = range(0, len(choices), num_each)
    return _add([count_usage(choices[start : start + num_each]) for start in starts])


def _add(counts: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    return {
        name: _add([each[name] for each in counts])
        if isinstance(value, dict)
        else sum(each[name] for each in counts)
        for name, value in counts[0].items()
    }

"""A chat request to the choices that are being generated for it."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from msgspec.structs import replace

from service.api.config import RequestLimits
from service.api.constraint import Grammars, constrain, is_constrained
from service.api.conversation import read_content, read_conversation
from service.api.engine import Engine
from service.api.exchange import Exchange
from service.api.generation import build_generations, check_length
from service.api.limits import check_chat_limits
from service.api.logprobs import ShownToken, ShownTokens
from service.api.schemas import ChatCompletionRequest
from service.api.served_model import ServedModel
from service.chat.messages import Conversation
from service.chat.parser import ContentText, OutputParser, Parsed
from service.core.request import GenerationRequest
from service.runtime.stream import OutputStream

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of an answer."""

    parsed: Parsed
    tokens: list[ShownToken] | None = None
    """Those that end in it, where it is content and logprobs are asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One answer on its way: text comes out of `stream` and goes through `parser`."""

    index: int
    stream: OutputStream
    parser: OutputParser
    shown: ShownTokens | None = None
    """Finds the content's tokens, where logprobs are asked for."""

    async def parts(self) -> AsyncIterator[list[Part]]:
        """The answer as it comes, for one reader. Raises EngineError."""
        async for delta in self.stream:
            if self.shown is not None:
                self.shown.feed(delta)
            parsed = self.parser.feed(delta.text, len(delta.token_ids))
            if parsed:
                yield list(map(self._part, parsed))
        parsed = self.parser.finish()
        if parsed:
            yield list(map(self._part, parsed))

    def finish_tokens(self) -> list[ShownToken] | None:
        """After the last part: the token that a stop string cut in two, if one did."""
        return None if self.shown is None else self.shown.finish()

    def _part(self, parsed: Parsed) -> Part:
        if self.shown is None or not isinstance(parsed, ContentText):
            return Part(parsed)
        return Part(parsed, self.shown.show(parsed.text, parsed.start))


def _random_seed() -> int:
    return secrets.randbits(63)


class Generator:
    """Between any endpoint that generates and the engine: renders, tokenises, checks, submits."""

    def __init__(
        self,
        model: ServedModel,
        engine: Engine,
        grammars: Grammars,
        *,
        limits: RequestLimits,
        new_seed: Callable[[], int] = _random_seed,
    ) -> None:
        self._model = model
        self._engine = engine
        self._grammars = grammars
        self._limits = limits
        self.new_seed = new_seed

    async def start(self, request: ChatCompletionRequest, exchange: Exchange) -> list[Choice]:
        """All of them or none. The caller reads them within `ending`.

        Raises ModelNotFound, InvalidRequest, QueueFull or EngineUnavailable.
        """
        exchange.adopt_session_key(request.prompt_cache_key)
        self._model.check_name(request.model)
        check_chat_limits(request, self._limits)
        conversation = read_conversation(request, self._model.format)
        self._engine.check_room(request.n or 1)  # before the work, so that refusing costs little
        # Off the loop even for short prompts: a switch costs 0.1 ms, a template 0.4 ms at least.
        prompt, parsers = await asyncio.to_thread(self._prepare, conversation, request.n or 1)
        prediction = await self._read_prediction(request)
        exchange.facts["prompt_tokens"] = len(prompt)
        check_length(prompt, self._engine.max_context_len)
        if is_constrained(request):
            exchange.enter("compile_grammar")
        constraint = await constrain(request, self._model, parsers[0], self._grammars)
        generations = build_generations(
            request,
            conversation,
            prompt,
            model=self._model,
            exchange=exchange,
            new_seed=self.new_seed(),
        )
        bound = [
            replace(generation, constraint=constraint, prediction=prediction)
            for generation in generations
        ]
        exchange.enter(None)
        return self.submit(bound, parsers)

    def submit(
        self, generations: Sequence[GenerationRequest], parsers: Sequence[OutputParser]
    ) -> list[Choice]:
        """All of them or none. Raises QueueFull or EngineUnavailable."""
        self._engine.check_room(len(generations))
        return [
            Choice(
                index=index,
                stream=self._engine.submit(generation),
                parser=parser,
                shown=self._show(generation),
            )
            for index, (generation, parser) in enumerate(zip(generations, parsers, strict=True))
        ]

    async def _read_prediction(self, request: ChatCompletionRequest) -> list[int] | None:
        """Its tokens, as many as an answer can have."""
        if request.prediction is None:
            return None
        text = read_content(request.prediction.content)
        tokenize = partial(self._model.vocab.tokenize, text, parse_special=False)
        return (await asyncio.to_thread(tokenize))[: self._engine.max_context_len]

    def _show(self, generation: GenerationRequest) -> ShownTokens | None:
        if generation.num_logprobs is None:
            return None
        return ShownTokens(self._model.vocab.token_bytes)

    def _prepare(
        self, conversation: Conversation, num_choices: int
    ) -> tuple[list[int], list[OutputParser]]:
        prompt = self._model.encode(conversation)
        return prompt, [self._model.format.parser(conversation) for _ in range(num_choices)]


async def run_all(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All results; the first failure ends the others and is raised as it is."""
    if len(works) == 1:
        return [await works[0]]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


@asynccontextmanager
async def ending(choices: Sequence[Choice], exchange: Exchange) -> AsyncGenerator[None]:
    """Whatever ends the body ends the choices that still run, and what they were is noted."""
    try:
        yield
    finally:
        for choice in choices:
            choice.stream.abort()
        exchange.facts.update(
            cached_tokens=choices[0].stream.num_cached_tokens,
            completion_tokens=sum(choice.stream.num_output_tokens for choice in choices),
            finish_reason=choices[0].stream.finish_reason,
        )

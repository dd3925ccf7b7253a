"""One request's output on its way from the engine to its reader."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import repeat
from typing import Literal, Self

from service.core.request import FinishReason, GenerationRequest
from service.core.sampling import TokenLogprobs
from service.errors import EngineError
from service.runtime.detokenizer import Detokenizer
from service.runtime.stop_matcher import StopMatcher

Stage = Literal["queued", "prefill", "decode", "done"]


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token of a request that asks for logprobs."""

    id: int
    end: int
    """Where its share of the text ends, in UTF-8 bytes; the next token's share begins there."""
    logprobs: TokenLogprobs | None
    """None for a token that was not drawn."""


@dataclass(frozen=True, slots=True)
class TextDelta:
    """New text and the tokens behind it; text is empty at most in the last delta."""

    text: str
    token_ids: list[int]
    scored: list[ScoredToken] = field(default_factory=list[ScoredToken])
    """The same tokens, of a request that asks for logprobs; they may be ahead of the text."""


class OutputStream:
    """Async iterator of `TextDelta`, for one reader.

    The engine never waits for a reader: what comes while it is busy is joined into one delta.
    A reader that leaves early calls `abort`; forgetting the stream would keep its slot busy.
    """

    def __init__(
        self,
        request: GenerationRequest,
        *,
        token_bytes: Callable[[int], bytes],
        on_abort: Callable[["OutputStream"], None],
    ) -> None:
        """`on_abort` is told once, when the engine should forget a request that still runs."""
        self.request_id = request.request_id
        self.num_prompt_tokens = len(request.prompt)
        self.num_cached_tokens = 0
        self.num_output_tokens = 0
        self.num_accepted_tokens = 0
        """Of the client's prediction: those that were computed ahead and proved right."""
        self.num_rejected_tokens = 0
        """Those that proved wrong."""
        self.finish_reason: Literal["stop", "length"] | None = None
        self.stage: Stage = "queued"
        self._on_abort = on_abort
        self._detokenizer = Detokenizer(token_bytes)
        self._stops = StopMatcher(request.stop)
        self._text: list[str] = []
        self._tokens: list[int] = []
        self._is_scored = request.num_logprobs is not None
        self._scored: list[ScoredToken] = []
        self._num_bytes = 0
        """UTF-8 bytes of all text so far, that of a stop string included."""
        self._error: EngineError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TextDelta:
        while True:
            if self._text or (self._tokens and self.stage == "done"):
                delta = TextDelta("".join(self._text), self._tokens, self._scored)
                self._text, self._tokens, self._scored = [], [], []
                return delta
            if self._error is not None:
                raise self._error
            if self.stage == "done":
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def abort(self) -> None:
        """Stop caring. Idempotent; frees the slot within a step if the request still runs."""
        if self.stage != "done":
            self._on_abort(self)
            self._end()

    def begin(self, num_cached_tokens: int) -> None:
        """The sequence has left the queue."""
        self.stage = "prefill"
        self.num_cached_tokens = num_cached_tokens

    def push(
        self,
        tokens: list[int],
        finish_reason: FinishReason | None,
        logprobs: list[TokenLogprobs | None] | None = None,
    ) -> None:
        """Take in a step's tokens; a stop string among them ends the stream.

        What is behind it is not counted, however many tokens the step gave.
        """
        if len(tokens) > 1 and self._stops:
            scores = logprobs or repeat(None)
            is_stopped = any(
                self._read([token], [score]) for token, score in zip(tokens, scores, strict=False)
            )
        else:
            is_stopped = bool(tokens) and self._read(tokens, logprobs or repeat(None))
        if is_stopped:
            self._finish("stop")
        elif finish_reason is not None:
            self._finish_with_rest("length" if finish_reason == "length" else "stop")
        elif self._text:
            self._wake()

    def fail(self, error: EngineError) -> None:
        """The engine is gone; the reader gets what there is and then the error."""
        if self.stage != "done":
            self._error = error
            self._end()

    def _read(self, tokens: list[int], logprobs: Iterable[TokenLogprobs | None]) -> bool:
        """Whether a stop string ended the text."""
        self.stage = "decode"
        self.num_output_tokens += len(tokens)
        self._tokens += tokens
        read = self._score(tokens, logprobs) if self._is_scored else self._detokenizer.feed(tokens)
        text, is_stopped = self._stops.feed(read)
        if text:
            self._text.append(text)
        return is_stopped

    def _score(self, tokens: list[int], logprobs: Iterable[TokenLogprobs | None]) -> str:
        """Their text; what each has of it is noted.

        A token that ends inside a character has the bytes of it that it brought; should they turn
        out to be none, the text has U+FFFD, which is at least as long, and the shares still join.
        """
        texts: list[str] = []
        for token, measured in zip(tokens, logprobs, strict=False):
            text = self._detokenizer.feed([token])
            self._num_bytes += len(text.encode())
            end = self._num_bytes + self._detokenizer.num_pending
            self._scored.append(ScoredToken(token, end, measured))
            texts.append(text)
        return "".join(texts)

    def _finish_with_rest(self, reason: Literal["stop", "length"]) -> None:
        text, is_stopped = self._stops.feed(self._detokenizer.finish())
        self._text.append(text if is_stopped else text + self._stops.finish())
        self._finish("stop" if is_stopped else reason)

    def _finish(self, reason: Literal["stop", "length"]) -> None:
        self.finish_reason = reason
        self._text = [text for text in self._text if text]
        self._end()

    def _end(self) -> None:
        self.stage = "done"
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

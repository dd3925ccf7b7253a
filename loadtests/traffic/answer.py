"""One streamed answer as its client saw it."""

import json
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import jsonschema
import orjson

_REFUSED = 429
_OK = 200


@dataclass(slots=True, kw_only=True)
class Answer:
    """Filled in while it comes; times are seconds of one monotonic clock."""

    name: str
    sent: float
    status: int = 0
    """0 until the head came."""
    ended: float = 0.0
    arrivals: list[float] = field(default_factory=list[float])
    """When each piece of text came; a server may put several tokens into one."""
    pieces: list[str] = field(default_factory=list[str])
    usage: dict[str, Any] | None = None
    finish_reason: str | None = None
    is_done: bool = False
    """Whether the stream came to its end."""
    has_left: bool = False
    """Whether the client went away before."""
    error: str | None = None

    def feed(self, line: bytes, now: float) -> None:
        """A line of the stream, which came now."""
        if not line.startswith(b"data:"):
            return
        data = line[5:].strip()
        if data == b"[DONE]":
            self.is_done = True
            return
        event = orjson.loads(data)
        if event.get("error"):
            self.error = f"error event: {event['error']}"[:200]
        self.usage = event.get("usage") or self.usage
        for choice in event.get("choices", ()):
            delta = choice["delta"]
            text = delta.get("content") or delta.get("reasoning_content")
            if text:
                self.arrivals.append(now)
                self.pieces.append(text)
            self.finish_reason = choice.get("finish_reason") or self.finish_reason

    def end(self, now: float) -> None:
        """Nothing more will come."""
        self.ended = now
        if self.has_left or self.error or self.is_refused:
            return
        if self.status != _OK:
            self.error = f"status {self.status}" if self.status else "no answer"
        elif not self.is_done:
            self.error = "the stream broke off"

    def check(self, schema: object) -> None:
        """A whole answer that does not fit the schema has failed."""
        if not self.is_whole:
            return
        try:
            jsonschema.validate(json.loads(self.text), schema)  # pyright: ignore[reportArgumentType] - any JSON
        except (ValueError, jsonschema.ValidationError) as error:
            self.error = f"does not fit its schema: {error}".splitlines()[0][:200]

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def is_refused(self) -> bool:
        return self.status == _REFUSED

    @property
    def is_whole(self) -> bool:
        return self.is_done and self.error is None

    @property
    def num_tokens(self) -> int:
        """As the server counts; of an answer that was not read to its end, the pieces."""
        return self.usage["completion_tokens"] if self.usage else len(self.pieces)

    @property
    def seconds(self) -> float:
        return self.ended - self.sent

    @property
    def ttft_seconds(self) -> float | None:
        return self.arrivals[0] - self.sent if self.arrivals else None

    @property
    def gaps(self) -> list[float]:
        """ITL: between each two pieces."""
        return [later - earlier for earlier, later in pairwise(self.arrivals)]

    @property
    def tokens_per_second(self) -> float | None:
        """From its first piece to its last; None where there is no time between."""
        if len(self.arrivals) < 2:
            return None
        return (self.num_tokens - 1) / (self.arrivals[-1] - self.arrivals[0])

"""A response as it grows: its items, and an event for each change."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import orjson

from service.api.exchange import mint
from service.api.generator import Part
from service.api.logprobs import ShownToken
from service.chat.parser import ContentText, ReasoningText, ToolCallArguments, ToolCallStart

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
Event = dict[str, object]

_LEAST_LOGPROB = -9999.0
"""Stands for impossible, which JSON has no number for; OpenAI's choice."""
_PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc"}


@dataclass(slots=True, kw_only=True)
class _OpenItem:
    """The last item, which still grows."""

    kind: Literal["message", "reasoning", "function_call"]
    id: str
    index: int
    call_id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list[str])
    logprobs: list[object] = field(default_factory=list[object])

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def part(self) -> dict[str, object]:
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": self.text}
        return {
            "type": "output_text",
            "annotations": [],
            "logprobs": list(self.logprobs),
            "text": self.text,
        }

    def write(self, status: str, *, with_parts: bool = True) -> dict[str, object]:
        head: dict[str, object] = {"id": self.id, "type": self.kind, "status": status}
        parts = [self.part()] if with_parts else []
        match self.kind:
            case "message":
                return head | {"role": "assistant", "content": parts}
            case "reasoning":
                return head | {"summary": [], "content": parts}
            case "function_call":
                return head | {
                    "call_id": self.call_id,
                    "name": self.name,
                    "arguments": self.text,
                }


class GrowingResponse:
    """Mutated by all that returns events; these come in the order in which clients get them."""

    def __init__(self, fields: Mapping[str, object], status: Status) -> None:
        """`fields` are those that do not change while it grows."""
        self._fields = fields
        self.id = str(fields["id"])
        self.status: Status = status
        self.output: list[dict[str, object]] = []
        self._changes: dict[str, object] = {}
        self._item: _OpenItem | None = None
        self._num_events = 0

    @property
    def is_finished(self) -> bool:
        return self.status not in {"queued", "in_progress"}

    def body(self) -> dict[str, object]:
        """The response as it is now."""
        output = list(self.output)
        if self._item is not None:
            output.append(self._item.write("in_progress"))
        return self.fields() | {"output": output}

    def fields(self) -> dict[str, object]:
        """The response without its output."""
        fresh: dict[str, object] = {
            "status": self.status,
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "usage": None,
        }
        return {**self._fields, **fresh, **self._changes}

    def create(self) -> list[Event]:
        return [self._lifecycle("created"), self._lifecycle(self.status)]

    def start(self) -> list[Event]:
        """It has left the queue."""
        if self.status != "queued":
            return []
        self.status = "in_progress"
        return [self._lifecycle("in_progress")]

    def add(self, parts: Iterable[Part]) -> list[Event]:
        events = self.start()
        for part in parts:
            match part.parsed:
                case ContentText(text):
                    events += self._turn_to("message")
                    events.append(self._grow(text, part.tokens or ()))
                case ReasoningText(text):
                    events += self._turn_to("reasoning")
                    events.append(self._grow(text))
                case ToolCallStart(_, call_id, name):
                    events += self._close("completed")
                    events += self._open("function_call", call_id=call_id, name=name)
                case ToolCallArguments(_, text):
                    events.append(self._grow(text))
        return events

    def add_tokens(self, tokens: Sequence[ShownToken]) -> None:
        """Tokens that only the end of the text made known."""
        if self._item is not None:
            self._item.logprobs += map(_write_token, tokens)

    def complete(
        self, usage: Mapping[str, object], completed_at: int, *, calls_complete: bool
    ) -> list[Event]:
        """The answer is all there. An answer of nothing is a message of nothing."""
        events = self.start()
        kind = None if self._item is None else self._item.kind
        if kind == "reasoning" or (kind is None and not self.output):
            events += self._turn_to("message")
        is_broken = kind == "function_call" and not calls_complete
        events += self._close("incomplete" if is_broken else "completed")
        self._end("completed", usage=usage, completed_at=completed_at)
        return events

    def cut_off(self, usage: Mapping[str, object]) -> list[Event]:
        """No token was left to go on with."""
        events = [*self.start(), *self._close("incomplete")]
        self._end("incomplete", usage=usage, incomplete_details={"reason": "max_output_tokens"})
        return events

    def fail(self, message: str, code: str) -> list[Event]:
        """`code` is ours; the response's error knows OpenAI's codes only."""
        events = self._close("incomplete")
        event = self._event("error", code=code, message=message, param=None)
        self._end("failed", error={"code": "server_error", "message": message})
        return [*events, event | {"type": "error"}]

    def cancel(self) -> list[Event]:
        events = self._close("incomplete")
        self._end("cancelled")
        return events

    def conclude(self) -> list[Event]:
        """The last event; there is none of a cancelled response, whose stream just ends."""
        return [] if self.status == "cancelled" else [self._lifecycle(self.status)]

    def forget_stored(self) -> None:
        """It could not be stored, and says so."""
        self._changes["store"] = False

    def _end(self, status: Status, **changes: object) -> None:
        self.status = status
        self._changes |= changes

    def _turn_to(self, kind: Literal["message", "reasoning"]) -> list[Event]:
        if self._item is not None and self._item.kind == kind:
            return []
        return [*self._close("completed"), *self._open(kind)]

    def _open(
        self,
        kind: Literal["message", "reasoning", "function_call"],
        *,
        call_id: str = "",
        name: str = "",
    ) -> list[Event]:
        self._item = item = _OpenItem(
            kind=kind,
            id=f"{_PREFIXES[kind]}_{mint()}",
            index=len(self.output),
            call_id=call_id,
            name=name,
        )
        added = item.write("in_progress", with_parts=False)
        events = [self._event("output_item.added", output_index=item.index, item=added)]
        if kind != "function_call":
            events.append(self._of_part("content_part.added", part=item.part()))
        return events

    def _grow(self, text: str, tokens: Iterable[ShownToken] = ()) -> Event:
        item = self._item
        assert item is not None
        item.pieces.append(text)
        match item.kind:
            case "message":
                logprobs = list(map(_write_token, tokens))
                item.logprobs += logprobs
                return self._of_part("output_text.delta", delta=text, logprobs=logprobs)
            case "reasoning":
                return self._of_part("reasoning_text.delta", delta=text)
            case "function_call":
                return self._of_item("function_call_arguments.delta", delta=text)

    def _close(self, status: Literal["completed", "incomplete"]) -> list[Event]:
        item = self._item
        if item is None:
            return []
        match item.kind:
            case "message":
                events = [
                    self._of_part("output_text.done", text=item.text, logprobs=item.logprobs),
                    self._of_part("content_part.done", part=item.part()),
                ]
            case "reasoning":
                events = [
                    self._of_part("reasoning_text.done", text=item.text),
                    self._of_part("content_part.done", part=item.part()),
                ]
            case "function_call":
                done = {"name": item.name, "arguments": item.text}
                events = [self._of_item("function_call_arguments.done", **done)]
        written = item.write(status)
        events.append(self._event("output_item.done", output_index=item.index, item=written))
        self.output.append(written)
        self._item = None
        return events

    def _lifecycle(self, name: str) -> Event:
        return self._event(name, response=self.body())

    def _of_part(self, name: str, /, **fields: object) -> Event:
        return self._of_item(name, content_index=0, **fields)

    def _of_item(self, name: str, /, **fields: object) -> Event:
        item = self._item
        assert item is not None
        return self._event(name, item_id=item.id, output_index=item.index, **fields)

    def _event(self, name: str, /, **fields: object) -> Event:
        event = {"type": f"response.{name}", "sequence_number": self._num_events, **fields}
        self._num_events += 1
        return event


def _write_token(token: ShownToken) -> dict[str, object]:
    top = [_write_logprob(share, logprob) for share, logprob in token.top]
    return _write_logprob(token.share, token.logprob) | {"top_logprobs": top}


def _write_logprob(share: bytes, logprob: float) -> dict[str, object]:
    return {
        "token": share.decode(errors="replace"),
        "bytes": list(share),
        "logprob": max(logprob, _LEAST_LOGPROB),
    }


def encode(events: Iterable[Event]) -> bytes:
    """Server-sent events; the name is said twice, as OpenAI does."""
    return b"".join(
        b"event: %b\ndata: %b\n\n" % (str(event["type"]).encode(), orjson.dumps(event))
        for event in events
    )

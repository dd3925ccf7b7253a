"""Splits what a model writes into reasoning, content and tool calls, however its text is cut.

    START ── <think> ──> THOUGHT ── </think> ──> START
      │ text                                        white space before a tag is dropped
      v
    TEXT ── <tool_call> ──> CALL ── } ──> CALL_END ── </tool_call> ──> START
         ── <code> ──────────────> CODE ── </code> ──────────────────> START

Only the first thing in a response can be a thought; inside a thought everything is thought. A call
that is malformed before its name is known is content, tags included.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

from service.chat.call_scanner import CallScanner, CallState


@dataclass(frozen=True, slots=True)
class ReasoningText:
    """A stretch of thought; never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class ContentText:
    """A stretch of answer, as it stands in the text that was fed; never empty."""

    text: str
    start: int = field(default=0, compare=False)
    """Where in all that was fed it begins; stretches come in order and do not overlap."""


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """A call begins; its arguments follow."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolCallArguments:
    """A stretch of a call's arguments, JSON text; never empty."""

    index: int
    text: str


Parsed = ReasoningText | ContentText | ToolCallStart | ToolCallArguments


class OutputParser(Protocol):
    """Reads one response; the result does not depend on how its text was cut."""

    @property
    def num_reasoning_tokens(self) -> int:
        """Tokens fed so far that were thought, tags included.

        A delta in which a thought ends is shared out by characters.
        """
        ...

    @property
    def calls_complete(self) -> bool:
        """Whether there were calls, and each has all its arguments."""
        ...

    @property
    def in_thought(self) -> bool:
        """Whether what comes next is thought."""
        ...

    def feed(self, text: str, num_tokens: int) -> list[Parsed]: ...

    def finish(self) -> list[Parsed]:
        """What was held back because it could have been a tag. Call once, at the end."""
        ...


class PlainParser:
    """Everything is content: for formats without thoughts and calls."""

    num_reasoning_tokens = 0
    calls_complete = False
    in_thought = False

    def __init__(self) -> None:
        self._num_fed = 0

    def feed(self, text: str, num_tokens: int) -> list[Parsed]:  # noqa: ARG002 - the protocol's
        start = self._num_fed
        self._num_fed += len(text)
        return [ContentText(text, start)] if text else []

    def finish(self) -> list[Parsed]:
        return []


@dataclass(frozen=True, slots=True, kw_only=True)
class Tags:
    """Which tags mean something in a response."""

    thinking: bool = False
    tool_calls: bool = False
    code: bool = False
    """`<code>` is a call of the function `python` with the argument `code`."""
    in_thought: bool = False
    """The prompt opened the thought."""
    in_content: bool = False
    """The prompt ended inside an answer."""


class _Mode(Enum):
    START = auto()
    THOUGHT = auto()
    TEXT = auto()
    CALL = auto()
    CALL_END = auto()
    CODE = auto()


_THINK, _END_THINK = "<think>", "</think>"
CALL_TAG, END_CALL_TAG = "<tool_call>", "</tool_call>"
_CODE, _END_CODE = "<code>", "</code>"
CODE_FUNCTION = "python"
"""The name under which code blocks are calls."""


class TaggedParser:
    """`<think>`, `<tool_call>` and `<code>`; mutated by `feed` and `finish`."""

    def __init__(self, tags: Tags, new_call_id: Callable[[], str]) -> None:
        self._tags = tags
        self._new_call_id = new_call_id
        self._mode = _Mode.START
        if tags.in_thought:
            self._mode = _Mode.THOUGHT
        elif tags.in_content:
            self._mode = _Mode.TEXT
        self._buffer = ""
        self._num_fed = 0
        self._at_thought_start = True
        self._after_tag = False
        self._may_think = tags.thinking
        self._scanner = CallScanner()
        self._started = False
        self._num_calls = 0
        self._complete = False
        self._broken = False
        self._out: list[Parsed] = []
        self._num_pending_tokens = 0
        self._num_taken = 0
        self._num_thought = 0
        self.num_reasoning_tokens = 0

    @property
    def calls_complete(self) -> bool:
        return self._complete and not self._broken

    @property
    def in_thought(self) -> bool:
        return self._mode is _Mode.THOUGHT

    def feed(self, text: str, num_tokens: int) -> list[Parsed]:
        self._buffer += text
        self._num_fed += len(text)
        self._num_pending_tokens += num_tokens
        while self._step():
            pass
        self._count_tokens()
        return self._take_out()

    def finish(self) -> list[Parsed]:
        rest, self._buffer = self._buffer, ""
        match self._mode:
            case _Mode.START if not self._after_tag:
                self._say(rest)
            case _Mode.START if rest.strip():
                self._say(rest.lstrip("\n"))
            case _Mode.TEXT:
                self._say(rest)
            case _Mode.THOUGHT:
                self._think(rest.rstrip("\n"))
            case _Mode.CODE:
                self._argue(_escape(rest))
            case _Mode.CALL if not self._started:
                self._say(CALL_TAG + self._scanner.raw)
            case _:
                pass
        if self._mode is _Mode.THOUGHT:
            self.num_reasoning_tokens += self._num_pending_tokens
        self._num_pending_tokens = 0
        return self._take_out()

    def _step(self) -> bool:
        """Takes what it can from the buffer; False when it needs more text."""
        if not self._buffer:
            return False
        steps = {
            _Mode.START: self._step_start,
            _Mode.THOUGHT: self._step_thought,
            _Mode.TEXT: self._step_text,
            _Mode.CALL: self._step_call,
            _Mode.CALL_END: self._step_call_end,
            _Mode.CODE: self._step_code,
        }
        return steps[self._mode]()

    def _step_start(self) -> bool:
        text = self._buffer.lstrip()
        openers = self._openers()
        for tag in openers:
            if text.startswith(tag):
                self._take(len(self._buffer) - len(text), thought=tag == _THINK)
                self._open(tag)
                return True
        if not text or any(tag.startswith(text) for tag in openers):
            return False
        if self._after_tag:
            self._take(len(self._buffer) - len(self._buffer.lstrip("\n")))
        self._mode = _Mode.TEXT
        return True

    def _step_thought(self) -> bool:
        if self._at_thought_start:
            self._take(len(self._buffer) - len(self._buffer.lstrip("\n")), thought=True)
            if not self._buffer:
                return False
        end = self._buffer.find(_END_THINK)
        if end >= 0:
            self._think(self._take(end, thought=True).rstrip("\n"))
            self._take(len(_END_THINK), thought=True)
            self._mode, self._after_tag = _Mode.START, True
            return True
        safe = self._buffer[: _safe_len(self._buffer, [_END_THINK])].rstrip("\n")
        self._at_thought_start &= not safe
        self._think(self._take(len(safe), thought=True))
        return False

    def _step_text(self) -> bool:
        self._may_think = False
        openers = self._openers()
        found = [(at, tag) for tag in openers if (at := self._buffer.find(tag)) >= 0]
        if found:
            at, tag = min(found)
            self._say(self._take(at))
            self._open(tag)
            return True
        self._say(self._take(_safe_len(self._buffer, openers)))
        return False

    def _step_call(self) -> bool:
        scanner = self._scanner
        self._take(scanner.feed(self._buffer))
        if scanner.name is not None:
            self._start_call(scanner.name)
            self._argue(scanner.take_arguments())
        if scanner.state is CallState.OPEN:
            return False
        if scanner.state is CallState.COMPLETE:
            self._complete = True
            self._mode = _Mode.CALL_END
        elif self._started:
            self._broken = True
            self._mode = _Mode.TEXT
        else:
            self._buffer = scanner.raw + self._buffer
            self._say(CALL_TAG)
            self._mode = _Mode.TEXT
        return True

    def _step_call_end(self) -> bool:
        text = self._buffer.lstrip()
        if not text or (END_CALL_TAG.startswith(text) and text != END_CALL_TAG):
            return False
        if text.startswith(END_CALL_TAG):
            self._take(len(self._buffer) - len(text) + len(END_CALL_TAG))
        self._mode, self._after_tag = _Mode.START, True
        return True

    def _step_code(self) -> bool:
        end = self._buffer.find(_END_CODE)
        if end < 0:
            self._argue(_escape(self._take(_safe_len(self._buffer, [_END_CODE]))))
            return False
        self._argue(_escape(self._take(end)) + '"}')
        self._take(len(_END_CODE))
        self._complete = True
        self._mode, self._after_tag = _Mode.START, True
        return True

    def _openers(self) -> list[str]:
        tags = self._tags
        enabled = [(self._may_think, _THINK), (tags.tool_calls, CALL_TAG), (tags.code, _CODE)]
        return [tag for is_enabled, tag in enabled if is_enabled]

    def _open(self, tag: str) -> None:
        self._take(len(tag), thought=tag == _THINK)
        if tag == _THINK:
            self._mode = _Mode.THOUGHT
            self._at_thought_start = True
            return
        self._may_think = False
        self._started = False
        if tag == CALL_TAG:
            self._mode = _Mode.CALL
            self._scanner = CallScanner()
        else:
            self._mode = _Mode.CODE
            self._start_call(CODE_FUNCTION)
            self._argue('{"code": "')

    def _start_call(self, name: str) -> None:
        if self._started:
            return
        self._started = True
        self._complete = False
        self._out.append(ToolCallStart(self._num_calls, self._new_call_id(), name))
        self._num_calls += 1

    def _argue(self, text: str) -> None:
        if text:
            self._out.append(ToolCallArguments(self._num_calls - 1, text))

    def _say(self, text: str) -> None:
        """Text that stands just before what the buffer holds."""
        if text:
            start = self._num_fed - len(self._buffer) - len(text)
            self._out.append(ContentText(text, start))

    def _think(self, text: str) -> None:
        if text:
            self._out.append(ReasoningText(text))

    def _take(self, length: int, *, thought: bool = False) -> str:
        text, self._buffer = self._buffer[:length], self._buffer[length:]
        self._num_taken += length
        self._num_thought += length if thought else 0
        return text

    def _count_tokens(self) -> None:
        """Shares tokens out by what was taken; with nothing taken they wait for what follows."""
        if not self._num_taken:
            return
        share = self._num_pending_tokens * self._num_thought
        self.num_reasoning_tokens += -(-share // self._num_taken)
        self._num_pending_tokens = self._num_taken = self._num_thought = 0

    def _take_out(self) -> list[Parsed]:
        out, self._out = self._out, []
        return list(_join(out))


def _safe_len(text: str, tags: list[str]) -> int:
    """Length of the text that cannot be the start of a tag."""
    longest = max(map(len, tags), default=1)
    start = text.find("<", max(0, len(text) - longest + 1))
    while start >= 0:
        if any(tag.startswith(text[start:]) for tag in tags):
            return start
        start = text.find("<", start + 1)
    return len(text)


def _escape(code: str) -> str:
    return json.dumps(code, ensure_ascii=False)[1:-1]


def _join(parsed: Iterable[Parsed]) -> Iterable[Parsed]:
    """Neighbours of one kind become one; stretches of content, where nothing is between them."""
    last: Parsed | None = None
    for item in parsed:
        match last, item:
            case ReasoningText(head), ReasoningText(tail):
                last = ReasoningText(head + tail)
            case ContentText(head, start), ContentText(tail, at) if start + len(head) == at:
                last = ContentText(head + tail, start)
            case ToolCallArguments(index, head), ToolCallArguments(same, tail) if index == same:
                last = ToolCallArguments(index, head + tail)
            case _:
                if last is not None:
                    yield last
                last = item
    if last is not None:
        yield last

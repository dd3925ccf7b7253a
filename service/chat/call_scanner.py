"""Reads `{"name": …, "arguments": {…}}` while it is written."""

import json
from enum import Enum, auto

from service.chat.json_scanner import JsonEvent, JsonScanner, MalformedJsonError

_MEMBER_DEPTH = 1
"""Depth inside the call's own object."""


class CallState(Enum):
    """How far a call has come."""

    OPEN = auto()
    COMPLETE = auto()
    MALFORMED = auto()


class CallScanner:
    """One tool call's JSON, whichever of its members comes first; other members are passed over."""

    def __init__(self) -> None:
        self.state = CallState.OPEN
        self.name: str | None = None
        self.raw = ""
        """All that was read."""
        self._json = JsonScanner()
        self._keys: set[str] = set()
        self._key = ""
        self._text: list[str] = []
        """Where characters go: the arguments, or the key or value at hand."""
        self._arguments: list[str] = []

    def feed(self, text: str) -> int:
        """Reads until the call is complete or malformed; returns the number of characters taken."""
        for index, char in enumerate(text):
            try:
                self._push(char)
            except MalformedJsonError:
                self.state = CallState.MALFORMED
                self.raw += text[:index]
                return index
            if self._json.complete:
                self.state = CallState.COMPLETE
                self.raw += text[: index + 1]
                return index + 1
        self.raw += text
        return len(text)

    def take_arguments(self) -> str:
        """Argument text since the last call of this method; a call without any has `{}`."""
        if self.state is CallState.COMPLETE and "arguments" not in self._keys:
            self._keys.add("arguments")
            return "{}"
        taken = "".join(self._arguments)
        self._arguments.clear()
        return taken

    def _push(self, char: str) -> None:
        depth = self._json.depth
        event = self._json.push(char)
        if depth == 0 and event is JsonEvent.VALUE_START and char != "{":
            raise MalformedJsonError(char)
        if depth == _MEMBER_DEPTH:
            self._start_text(event, char)
        self._text.append(char)
        if self._json.depth == _MEMBER_DEPTH:
            self._end_text(event)
        if self._json.complete and self.name is None:
            raise MalformedJsonError(char)

    def _start_text(self, event: JsonEvent, char: str) -> None:
        if event is JsonEvent.KEY_START:
            self._text = []
        elif event is JsonEvent.VALUE_START:
            opener = {"name": '"', "arguments": "{"}.get(self._key, char)
            if char != opener:
                raise MalformedJsonError(char)
            self._text = self._arguments if self._key == "arguments" else []

    def _end_text(self, event: JsonEvent) -> None:
        if event is JsonEvent.KEY_END:
            self._set_key(json.loads("".join(self._text)))
        elif event is JsonEvent.VALUE_END:
            if self._key == "name":
                self._set_name(json.loads("".join(self._text)))
            self._text = []

    def _set_key(self, key: str) -> None:
        if key in self._keys:
            raise MalformedJsonError(key)
        self._keys.add(key)
        self._key = key
        self._text = []

    def _set_name(self, name: str) -> None:
        if not name or any("\ud800" <= char <= "\udfff" for char in name):
            raise MalformedJsonError(name)
        self.name = name

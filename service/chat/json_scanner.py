"""Reads JSON one character at a time, for tool calls that are passed on while they are written."""

import re
from enum import Enum, auto

_SPACE = " \t\n\r"
_SCALAR_CHARS = frozenset("+-.0123456789Eaeflnrstu")
_SCALAR = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null")
_HEX_LEN = 4


class JsonEvent(Enum):
    """What a character meant; values that are numbers or literals end without an event."""

    NOTHING = auto()
    KEY_START = auto()
    KEY_END = auto()
    VALUE_START = auto()
    VALUE_END = auto()


class MalformedJsonError(ValueError):
    """No JSON text starts like this."""


class _Expect(Enum):
    VALUE = auto()
    VALUE_OR_END = auto()
    KEY = auto()
    KEY_OR_END = auto()
    COLON = auto()
    COMMA_OR_END = auto()
    NOTHING = auto()


class JsonScanner:
    """Accepts the characters of one JSON value; mutated by `push`."""

    def __init__(self) -> None:
        self._closers: list[str] = []
        self._expect = _Expect.VALUE
        self._in_string = False
        self._is_key = False
        self._escape = ""
        self._scalar = ""

    @property
    def depth(self) -> int:
        """Objects and arrays that are open."""
        return len(self._closers)

    @property
    def complete(self) -> bool:
        """Whether the value has ended (a number at the top never knows)."""
        return self._expect is _Expect.NOTHING and not self._in_string and not self._scalar

    def push(self, char: str) -> JsonEvent:
        """Raises MalformedJsonError, after which the scanner is of no use."""
        if self._in_string:
            return self._push_in_string(char)
        if self._scalar:
            if char in _SCALAR_CHARS:
                self._scalar += char
                return JsonEvent.NOTHING
            self._end_scalar()
        if char in _SPACE:
            return JsonEvent.NOTHING
        return self._push_token(char)

    def _push_token(self, char: str) -> JsonEvent:
        expect = self._expect
        if self._closers and char == self._closers[-1]:
            return self._close()
        if expect in {_Expect.VALUE, _Expect.VALUE_OR_END}:
            return self._start_value(char)
        if expect in {_Expect.KEY, _Expect.KEY_OR_END} and char == '"':
            self._in_string = self._is_key = True
            return JsonEvent.KEY_START
        if expect is _Expect.COLON and char == ":":
            self._expect = _Expect.VALUE
        elif expect is _Expect.COMMA_OR_END and char == ",":
            self._expect = _Expect.KEY if self._closers[-1] == "}" else _Expect.VALUE
        else:
            raise MalformedJsonError(char)
        return JsonEvent.NOTHING

    def _start_value(self, char: str) -> JsonEvent:
        if char == "{":
            self._closers.append("}")
            self._expect = _Expect.KEY_OR_END
        elif char == "[":
            self._closers.append("]")
            self._expect = _Expect.VALUE_OR_END
        elif char == '"':
            self._in_string, self._is_key = True, False
        elif char in _SCALAR_CHARS:
            self._scalar = char
        else:
            raise MalformedJsonError(char)
        return JsonEvent.VALUE_START

    def _close(self) -> JsonEvent:
        if self._expect not in {_Expect.KEY_OR_END, _Expect.VALUE_OR_END, _Expect.COMMA_OR_END}:
            raise MalformedJsonError(self._closers[-1])
        self._closers.pop()
        self._end_value()
        return JsonEvent.VALUE_END

    def _push_in_string(self, char: str) -> JsonEvent:
        if self._escape:
            self._push_escape(char)
        elif char == "\\":
            self._escape = char
        elif char == '"':
            return self._end_string()
        elif char < " ":
            raise MalformedJsonError(char)
        return JsonEvent.NOTHING

    def _push_escape(self, char: str) -> None:
        self._escape += char
        if self._escape[1] == "u":
            digits = self._escape[2:]
            if digits and char not in "0123456789abcdefABCDEF":
                raise MalformedJsonError(char)
            if len(digits) == _HEX_LEN:
                self._escape = ""
        elif char in '"\\/bfnrt':
            self._escape = ""
        else:
            raise MalformedJsonError(char)

    def _end_string(self) -> JsonEvent:
        self._in_string = False
        if self._is_key:
            self._expect = _Expect.COLON
            return JsonEvent.KEY_END
        self._end_value()
        return JsonEvent.VALUE_END

    def _end_scalar(self) -> None:
        if not _SCALAR.fullmatch(self._scalar):
            raise MalformedJsonError(self._scalar)
        self._scalar = ""
        self._end_value()

    def _end_value(self) -> None:
        self._expect = _Expect.COMMA_OR_END if self._closers else _Expect.NOTHING

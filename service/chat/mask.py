"""Keeps what a client wrote from turning into control tokens inside a Jinja template.

A template joins, trims, splits and replaces; text that is harmless when it goes in can come out as
`<|im_start|>`. So the first and last character of every control token (`<`, `>`, `[` …) is
replaced, wherever a client wrote it, by a private-use character that neither the client nor the
template uses. In the rendered text those characters are what they stood for, as plain text.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import cast

from service.chat.prompt import Segment, control, look_alikes, plain
from service.errors import InvalidRequest

_PRIVATE_USE = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))


class Mask:
    """Stand-ins for one rendering."""

    def __init__(self, special_texts: frozenset[str], used_text: str) -> None:
        """`used_text` is all that the client and the template wrote.

        Raises InvalidRequest if it leaves no private-use character free.
        """
        self._look_alikes = look_alikes(special_texts)
        ends = {char for text in special_texts for char in (text[0], text[-1]) if _is_mark(char)}
        first = {match[1][0] for match in self._look_alikes.finditer(used_text)}
        needed = sorted((ends | first).intersection(used_text))
        free = _free_chars(used_text)
        self._stand_ins = {char: _next(free) for char in needed}
        self._marks = {ord(char): self._stand_ins[char] for char in needed if char in ends}
        self._originals = {
            spelling: char
            for char, stand_in in self._stand_ins.items()
            for spelling in (stand_in, _escape(stand_in))
        }
        """Escaped as well: a template that prints a dict prints Python's repr of it."""

    def hide(self, value: object) -> object:
        """The value with stand-ins in all its strings, keys included."""
        return map_strings(value, self._hide_text)

    def reveal(self, rendered: str) -> list[Segment]:
        """The rendered prompt, with the client's characters back and plain."""
        if not self._originals:
            return [control(rendered)]
        pattern = f"({'|'.join(map(re.escape, self._originals))})"
        pieces = re.split(pattern, rendered)
        return [
            plain(self._originals[piece]) if index % 2 else control(piece)
            for index, piece in enumerate(pieces)
            if piece
        ]

    def _hide_text(self, text: str) -> str:
        matches = list(self._look_alikes.finditer(text))
        if matches:
            chars = list(text)
            for match in matches:
                chars[match.start()] = self._stand_ins[match[1][0]]
            text = "".join(chars)
        return text.translate(self._marks)


def map_strings(value: object, change: Callable[[str], str]) -> object:
    """A copy of nested mappings and sequences with every string changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        mapping = cast("Mapping[object, object]", value)
        return {
            change(key) if isinstance(key, str) else key: map_strings(item, change)
            for key, item in mapping.items()
        }
    if isinstance(value, (list, tuple)):
        return [map_strings(item, change) for item in cast("Sequence[object]", value)]
    return value


def strings_in(value: object) -> list[str]:
    """Every string in nested mappings and sequences, keys included."""
    found: list[str] = []

    def collect(text: str) -> str:
        found.append(text)
        return text

    map_strings(value, collect)
    return found


def find_free_char(used_text: str) -> str:
    """A private-use character that the text does not contain; raises InvalidRequest without one."""
    return _next(_free_chars(used_text))


def _is_mark(char: str) -> bool:
    return not (char.isalnum() or char.isspace())


def _free_chars(used_text: str) -> Iterator[str]:
    used = set(used_text)
    for code in chain(*_PRIVATE_USE):
        char = chr(code)
        if char not in used and _escape(char) not in used_text:
            yield char


def _next(free: Iterable[str]) -> str:
    for char in free:
        return char
    raise InvalidRequest(
        "The messages use every private-use character of Unicode; leave some free.",
        param="messages",
    )


def _escape(char: str) -> str:
    return repr(char)[1:-1]

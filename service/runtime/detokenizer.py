"""Token ids to text, one token at a time, never splitting a character."""

import codecs
from collections.abc import Callable


class Detokenizer:
    """A token may end inside a UTF-8 character; its bytes wait for the rest.

    Bytes that can never become a character turn into U+FFFD.
    """

    __slots__ = ("_decoder", "_token_bytes")

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, tokens: list[int]) -> str:
        if len(tokens) == 1:
            return self._decoder.decode(self._token_bytes(tokens[0]))
        return self._decoder.decode(b"".join(map(self._token_bytes, tokens)))

    @property
    def num_pending(self) -> int:
        """Bytes of a character that is not complete."""
        return len(self._decoder.getstate()[0])

    def finish(self) -> str:
        """What an unfinished character at the end reads as."""
        return self._decoder.decode(b"", final=True)

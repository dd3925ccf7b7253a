"""Which tokens the shown text is made of, and how probable they were."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from service.runtime.stream import ScoredToken, TextDelta


@dataclass(frozen=True, slots=True)
class ShownToken:
    """A token of which something is shown."""

    share: bytes
    """What of it is shown: all its bytes, but for what a stop string or a tag cut off."""
    logprob: float
    """0 for a token that the service put there, which was certain."""
    top: list[tuple[bytes, float]]
    """The most probable tokens at its place, best first; none for one that was not drawn."""


class ShownTokens:
    """Finds the tokens of stretches of a stream's text; their shares join to the stretches exactly.

        text     Hi there <tool_call>{…}         as the stream gave it
        tokens   [Hi][ the][re][ <tool][_call>]  shares follow each other, in bytes
        shown    Hi there·                       what the parser let through

    A token is handed out when its last byte has been shown or passed over, so the list does not
    depend on how the text came.
    """

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        self._token_bytes = token_bytes
        self._tokens: deque[ScoredToken] = deque()
        """Neither handed out nor passed over."""
        self._share = b""
        """What of the first of them is shown."""
        self._text = ""
        """Neither shown nor passed over."""
        self._num_chars = 0
        """Before that text."""
        self._num_bytes = 0

    def feed(self, delta: TextDelta) -> None:
        self._tokens.extend(delta.scored)
        self._text += delta.text

    def show(self, text: str, start: int) -> list[ShownToken]:
        """The tokens that end by showing this text, which stands at `start` in what was fed.

        Stretches come in order; what lies between them is not shown.
        """
        skipped = self._text[: start - self._num_chars]
        self._text = self._text[len(skipped) + len(text) :]
        self._num_chars = start + len(text)
        return [*self._pass(skipped.encode(), shown=False), *self._pass(text.encode(), shown=True)]

    def finish(self) -> list[ShownToken]:
        """The token that the end cut in two, if it did."""
        return self._hand_out() if self._tokens else []

    def _pass(self, data: bytes, *, shown: bool) -> list[ShownToken]:
        done: list[ShownToken] = []
        while data and self._tokens:
            length = self._tokens[0].end - self._num_bytes
            if len(self._tokens) == 1:
                # An unfinished character at the very end reads as more bytes than it has.
                length = max(length, len(data))
            part, data = data[:length], data[length:]
            self._num_bytes += len(part)
            self._share += part if shown else b""
            if self._num_bytes >= self._tokens[0].end:
                done += self._hand_out()
        return done

    def _hand_out(self) -> list[ShownToken]:
        token = self._tokens.popleft()
        share, self._share = self._share, b""
        if not share:
            return []
        if token.logprobs is None:
            return [ShownToken(share, 0.0, [])]
        top = [(self._token_bytes(other), logprob) for other, logprob in token.logprobs.top]
        return [ShownToken(share, token.logprobs.chosen, top)]

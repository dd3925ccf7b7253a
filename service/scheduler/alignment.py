"""Where a text stands in another that it may be copying, or in its own past."""

from service.core.plan import Tokens
from service.scheduler.lookup import find_continuation, find_resumption

MATCH_LEN = 4
"""Tokens that must agree where the source is searched."""
LONG_MATCH_LEN = 8
"""Where so many agree is believed more than the latest place of a shorter match."""
PATIENCE = 4
"""Tokens after an unexpected one within which the text is expected to go on close by."""


class Alignment:
    """Follows a text token by token, and so knows which one its source has next.

    source  … the members chose the second …
    text    … the committee chose the …
                      ^ not what was expected
                                ^ found again: "second" is expected
    """

    __slots__ = ("_lost_at", "_num_lost", "next", "source")

    def __init__(self, source: Tokens, *, start: int | None = None) -> None:
        """`source` may grow. The text is expected to begin as it does at `start`."""
        self.source = source
        self.next = start
        """Where in the source the next token should stand; None while that is not known."""
        self._lost_at: int | None = None
        """Where the token stands that should have come when another did; for some time after."""
        self._num_lost = 0
        """Tokens since then."""

    def follow(self, token: int, place: int | None = None) -> bool | None:
        """Take in the text's next token: whether it was expected; None if none was.

        `place` is the token's own in the source, if that is the text itself, whose later tokens
        may be there already.
        """
        if self.next is None:
            self._resume(token, len(self.source) - 1 if place is None else place)
            return None
        if self.source[self.next] == token:
            has_more = self.next + 1 < len(self.source)
            self.next = self.next + 1 if has_more else None
            return True
        self._lost_at, self._num_lost = self.next, 0
        self.next = None
        return False

    def search(self, text: Tokens, num_followed: int) -> None:
        """Look for the latest tokens of `text`, whose last `num_followed` may be compared.

        A short match does not count while the text may still go on close to where it was.
        """
        if num_followed < MATCH_LEN:
            return
        short = find_continuation(self.source, text[-MATCH_LEN:])
        if short is None:
            return  # nor is there a longer one
        long = None
        if num_followed >= LONG_MATCH_LEN:
            long = find_continuation(self.source, text[-LONG_MATCH_LEN:])
        if long is not None:
            self.next, self._lost_at = long, None
        elif self._lost_at is None:
            self.next = short

    def lose(self) -> None:
        """Tokens came that it will not be told of."""
        self.next = self._lost_at = None

    def _resume(self, token: int, end: int) -> None:
        if self._lost_at is None:
            return
        self._num_lost += 1
        self.next = find_resumption(self.source, self._lost_at, token, end)
        if self.next is not None or self._num_lost >= PATIENCE:
            self._lost_at = None

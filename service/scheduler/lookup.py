"""How a text probably goes on: as it went on where its latest tokens stood before.

Prompt lookup (Saxena 2023): answers that edit, quote or repeat say again what is in the sequence.
Functions that look for a place say where what follows it begins, None if there is none.
"""

from service.core.plan import Tokens

WINDOW = 6
"""Tokens behind a wrong guess among which the text may go on."""


def find_continuation(source: Tokens, latest: Tokens) -> int | None:
    """Behind the last place where `latest` stands in `source` and something follows it.

    source  … a b c d e f … a b c        latest a b c, and the source may be the text itself
                    ^ here
    """
    match, itemsize = latest.tobytes(), source.itemsize
    text = source.tobytes()
    end = len(text) - itemsize
    at = text.rfind(match, 0, end)
    while at > 0 and at % itemsize:  # bytes that agree across tokens
        at = text.rfind(match, 0, at + len(match) - 1)
    return None if at < 0 else at // itemsize + len(latest)


def find_resumption(source: Tokens, lost_at: int, token: int, end: int) -> int | None:
    """Behind `token` in the source, before `end`, close to the guess at `lost_at` that was wrong.

    So a word that was inserted, left out or replaced costs a guess or two.
    """
    for index in range(lost_at, min(lost_at + WINDOW, end)):
        if source[index] == token:
            return index + 1
    return None


def unroll(tokens: Tokens, start: int, max_len: int) -> Tokens:
    """What stands from `start` on; a repetition that reaches its own end goes round and round."""
    found = tokens[start : start + max_len]
    period = len(tokens) - start
    while len(found) < max_len:
        found.append(found[-period])
    return found

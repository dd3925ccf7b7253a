"""How a text probably goes on: as it went on where its latest tokens stood before.

Prompt lookup (Saxena 2023): answers that edit, quote or repeat say again what is in the sequence.
All functions say where what probably follows begins, None if they find nothing.
"""

from service.core.plan import Tokens

MATCH_LENS = (8, 3)
"""Tokens that must agree, tried in this order: a longer match is right more often."""
WINDOW = 6
"""Tokens behind a wrong guess among which the text may go on."""


def find_continuation(tokens: Tokens, match_len: int) -> int | None:
    """Behind the last place before the end where the latest `match_len` tokens stand as well.

    … a b c d e f … a b c        the match reaches to the end
            ^ here
    """
    if len(tokens) <= match_len:
        return None
    text = tokens.tobytes()
    match = tokens[-match_len:].tobytes()
    at = _find_last(text, match, len(text) - tokens.itemsize, tokens.itemsize)
    return None if at < 0 else at // tokens.itemsize + match_len


def find_prediction(prediction: Tokens, output: Tokens) -> int | None:
    """Where a predicted output goes on as the real one does that has come so far."""
    if prediction[: len(output)] == output:
        return len(output) if len(output) < len(prediction) else None
    match_len = MATCH_LENS[-1]
    if len(output) < match_len:
        return None
    match = output[-match_len:].tobytes()
    text = prediction.tobytes()
    at = _find_last(text, match, len(text) - prediction.itemsize, prediction.itemsize)
    return None if at < 0 else at // prediction.itemsize + match_len


def find_resumption(source: Tokens, lost_at: int, token: int) -> int | None:
    """Behind `token` in the source, close to the guess at `lost_at` that was wrong.

    So a word that was inserted, left out or replaced costs a guess or two.
    """
    for index in range(lost_at, min(lost_at + WINDOW, len(source) - 1)):
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


def _find_last(text: bytes, match: bytes, end: int, itemsize: int) -> int:
    """Where it begins, before `end`; below 0 if nowhere. Only whole tokens count."""
    at = text.rfind(match, 0, end)
    while at > 0 and at % itemsize:
        at = text.rfind(match, 0, at + len(match) - 1)
    return at

"""How a text probably goes on: as it went on where its latest tokens stood before.

Prompt lookup (Saxena 2023): answers that edit, quote or repeat say again what is in the sequence.
"""

from service.core.plan import Tokens, make_tokens

MATCH_LENS = (6, 2)
"""Tokens that must agree, tried in this order: a longer match is right more often."""


def continue_repetition(tokens: Tokens, match_len: int, max_len: int) -> Tokens:
    """What followed the last time that the latest `match_len` tokens stood there, if they did.

        … a b c d e f … a b c        the match reaches to its end
                d e f …              what followed

    A repetition that reaches into its own match goes round and round.
    """
    if len(tokens) <= match_len:
        return make_tokens()
    text = tokens.tobytes()
    match = tokens[-match_len:].tobytes()
    at = _find_last(text, match, len(text) - tokens.itemsize, tokens.itemsize)
    if at < 0:
        return make_tokens()
    return _go_round(tokens, at // tokens.itemsize + match_len, max_len)


def continue_prediction(prediction: Tokens, output: Tokens, max_len: int) -> Tokens:
    """What a predicted output has behind the latest tokens of the real one."""
    match_len = min(MATCH_LENS[-1], len(output))
    if prediction[: len(output)] == output:
        start = len(output)
    elif match_len < MATCH_LENS[-1]:
        return make_tokens()
    else:
        match = output[-match_len:].tobytes()
        text = prediction.tobytes()
        at = _find_last(text, match, len(text), prediction.itemsize)
        if at < 0:
            return make_tokens()
        start = at // prediction.itemsize + match_len
    return prediction[start : start + max_len]


def _find_last(text: bytes, match: bytes, end: int, itemsize: int) -> int:
    """Where it begins, before `end`; below 0 if nowhere. Only whole tokens count."""
    at = text.rfind(match, 0, end)
    while at > 0 and at % itemsize:
        at = text.rfind(match, 0, at + len(match) - 1)
    return at


def _go_round(tokens: Tokens, start: int, max_len: int) -> Tokens:
    found = tokens[start : start + max_len]
    period = len(tokens) - start
    while len(found) < max_len:
        found.append(found[-period])
    return found

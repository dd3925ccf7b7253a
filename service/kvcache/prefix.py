"""Common prefixes of token arrays."""

from service.core.plan import Tokens

_BLOCK = 64


def common_prefix_len(a: Tokens, b: Tokens) -> int:
    """How many leading tokens `a` and `b` share; compares blocks in C."""
    limit = min(len(a), len(b))
    start = 0
    while start < limit and a[start : start + _BLOCK] == b[start : start + _BLOCK]:
        start += _BLOCK
    end = min(start + _BLOCK, limit)
    while start < end and a[start] == b[start]:
        start += 1
    return min(start, limit)

"""The vocabulary as llguidance needs it, and the bounds that grammars are run within."""

from collections.abc import Callable
from typing import Protocol

import msgspec
from llguidance import LLParserLimits, LLTokenizer

MAX_LEXER_STATES = 25_000
"""One to two kilobytes each, grown while masks are computed; ordinary grammars have hundreds."""


class Tokens(Protocol):
    """What this package asks of a vocabulary."""

    @property
    def num_tokens(self) -> int: ...
    @property
    def eog_tokens(self) -> frozenset[int]: ...
    @property
    def markup_tokens(self) -> frozenset[int]:
        """Tokens that are never text."""
        ...

    def token_bytes(self, token: int, /) -> bytes: ...


class TokenList(msgspec.Struct, frozen=True):
    """All of a vocabulary's tokens, to send to another process."""

    texts: list[bytes]
    markup: list[int]
    eog: list[int]


def list_tokens(tokens: Tokens) -> TokenList:
    return TokenList(
        texts=[tokens.token_bytes(token) for token in range(tokens.num_tokens)],
        markup=sorted(tokens.markup_tokens),
        eog=sorted(tokens.eog_tokens),
    )


def build_tokenizer(
    tokens: TokenList, tokenize: Callable[[str], list[int]] | None = None
) -> LLTokenizer:
    """Takes tenths of a second.

    Where a grammar leaves one text only, it wants the tokens that `tokenize` gives; without it,
    the longest ones.
    """
    described = _Description(tokens, tokenize)
    tokenizer = LLTokenizer(described, eos_token=tokens.eog)  # pyright: ignore[reportArgumentType] - asks for attributes, not for their class
    described.tokenizer = tokenizer
    return tokenizer


def parser_limits() -> LLParserLimits:
    """The same where a grammar is checked and where it is run, so that both agree on it."""
    return LLParserLimits(max_lexer_states=MAX_LEXER_STATES, verbose_errors=False)


class _Description:
    """What LLTokenizer reads a vocabulary from."""

    is_tokenizer_wrapper = True

    def __init__(self, tokens: TokenList, tokenize: Callable[[str], list[int]] | None) -> None:
        self.tokens = tokens.texts
        self.special_token_ids = tokens.markup
        self.eos_token_id = tokens.eog[0]
        self.bos_token_id = None
        self.tokenizer: LLTokenizer | None = None
        self._tokenize = tokenize

    def __call__(self, text: str) -> list[int]:
        if self._tokenize is not None:
            return self._tokenize(text)
        assert self.tokenizer is not None
        return self.tokenizer.greedy_tokenize(text)

"""A byte-level BPE vocabulary of SmolLM3's length, made up, that tokenises any text.

The 256 bytes come first, as in every GPT-2-like vocabulary; then tokens that merges of frequent
letters make; fillers up to 128000; and there SmolLM3's special tokens at their own ids.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from gguf.constants import TokenType

from service.gguf.smollm3 import SPECIAL_TOKENS

FIRST_SPECIAL = 128_000
VOCAB_LEN = 128_256
LAST_NAMED = max(SPECIAL_TOKENS)
"""After it come reserved tokens only."""
NUM_BYTES = 256

_LETTERS = "etaoinshrdlucmfwypvbgkjqxz"
_SPACE = "Ġ"
"""How a byte-level vocabulary writes a blank."""

_FIRST_NAMELESS = 11
"""After 128018 come <|reserved_special_token_11|> and so on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    tokens: list[str]
    kinds: list[int]
    merges: list[str]
    num_text_tokens: int
    """Ids below this are bytes and merges; from here to `FIRST_SPECIAL` no text leads."""


def make_vocabulary(num_text_tokens: int) -> Vocabulary:
    """`num_text_tokens` of bytes and merges together, at most 128000."""
    assert NUM_BYTES <= num_text_tokens <= FIRST_SPECIAL
    merges = list(islice(_merges(), num_text_tokens - NUM_BYTES))
    texts = _byte_texts() + [left + right for left, right in merges]
    fillers = [f"<|unused_{token}|>" for token in range(len(texts), FIRST_SPECIAL)]
    special, special_kinds = _special()
    return Vocabulary(
        tokens=texts + fillers + special,
        kinds=[int(TokenType.NORMAL)] * len(texts)
        + [int(TokenType.UNUSED)] * len(fillers)
        + special_kinds,
        merges=[f"{left} {right}" for left, right in merges],
        num_text_tokens=len(texts),
    )


def _byte_texts() -> list[str]:
    """GPT-2's letters for bytes: printable ones stand for themselves, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = len(set(range(NUM_BYTES)) - set(printable))
    return [chr(byte) for byte in printable] + [chr(0x100 + index) for index in range(others)]


def _merges() -> Iterator[tuple[str, str]]:
    """Pairs of letters, the same after a blank, then pairs of pairs; frequent letters first."""
    pairs = [(_LETTERS[i], _LETTERS[j]) for i, j in _by_product(len(_LETTERS))]
    bigrams = [left + right for left, right in pairs]
    yield from pairs
    yield from ((_SPACE, bigram) for bigram in bigrams)
    yield from ((_SPACE, letter) for letter in _LETTERS)
    for i, j in _by_product(len(bigrams)):
        yield _SPACE + bigrams[i], bigrams[j]
        yield bigrams[i], bigrams[j]


def _by_product(length: int) -> list[tuple[int, int]]:
    pairs = [(i, j) for i in range(length) for j in range(length)]
    return sorted(pairs, key=lambda pair: (pair[0] + 1) * (pair[1] + 1))


def _special() -> tuple[list[str], list[int]]:
    """As converters write them: `<|…|>` are control tokens, `<think>` and the like user-defined."""
    texts = [SPECIAL_TOKENS.get(token, "") for token in range(FIRST_SPECIAL, VOCAB_LEN)]
    nameless = iter(range(_FIRST_NAMELESS, VOCAB_LEN))
    texts = [text or f"<|reserved_special_token_{next(nameless)}|>" for text in texts]
    kinds = [
        int(TokenType.CONTROL if text.startswith("<|") else TokenType.USER_DEFINED)
        for text in texts
    ]
    return texts, kinds

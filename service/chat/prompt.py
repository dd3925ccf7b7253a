"""Rendered prompts and their tokens. What a client wrote never becomes a control token."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple, Protocol


class Vocabulary(Protocol):
    """What this package asks of `service.llama.vocab.Vocab`."""

    @property
    def bos(self) -> int | None: ...
    @property
    def eos(self) -> int | None: ...
    @property
    def add_bos(self) -> bool: ...
    @property
    def special_texts(self) -> frozenset[str]: ...
    @property
    def metadata(self) -> Mapping[str, str]: ...
    @property
    def chat_template(self) -> str | None: ...
    def tokenize(self, text: str, *, parse_special: bool) -> list[int]: ...
    def token_text(self, token_id: int, /) -> str: ...
    def special_id(self, text: str, /) -> int | None: ...


class Segment(NamedTuple):
    """A stretch of prompt; in a `special` one, texts of control tokens are those tokens."""

    text: str
    special: bool


def control(text: str) -> Segment:
    """Text of the format."""
    return Segment(text, special=True)


def plain(text: str) -> Segment:
    """Text of the client."""
    return Segment(text, special=False)


def prompt_text(segments: Iterable[Segment]) -> str:
    """The prompt as a reader sees it."""
    return "".join(segment.text for segment in segments)


def tokenize(vocab: Vocabulary, segments: Iterable[Segment]) -> list[int]:
    """Token ids of a prompt, with BOS in front where the model wants one and none was rendered."""
    token_ids = tokenize_bare(vocab, segments)
    if vocab.add_bos and vocab.bos is not None and token_ids[:1] != [vocab.bos]:
        token_ids.insert(0, vocab.bos)
    return token_ids


def tokenize_bare(vocab: Vocabulary, segments: Iterable[Segment]) -> list[int]:
    """Token ids of a stretch of prompt.

    Between control tokens the text is tokenised as one, across segments, so a prompt without
    look-alikes gets exactly the tokens of its whole text.
    """
    token_ids: list[int] = []
    run: list[str] = []
    for piece in _split_special(vocab, segments):
        if isinstance(piece, str):
            run.append(piece)
            continue
        token_ids += _tokenize_plain(vocab, "".join(run))
        token_ids.append(piece)
        run.clear()
    return token_ids + _tokenize_plain(vocab, "".join(run))


def _split_special(vocab: Vocabulary, segments: Iterable[Segment]) -> Iterable[str | int]:
    pattern = look_alikes(vocab.special_texts)
    for text, special in segments:
        end = 0
        for match in pattern.finditer(text) if special else ():
            token_id = vocab.special_id(match[1])
            if match.start() < end or token_id is None:
                continue
            yield text[end : match.start()]
            yield token_id
            end = match.end(1)
        yield text[end:]


def _tokenize_plain(vocab: Vocabulary, text: str) -> list[int]:
    """Cuts every look-alike behind its first character.

    llama.cpp matches user-defined tokens (SmolLM3's `<think>` is one) even when it is told not
    to parse special ones; no piece that it is given here contains one.
    """
    text = text.encode(errors="replace").decode()  # lone surrogates, out of a client's JSON escapes
    token_ids: list[int] = []
    start = 0
    for match in look_alikes(vocab.special_texts).finditer(text):
        token_ids += vocab.tokenize(text[start : match.start() + 1], parse_special=False)
        start = match.start() + 1
    if start < len(text):
        token_ids += vocab.tokenize(text[start:], parse_special=False)
    return token_ids


@lru_cache(maxsize=8)
def look_alikes(special_texts: frozenset[str]) -> re.Pattern[str]:
    """Matches, empty, at every position where a special text starts; group 1 is the longest there.

    Left out: single characters and runs of white space, which some vocabularies define as tokens.
    They are text, and cutting them would change how ordinary text is tokenised.
    """
    texts = sorted(
        (text for text in special_texts if len(text) > 1 and not text.isspace()),
        key=len,
        reverse=True,
    )
    if not texts:
        return re.compile(r"(?!)()")
    return re.compile(f"(?=({'|'.join(map(re.escape, texts))}))")

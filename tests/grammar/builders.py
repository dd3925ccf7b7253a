"""Vocabularies that fit on a line, and what they spell."""

from service.grammar.compiling import compile_grammar
from service.grammar.tokenizer import build_tokenizer, list_tokens


class TinyVocabulary:
    """Token 0 ends; the others are the given texts."""

    eog_tokens = frozenset({0})
    markup_tokens = frozenset({0})

    def __init__(self, texts):
        self._texts = ["<end>", *texts]
        self.num_tokens = len(self._texts)

    def token_bytes(self, token):
        return self._texts[token].encode()

    def tokenize(self, text, *, parse_special):  # noqa: ARG002
        """Letter by letter."""
        return [self._texts.index(letter) for letter in text]


LETTERS = TinyVocabulary(["\n", "\r", *(chr(code) for code in range(32, 127))])


def spells(grammar, text) -> bool:
    """Whether the text, letter by letter, is an answer that the grammar allows."""
    matcher = compile_grammar(grammar, build_tokenizer(list_tokens(LETTERS)))
    assert not matcher.is_error(), matcher.get_error()
    tokens = LETTERS.tokenize(text, parse_special=False)
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()

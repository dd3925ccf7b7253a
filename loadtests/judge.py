"""Judges greedy answers that part: at a near-tie, where rounding decides, or otherwise."""

from pathlib import Path

import numpy as np

from service.chat.format import choose_format
from service.chat.messages import Conversation, Message
from service.chat.prompt import tokenize
from service.core.kv import FlashAttention
from service.llama.context import ContextShape, LlamaContext
from service.llama.model import LlamaModel
from service.llama.vocab import Vocab
from tests.llama.builders import compute, compute_in_chunks

CHUNK_LENS = (1, 2, 7, 16, 33, 512)
"""Batch shapes that round differently."""
LONG_CHUNK = 128
"""Rows of one sequence. From 64 on, llama.cpp's fused attention on a CPU is another kernel, whose
logits were up to 1.1 from the other's. A short prompt has its cells from it where a longer one that
begins alike was computed first."""


class Judge:
    """Computes the logits at a parting again, in several batch shapes."""

    def __init__(self, model: Path, *, flash_attention: FlashAttention, threads: int) -> None:
        self._vocab = Vocab.load(model)
        self._format = choose_format(self._vocab)
        self._model = LlamaModel(model)
        shape = ContextShape(
            num_slots=1,
            slot_len=1024,
            batch_len=512,
            threads=threads,
            flash_attention=flash_attention,
        )
        self._context = LlamaContext(self._model, shape)

    def is_near_tie(self, question: str, expected: str, actual: str) -> bool:
        """Whether two answers to a question part where their tokens' logits are as good as equal.

        llama.cpp rounds differently in each batch shape. The best token can change only if two
        logits are closer than twice the noise of one, and the noise, measured over some shapes, may
        be as much again in others.
        """
        prompt = self._prompt(question)
        runs = [self._vocab.tokenize(text, parse_special=False) for text in (expected, actual)]
        at = next(
            (index for index, pair in enumerate(zip(*runs, strict=False)) if pair[0] != pair[1]),
            None,
        )
        if at is None:
            return False  # one is the beginning of the other
        prefix = [*prompt, *runs[0][:at]]
        computed = np.stack(
            [
                *(compute_in_chunks(self._context, prefix, length) for length in CHUNK_LENS),
                self._compute_in_long_chunk(prefix),
            ]
        )
        noise = np.ptp(computed, axis=0).max()
        gap = np.abs(computed[:, runs[0][at]] - computed[:, runs[1][at]]).min()
        return bool(gap <= 2 * 2 * noise)

    def _compute_in_long_chunk(self, tokens: list[int]) -> np.ndarray:
        """All but the last as the beginning of a longer prompt."""
        known, last = tokens[:-1], tokens[-1:]
        self._context.truncate(0, 0)
        compute(self._context, 0, [*known, *last * LONG_CHUNK][: max(LONG_CHUNK, len(known))])
        self._context.truncate(0, len(known))
        return compute(self._context, 0, last, len(known))

    def _prompt(self, question: str) -> list[int]:
        conversation = Conversation(messages=(Message(role="user", content=question),))
        return tokenize(self._vocab, self._format.render(conversation))

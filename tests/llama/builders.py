"""Small ways to drive a context by hand."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from service.core.kv import FlashAttention
from service.llama.context import ContextShape, LlamaContext
from service.llama.model import LlamaModel

MODEL_PATH = Path(__file__).parents[2] / "models" / "smollm2-135m-instruct.gguf"

CHUNK_LENS = (1, 2, 7, 16, 33, 512)
"""Batch shapes that round differently."""

TEXT = "The quick brown fox jumps over the lazy dog, and then it rests in the warm sun. " * 6


@contextmanager
def fresh_context(
    slot_len: int, *, flash_attention: FlashAttention = "off"
) -> Iterator[LlamaContext]:
    """One slot of a model of its own, for recomputing what an engine computed."""
    model = LlamaModel(MODEL_PATH)
    shape = ContextShape(
        num_slots=1,
        slot_len=slot_len,
        batch_len=min(slot_len, 512),
        threads=2,
        flash_attention=flash_attention,
    )
    context = LlamaContext(model, shape)
    yield context
    context.close()
    model.close()


def compute(context: LlamaContext, slot: int, tokens: list[int], start: int = 0) -> np.ndarray:
    """Compute tokens of one slot from a position on; the last one's logits, copied."""
    count = len(tokens)
    batch = context.batch
    batch.token[:count] = tokens
    batch.pos[:count] = np.arange(start, start + count)
    batch.slot[:count] = slot
    batch.output[:count] = 0
    batch.output[count - 1] = 1
    context.decode(count)
    return context.logits(1)[0].copy()


def compute_in_chunks(context: LlamaContext, tokens: list[int], length: int) -> np.ndarray:
    """The last token's logits, computed `length` tokens at a time from nothing."""
    context.truncate(0, 0)
    logits = np.empty(0)
    for start in range(0, len(tokens), length):
        logits = compute(context, 0, tokens[start : start + length], start)
    return logits


def assert_same_up_to_rounding(
    context: LlamaContext, prompt: list[int], expected: list[int], actual: list[int]
) -> None:
    """Two greedy answers may part only where rounding decides.

    llama.cpp rounds differently in each batch shape, so logits of one prefix differ by some noise.
    The best token can change only if the two tokens' logits are closer than twice the noise of a
    single logit. The noise is measured at that very prefix, as the largest difference between
    computing it in chunks of several lengths; other shapes may differ by as much again, hence the
    factor of two on it. After the first difference the texts are other texts.
    """
    if expected == actual:
        return
    at = next(
        index for index, pair in enumerate(zip(expected, actual, strict=True)) if len(set(pair)) > 1
    )
    prefix = prompt + expected[:at]
    computed = np.stack([compute_in_chunks(context, prefix, length) for length in CHUNK_LENS])
    noise = np.ptp(computed, axis=0).max()
    gap = np.abs(computed[:, expected[at]] - computed[:, actual[at]]).min()
    assert gap <= 2 * 2 * noise, f"token {at}: gap {gap:.3f}, noise {noise:.3f}"

"""Small ways to drive a context by hand."""

from pathlib import Path

import numpy as np

from service.llama.context import LlamaContext

MODEL_PATH = Path(__file__).parents[2] / "models" / "smollm2-135m-instruct.gguf"

TEXT = "The quick brown fox jumps over the lazy dog, and then it rests in the warm sun. " * 6


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
